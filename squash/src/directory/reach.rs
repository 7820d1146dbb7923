//! Owns the way to a tree's entries. The tree may be a stranger's who changes it meanwhile: each entry is reached from
//! the top's descriptor without a link (openat2(2)), so that nothing outside of the tree is ever read.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{openat, openat2, Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;

use super::changed;

/// A directory that is held, not open for reading.
const HELD: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The top of a tree.
pub(super) struct Top {
    top: OwnedFd,
    /// The directory of the entry before. Entries of a directory follow each other.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Top {
    /// The directory at `path`, which may be a link to it.
    pub(super) fn open(path: &Path) -> io::Result<Top> {
        Ok(Top { top: openat(CWD, path, HELD, Mode::empty())?, last: None })
    }

    /// Opens the entry at `path`, as it is below the top at this moment; a link is not followed.
    pub(super) fn entry(&mut self, path: &Path, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(openat(&self.top, ".", flags, Mode::empty())?.into());
        };
        let dir = match self.last.take() {
            Some((last, dir)) if last == above => Ok(dir),
            _ => self.directory(above),
        };
        let entry = dir.and_then(|dir| {
            let entry = openat(&dir, name, flags, Mode::empty());
            self.last = Some((above.to_owned(), dir));
            entry
        });
        match entry {
            Ok(entry) => Ok(entry.into()),
            // It was a directory, or no link, when its name was read.
            Err(Errno::LOOP | Errno::NOTDIR) => Err(changed()),
            Err(e) => Err(e.into()),
        }
    }

    fn directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.top, path, HELD, Mode::empty(), resolve)
    }
}
