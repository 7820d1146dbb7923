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
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    fn start(lab: &Lab) -> Option<Self> {
        if !["/usr/bin/docker-registry", "/usr/bin/skopeo"].iter().all(|p| Path::new(p).exists()) {
            eprintln!("SKIPPED: docker-registry or skopeo is not installed");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let host = format!("127.0.0.1:{port}");
        let config = lab.path("registry.yml");
        let data = lab.path("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n",
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

    fn push(&self, layout: &Path, name: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "-q", "--all", "--insecure-policy", "--dest-tls-verify=false"])
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

fn json(said: Output) -> Value {
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
