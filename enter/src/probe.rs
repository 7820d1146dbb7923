//! What this machine can do, found out by trying and without changing anything: for `grus doctor`.
//!
//! Runs as whoever calls, mostly an ordinary user. A call that the kernel refuses for want of a privilege is known to
//! the kernel; only one that it does not know is missing.

use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, OpenTreeFlags};

use crate::call::{open, open_own, Broken};
use crate::failure::reason;
use crate::{sys, trust};

/// How a try went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It works.
    Works,
    /// The kernel knows it, and does not let this caller do it.
    Denied(String),
    /// The kernel does not have it.
    Missing,
}

impl Tried {
    fn of<T>(called: Result<T, Errno>) -> Self {
        match called {
            Ok(_) => Tried::Works,
            Err(Errno::NOSYS | Errno::NODEV) => Tried::Missing,
            Err(errno) => Tried::Denied(reason(errno)),
        }
    }
}

/// The system calls that Grus cannot do without, with the kernel that brought each.
pub fn calls() -> Vec<(&'static str, &'static str, Tried)> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let in_root = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let openat2 = rustix::fs::openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), in_root);
    // Without OPEN_TREE_CLONE it only opens, which everyone may (open_tree(2)).
    let open_tree = rustix::mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC);
    let setattr = root.and_then(|root| sys::change_no_attribute(&root));
    vec![
        ("openat2", "5.6", Tried::of(openat2)),
        ("open_tree", "5.2", Tried::of(open_tree)),
        ("mount_setattr", "5.12", Tried::of(setattr)),
    ]
}

/// Whether the kernel has a file system of this kind, which it may load meanwhile. Only root gets a plain answer.
pub fn file_system(kind: &str) -> Tried {
    Tried::of(rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC))
}

/// Whether the caller can have a user namespace; else why not.
pub fn user_namespace() -> Result<(), String> {
    sys::in_user_namespace(|_| Ok(())).map_err(told)
}

/// Whether there is a loop device to be had; else why not. Needs root.
pub fn loop_device() -> Result<(), String> {
    let control = open_own("/dev/loop-control", OFlags::RDWR).map_err(told)?;
    sys::loop_free(std::os::fd::AsFd::as_fd(&control)).map(drop).map_err(told)
}

/// Why a file or directory is not root's alone, as the plugin judges it (its directories too); None if it is.
pub fn why_not_roots(path: &Path) -> Result<Option<String>, String> {
    let file = open(path, OFlags::PATH).map_err(told)?;
    trust::why_not_roots(&file, path).map_err(told)
}

fn told(broken: Broken) -> String {
    format!("{}: {}", broken.call, reason(broken.errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_the_tests_has_what_grus_needs() {
        for (call, _, tried) in calls() {
            assert!(tried != Tried::Missing, "{call}");
        }
        assert_eq!(Tried::of::<()>(Err(Errno::NOSYS)), Tried::Missing);
        assert!(matches!(Tried::of::<()>(Err(Errno::PERM)), Tried::Denied(_)));
    }

    #[test]
    fn a_file_system_that_no_kernel_has_is_missing() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        assert_eq!(file_system("no-such-fs"), Tried::Missing);
        assert_eq!(file_system("tmpfs"), Tried::Works);
    }

    #[test]
    fn who_can_write_is_told_of_the_whole_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let why = why_not_roots(dir.path()).expect("readable").expect("below /tmp");
        assert!(why.contains("writable by others"), "{why}");
        assert!(why_not_roots(&dir.path().join("none")).is_err());
        if rustix::process::geteuid().is_root() {
            assert_eq!(why_not_roots(Path::new("/usr/bin")), Ok(None));
        }
    }
}
