//! `grus pull` from Debian's registry, end to end. The registry client has its own tests.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::archives::*;
use crate::support::{Lab, Output};

/// A registry on a free port; stopped at the end.
pub struct Registry {
    child: Child,
    pub host: String,
}

impl Registry {
    pub fn start(lab: &Lab) -> Option<Self> {
        Self::start_with(lab, "")
    }

    /// With more lines of configuration.
    fn start_with(lab: &Lab, more: &str) -> Option<Self> {
        if !["/usr/bin/docker-registry", "/usr/bin/skopeo"].iter().all(|p| Path::new(p).exists()) {
            eprintln!("SKIPPED: docker-registry or skopeo is not installed");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let host = format!("127.0.0.1:{port}");
        let config = lab.path("registry.yml");
        let data = lab.path("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n{more}",
            data.display()
        );
        fs::write(&config, text).expect("configuration");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry starts");
        let start = Instant::now();
        while TcpStream::connect(&host).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "the registry does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self { child, host })
    }

    pub fn push(&self, layout: &Path, name: &str) {
        self.push_as(layout, name, "nobody:nothing");
    }

    fn push_as(&self, layout: &Path, name: &str, account: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "-q", "--all", "--insecure-policy", "--dest-tls-verify=false"])
            .args(["--dest-creds", account])
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{}/{name}", self.host))
            .output()
            .expect("skopeo");
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn json(said: Output) -> Value {
    serde_json::from_str(&said.ok().out).expect("JSON")
}

#[test]
fn an_image_is_pulled_found_unchanged_changed_and_by_digest() {
    let lab = Lab::new();
    let Some(registry) = Registry::start(&lab) else { return };
    let (first, digest) = simple_layout(lab.path("first"));
    registry.push(&first, "team/app:1");
    let name = format!("{}/team/app:1", registry.host);

    let made = json(lab.run(["pull", "--json", &name]));
    assert_eq!((&made["digest"], &made["status"]), (&digest.as_str().into(), &"pulled".into()));
    let again = lab.run(["pull", &name]).ok().out;
    assert_eq!(again, format!("{name} is up to date: {digest}\n"));

    let mut second = Layout::new(lab.path("second"));
    let image = second.image(&[base_layer(), tar_of(&[("srv/new", b"")])], arch());
    second.add(image.clone(), Some("latest"), None);
    registry.push(second.finish(), "team/app:1");
    let changed = json(lab.run(["pull", "--json", &name]));
    assert_eq!(changed["digest"], image["digest"]);

    let pinned = format!("{}/team/app@{digest}", registry.host);
    assert_eq!(lab.run(["pull", "-q", &pinned]).ok().out.trim(), digest);
    assert!(lab.run(["plan", &pinned]).ok().out.contains(&digest[7..]));
    let renamed = lab.run(["pull", "--json", &name, "mine:v1"]);
    assert_eq!(json(renamed)["reference"], "docker.io/library/mine:v1");
    assert_eq!(lab.run(["pull", "-q", &name, "mine:v1"]).ok().out.trim(), image["digest"]);
    lab.assert_sound();
    drop(registry);
    assert_eq!(lab.run(["pull", "-q", &pinned]).ok().out.trim(), digest, "a digest needs no registry");
    let said = lab.run(["pull", &name]);
    assert_eq!(said.code, Some(69), "{said:?}");
    assert_eq!(said.err.lines().count(), 2, "{said:?}");
    lab.assert_sound();
}

#[test]
fn an_index_is_found_again_by_its_own_digest() {
    let lab = Lab::new();
    let Some(registry) = Registry::start(&lab) else { return };
    let mut layout = Layout::new(lab.path("multi"));
    let mut image = layout.image(&[base_layer()], arch());
    image["platform"] = serde_json::json!({"os": "linux", "architecture": arch()});
    let index = layout.index(&[image.clone()]);
    layout.add(index.clone(), Some("latest"), None);
    registry.push(layout.finish(), "multi:1");
    let name = format!("{}/multi:1", registry.host);
    let made = json(lab.run(["pull", "--json", &name]));
    assert_eq!(made["digest"], image["digest"], "the image is the platform's manifest");
    assert_eq!(json(lab.run(["pull", "--json", &name]))["status"], "up-to-date");

    let pinned = format!("{}/multi@{}", registry.host, index["digest"].as_str().expect("digest"));
    assert_eq!(json(lab.run(["pull", "--json", &pinned]))["digest"], image["digest"]);
    drop(registry);
    assert_eq!(json(lab.run(["pull", "--json", &pinned]))["status"], "up-to-date");
    assert!(lab.run(["plan", &pinned]).ok().out.starts_with("image "));
    let _ = lab.run(["rmi", &pinned]).ok();
    let _ = lab.run(["rmi", &name]).ok();
    lab.assert_empty();
}

#[test]
fn a_digest_that_is_here_is_checked_for_its_platform() {
    let lab = Lab::new();
    let (dir, digest) = simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "-q", &dir.display().to_string(), "app"]).ok();
    // Nobody answers there: a digest that is here needs no registry.
    let pinned = format!("127.0.0.1:1/app@{digest}");
    let said = lab.run(["pull", "--platform", "linux/riscv64", &pinned]);
    let said = said.refused(65, &format!("is for linux/{}, not for linux/riscv64", arch()));
    assert!(said.contains(&format!("--platform linux/{}", arch())), "{said}");
    assert!(!lab.run(["images"]).ok().out.contains("127.0.0.1"), "nothing got the name");
    assert_eq!(lab.run(["pull", "-q", &pinned]).ok().out.trim(), digest);
    let said = lab.run(["pull", "--compression", "lz4", &pinned]).ok();
    assert!(said.err.contains("is kept as zstd; to have it as lz4: grus rmi "), "{said:?}");
    lab.assert_sound();
}

#[test]
fn what_the_registry_lacks_is_refused() {
    let lab = Lab::new();
    let Some(registry) = Registry::start(&lab) else { return };
    let (dir, _) = simple_layout(lab.path("layout"));
    registry.push(&dir, "app:1");
    lab.run(["pull", &format!("{}/nosuch", registry.host)]).refused(66, "nosuch");
    let name = format!("{}/app:1", registry.host);
    let said = lab.run(["pull", "--platform", "linux/riscv64", &name]);
    said.refused(65, "riscv64");
    lab.assert_empty();
}

#[test]
fn a_private_image_is_pulled_after_a_login_and_not_after_the_logout() {
    let lab = Lab::new();
    let users = Command::new("htpasswd").args(["-Bbn", "alice", "correct horse"]).output();
    let Some(users) = users.ok().filter(|o| o.status.success()) else {
        eprintln!("SKIPPED: htpasswd is not installed");
        return;
    };
    fs::write(lab.path("htpasswd"), users.stdout).expect("htpasswd");
    let auth = format!("auth: {{htpasswd: {{realm: lab, path: {}}}}}\n", lab.path("htpasswd").display());
    let Some(registry) = Registry::start_with(&lab, &auth) else { return };
    let (dir, digest) = simple_layout(lab.path("layout"));
    registry.push_as(&dir, "private:1", "alice:correct horse");
    let host = registry.host.clone();
    let name = format!("{host}/private:1");
    let denied = |said: Output| {
        assert_eq!(said.code, Some(77), "{said:?}");
        assert!(!said.err.contains("horse"), "{said:?}");
    };

    denied(lab.run(["pull", &name]));
    denied(lab.pipe(["login", &host, "-u", "alice", "--password-stdin"], b"wrong horse\n"));
    denied(lab.run(["pull", &name]));
    let once = ["pull", "-q", &name, "-u", "alice", "--password-stdin"];
    assert_eq!(lab.pipe(once, b"correct horse\n").ok().out.trim(), digest);
    denied(lab.run(["pull", &name]));

    let said = lab.pipe(["login", &host, "-u", "alice", "--password-stdin"], b"correct horse\n").ok();
    assert!(said.out.starts_with(&format!("Logged in to {host} as alice; kept in ")), "{said:?}");
    assert!(lab.run(["pull", &name]).ok().out.contains("is up to date"));
    let said = lab.run(["logout", &host]).ok();
    assert!(said.out.starts_with(&format!("Removed the account for {host} from ")), "{said:?}");
    denied(lab.run(["pull", &name]));
    lab.run(["logout", &host]).refused(2, "no account is kept for");
}

#[test]
fn a_login_needs_somebody_to_ask() {
    let lab = Lab::new();
    // setsid takes the controlling terminal away.
    let mut command = Command::new("setsid");
    command.args(["-w", env!("CARGO_BIN_EXE_grus"), "login", "127.0.0.1:1"]).env("HOME", lab.dir.path());
    Output::of(command.stdin(Stdio::null()).output().expect("setsid")).refused(2, "there is no terminal");
    lab.pipe(["login", "127.0.0.1:1", "-u", "a", "--password-stdin"], b"").refused(2, "holds no password");
    lab.run(["login", "not a server", "-u", "a", "--password-stdin"]).refused(2, "is not a registry");
    lab.run(["login", "x.y", "--password-stdin"]).refused(2, "--username");
}

#[test]
fn an_account_of_dockers_is_dockers_to_remove() {
    let lab = Lab::new();
    let auths =
        r#"{"auths": {"x.example": {"auth": "dTpw"}, "https://index.docker.io/v1/": {"auth": "dTpw"}}}"#;
    fs::create_dir(lab.path(".docker")).expect("directory");
    fs::write(lab.path(".docker/config.json"), auths).expect("write");
    let said = lab.run(["logout", "x.example"]).refused(2, "is Docker's, kept in ");
    assert!(said.contains(".docker/config.json") && said.contains("'docker logout x.example'"), "{said}");
    let said = lab.run(["logout"]).refused(2, "the account for docker.io is Docker's");
    assert!(said.contains("'docker logout' removes it"), "{said}");
    lab.run(["logout", "y.example"]).refused(2, "no account is kept for y.example");
    // One of ours goes; the other is not forgotten to be told of.
    fs::create_dir_all(lab.path(".config/containers")).expect("directory");
    fs::write(lab.path(".config/containers/auth.json"), auths).expect("write");
    let said = lab.run(["logout", "x.example"]).ok();
    assert!(said.out.starts_with("Removed the account for x.example from "), "{said:?}");
    assert!(said.err.contains("'docker logout x.example' removes it"), "{said:?}");
    assert_eq!(fs::read_to_string(lab.path(".docker/config.json")).expect("there"), auths);
}

#[test]
fn local_sources_may_be_named_as_podman_names_them() {
    let lab = Lab::new();
    let (dir, digest) = simple_layout(lab.path("layout"));
    let layout = format!("oci:{}", dir.display());
    lab.run(["pull", &layout]).refused(2, "does not say what to call the image");
    assert_eq!(lab.run(["pull", "-q", &layout, "app:1"]).ok().out.trim(), digest);
    fs::write(lab.path("oci.tar"), tar_dir(&dir)).expect("write");
    assert_eq!(lab.run(["pull", "-q", "oci-archive:oci.tar:latest", "app:2"]).ok().out.trim(), digest);
    let members = docker_archive(&[(&["x.y/app:3"], &[base_layer()]), (&["x.y/no:1"], &[base_layer()])]);
    fs::write(lab.path("docker.tar"), tar_members(&members)).expect("write");
    let said = lab.run(["pull", "docker-archive:docker.tar:x.y/app:3"]).ok().out;
    assert!(said.starts_with("imported x.y/app:3: "), "{said}");
    lab.assert_sound();
}

/// A layout of two layers that a sibling shares the first of; the digest of the shared blob.
fn sibling(lab: &Lab, name: &str, more: &[u8]) -> (std::path::PathBuf, String) {
    let noise: Vec<u8> = (0..600_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let shared = tar_of(&[("etc/", b""), ("etc/noise", &noise)]);
    let mut layout = Layout::new(lab.path(name));
    let image = layout.image(&[shared.clone(), tar_of(&[("srv/more", more)])], arch());
    layout.add(image, Some("latest"), None);
    (layout.finish().to_owned(), digest(&gzip(&shared)))
}

/// Takes a blob away from the registry.
fn lose(lab: &Lab, digest: &str) {
    let hex = digest.trim_start_matches("sha256:");
    let blob = lab.path(&format!("registry/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    fs::remove_file(blob).expect("the blob's file");
}

#[test]
fn kept_layers_serve_a_sibling_image() {
    let lab = Lab::new();
    let Some(registry) = Registry::start(&lab) else { return };
    let (first, shared) = sibling(&lab, "first", b"1");
    let (second, _) = sibling(&lab, "second", b"2");
    registry.push(&first, "app:1");
    registry.push(&second, "app:2");
    let (one, two) = (format!("{}/app:1", registry.host), format!("{}/app:2", registry.host));
    let _ = lab.run(["pull", "-q", "--keep-layers", "always", &one]).ok();
    lose(&lab, &shared);
    assert_ne!(lab.run(["--repository", "empty", "pull", "-q", &two]).code, Some(0), "the registry lost it");
    let _ = lab.run(["pull", "-q", &two]).ok();
    lab.assert_sound();
    let layers = lab.repository().join("layers");
    assert!(!crate::support::files(&layers).iter().any(|f| f.ends_with(&shared[7..])), "served its purpose");
}

#[test]
fn damaged_kept_layers_are_fetched_again() {
    let lab = Lab::new();
    let Some(registry) = Registry::start(&lab) else { return };
    let (layout, shared) = sibling(&lab, "first", b"1");
    registry.push(&layout, "app:1");
    let name = format!("{}/app:1", registry.host);
    let _ = lab.run(["pull", "-q", "--keep-layers", "always", &name]).ok();
    let _ = lab.run(["rmi", &name]).ok();
    let kept = lab.repository().join("layers/sha256").join(&shared[7..]);
    let mut bytes = fs::read(&kept).expect("a kept layer");
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0);
    for damaged in [&bytes[..], b"short", &[7; 10_000_000]] {
        fs::write(&kept, damaged).expect("write");
        let said = lab.run(["pull", &name]).ok();
        assert!(said.out.starts_with("pulled "), "{said:?}");
        lab.assert_sound();
        let _ = lab.run(["rmi", &name]).ok();
    }
}

#[test]
fn a_killed_pull_goes_on_with_what_it_had() {
    let lab = Lab::new();
    let Some(registry) = Registry::start(&lab) else { return };
    let (layout, shared) = sibling(&lab, "first", b"1");
    registry.push(&layout, "app:1");
    let name = format!("{}/app:1", registry.host);
    let mut child = lab.spawn(["pull", "--keep-layers", "always", &name]);
    let kept = lab.repository().join("layers/sha256").join(&shared[7..]);
    let start = Instant::now();
    while !fs::metadata(&kept).is_ok_and(|m| m.len() > 0) && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_micros(100));
    }
    // It may have come to its end by now; both ways the next pull must be right.
    let _ = child.kill();
    let _ = child.wait();
    assert!(kept.exists());
    let said = lab.run(["pull", &name]).ok();
    assert!(said.out.starts_with("pulled ") || said.out.contains("is up to date"), "{said:?}");
    lab.assert_sound();
}

#[test]
fn a_fast_pull_leaves_no_layers_behind() {
    let lab = Lab::new();
    let Some(registry) = Registry::start(&lab) else { return };
    let (layout, _) = sibling(&lab, "first", b"1");
    registry.push(&layout, "app:1");
    let _ = lab.run(["pull", "-q", &format!("{}/app:1", registry.host)]).ok();
    assert_eq!(crate::support::files(&lab.repository().join("layers")), Vec::<std::path::PathBuf>::new());
}
