//! Owns the talk with `docker-credential-NAME` programs (docker-credential-helpers, protocol): an action as
//! argument, JSON or a server on stdin, JSON on stdout. It refuses names that are no plain file names, and
//! programs that take longer than [`LIMIT`]. No secret is ever an argument.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::credentials::Account;
use super::error::{Kind, RegistryError};
use super::secret::Secret;

/// Time a helper may take. Some ask the user for a passphrase.
const LIMIT: Duration = Duration::from_secs(60);
/// Most bytes of an answer that are read.
const LARGEST: u64 = 1 << 20;

/// The account a helper has for `server`, if any.
pub fn get(name: &str, server: &str, path: Option<&OsStr>) -> Result<Option<Account>, RegistryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let output = run(name, "get", server, path)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.success {
        // The protocol's word for "nothing stored" (credentials.ErrCredentialsNotFound).
        return match text.contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(name, &output.told("it ended with an error"))),
        };
    }
    let answer: Answer = serde_json::from_str(&text).map_err(|_| failed(name, "its answer is not JSON"))?;
    let secret = Secret::new(answer.secret);
    Ok(match (answer.username.as_str(), secret.is_empty()) {
        (_, true) => None,
        ("<token>", _) => Some(Account::Identity(secret)),
        (username, _) => Some(Account::Password { username: username.to_owned(), password: secret }),
    })
}

/// Stores an account with a helper.
pub fn store(
    name: &str,
    server: &str,
    username: &str,
    password: &Secret,
    path: Option<&OsStr>,
) -> Result<(), RegistryError> {
    let text = serde_json::json!({"ServerURL": server, "Username": username, "Secret": password.expose()});
    let text = Secret::new(text.to_string());
    let output = run(name, "store", text.expose(), path)?;
    match output.success {
        true => Ok(()),
        false => Err(failed(name, &output.told("it did not store the account"))),
    }
}

/// Makes a helper forget `server`; false if it had no account for it.
pub fn erase(name: &str, server: &str, path: Option<&OsStr>) -> Result<bool, RegistryError> {
    // Helpers differ in what they answer to the erasing of what is not there.
    if get(name, server, path)?.is_none() {
        return Ok(false);
    }
    let output = run(name, "erase", server, path)?;
    match output.success {
        true => Ok(true),
        false => Err(failed(name, &output.told("it did not remove the account"))),
    }
}

/// Whether the helper's program is there.
pub fn is_installed(name: &str, path: Option<&OsStr>) -> Result<bool, RegistryError> {
    Ok(program(name, path)?.is_some())
}

struct Output {
    success: bool,
    stdout: Vec<u8>,
}

impl Output {
    /// `what` went wrong, and the helper's reason: the protocol has it on stdout.
    fn told(&self, what: &str) -> String {
        let text = String::from_utf8_lossy(&self.stdout);
        match text.lines().map(str::trim).find(|line| !line.is_empty()) {
            Some(line) => format!("{what}: {}", line.chars().take(200).collect::<String>()),
            None => what.to_owned(),
        }
    }
}

fn run(name: &str, action: &str, input: &str, path: Option<&OsStr>) -> Result<Output, RegistryError> {
    let missing = || failed(name, &format!("there is no {} in PATH", file_of(name)));
    let program = program(name, path)?.ok_or_else(missing)?;
    let mut child = Command::new(program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(name, &e.to_string()))?;
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let input = Secret::new(input);
    let (done, finished) = mpsc::channel();
    // A thread for the pipes: a helper that neither reads nor writes must not hold us.
    std::thread::spawn(move || {
        if let Some(mut stdin) = stdin.take() {
            // A helper may answer without reading all.
            let _ = stdin.write_all(input.expose().as_bytes());
        }
        let mut answer = Vec::new();
        let read = stdout.map_or(Ok(0), |out| out.take(LARGEST).read_to_end(&mut answer));
        let _ = done.send(read.map(|_| answer));
    });
    let answer = finished.recv_timeout(LIMIT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if answer.is_err() {
        // Gone already, or gone now.
        let _ = child.kill();
    }
    let status = ended(&mut child).map_err(|e| failed(name, &e.to_string()))?;
    match answer {
        Ok(stdout) => Ok(Output { success: status.success(), stdout }),
        Err(e) => Err(failed(name, &e.to_string())),
    }
}

/// Waits for its end, which may not come though it has answered.
fn ended(child: &mut Child) -> io::Result<ExitStatus> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()
}

fn file_of(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// The first `docker-credential-NAME` in `PATH`; relative entries of `PATH` do not count. None if there is none.
fn program(name: &str, path: Option<&OsStr>) -> Result<Option<PathBuf>, RegistryError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(failed(name, "that is not a name of a helper"));
    }
    let path = path.map_or_else(|| std::env::var_os("PATH").unwrap_or_default(), OsStr::to_owned);
    let executable =
        |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let mut places =
        std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(file_of(name)));
    Ok(places.find(executable))
}

fn failed(name: &str, why: &str) -> RegistryError {
    RegistryError::new(Kind::Site, format!("the credential helper '{name}' cannot be used: {why}"))
        .hint("it is named in auth.json or Docker's config.json as credsStore or in credHelpers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn helper(dir: &Path, name: &str, script: &str) {
        let path = dir.join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    #[test]
    fn a_helper_is_asked_on_stdin() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = Some(dir.path().as_os_str());
        helper(
            dir.path(),
            "ok",
            "read -r server; echo \"{\\\"Username\\\":\\\"u\\\",\\\"Secret\\\":\\\"$server-$1\\\"}\"",
        );
        helper(dir.path(), "token", "echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}'");
        helper(dir.path(), "none", "echo 'credentials not found in native keychain'; exit 1");
        helper(dir.path(), "broken", "exit 3");
        helper(dir.path(), "locked", "printf 'the keyring is \\033[1mlocked\\nsecond\\n'; exit 1");
        helper(dir.path(), "garbage", "echo '<html>'");
        let password = Account::Password { username: "u".into(), password: Secret::new("a.example-get") };
        assert_eq!(get("ok", "a.example\n", path).expect("works"), Some(password));
        assert_eq!(get("token", "a", path).expect("works"), Some(Account::Identity(Secret::new("t"))));
        assert_eq!(get("none", "a", path).expect("works"), None);
        for (bad, word) in [
            ("broken", "error"),
            ("locked", "an error: the keyring is \\x1b[1mlocked"),
            ("garbage", "JSON"),
            ("absent", "PATH"),
            ("../x", "name"),
            ("", "name"),
        ] {
            let error = get(bad, "a", path).expect_err(bad);
            assert!(error.kind == Kind::Site && error.what.contains(word), "{error}");
            assert!(!error.what.contains("second"), "{error}");
        }
    }

    #[test]
    fn what_a_helper_does_not_have_is_not_erased() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = Some(dir.path().as_os_str());
        let has = "echo '{\"Username\":\"u\",\"Secret\":\"p\"}'";
        helper(dir.path(), "full", has);
        helper(
            dir.path(),
            "empty",
            "[ $1 = get ] && echo 'credentials not found in native keychain'; exit 1",
        );
        helper(dir.path(), "stuck", &format!("[ $1 = get ] && {has} && exit; echo 'read only'; exit 1"));
        assert_eq!(erase("full", "a", path), Ok(true));
        assert_eq!(erase("empty", "a", path), Ok(false));
        let error = erase("stuck", "a", path).expect_err("kept");
        assert!(error.what.ends_with("it did not remove the account: read only"), "{error}");
        assert!(
            is_installed("full", path).expect("a name") && !is_installed("absent", path).expect("a name")
        );
    }

    #[test]
    fn storing_gives_the_secret_on_stdin_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let seen = dir.path().join("seen");
        helper(dir.path(), "keep", &format!("{{ echo \"$@\"; cat; }} >{}", seen.display()));
        let path = Some(dir.path().as_os_str());
        store("keep", "a.example", "u", &Secret::new("pw"), path).expect("stored");
        let seen = fs::read_to_string(seen).expect("written");
        let (arguments, input) = seen.split_once('\n').expect("two lines");
        assert_eq!(arguments, "store");
        assert!(
            input.contains("\"Secret\":\"pw\"") && input.contains("\"ServerURL\":\"a.example\""),
            "{input}"
        );
    }
}
