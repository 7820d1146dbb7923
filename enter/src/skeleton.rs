//! The overlay's layer of what an image lacks: mount points, directories above them, links to libraries of the host.
//!
//! A link leads to a path of the container and, until that is the root, to the host's. What is planned may come from a
//! user: so nothing is made but by one name in a directory that was reached without a link (openat2(2)).

use std::os::fd::{AsFd, OwnedFd};

use grus_core::path::AbsPath;
use grus_core::plan::{Made, Make};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::call::{open_in, Broken, Called};
use crate::rootfs::relative;

/// Its root, and where it was worked last.
pub(crate) struct Skeleton {
    dir: OwnedFd,
    /// The directory that was made in last.
    last: Option<(AbsPath, OwnedFd)>,
}

impl Skeleton {
    /// In this empty directory.
    pub fn new(dir: OwnedFd) -> Self {
        Self { dir, last: None }
    }

    /// Makes one missing mount point, exactly as planned: the umask is empty, owner and mode are set by themselves.
    pub fn make(&mut self, made: &Made) -> Called<()> {
        let (Some(above), Some(name)) = (made.path.parent(), made.path.components().next_back()) else {
            // The root was there before.
            return own(&self.dir, c".", made, true);
        };
        let mode = Mode::from_raw_mode(made.mode & 0o7777);
        let broken = |call: &str, e| Broken::new(format!("{call}({}, {mode:?})", made.path), e);
        let dir = self.enter(above)?;
        match &made.make {
            Make::Directory => rustix::fs::mkdirat(dir, name, mode).map_err(|e| broken("mkdirat", e))?,
            Make::File => {
                let file = FileType::RegularFile;
                rustix::fs::mknodat(dir, name, file, mode, 0).map_err(|e| broken("mknodat", e))?;
            }
            Make::Link(target) => {
                return rustix::fs::symlinkat(target.as_path(), dir, name)
                    .map_err(|e| broken("symlinkat", e));
            }
        }
        own(dir, name, made, false)
    }

    /// The directory of this path. Neighbours follow each other in a plan.
    fn enter(&mut self, path: AbsPath) -> Called<&OwnedFd> {
        let fd = match self.last.take() {
            Some((last, fd)) if last == path => fd,
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                open_in(self.dir.as_fd(), relative(&path), flags, ResolveFlags::NO_SYMLINKS)?
            }
        };
        Ok(&self.last.insert((path, fd)).1)
    }
}

/// Gives what was made at `name` of `dir` its owner, and its mode after that, since chown(2) clears set-id bits.
fn own(dir: &OwnedFd, name: impl Arg + Copy, made: &Made, always: bool) -> Called<()> {
    let broken = |call: &str, e| Broken::new(format!("{call}({})", made.path), e);
    if (made.uid, made.gid) != (0, 0) {
        let owner = Some(Uid::from_raw(made.uid));
        let group = Some(Gid::from_raw(made.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(dir, name, owner, group, flags) {
            // A user namespace has no such owner (user_namespaces(7)); then it is who makes this.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(broken("fchownat", e)),
        }
    }
    if always || (made.uid, made.gid) != (0, 0) {
        let mode = Mode::from_raw_mode(made.mode & 0o7777);
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(|e| broken("fchmodat", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_through_a_link() {
        let (inside, outside) = (tempfile::tempdir().expect("tmp"), tempfile::tempdir().expect("tmp"));
        let dir = rustix::fs::open(inside.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        let mut skeleton = Skeleton::new(dir.expect("a directory"));
        let path = |text: &str| AbsPath::parse(text).expect("static");
        let made = |at, make| Made { path: path(at), make, mode: 0o755, uid: 0, gid: 0 };
        let away = Make::Link(path(&outside.path().to_string_lossy()));
        for (at, make, fits) in [
            ("/a", Make::Directory, true),
            ("/a/b", away.clone(), true),
            ("/a/c", Make::File, true),
            ("/a/b/c", Make::Directory, false),
            ("/a/b/c", Make::File, false),
            ("/a/b/c", away, false),
            ("/a/d", Make::Directory, true),
        ] {
            let done = skeleton.make(&made(at, make));
            assert_eq!(done.is_ok(), fits, "{at}: {done:?}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).expect("tmp").count(), 0);
        assert_eq!(std::fs::read_dir(inside.path().join("a")).expect("tmp").count(), 3);
    }
}
