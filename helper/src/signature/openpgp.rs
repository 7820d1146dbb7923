//! Owns the check of simple signatures (containers-signature(5)): OpenPGP messages, verified by gpgv(1), GnuPG's verifier,
//! with the policy's keys and no others.
//!
//! gpgv is asked through its status lines (GnuPG's doc/DETAILS), and its exit code alone is never believed: it is 0 for
//! keys that are expired or revoked.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use rustix::io::{fcntl_setfd, FdFlags};
use tempfile::TempDir;

use crate::failure::{reason, Failure};
use crate::registry::MAX_SIGNATURE;

/// Most bytes of status lines that are read.
const MAX_STATUS: u64 = 256 << 10;

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Keys in a directory of their own, which goes with the value.
pub struct Keyring(TempDir);

/// The key's fingerprint and the text that it signed; or why the signature is not good.
type Verdict = Result<(String, Vec<u8>), String>;

impl Keyring {
    /// Takes keyrings, binary or armoured. The outer error says which keys are wrong.
    pub fn new(keys: &[Vec<u8>]) -> Result<io::Result<Self>, String> {
        // A keyring is a row of packets (RFC 9580, 3.6): put together, several are one.
        let all = keys.iter().map(|key| dearmoured(key)).collect::<Result<Vec<_>, _>>()?.concat();
        // The first bit of every packet is set (RFC 9580, 4.2).
        if all.first().is_none_or(|first| first & 0x80 == 0) {
            return Err("they are no OpenPGP keys".into());
        }
        let made = tempfile::Builder::new().prefix("grus-keys-").tempdir();
        Ok(made.and_then(|dir| {
            std::fs::write(dir.path().join("keys"), all)?;
            Ok(Self(dir))
        }))
    }

    /// Verifies one message.
    pub fn verify(&self, message: &[u8]) -> Result<Verdict, Failure> {
        let path = self.0.path().join("message");
        std::fs::write(&path, message).map_err(|e| Failure::io("write", &path, &e))?;
        let Said { text, status, success } = gpgv(self.0.path(), &path).map_err(|e| Failure::System {
            what: format!("cannot run gpgv, which checks OpenPGP signatures: {}", reason(&e)),
            hint: Some("install it: package gpgv of Debian, gnupg2 of Red Hat".into()),
        })?;
        let Some(text) = text else { return Ok(Err("what it signs is too large".into())) };
        Ok(judge(&status, success).map(|key| (key, text)))
    }
}

/// What gpgv said.
struct Said {
    /// The text in the message; None if it is too long.
    text: Option<Vec<u8>>,
    status: String,
    success: bool,
}

fn gpgv(dir: &Path, message: &Path) -> io::Result<Said> {
    let (reader, writer) = io::pipe()?;
    fcntl_setfd(&writer, FdFlags::empty())?;
    let mut command = Command::new("gpgv");
    command.arg("--homedir").arg(dir).arg("--keyring").arg(dir.join("keys"));
    command.arg("--status-fd").arg(writer.as_raw_fd().to_string()).args(["--output", "-", "--"]).arg(message);
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    command.env_clear().env("PATH", path).env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    drop(writer);
    // At the same time: whichever pipe is full, gpgv waits for its reader.
    let status = std::thread::spawn(move || {
        let mut bytes = vec![];
        reader.take(MAX_STATUS).read_to_end(&mut bytes).map(|_| bytes)
    });
    let mut text = vec![];
    let read = child.stdout.take().map(|out| out.take(MAX_SIGNATURE as u64 + 1).read_to_end(&mut text));
    // Compressed, a small message may have no end. It is read no further, so there is no need to wait for that.
    let long = text.len() > MAX_SIGNATURE;
    if long {
        let _ = child.kill();
    }
    let success = child.wait()?.success();
    let status = status.join().unwrap_or_else(|_| Err(io::Error::other("its status was not read")))?;
    read.transpose()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    Ok(Said { text: (!long).then_some(text), status, success })
}

/// The fingerprint of the one key that made the one, good signature over the one text.
fn judge(status: &str, success: bool) -> Result<String, String> {
    let lines: Vec<Vec<&str>> = status
        .lines()
        .filter_map(|line| line.strip_prefix("[GNUPG:] "))
        .map(|line| line.split(' ').collect())
        .collect();
    let of = |word: &str| -> Vec<&Vec<&str>> { lines.iter().filter(|line| line[0] == word).collect() };
    for (word, why) in [
        ("NO_PUBKEY", "it is by none of the policy's keys"),
        ("EXPSIG", "it has expired"),
        ("EXPKEYSIG", "its key has expired"),
        ("REVKEYSIG", "its key was revoked"),
        ("BADSIG", "it was tampered with"),
        ("ERRSIG", "it cannot be checked by gpgv"),
    ] {
        if !of(word).is_empty() {
            return Err(why.into());
        }
    }
    let [good, valid, text] = ["GOODSIG", "VALIDSIG", "PLAINTEXT"].map(of);
    match valid[..] {
        [valid] if success && good.len() == 1 && text.len() == 1 && of("NEWSIG").len() <= 1 => {
            // The last word is the primary key's, where the signature is by a subkey.
            let fingerprint = valid.get(10).or(valid.get(1)).copied().unwrap_or_default();
            match fingerprint.len() >= 40 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) {
                true => Ok(fingerprint.to_owned()),
                false => Err("gpgv names no key".into()),
            }
        }
        _ => Err("it is no message with one OpenPGP signature".into()),
    }
}

/// A keyring as packets: ASCII armour (RFC 9580, 6.2) is taken off.
fn dearmoured(key: &[u8]) -> Result<Vec<u8>, String> {
    let Some(text) = std::str::from_utf8(key).ok().filter(|text| text.contains(BEGIN)) else {
        return Ok(key.to_vec());
    };
    let mut all = vec![];
    let mut lines = text.lines().map(str::trim);
    while lines.any(|line| line == BEGIN) {
        // Headers end with an empty line; a checksum begins with '='.
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != END).collect();
        let body = block.iter().position(|line| line.is_empty()).map_or(&block[..], |at| &block[at + 1..]);
        let body: String = body.iter().take_while(|line| !line.starts_with('=')).copied().collect();
        all.extend(STANDARD.decode(body).map_err(|_| "one has a broken armour")?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "DF0FA2FF2BE61FFC2F7ED7828C7E9207AA57B9F8";

    fn status(more: &str) -> String {
        format!(
            "[GNUPG:] PLAINTEXT 62 1795689181 p\n[GNUPG:] NEWSIG a@b.c\n[GNUPG:] GOODSIG 8C7E9207AA57B9F8 good <a@b.c>\n\
             [GNUPG:] VALIDSIG {FINGERPRINT} 2026-11-26 1795689181 0 4 0 22 8 00 {FINGERPRINT}\n{more}"
        )
    }

    #[test]
    fn only_one_good_signature_over_one_text_will_do() {
        assert_eq!(judge(&status(""), true), Ok(FINGERPRINT.to_owned()));
        let none = "it is no message";
        for (status, success, why) in [
            (status(""), false, none),
            (status("").replace("GOODSIG", "EXPKEYSIG"), true, "its key has expired"),
            (status("").replace("GOODSIG", "REVKEYSIG"), true, "its key was revoked"),
            (status("").replace("GOODSIG", "EXPSIG"), true, "it has expired"),
            (status("[GNUPG:] BADSIG 8C7E9207AA57B9F8 x"), true, "tampered"),
            (status("").replace("[GNUPG:] PLAINTEXT", "[GNUPG:] TEXTPLAIN"), true, none),
            (status("[GNUPG:] PLAINTEXT 62 1 other"), true, none),
            (status("").repeat(2), true, none),
            (status("").replace(FINGERPRINT, "x"), true, "names no key"),
            (status("").replace("[GNUPG:] ", "gpgv: "), true, none),
            (String::new(), true, none),
        ] {
            let error = judge(&status, success).expect_err(&status);
            assert!(error.contains(why), "{error}: {status}");
        }
    }

    #[test]
    fn armour_is_taken_off_each_block() {
        let block = |data: &str| format!("{BEGIN}\nComment: x\n\n{data}\n=AAAA\n{END}\n");
        let two = format!("a comment\n{}\n{}", block("mAEC\nAw=="), block("mAQ="));
        assert_eq!(dearmoured(two.as_bytes()), Ok(vec![0x98, 1, 2, 3, 0x98, 4]));
        assert_eq!(dearmoured(&[0x98, 1]), Ok(vec![0x98, 1]));
        assert!(dearmoured(block("%").as_bytes()).is_err());
        assert!(Keyring::new(&[b"no key".to_vec()]).is_err());
        assert!(Keyring::new(&[]).is_err());
    }
}
