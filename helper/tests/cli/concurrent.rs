//! Commands at the same time, and commands that are killed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::archives::*;
use crate::support::{files, Lab, Output};

/// A layout whose layer takes a while: incompressible bytes from a small generator.
fn large_layout(lab: &Lab, megabytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(megabytes << 20);
    while bytes.len() < megabytes << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    let mut layout = Layout::new(lab.path("large"));
    let image = layout.image(&[tar_of(&[("etc/", b""), ("etc/noise", &bytes)])], arch());
    let digest = image["digest"].as_str().expect("digest").to_owned();
    layout.add(image, None, None);
    layout.finish();
    digest
}

/// Sends a signal to this one process.
fn kill(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let status = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(status.expect("kill").success());
}

/// Waits until a temporary image has some bytes.
fn wait_for_part(lab: &Lab) -> Option<PathBuf> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        let found = files(&lab.repository().join("tmp"))
            .into_iter()
            .find(|p| fs::metadata(p).is_ok_and(|m| m.len() > 0));
        if found.is_some() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

#[test]
fn eight_imports_of_one_image_make_it_once() {
    let lab = Lab::new();
    let digest = large_layout(&lab, 4);
    let children: Vec<_> =
        (0..8).map(|n| lab.spawn(["import", "--json", "large", &format!("app:{n}")])).collect();
    let mut made = 0;
    for child in children {
        let said = Output::of(child.wait_with_output().expect("grus ends")).ok();
        made += usize::from(said.out.contains("\"status\": \"imported\""));
        assert!(said.out.contains(&digest), "{said:?}");
    }
    assert_eq!(made, 1, "the others found it made");
    let table = lab.run(["images"]).ok().out;
    assert_eq!(table.lines().count(), 9, "{table}");
    lab.assert_sound();
}

#[test]
fn a_killed_import_leaves_nothing_visible_and_the_next_sweeps() {
    let lab = Lab::new();
    large_layout(&lab, 32);
    let mut child = lab.spawn(["import", "large", "app"]);
    let part = wait_for_part(&lab).expect("the import writes");
    child.kill().expect("kill -9");
    let killed = child.wait().expect("it ends");
    assert_eq!(killed.code(), None, "it was killed in the middle");
    assert!(part.exists(), "kill -9 leaves the file");
    assert_eq!(lab.run(["images"]).ok().out.lines().count(), 1, "nothing to see");
    lab.run(["plan", "app"]).refused(2, "is not in the repository");
    let _ = lab.run(["import", "large", "app"]).ok();
    assert!(!part.exists(), "swept");
    lab.assert_sound();
}

#[test]
fn an_interrupted_import_removes_its_file() {
    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        let lab = Lab::new();
        large_layout(&lab, 32);
        let child = lab.spawn(["import", "large", "app"]);
        wait_for_part(&lab).expect("the import writes");
        kill(&child, signal);
        let ended = child.wait_with_output().expect("it ends");
        // By the signal, or a shell's loop would go on.
        assert_eq!(ended.status.signal(), Some(number), "{ended:?}");
        let said = Output::of(ended);
        assert!(said.err.ends_with("grus: interrupted; nothing unfinished is left\n"), "{said:?}");
        let left: Vec<PathBuf> =
            lab.leftovers().into_iter().filter(|p| p.extension() != Some("lock".as_ref())).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}

#[test]
fn a_signal_to_run_alone_ends_the_pull_that_it_started() {
    for signal in ["INT", "TERM", "HUP"] {
        let lab = Lab::new();
        // A registry that never answers.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let image = format!("{}/app:1", silent.local_addr().expect("bound"));
        let child = lab.spawn(["run", &image, "true"]);
        let _connection = silent.accept().expect("the pull asks");
        kill(&child, signal);
        // Until the pull has closed its standard error, too.
        let said = Output::of(child.wait_with_output().expect("it ends"));
        assert_eq!(said.code, Some(130), "{said:?}");
        lab.assert_empty();
    }
}

#[test]
fn removing_and_importing_at_once_never_leaves_a_tag_without_image() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    for _ in 0..10 {
        let _ = lab.run(["import", "-q", "layout", "app:1"]).ok();
        let remove = lab.spawn(["rmi", "app:1"]);
        let import = lab.spawn(["import", "-q", "layout", "app:2"]);
        let removed = Output::of(remove.wait_with_output().expect("rmi ends"));
        let imported = Output::of(import.wait_with_output().expect("import ends"));
        assert_eq!(removed.code, Some(0), "{removed:?}");
        // The image may vanish between its making and its tagging; then the command says so.
        if imported.code != Some(0) {
            imported.refused(1, "was removed by another command meanwhile");
        }
        assert_eq!(lab.run(["images"]).ok().err, "", "no tag without an image");
    }
}
