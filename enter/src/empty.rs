//! Directories that are empty when they are mounted, a tmpfs or a scratch: mount points are made in them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use grus_core::path::AbsPath;
use grus_core::plan::{Make, Op};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::call::{open_in, Broken, Called, OWN};
use crate::sys::make_read_only;

/// Those of one container. They are the user's, and so is what is made in them.
#[derive(Debug)]
pub(crate) struct Empty {
    uid: u32,
    gid: u32,
    mounts: Vec<(AbsPath, OwnedFd, bool)>,
}

impl Empty {
    /// None yet.
    pub fn of(uid: u32, gid: u32) -> Self {
        Self { uid, gid, mounts: vec![] }
    }

    /// Takes note of a mount that was just made.
    pub fn add(&mut self, op: &Op, mount: OwnedFd) {
        match op {
            Op::Tmpfs { destination, readonly, .. } => {
                self.mounts.push((destination.clone(), mount, *readonly));
            }
            Op::Scratch { destination, .. } => self.mounts.push((destination.clone(), mount, false)),
            _ => {}
        }
    }

    /// Makes a mount point in the innermost of them around it: one name in a directory of that mount itself, since what
    /// is mounted in there is the host's.
    pub fn make(&self, destination: &AbsPath, make: &Make) -> Called<()> {
        let broken = |call: &str, e| Broken::new(format!("{call}({destination})"), e);
        let around = self.mounts.iter().filter(|(at, ..)| destination.is_within(at) && at != destination);
        let (at, mount, _) =
            around.max_by_key(|(at, ..)| at.depth()).ok_or_else(|| broken("mkdirat", Errno::NOENT))?;
        let mut below: Vec<&str> = destination.components().skip(at.depth()).collect();
        let name = below.pop().unwrap_or_default();
        let above = format!("./{}", below.join("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let dir =
            open_in(mount.as_fd(), Path::new(&above), flags, OWN).map_err(|b| broken("openat2", b.errno))?;
        match make {
            Make::Directory => rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755))
                .map_err(|e| broken("mkdirat", e))?,
            Make::File => {
                rustix::fs::mknodat(&dir, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
                    .map_err(|e| broken("mknodat", e))?;
            }
            Make::Link(target) => {
                rustix::fs::symlinkat(target.as_path(), &dir, name).map_err(|e| broken("symlinkat", e))?
            }
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| broken("fchownat", e))
    }

    /// Makes read-only what is to be, now that all mount points are there.
    pub fn close(self) -> Called<()> {
        let readonly = self.mounts.iter().filter(|(.., readonly)| *readonly);
        readonly.into_iter().try_for_each(|(at, mount, _)| make_read_only(mount.as_fd(), at.as_str()))
    }
}
