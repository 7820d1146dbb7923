//! What is noted of kept containers, on real mounts in a namespace of each test's own; as root only.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Instant;

use grus_core::request::Resolved;
use grus_core::server::Server;
use rustix::mount::{mount_bind, mount_change, MountPropagationFlags};
use rustix::process::{kill_process, Pid, Signal};

use super::*;
use crate::server::Served;
use crate::sys::unshare;

/// Runs `test` on a thread in a mount namespace of its own, with a directory that is a shared mount.
fn lab(test: impl FnOnce(&AbsPath, &Deadline) + Send) {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: not root");
    }
    let dir = tempfile::tempdir_in("/run").expect("a directory");
    let path = AbsPath::parse(&dir.path().to_string_lossy()).expect("a path");
    let deadline = Deadline::new(Instant::now() + Duration::from_secs(60), Arc::new(AtomicBool::new(false)));
    let work = || {
        unshare(true).expect("unshare");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private");
        mount_bind(path.as_path(), path.as_path()).expect("a mount");
        mount_change(path.as_path(), MountPropagationFlags::SHARED).expect("shared");
        test(&path, &deadline);
    };
    std::thread::scope(|scope| scope.spawn(work).join()).expect("the test");
}

/// What mountinfo has of the mount at `path`.
fn mount_of(path: &str) -> String {
    let all = fs::read_to_string("/proc/thread-self/mountinfo").expect("proc");
    let found = all.lines().find(|line| line.split(' ').nth(4) == Some(path));
    found.unwrap_or_else(|| panic!("no mount at {path}:\n{all}")).to_owned()
}

#[test]
fn a_jobs_mount_passes_nothing_on_whoever_made_it() {
    lab(|dir, deadline| {
        let (made, found) = (format!("{dir}/n.1"), format!("{dir}/n.2"));
        let _ = Jobs::open(dir, "n", 1).expect("root").job(deadline).expect("made");
        assert!(!mount_of(&made).contains("shared:"), "{}", mount_of(&made));
        // As one leaves it who was killed right after it was attached.
        fs::create_dir(&found).expect("root");
        let tmpfs = new_mount("tmpfs", &[("source", "grus")], MountAttrFlags::empty()).expect("tmpfs");
        let place = rustix::fs::open(&found, OFlags::PATH, Mode::empty()).expect("it is there");
        attach(tmpfs.as_fd(), place.as_fd(), found.as_ref()).expect("attached");
        assert!(mount_of(&found).contains("shared:"), "{}", mount_of(&found));
        let _ = Jobs::open(dir, "n", 2).expect("root").job(deadline).expect("found");
        assert!(!mount_of(&found).contains("shared:"), "{}", mount_of(&found));
    });
}

/// A process that its user has stopped.
fn stopped() -> (Child, Server) {
    let child = Command::new("sleep").arg("100").spawn().expect("sleep");
    let pid = Pid::from_raw(child.id() as i32).expect("a pid");
    kill_process(pid, Signal::STOP).expect("it runs");
    (child, Served::started(pid, 0).expect("it runs").server)
}

#[test]
fn servers_end_with_their_job_stopped_or_not_and_nothing_else_does() {
    lab(|dir, deadline| {
        let jobs = Jobs::open(dir, "n", 1).expect("root");
        let job = jobs.job(deadline).expect("made");
        let image = AbsPath::parse("/a").expect("a path");
        let asked = Resolved { path: image.clone(), digest: None };
        let (mut own, server) = stopped();
        let (mut other, of_other) = stopped();
        // A number that another process has by now.
        let later = Server { started: of_other.started - 1, ..of_other };
        for (name, server) in [("own", Some(server)), ("later", Some(later)), ("none", None)] {
            let slot = Slot::open(&job, name, deadline).expect("a slot");
            let (asked, image) = (asked.clone(), image.clone());
            slot.note(&Kept { uid: 1, restart: 0, step: 0, asked, image, meta: None, server })
                .expect("noted");
        }
        drop(job);
        jobs.remove().expect("removed");
        let end = Instant::now() + Duration::from_secs(5);
        let mut status = own.try_wait().expect("a child");
        while status.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            status = own.try_wait().expect("a child");
        }
        let lives = other.try_wait().expect("a child").is_none();
        let _ = (own.kill(), own.wait(), other.kill(), other.wait());
        assert_eq!(status.and_then(|status| status.signal()), Some(9), "the server outlives its job");
        assert!(lives, "a process that is not the server was killed");
        assert!(!dir.as_path().join("n.1").exists());
    });
}
