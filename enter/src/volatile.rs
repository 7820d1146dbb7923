//! Directories of the image that the user may change, in memory, for one step on one node.
//!
//! An overlay with its upper layer in a tmpfs. The directory keeps contents, owners and modes; what lets the user in
//! is an access control list entry `user:UID:rwX` on every directory and file that would not let the user write
//! already (see `upper`). An id-mapped lower layer would need no pass over the tree, but would show the user as
//! owner of everything. There is no default entry, so the umask counts for new files. Two things show: the list's mask
//! takes the place of the group bits in stat(2) (acl(5)), and in a sticky directory only the owner can delete.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use grus_core::path::AbsPath;
use grus_core::Refusal;
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::apply::Scratch;
use crate::call::{attach, new_dir, new_mount, open_in, proc_path, Broken, Called, During};
use crate::failure::{Failure, Phase};
use crate::upper::{fill, Admitted, MOST};

/// For whom, and how much.
#[derive(Debug)]
pub(crate) struct Volatile {
    /// Size of all of the step's volatile directories together, as tmpfs(5) takes it.
    pub size: String,
    /// The user.
    pub who: Admitted,
}

impl Volatile {
    /// Ready to make directories in this namespace.
    pub fn at(self, scratch: &Scratch) -> Layers<'_> {
        Layers { what: self, scratch, tmpfs: None, made: 0 }
    }
}

/// Upper layers of this container.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    what: Volatile,
    scratch: &'a Scratch,
    tmpfs: Option<OwnedFd>,
    made: u32,
}

const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

impl Layers<'_> {
    /// Makes `destination` writable. Returns what is mounted there.
    pub fn make(&mut self, root: &OwnedFd, destination: &AbsPath) -> Result<OwnedFd, Failure> {
        let path = destination.as_path();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let lower = open_in(root.as_fd(), path, flags, ResolveFlags::empty()).during(Phase::Volatile)?;
        let dir = self.new_layer().during(Phase::Volatile)?;
        let upper = new_dir(dir.as_fd(), c"upper").during(Phase::Volatile)?;
        fill(&upper, &lower, &self.what.who).map_err(|broken| self.not_filled(broken, destination))?;
        let overlay = overlay(&dir, &lower).during(Phase::Volatile)?;
        attach(overlay.as_fd(), lower.as_fd(), path).during(Phase::Volatile)?;
        Ok(overlay)
    }

    /// A directory for one more upper layer, in the tmpfs that all share.
    fn new_layer(&mut self) -> Called<OwnedFd> {
        let tmpfs = match self.tmpfs.take() {
            Some(tmpfs) => tmpfs,
            None => {
                let options = [("source", "grus"), ("size", self.what.size.as_str()), ("mode", "0755")];
                let tmpfs = new_mount("tmpfs", &options, PLAIN)?;
                // Overlays take their layers by path, so it has to be attached.
                let place = new_dir(self.scratch.dir.as_fd(), c"volatile")?;
                attach(tmpfs.as_fd(), place.as_fd(), "volatile".as_ref())?;
                tmpfs
            }
        };
        let name = CString::new(self.made.to_string()).unwrap_or_default();
        self.made += 1;
        let dir = new_dir(tmpfs.as_fd(), &name);
        self.tmpfs = Some(tmpfs);
        dir
    }

    fn not_filled(&self, broken: Broken, destination: &AbsPath) -> Failure {
        let refuse = |why: &str, hint: &str| {
            Failure::from(Refusal::user(format!("--writable-volatile={destination}: {why}")).hint(hint))
        };
        match broken.errno {
            Errno::TIMEDOUT => {
                refuse("it holds too many files to prepare in time", "name a smaller directory")
            }
            Errno::TOOBIG => refuse(&format!("it holds more than {MOST} files"), "name a smaller directory"),
            Errno::NAMETOOLONG => refuse("its directories are nested too deeply", "name a smaller directory"),
            Errno::NOSPC => refuse(
                &format!("it holds too many files for volatile.size {}", self.what.size),
                "name a smaller directory, or ask the administrator for a larger volatile.size",
            ),
            _ => broken.during(Phase::Volatile),
        }
    }
}

/// The overlay of `upper` in `dir` over `lower`.
fn overlay(dir: &OwnedFd, lower: &OwnedFd) -> Called<OwnedFd> {
    new_dir(dir.as_fd(), c"work")?;
    rustix::process::fchdir(dir).map_err(|e| Broken::new("fchdir(volatile)", e))?;
    let lower = proc_path(lower);
    // redirect_dir, so that directories of the image can be renamed; metacopy needs it. index=off: hard links of
    // the image part on change, as in every container engine.
    let options = [
        ("source", "grus"),
        ("lowerdir", lower.as_str()),
        ("upperdir", "upper"),
        ("workdir", "work"),
        ("redirect_dir", "on"),
        ("metacopy", "on"),
        ("index", "off"),
        ("xino", "off"),
    ];
    new_mount("overlay", &options, PLAIN)
}
