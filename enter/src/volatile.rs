//! Directories of the image that the user may change, for one step on one node.
//!
//! An overlay with its upper layer in a storage of its own. The directory keeps contents, owners and modes; what lets the user in
//! is an access control list entry `user:UID:rwX` on every directory and file that would not let the user write
//! already (see `upper`). An id-mapped lower layer would need no pass over the tree, but would show the user as
//! owner of everything. There is no default entry, so the umask counts for new files. Two things show: the list's mask
//! takes the place of the group bits in stat(2) (acl(5)), and in a sticky directory only the owner can delete.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use grus_core::mount::Limit;
use grus_core::path::AbsPath;
use grus_core::Refusal;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::apply::Scratch;
use crate::call::{attach, new_dir, new_mount, open_in, proc_path, stat, Broken, Called, During, OWN, PLAIN};
use crate::failure::{Failure, Phase};
use crate::storage::Storage;
use crate::upper::{fill, Admitted, MOST};

/// For whom, and how much.
#[derive(Debug)]
pub(crate) struct Volatile {
    /// Size of all of the step's volatile directories together.
    pub size: Limit,
    /// Where their changes lie.
    pub storage: Option<Storage>,
    /// The user. None: whoever makes the container, in a user namespace where the image's files are the user's own.
    pub who: Option<Admitted>,
}

impl Volatile {
    /// Ready to make directories in this namespace.
    pub fn at(self, scratch: &Scratch) -> Layers<'_> {
        Layers { what: self, scratch, made: 0, room: MOST }
    }
}

/// Upper layers of this container.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    what: Volatile,
    scratch: &'a Scratch,
    made: u32,
    /// How many entries they may still have.
    room: usize,
}

impl Layers<'_> {
    /// Makes `destination` writable. Returns what is mounted there.
    pub fn make(&mut self, root: &OwnedFd, destination: &AbsPath) -> Result<OwnedFd, Failure> {
        let path = destination.as_path();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let option = format!("--writable-volatile={destination}");
        let lower = open_in(root.as_fd(), path, flags, OWN).map_err(|broken| match broken.errno {
            Errno::XDEV => {
                Refusal::user(format!("{option}: a mount lies over it, so that it is not the image's"))
                    .hint("name a directory of the image's that nothing is mounted on or above")
                    .into()
            }
            _ => broken.during(Phase::Volatile),
        })?;
        let overlay = self.over(&lower, &option, "name a smaller directory")?;
        attach(overlay.as_fd(), lower.as_fd(), path).during(Phase::Volatile)?;
        Ok(overlay)
    }

    /// The whole of `image`, which is attached in this namespace, writable; attached nowhere.
    pub fn whole(&mut self, image: &OwnedFd) -> Result<OwnedFd, Failure> {
        let less = "make only the directories that change writable, with --writable-volatile=DIR";
        self.over(image, "a writable container of this image", less)
    }

    /// A new layer over `lower`. `what` and `less` are for refusals: what was asked for, and how to ask for less.
    fn over(&mut self, lower: &OwnedFd, what: &str, less: &str) -> Result<OwnedFd, Failure> {
        let dir = self.new_layer().during(Phase::Volatile)?;
        let upper = new_dir(dir.as_fd(), c"upper").during(Phase::Volatile)?;
        match &self.what.who {
            Some(who) => fill(&upper, lower, who, &mut self.room)
                .map_err(|broken| self.not_filled(broken, what, less))?,
            None => like(&dir, lower).during(Phase::Volatile)?,
        }
        overlay(&dir, lower, self.what.who.is_some()).during(Phase::Volatile)
    }

    /// A directory for one more upper layer, in the storage that all share.
    fn new_layer(&mut self) -> Called<OwnedFd> {
        let storage = self.what.storage.as_ref();
        let storage = &storage.ok_or_else(|| Broken::new("storage of upper layers", Errno::BADF))?.mount;
        if self.made == 0 {
            // Overlays take their layers by path, so it has to be attached.
            let place = new_dir(self.scratch.dir.as_fd(), c"volatile")?;
            attach(storage.as_fd(), place.as_fd(), "volatile".as_ref())?;
        }
        let name = CString::new(self.made.to_string()).unwrap_or_default();
        self.made += 1;
        new_dir(storage.as_fd(), &name)
    }

    fn not_filled(&self, broken: Broken, what: &str, less: &str) -> Failure {
        let refuse =
            |why: &str, hint: &str| Failure::from(Refusal::user(format!("{what}: {why}")).hint(hint));
        match broken.errno {
            Errno::TIMEDOUT => refuse("it holds too many files to prepare in time", less),
            Errno::TOOBIG if self.made > 1 => {
                refuse(&format!("it and those before it hold more than {MOST} files"), less)
            }
            Errno::TOOBIG => refuse(&format!("it holds more than {MOST} files"), less),
            Errno::NAMETOOLONG => refuse("its directories are nested too deeply", less),
            Errno::NOSPC => refuse(
                &format!("it holds too many files for volatile.size {}", self.what.size),
                &format!("{less}, or ask the administrator for a larger volatile.size"),
            ),
            _ => broken.during(Phase::Volatile),
        }
    }
}

/// Gives the empty upper layer in `dir` the mode of `lower`, which is the one that shows.
fn like(dir: &OwnedFd, lower: &OwnedFd) -> Called<()> {
    let mode = Mode::from_raw_mode(stat(lower, "lower".as_ref())?.st_mode & 0o7777);
    rustix::fs::chmodat(dir, c"upper", mode, AtFlags::empty()).map_err(|e| Broken::new("fchmodat(upper)", e))
}

/// The overlay of `upper` in `dir` over `lower`. Only root can use trusted.* attributes; without them directories
/// cannot be renamed and data is copied with the first change of anything (overlayfs.rst, 'userxattr').
fn overlay(dir: &OwnedFd, lower: &OwnedFd, root: bool) -> Called<OwnedFd> {
    new_dir(dir.as_fd(), c"work")?;
    rustix::process::fchdir(dir).map_err(|e| Broken::new("fchdir(volatile)", e))?;
    let lower = proc_path(lower);
    // redirect_dir, so that directories of the image can be renamed; metacopy needs it. index=off: hard links of
    // the image part on change, as in every container engine.
    let mut options = vec![
        ("source", "grus"),
        ("lowerdir", lower.as_str()),
        ("upperdir", "upper"),
        ("workdir", "work"),
        ("index", "off"),
        ("xino", "off"),
    ];
    match root {
        true => options.extend([("redirect_dir", "on"), ("metacopy", "on")]),
        false => options.push(("userxattr", "")),
    }
    new_mount("overlay", &options, PLAIN)
}
