//! Directories of the image that the user may change, in memory, for one step on one node.
//!
//! An overlay with its upper layer in a tmpfs. The directory keeps contents, owners and modes; what lets the user in
//! is an access control list entry `user:UID:rwX` on every directory and file that would not let the user write
//! already. An id-mapped lower layer would need no pass over the tree, but would show the user as owner of
//! everything. With `metacopy` an entry costs one inode in memory, never its data. There is no default entry, so
//! the umask counts for new files. Two things show: the list's mask takes the place of the group bits in
//! stat(2) (acl(5)), and in a sticky directory only the owner can delete.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use grus_core::path::AbsPath;
use grus_core::Refusal;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::apply::Scratch;
use crate::call::{attach, new_dir, new_mount, open_in, proc_path, stat, Broken, Called, During};
use crate::deadline::Deadline;
use crate::failure::{Failure, Phase};

/// For whom, and how much.
#[derive(Debug)]
pub(crate) struct Volatile {
    /// Size of all of the step's volatile directories together, as tmpfs(5) takes it.
    pub size: String,
    /// The user.
    pub uid: u32,
    /// The user's groups, the primary one too.
    pub gids: Vec<u32>,
    /// When to give up.
    pub deadline: Deadline,
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

impl Layers<'_> {
    /// Makes `destination` writable.
    pub fn make(&mut self, root: &OwnedFd, destination: &AbsPath) -> Result<(), Failure> {
        let path = destination.as_path();
        let lower = open_in(root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::empty())
            .during(Phase::Volatile)?;
        let overlay = self.overlay(&lower, path).during(Phase::Volatile)?;
        if self.what.uid != 0 {
            self.let_user_in(&overlay, destination)?;
        }
        attach(overlay.as_fd(), lower.as_fd(), path).during(Phase::Volatile)
    }

    fn overlay(&mut self, lower: &OwnedFd, path: &Path) -> Called<OwnedFd> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let tmpfs = match self.tmpfs.take() {
            Some(tmpfs) => tmpfs,
            None => {
                let options = [("source", "grus"), ("size", self.what.size.as_str()), ("mode", "0755")];
                let tmpfs = new_mount("tmpfs", &options, attributes)?;
                let place = new_dir(self.scratch.dir.as_fd(), c"volatile")?;
                attach(tmpfs.as_fd(), place.as_fd(), "volatile".as_ref())?;
                tmpfs
            }
        };
        let name = CString::new(self.made.to_string()).unwrap_or_default();
        self.made += 1;
        let dir = new_dir(tmpfs.as_fd(), &name)?;
        self.tmpfs = Some(tmpfs);
        let upper = new_dir(dir.as_fd(), c"upper")?;
        new_dir(dir.as_fd(), c"work")?;
        like(&dir, &upper, lower, path)?;
        rustix::process::fchdir(&dir).map_err(|e| Broken::new("fchdir(volatile)", e))?;
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
        new_mount("overlay", &options, attributes)
    }

    /// Adds the user to the access control lists of the whole tree, top down.
    fn let_user_in(&self, overlay: &OwnedFd, destination: &AbsPath) -> Result<(), Failure> {
        let mut left = vec![PathBuf::from(".")];
        while let Some(path) = left.pop() {
            if self.what.deadline.passed() {
                return Err(Refusal::user(format!(
                    "--writable-volatile={destination}: it holds too many files"
                ))
                .hint("name a smaller directory")
                .into());
            }
            let below = self.directory(overlay, &path).map_err(|b| match b.errno {
                Errno::NAMETOOLONG => Failure::from(
                    Refusal::image(format!(
                        "--writable-volatile={destination}: its directories are nested too deeply"
                    ))
                    .hint("name a smaller directory"),
                ),
                Errno::NOSPC => Failure::from(
                    Refusal::user(format!(
                        "--writable-volatile={destination}: its files do not fit into {}",
                        self.what.size
                    ))
                    .hint("name a smaller directory, or ask for a larger volatile.size"),
                ),
                _ => b.during(Phase::Volatile),
            })?;
            left.extend(below);
        }
        Ok(())
    }

    /// One directory and its files; returns the directories in it.
    fn directory(&self, overlay: &OwnedFd, path: &Path) -> Called<Vec<PathBuf>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = open_in(overlay.as_fd(), path, flags, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV)?;
        rustix::process::fchdir(&dir).map_err(|e| Broken::new("fchdir", e))?;
        let status = stat(&dir, path)?;
        self.admit(c".", status.st_mode, status.st_uid, status.st_gid)?;
        let mut below = vec![];
        for (name, kind) in names(&dir, path)? {
            match kind {
                FileType::Directory => below.push(path.join(std::ffi::OsStr::new(&*name.to_string_lossy()))),
                FileType::Symlink | FileType::CharacterDevice | FileType::BlockDevice => {}
                _ => {
                    let status = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|e| Broken::new(format!("fstatat({})", name.to_string_lossy()), e))?;
                    self.admit(&name, status.st_mode, status.st_uid, status.st_gid)?;
                }
            }
        }
        Ok(below)
    }

    /// Adds the user to one entry of the working directory, unless it lets the user in already.
    fn admit(&self, name: &std::ffi::CStr, mode: u32, uid: u32, gid: u32) -> Called<()> {
        let need = need(mode);
        let class = match self.what.gids.contains(&gid) {
            true => mode >> 3,
            false => mode,
        };
        if uid == self.what.uid || class & need == need {
            return Ok(());
        }
        let list = access_list(mode, self.what.uid, need);
        rustix::fs::lsetxattr(name, c"system.posix_acl_access", &list, XattrFlags::empty()).map_err(|e| {
            Broken::new(format!("lsetxattr({}, system.posix_acl_access)", name.to_string_lossy()), e)
        })
    }
}

/// What the user needs on an entry: read and write; search and execute where anybody has it.
fn need(mode: u32) -> u32 {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => 7,
        _ if mode & 0o111 != 0 => 7,
        _ => 6,
    }
}

/// An access control list as its attribute (linux/posix_acl_xattr.h): owner, group and others as `mode` has them, the
/// user with `need`, and the smallest mask that holds both the user and the group.
fn access_list(mode: u32, uid: u32, need: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let group = mode >> 3 & 7;
    let entries = [
        (0x01u16, mode >> 6 & 7, NOBODY),
        (0x02, need, uid),
        (0x04, group, NOBODY),
        (0x10, group | need, NOBODY),
        (0x20, mode & 7, NOBODY),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend((permissions as u16).to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Names and kinds in a directory, without `.` and `..`.
fn names(dir: &OwnedFd, path: &Path) -> Called<Vec<(CString, FileType)>> {
    let broken = |e| Broken::new(format!("getdents64({})", crate::call::shown(path)), e);
    let mut names = vec![];
    for entry in rustix::fs::Dir::read_from(dir).map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let status = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(broken)?;
                FileType::from_raw_mode(status.st_mode)
            }
            known => known,
        };
        names.push((name.to_owned(), kind));
    }
    Ok(names)
}

/// Gives the upper layer's top the owner and mode of the directory it covers: an overlay shows the upper's.
fn like(dir: &OwnedFd, upper: &OwnedFd, lower: &OwnedFd, path: &Path) -> Called<()> {
    let status = stat(lower, path)?;
    let broken = |call: &str, e| Broken::new(format!("{call}({})", crate::call::shown(path)), e);
    let owner = rustix::process::Uid::from_raw(status.st_uid);
    let group = rustix::process::Gid::from_raw(status.st_gid);
    rustix::fs::chownat(upper, c"", Some(owner), Some(group), AtFlags::EMPTY_PATH)
        .map_err(|e| broken("fchownat", e))?;
    let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
    rustix::fs::chmodat(dir, c"upper", mode, AtFlags::empty()).map_err(|e| broken("fchmodat", e))?;
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: status.st_atime as _,
            tv_nsec: status.st_atime_nsec as _,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: status.st_mtime as _,
            tv_nsec: status.st_mtime_nsec as _,
        },
    };
    rustix::fs::utimensat(dir, c"upper", &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| broken("utimensat", e))
}
