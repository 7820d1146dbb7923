//! The host's files, as sources of binds: each opened once, with the permissions of whoever named it. The
//! descriptor opened while deciding is the one that is mounted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use grus_core::elf::Object;
use grus_core::path::AbsPath;
use grus_core::plan::{Host, Kind, Opener, Unavailable};
use rustix::fs::{accessat, Access, AtFlags, OFlags, CWD};
use rustix::io::Errno;

use crate::call::{open, open_own, proc_path, stat, Broken, Called};
use crate::credentials::Credentials;
use crate::failure::reason;
use crate::library;
use crate::read::{of_kernel, Small};
use crate::rootfs::kind;

type Opened = Result<(OwnedFd, Kind), Unavailable>;

/// Sources opened so far.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    credentials: &'a Credentials,
    opened: RefCell<BTreeMap<(AbsPath, bool), Opened>>,
}

impl<'a> Sources<'a> {
    /// None yet.
    pub fn new(credentials: &'a Credentials) -> Self {
        Self { credentials, opened: RefCell::new(BTreeMap::new()) }
    }

    /// Runs `use_it` on the descriptor of a source that was opened before; None if it was not.
    pub fn with<T>(&self, path: &AbsPath, opener: Opener, use_it: impl FnOnce(&OwnedFd) -> T) -> Option<T> {
        let opened = self.opened.borrow();
        match opened.get(&(path.clone(), opener == Opener::User)) {
            Some(Ok((fd, _))) => Some(use_it(fd)),
            _ => None,
        }
    }

    /// A source that was opened before, to be read with its opener's permissions: the same file, whatever has its
    /// name now.
    pub fn readable(&self, path: &AbsPath, opener: Opener) -> Called<OwnedFd> {
        self.with(path, opener, |fd| {
            self.credentials.switch(opener)?;
            // A FIFO in place of a file would not hold this up; and core has looked what it is.
            let file = open_own(&proc_path(fd), OFlags::RDONLY | OFlags::NONBLOCK);
            self.credentials.switch(Opener::Site)?;
            file.map_err(|broken| Broken::new(format!("open({path})"), broken.errno))
        })
        .unwrap_or_else(|| Err(Broken::new(format!("{path}: not opened"), Errno::BADF)))
    }

    /// Does something with the user's permissions.
    pub fn as_user<T>(&self, work: impl FnOnce() -> Called<T>) -> Called<T> {
        self.with_rights_of(Opener::User, work)
    }

    fn with_rights_of<T>(&self, opener: Opener, work: impl FnOnce() -> Called<T>) -> Called<T> {
        self.credentials.switch(opener)?;
        let done = work();
        // Back at once: whatever comes next is root's work unless it says otherwise.
        self.credentials.switch(Opener::Site)?;
        done
    }

    fn open(&self, path: &AbsPath, opener: Opener) -> Called<(OwnedFd, Kind)> {
        let fd = self.with_rights_of(opener, || place(path))?;
        let kind = kind(&stat(&fd, path.as_path())?);
        Ok((fd, kind))
    }
}

impl Host for Sources<'_> {
    fn source(&self, path: &AbsPath, opener: Opener) -> Result<Kind, Unavailable> {
        let mut opened = self.opened.borrow_mut();
        let entry = opened.entry((path.clone(), opener == Opener::User)).or_insert_with(|| {
            self.open(path, opener).map_err(|b| match b.errno {
                Errno::LOOP => Unavailable("it leads through a link of /proc or too many links".into()),
                errno => Unavailable(reason(errno)),
            })
        });
        match entry {
            Ok((_, kind)) => Ok(*kind),
            Err(unavailable) => Err(unavailable.clone()),
        }
    }

    fn missing(&self, paths: &BTreeSet<AbsPath>, opener: Opener) -> Option<(AbsPath, Unavailable)> {
        let look = |path: &AbsPath| open(path.as_path(), OFlags::PATH).err().map(|b| (path.clone(), b.errno));
        // One change of identity for all of them.
        let found = self.credentials.switch(opener).map(|()| paths.iter().find_map(look));
        match self.credentials.switch(Opener::Site).and(found) {
            Ok(missing) => missing.map(|(path, errno)| (path, Unavailable(reason(errno)))),
            Err(broken) => paths.first().map(|path| (path.clone(), Unavailable(reason(broken.errno)))),
        }
    }

    fn library(&self, path: &AbsPath, opener: Opener) -> Option<Object> {
        // A FIFO or a device is not opened.
        (self.source(path, opener) == Ok(Kind::File))
            .then(|| self.readable(path, opener).ok())?
            .map(|fd| library::linkage(fd.into()))?
    }

    fn usable(&self, path: &AbsPath) -> Result<(), Unavailable> {
        self.source(path, Opener::User)?;
        let may = |fd: &OwnedFd| {
            self.credentials.switch(Opener::User)?;
            let may = accessat(CWD, proc_path(fd), Access::READ_OK, AtFlags::EACCESS);
            self.credentials.switch(Opener::Site)?;
            may.map_err(|e| Broken::new(format!("access({path})"), e))
        };
        self.with(path, Opener::User, may).unwrap_or(Ok(())).map_err(|b| Unavailable(reason(b.errno)))
    }

    fn text(&self, path: &AbsPath, limit: usize) -> Option<Vec<u8>> {
        match of_kernel(path.as_path(), limit) {
            Ok(Small::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn passwd(&self) -> Vec<u8> {
        std::fs::read("/etc/passwd").unwrap_or_default()
    }
}

/// Opens a source as a place in the tree. As a directory first: O_PATH alone would not set off an automount at the
/// path's end (openat(2), path_resolution(7)), and home directories are often automounts.
fn place(path: &AbsPath) -> Called<OwnedFd> {
    match open(path.as_path(), OFlags::PATH | OFlags::DIRECTORY) {
        Err(Broken { errno: Errno::NOTDIR, .. }) => open(path.as_path(), OFlags::PATH),
        opened => opened,
    }
}
