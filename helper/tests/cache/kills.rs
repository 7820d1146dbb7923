//! Pulls from docker-registry that are killed at any moment.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::archives::digest;
use crate::images::*;
use crate::support::{files, Lab, Output};

/// A registry on a free port; stopped at the end.
struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(dir: &Path, content: &Content) -> Option<Registry> {
        store(content, dir);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}, secret: none}}\n",
            dir.display()
        );
        fs::write(dir.join("config.yml"), config).expect("write");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            eprintln!("SKIPPED: no docker-registry on this machine (Debian package docker-registry)");
            return None;
        };
        let registry = Registry { child, host };
        let start = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "the registry does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(registry)
    }
}

/// Writes content where docker-registry keeps it, as repository `app`.
fn store(content: &Content, dir: &Path) {
    let root = dir.join("docker/registry/v2");
    let app = root.join("repositories/app");
    let write = |path: std::path::PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("below the root")).expect("directory");
        fs::write(path, bytes).expect("write");
    };
    let blob = |bytes: &[u8]| {
        let digest = digest(bytes);
        let hex = digest[7..].to_owned();
        write(root.join("blobs/sha256").join(&hex[..2]).join(&hex).join("data"), bytes);
        (digest, hex)
    };
    for bytes in content.blobs.values() {
        let (digest, hex) = blob(bytes);
        write(app.join("_layers/sha256").join(hex).join("link"), digest.as_bytes());
    }
    for (tag, bytes) in &content.manifests {
        let (digest, hex) = blob(bytes);
        write(app.join("_manifests/revisions/sha256").join(hex).join("link"), digest.as_bytes());
        write(app.join("_manifests/tags").join(tag).join("current/link"), digest.as_bytes());
    }
}

fn image() -> (Content, String) {
    let layers: Vec<_> = (1..9).map(|n| layer(&format!("l{n}"), n, 60_000 * n as usize % 280_000)).collect();
    let mut content = Content::default();
    let digest = content.add("1", &layers);
    (content, digest)
}

/// Unfinished images in the repository.
fn unfinished(lab: &Lab) -> usize {
    let index = |p: &&std::path::PathBuf| p.extension() == Some("partial-layers".as_ref());
    files(&lab.repository().join("tmp")).iter().filter(index).count()
}

#[test]
fn killed_at_two_hundred_points_a_pull_comes_out_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let (content, digest) = image();
    let Some(registry) = Registry::start(dir.path(), &content) else { return };
    let name = format!("{}/app:1", registry.host);
    let want = undisturbed(&registry.host, "1", &digest);
    // How far a delay may go: made to fit as pulls get faster or slower. Nothing is said of how long one takes.
    let mut span = Duration::from_millis(50);
    let (mut killed, mut tries, mut resumable, mut lab) = (0, 0u32, 0, Lab::new());
    while killed < 200 {
        tries += 1;
        assert!(tries < 4000, "only {killed} kills hit a running pull");
        let dice = u32::from_le_bytes(noise(tries, 4).try_into().expect("4 bytes")) % 1000;
        let mut child = lab.spawn(["pull", "-q", &name]);
        match tries % 2 {
            0 => std::thread::sleep(span * dice / 1000),
            _ => wait_for_bytes(&lab, &mut child, want.len() as u64 * u64::from(dice) / 1000),
        }
        let _ = child.kill();
        let hit = child.wait().expect("it ends").code().is_none();
        span = if hit { span * 11 / 10 } else { span * 9 / 10 };
        killed += u32::from(hit);
        resumable += usize::from(unfinished(&lab) > 0);
        assert!(unfinished(&lab) <= 3, "what broke off does not pile up: {:?}", lab.leftovers());
        let seen = fs::read(squashfs(&lab, &digest)).ok();
        assert!(seen.is_none_or(|seen| seen == want), "a wrong image is visible after kill {killed}");
        // Some kills hit a pull that goes on with what the ones before it left.
        if !hit || dice % 3 == 0 {
            assert_eq!(lab.run(["pull", "-q", &name]).ok().out.trim(), digest);
            let made = fs::read(squashfs(&lab, &digest)).expect("image");
            assert!(made == want, "another image after kill {killed}");
            assert_no_orphan(&lab, &digest);
            lab = Lab::new();
        }
    }
    eprintln!("200 of {tries} pulls were killed; {resumable} times there was something to go on with");
    assert!(resumable >= 20, "{resumable}");
}

/// Waits until an image in the making has so many bytes, or its pull has ended.
fn wait_for_bytes(lab: &Lab, child: &mut Child, bytes: u64) {
    let long_enough = || {
        let tmp = files(&lab.repository().join("tmp"));
        tmp.iter().any(|p| fs::metadata(p).is_ok_and(|m| m.len() > bytes))
    };
    while !long_enough() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn interrupted_by_a_signal_a_pull_says_that_it_goes_on_next_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let (content, digest) = image();
    let Some(registry) = Registry::start(dir.path(), &content) else { return };
    let name = format!("{}/app:1", registry.host);
    let want = undisturbed(&registry.host, "1", &digest);
    for _ in 0..20 {
        let lab = Lab::new();
        let mut child = lab.spawn(["pull", &name]);
        let has_layers = || {
            let tmp = files(&lab.repository().join("tmp"));
            let index = tmp.iter().find(|p| p.extension() == Some("partial-layers".as_ref()));
            index.and_then(|p| fs::metadata(p).ok()).is_some_and(|m| m.len() > 16)
        };
        while !has_layers() && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let pid = child.id().to_string();
        let _ = Command::new("kill").args(["-s", "INT", &pid]).output().expect("kill");
        let said = Output::of(child.wait_with_output().expect("it ends"));
        let goes_on = said.err.contains("the next run goes on with what is here");
        // The beginning of a layer that turned out to be slow is as good as a finished one.
        let kept =
            files(&lab.repository().join("layers")).iter().any(|p| p.metadata().is_ok_and(|m| m.len() > 0));
        assert_eq!(goes_on, kept || unfinished(&lab) == 1, "{said:?} {:?}", lab.leftovers());
        assert_eq!(lab.run(["pull", "-q", &name]).ok().out.trim(), digest);
        assert!(fs::read(squashfs(&lab, &digest)).expect("image") == want);
        assert_no_orphan(&lab, &digest);
        if goes_on && !kept {
            return;
        }
    }
    panic!("no pull was interrupted between two layers");
}

#[test]
fn prune_alone_removes_what_a_killed_pull_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let (content, _) = image();
    let Some(registry) = Registry::start(dir.path(), &content) else { return };
    let mut lab = Lab::new();
    for n in 0..200u32 {
        let mut child = lab.spawn(["pull", "-q", &format!("{}/app:1", registry.host)]);
        // A little later each time, by what is there and not by the clock.
        wait_for_bytes(&lab, &mut child, u64::from(n) * 2000);
        let _ = child.kill();
        let killed = child.wait().expect("it ends").code().is_none();
        if killed && unfinished(&lab) > 0 {
            break;
        }
        lab = Lab::new();
    }
    assert!(unfinished(&lab) > 0);
    let dry = lab.run(["prune", "--dry-run"]).ok().out;
    assert!(dry.starts_with("Deleted: pulls that broke off ("), "{dry}");
    assert!(unfinished(&lab) > 0, "a dry run changes nothing");
    assert_eq!(lab.run(["prune"]).ok().out, dry);
    lab.assert_empty();
}
