//! Simple signing: images signed by skopeo with GnuPG's keys, their signatures in a lookaside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{json, Value};

use crate::archives::*;
use crate::pull::{json as parsed, Registry};
use crate::server::{Answer, How, Server};
use crate::signatures::{only, users_policy};
use crate::support::Lab;

/// GnuPG with a home of its own.
struct Gpg(PathBuf);

impl Gpg {
    fn new(lab: &Lab) -> Self {
        let home = lab.path("gnupg");
        fs::create_dir(&home).expect("mkdir");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("chmod");
        Self(home)
    }

    fn run(&self, args: &[&str]) -> Vec<u8> {
        let output = Command::new("gpg")
            .env("GNUPGHOME", &self.0)
            .args(["--batch", "--quiet", "--no-tty", "--passphrase", "", "--pinentry-mode", "loopback"])
            .args(args)
            .output()
            .expect("ci/packages brings gpg");
        assert!(output.status.success(), "{args:?} {output:?}");
        output.stdout
    }

    /// A new key; its fingerprint.
    fn key(&self, user: &str, expires: &str) -> String {
        self.run(&["--quick-generate-key", user, "ed25519", "sign", expires]);
        let listed = String::from_utf8(self.run(&["--with-colons", "--list-keys", user])).expect("UTF-8");
        let line = listed.lines().find(|line| line.starts_with("fpr:")).expect("a fingerprint");
        line.split(':').nth(9).expect("a fingerprint").to_owned()
    }

    /// A message as `gpg --sign` makes it; compressed, it cannot be cut and pasted.
    fn sign(&self, key: &str, text: &str, how: &[&str]) -> Vec<u8> {
        let file = self.0.join("text");
        fs::write(&file, text).expect("write");
        let file = file.to_str().expect("UTF-8");
        self.run(&[how, &["--local-user", key, "--sign", "--output", "-", file]].concat())
    }
}

/// Not compressed.
const PLAIN: &[&str] = &["--compress-algo", "none"];

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", &self.0).args(["--kill", "gpg-agent"]).status();
    }
}

/// A registry, and a lookaside in a directory.
struct Site {
    lab: Lab,
    registry: Registry,
    gpg: Gpg,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let registry = Registry::start(&lab).expect("ci/packages brings docker-registry and skopeo");
        let site = Self { gpg: Gpg::new(&lab), lab, registry };
        site.lookaside(&format!("file://{}", site.lab.path("lookaside").display()));
        site
    }

    fn lookaside(&self, address: &str) {
        let dir = self.lab.path(".config/containers/registries.d");
        fs::create_dir_all(&dir).expect("mkdir");
        let text =
            format!("# where they are\ndocker:\n  {}:\n    lookaside: {address}\n", self.registry.host);
        fs::write(dir.join("lab.yaml"), text).expect("write");
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/team/app:{tag}", self.registry.host)
    }

    /// Pushes an image as a tag, signed by skopeo.
    fn push_signed(&self, layout: &Path, tag: &str, key: &str) {
        let output = Command::new("skopeo")
            .env("GNUPGHOME", &self.gpg.0)
            .args([
                "--registries.d",
                self.lab.path(".config/containers/registries.d").to_str().expect("UTF-8"),
            ])
            .args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "--sign-by", key])
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{}", self.name(tag)))
            .output()
            .expect("skopeo");
        assert!(output.status.success(), "{output:?}");
    }

    /// Where the nth signature of an image is.
    fn signature(&self, digest: &str, n: u32) -> PathBuf {
        let file = format!("lookaside/team/app@{}/signature-{n}", digest.replace(':', "="));
        self.lab.path(&file)
    }

    fn policy(&self, keys: &Value) {
        let mut requirement = json!({"type": "signedBy", "keyType": "GPGKeys"});
        requirement.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
        users_policy(&self.lab, &only(&self.registry, requirement));
    }

    /// A policy that believes these keys.
    fn believe(&self, keys: &[&str]) {
        let file = self.lab.path("keys.gpg");
        fs::write(&file, self.gpg.run(&[&["--export"], keys].concat())).expect("write");
        self.policy(&json!({"keyPath": file}));
    }
}

fn payload(name: &str, digest: &str) -> String {
    json!({"critical": {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest},
           "type": "atomic container signature"}, "optional": {"creator": "a test"}})
    .to_string()
}

#[test]
fn an_image_that_skopeo_signed_is_taken_by_its_own_name_and_key() {
    let site = Site::new();
    let (lab, gpg) = (&site.lab, &site.gpg);
    let (good, other) = (gpg.key("good@example.org", "never"), gpg.key("other@example.org", "never"));
    let (layout, digest) = simple_layout(lab.path("layout"));
    site.push_signed(&layout, "1", &good);
    let name = site.name("1");
    site.believe(&[&good]);
    let made = parsed(lab.run(["pull", "--json", &name]));
    assert_eq!(
        (&made["signatures"][0]["key"], &made["signatures"][0]["scheme"]),
        (&json!(good), &json!("openpgp"))
    );
    assert_eq!(made["signatures"][0]["identity"], json!(name));
    let _ = lab.run(["rmi", &name]).ok();

    // The same image under a tag that nobody signed, or by its digest.
    site.registry.push(&layout, "team/app:2");
    lab.run(["pull", &site.name("2")]).refused(65, &format!("it is for the name '{name}'"));
    lab.assert_empty();
    let pinned = format!("{}/team/app@{digest}", site.registry.host);
    let _ = lab.run(["pull", &pinned]).ok();
    let _ = lab.run(["rmi", &pinned]).ok();
    site.believe(&[&other]);
    lab.run(["pull", &name]).refused(65, "it is by none of the policy's keys");
    lab.assert_empty();
}

#[test]
fn every_wrong_message_is_refused() {
    let site = Site::new();
    let (lab, gpg) = (&site.lab, &site.gpg);
    let (good, other) = (gpg.key("good@example.org", "never"), gpg.key("other@example.org", "never"));
    let (layout, digest) = simple_layout(lab.path("layout"));
    site.push_signed(&layout, "1", &good);
    let (name, file) = (site.name("1"), site.signature(&digest, 1));
    let skopeos = fs::read(&file).expect("skopeo wrote a signature");
    site.believe(&[&good]);
    let refused = |why: &str| {
        lab.run(["pull", &name]).refused(65, why);
        lab.assert_empty();
    };
    let text = payload(&name, &digest);
    let plain = gpg.sign(&good, &text, PLAIN);
    let at = plain.windows(6).position(|bytes| bytes == b"a test").expect("it is there as it is");
    let mut tampered = plain.clone();
    tampered[at] = b'A';
    let none = "it is no message with one OpenPGP signature";
    let by = |key: &str, text: &str| gpg.sign(key, text, PLAIN);
    for (bytes, why) in [
        (by(&other, &text), "it is by none of the policy's keys"),
        (tampered, "it was tampered with"),
        (by(&good, &payload(&name, &format!("sha256:{}", "0".repeat(64)))), "it is for another image"),
        (by(&good, &payload("x.y/z:1", &digest)), "it is for the name 'x.y/z:1'"),
        (by(&good, &text.replace("atomic", "cosign")), "it signs a 'cosign container signature'"),
        (by(&good, "x"), "what it signs is malformed"),
        (text.clone().into_bytes(), none),
        (vec![], none),
        ([plain.clone(), plain.clone()].concat(), "none is good: it "),
        ([plain.clone(), by(&good, "x")].concat(), "none is good: it "),
        (plain[..plain.len() - 70].to_vec(), "none is good: it "),
        // The signature without the text.
        (gpg.sign(&good, &text, &["--detach-sign"]), "none is good: it is "),
        // Compresses to next to nothing.
        (gpg.sign(&good, &format!("{text}{}", " ".repeat(50_000_000)), &[]), "what it signs is too large"),
    ] {
        fs::write(&file, bytes).expect("write");
        refused(why);
    }
    // The second is good.
    fs::write(site.signature(&digest, 2), &skopeos).expect("write");
    let _ = lab.run(["pull", &name]).ok();
}

#[test]
fn expired_and_revoked_keys_and_signatures_do_not_count() {
    let site = Site::new();
    let (lab, gpg) = (&site.lab, &site.gpg);
    let (good, short) = (gpg.key("good@example.org", "never"), gpg.key("short@example.org", "seconds=3"));
    let (layout, digest) = simple_layout(lab.path("layout"));
    site.push_signed(&layout, "1", &good);
    let (name, file) = (site.name("1"), site.signature(&digest, 1));
    let skopeos = fs::read(&file).expect("a signature");
    let text = payload(&name, &digest);
    let by_short = gpg.sign(&short, &text, PLAIN);
    let expiring = gpg.sign(&good, &text, &["--default-sig-expire", "seconds=1"]);
    std::thread::sleep(Duration::from_secs(4));
    site.believe(&[&good, &short]);
    for (bytes, why) in [(by_short, "its key has expired"), (expiring, "it has expired")] {
        fs::write(&file, bytes).expect("write");
        lab.run(["pull", &name]).refused(65, why);
        lab.assert_empty();
    }
    fs::write(&file, skopeos).expect("write");
    let _ = lab.run(["pull", &name]).ok();
    let revocation =
        fs::read_to_string(gpg.0.join(format!("openpgp-revocs.d/{good}.rev"))).expect("made with the key");
    fs::write(gpg.0.join("rev.asc"), revocation.replace(":-----BEGIN", "-----BEGIN")).expect("write");
    gpg.run(&["--import", gpg.0.join("rev.asc").to_str().expect("UTF-8")]);
    site.believe(&[&good]);
    lab.run(["pull", &name]).refused(65, "its key was revoked");
}

#[test]
fn keys_are_taken_armoured_together_and_from_the_policy_itself() {
    let site = Site::new();
    let (lab, gpg) = (&site.lab, &site.gpg);
    let (good, other) = (gpg.key("good@example.org", "never"), gpg.key("other@example.org", "never"));
    let (layout, _) = simple_layout(lab.path("layout"));
    site.push_signed(&layout, "1", &good);
    let export = |key: &str, file: &str| {
        fs::write(lab.path(file), gpg.run(&["--armor", "--export", key])).expect("write");
        lab.path(file)
    };
    let (one, two) = (export(&good, "good.asc"), export(&other, "other.asc"));
    let data = openssl_base64(&one);
    for keys in [json!({"keyPaths": [two, one]}), json!({"keyPath": one}), json!({"keyData": data})] {
        site.policy(&keys);
        let made = parsed(lab.run(["pull", "--json", &site.name("1")]));
        assert_eq!(made["signatures"][0]["key"], json!(good), "{keys}");
    }
    fs::write(lab.path("none.gpg"), "no keys").expect("write");
    site.policy(&json!({"keyPath": lab.path("none.gpg")}));
    lab.run(["pull", &site.name("1")]).refused(78, "they are no OpenPGP keys");
    // Without gpgv nothing is believed.
    site.policy(&json!({"keyPath": one}));
    let output =
        lab.command(["pull", &site.name("1")]).env("PATH", lab.dir.path()).output().expect("grus starts");
    crate::support::Output::of(output).refused(1, "cannot run gpgv");
}

fn openssl_base64(file: &Path) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(fs::read(file).expect("read"))
}

#[test]
fn a_lookaside_is_a_directory_or_a_web_server_and_its_absence_is_no_signature() {
    let site = Site::new();
    let (lab, gpg) = (&site.lab, &site.gpg);
    let good = gpg.key("good@example.org", "never");
    let (layout, digest) = simple_layout(lab.path("layout"));
    site.push_signed(&layout, "1", &good);
    site.believe(&[&good]);
    let name = site.name("1");
    let signature = fs::read(site.signature(&digest, 1)).expect("a signature");

    let path = format!("/sigs/team/app@{}/signature-1", digest.replace(':', "="));
    let server = Server::start(move |request| match request.path == path {
        true => Answer::ok(signature.clone()),
        false => Answer::status(404),
    });
    site.lookaside(&format!("http://{}/sigs/", server.host()));
    assert_eq!(parsed(lab.run(["pull", "--json", &name]))["signatures"][0]["key"], json!(good));
    let _ = lab.run(["rmi", &name]).ok();

    let endless = Server::start(|_| Answer::ok(vec![b'x'; 10_000]).how(How::Endless));
    site.lookaside(&format!("http://{}", endless.host()));
    lab.run(["pull", &name]).refused(65, "where less was due");
    let many = Server::start(|_| Answer::ok(b"x".to_vec()));
    site.lookaside(&format!("http://{}", many.host()));
    lab.run(["pull", &name]).refused(65, "has more than 128 signatures");
    let shut = Server::start(|_| Answer::status(403));
    site.lookaside(&format!("http://{}", shut.host()));
    assert_ne!(lab.run(["pull", &name]).code, Some(0));
    site.lookaside("http://lookaside.invalid/");
    lab.run(["pull", &name]).refused(65, "is plain HTTP");
    site.lookaside("nonsense");
    lab.run(["pull", &name]).refused(78, "is no place of signatures");
    site.lookaside(&format!("file://{}", lab.path("empty").display()));
    lab.run(["pull", &name]).refused(65, "it has no OpenPGP signature");
    fs::write(lab.path(".config/containers/registries.d/lab.yaml"), "docker: [").expect("write");
    lab.run(["pull", &name]).refused(78, "cannot use ");
    fs::remove_file(lab.path(".config/containers/registries.d/lab.yaml")).expect("remove");
    let said = lab.run(["pull", &name]).refused(65, "it has no OpenPGP signature");
    assert!(said.contains("lookaside"), "{said}");
    lab.assert_empty();
}
