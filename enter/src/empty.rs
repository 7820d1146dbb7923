//! Directories that are empty when they are mounted, a tmpfs or a scratch: mount points are made in them.

use std::os::fd::{AsFd, OwnedFd};

use grus_core::path::AbsPath;
use grus_core::plan::{Make, Op};
use rustix::io::Errno;

use crate::call::{make_in, Broken, Called};
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
        let around = self.mounts.iter().filter(|(at, ..)| destination.is_within(at) && at != destination);
        let (at, mount, _) = around
            .max_by_key(|(at, ..)| at.depth())
            .ok_or_else(|| Broken::new(format!("mkdirat({destination})"), Errno::NOENT))?;
        let below = destination.components().skip(at.depth());
        let path = below.fold(AbsPath::root(), |path, name| path.join(name));
        make_in(mount.as_fd(), &path, make, (self.uid, self.gid), destination)
    }

    /// Makes read-only what is to be, now that all mount points are there.
    pub fn close(self) -> Called<()> {
        let readonly = self.mounts.iter().filter(|(.., readonly)| *readonly);
        readonly.into_iter().try_for_each(|(at, mount, _)| make_read_only(mount.as_fd(), at.as_str()))
    }
}
