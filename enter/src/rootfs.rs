//! The image's tree, as decisions ask for it: read through the mount's descriptor, never leaving it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use grus_core::path::AbsPath;
use grus_core::plan::{Entry, Kind, Rootfs};
use grus_core::Refusal;
use rustix::fs::{FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::call::{open_in, stat, Broken};
use crate::read::{contents, Small};

/// A mounted image. What was looked at once is remembered: one decision asks for the same directories often.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    root: &'a OwnedFd,
    seen: RefCell<BTreeMap<AbsPath, Option<Entry>>>,
}

impl<'a> Tree<'a> {
    /// The image mounted at `root`.
    pub fn new(root: &'a OwnedFd) -> Self {
        Self { root, seen: RefCell::default() }
    }

    fn look(&self, path: &AbsPath) -> Result<Option<Entry>, Refusal> {
        let name = path.as_path();
        let opened =
            open_in(self.root.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS);
        let Some(fd) = present(opened, path)? else { return Ok(None) };
        let status = stat(&fd, name).map_err(|b| unreadable(path, &b))?;
        let kind = kind(&status);
        let target = match kind {
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&fd, c"", Vec::new())
                    .map_err(|e| unreadable(path, &Broken::new("readlinkat", e)))?;
                // A target that is not UTF-8 leads nowhere that a plan can name.
                target.into_string().ok()
            }
            _ => None,
        };
        let mode = status.st_mode & 0o7777;
        Ok(Some(Entry { kind, mode, uid: status.st_uid, gid: status.st_gid, target }))
    }
}

impl Rootfs for Tree<'_> {
    fn entry(&self, path: &AbsPath) -> Result<Option<Entry>, Refusal> {
        if let Some(known) = self.seen.borrow().get(path) {
            return Ok(known.clone());
        }
        let entry = self.look(path)?;
        self.seen.borrow_mut().insert(path.clone(), entry.clone());
        Ok(entry)
    }

    fn read(&self, path: &AbsPath, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let name = path.as_path();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let opened = open_in(self.root.as_fd(), name, flags, ResolveFlags::NO_SYMLINKS);
        // A device node of an image cannot be opened (nodev, EACCES); a socket neither (ENXIO).
        let opened = match opened {
            Err(b) if matches!(b.errno, Errno::ACCESS | Errno::NXIO | Errno::LOOP) => return Ok(None),
            other => other,
        };
        let Some(fd) = present(opened, path)? else { return Ok(None) };
        match contents(fd, name, limit).map_err(|b| unreadable(path, &b))? {
            Small::Bytes(bytes) => Ok(Some(bytes)),
            Small::Missing | Small::NotAFile => Ok(None),
            Small::TooLong => {
                Err(Refusal::image(format!("{path} of the image is larger than {limit} bytes"))
                    .hint("rebuild the image with a smaller one"))
            }
        }
    }
}

/// None where there is no such name.
fn present(opened: Result<OwnedFd, Broken>, path: &AbsPath) -> Result<Option<OwnedFd>, Refusal> {
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(b) if matches!(b.errno, Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
        Err(b) => Err(unreadable(path, &b)),
    }
}

fn unreadable(path: &AbsPath, broken: &Broken) -> Refusal {
    Refusal::image(format!("cannot read {path} in the image: {}", crate::failure::reason(broken.errno)))
        .hint("the image may be damaged; pull or import it again")
}

/// The kind of an open file.
pub(crate) fn kind(status: &Stat) -> Kind {
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        FileType::BlockDevice | FileType::CharacterDevice => Kind::Device,
        _ => Kind::Other,
    }
}

/// A path of the plan, relative to the root.
pub(crate) fn relative(path: &AbsPath) -> &Path {
    let text = path.as_str().trim_start_matches('/');
    Path::new(if text.is_empty() { "." } else { text })
}
