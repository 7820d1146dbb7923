//! What is left when a container has gone, whichever way: no loop device, mount, process or descriptor.

mod support;

use std::fs;
use std::process::Stdio;

use support::{eventually, loops, mounts, servers, Contain, Lab};

fn nothing_left(lab: &Lab, before: &[u32], mounted: &[String]) {
    eventually("no loop device", || loops(lab).is_empty());
    eventually("no server", || servers().iter().all(|pid| before.contains(pid)));
    assert_eq!(mounts(lab), mounted);
}

#[test]
fn after_kill_9_of_everything() {
    let lab = lab!();
    let (before, mounted) = (servers(), mounts(&lab));
    let images = [lab.image("k", |_| ()), lab.users_image("u", |_| ())];
    let mut running: Vec<_> =
        images.iter().map(|i| Contain::new(i).volatile("/opt/app").start("sleep 1000; true")).collect();
    assert_eq!(loops(&lab).len(), 1);
    // The one that holds the descriptor first: while a task lives, its container lives.
    for container in &mut running {
        container.child.kill().expect("kill");
        container.child.wait().expect("wait");
        assert_eq!(container.also("cat /opt/app/file").ok(), "first\n");
    }
    for container in running {
        // The task's own children hold the namespace too.
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", container.pid)).unwrap_or_default();
        container.kill();
        for child in children.split_whitespace() {
            let _ = std::process::Command::new("kill").args(["-9", child]).stderr(Stdio::null()).status();
        }
    }
    nothing_left(&lab, &before, &mounted);
}

#[test]
fn after_many_builds_good_and_bad() {
    let lab = lab!();
    let (before, mounted) = (servers(), mounts(&lab));
    let images = [lab.image("k", |_| ()), lab.users_image("u", |_| ())];
    for image in &images {
        for _ in 0..5 {
            let _ = Contain::new(image).sh("true").ok();
            // Refused late: the image is mounted already.
            let _ = Contain::new(image).mount("/none:/data").sh("true").refused();
            let _ = Contain::new(image).volatile("/none").sh("true").refused();
        }
    }
    nothing_left(&lab, &before, &mounted);
}

#[test]
fn many_at_once_get_their_own_loop_devices() {
    let lab = lab!();
    let (before, mounted) = (servers(), mounts(&lab));
    let image = lab.image("k", |_| ());
    let running: Vec<_> =
        (0..20).map(|_| Contain::new(&image).command("cat /opt/app/file; read x")).collect();
    let mut running: Vec<_> = running
        .into_iter()
        .map(|mut command| command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("contain"))
        .collect();
    eventually("20 loop devices", || loops(&lab).len() == 20);
    running.iter_mut().for_each(|child| drop(child.stdin.take()));
    for child in running {
        let output = child.wait_with_output().expect("wait");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "first\n");
    }
    nothing_left(&lab, &before, &mounted);
}
