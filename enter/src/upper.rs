//! The upper layer of a volatile directory: every directory and file of the image's, without data, with an access
//! control list that lets the user in.
//!
//! Built before the overlay is mounted, in a storage that nobody else sees. A file is an inode with the image's owner,
//! mode, size, times and attributes, and the mark `trusted.overlay.metacopy`, by which the overlay takes its data from
//! the lower layer until it is written (overlayfs.rst, 'Metadata only copy up'). Changing the entries through the
//! mounted overlay gives the same result at four times the cost.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::call::{open_in, shown, stat, Broken, Called};
use crate::deadline::Deadline;

/// For whom.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// The user.
    pub uid: u32,
    /// The user's groups, the primary one too.
    pub gids: Vec<u32>,
    /// When to give up.
    pub deadline: Deadline,
}

/// Most entries of all volatile directories of a container together. Each is an inode in memory; and a user's own image
/// server could go on for ever.
pub(crate) const MOST: usize = 500_000;

/// Fills the empty directory `upper` after `lower`, with at most `room` entries, which it takes off. `Errno::TIMEDOUT` if
/// the deadline passes, `Errno::TOOBIG` if there are more.
pub(crate) fn fill(upper: &OwnedFd, lower: &OwnedFd, who: &Admitted, room: &mut usize) -> Called<()> {
    let mut attributes = Attributes { names: vec![0; 64 << 10], value: vec![0; 64 << 10], none: false };
    // Depth first, so that what is left of each directory is its name and how much of the last path is its parent's: whole
    // paths, of some KiB each, would be gigabytes.
    let mut path = PathBuf::new();
    let mut left = vec![(0, CString::from(c"."))];
    while let Some((parent, name)) = left.pop() {
        path = under(path, parent, &name);
        if who.deadline.passed() {
            return Err(Broken::new(shown(&path), Errno::TIMEDOUT));
        }
        let length = path.as_os_str().len();
        let below = directory(upper, lower, &path, who, &mut attributes, room)?;
        left.extend(below.into_iter().map(|name| (length, name)));
    }
    Ok(())
}

/// The path of `name` in the directory whose path is the first `parent` bytes of `path`.
fn under(path: PathBuf, parent: usize, name: &CStr) -> PathBuf {
    let mut bytes = path.into_os_string().into_vec();
    bytes.truncate(parent);
    let mut path = PathBuf::from(OsString::from_vec(bytes));
    path.push(OsStr::from_bytes(name.to_bytes()));
    path
}

/// One directory: its files, and its subdirectories as empty ones, whose names are returned.
fn directory(
    upper: &OwnedFd,
    lower: &OwnedFd,
    path: &Path,
    who: &Admitted,
    attributes: &mut Attributes,
    room: &mut usize,
) -> Called<Vec<CString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let from = open_in(lower.as_fd(), path, flags, resolve)?;
    let to = open_in(upper.as_fd(), path, flags, resolve)?;
    // The calls for attributes take paths: names in this directory.
    rustix::process::fchdir(&from).map_err(|e| Broken::new(format!("fchdir({})", shown(path)), e))?;
    let own = stat(&from, path)?;
    let unread = |e| Broken::new(format!("getdents64({})", shown(path)), e);
    let mut below = vec![];
    for entry in rustix::fs::Dir::read_from(&from).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *room = room.checked_sub(1).ok_or_else(|| unread(Errno::TOOBIG))?;
        match kind(&from, name, entry.file_type())? {
            FileType::Directory => {
                rustix::fs::mkdirat(&to, name, Mode::RWXU).map_err(|e| broken("mkdirat", name, e))?;
                below.push(name.to_owned());
            }
            FileType::RegularFile => file(&from, &to, name, who, attributes)?,
            // Links have no permissions; devices do not work here; pipes and sockets can be replaced.
            _ => {}
        }
    }
    // Last: entries made in a set-group-id directory would get its group, and making them changed the times.
    take_after(&to, c".", &own, who, attributes)?;
    times(&to, &own, path)?;
    Ok(below)
}

fn file(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    who: &Admitted,
    attributes: &mut Attributes,
) -> Called<()> {
    let status =
        rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| broken("fstatat", name, e))?;
    if who.already(&status) {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| broken("openat", name, e))?;
    take_after(&made, name, &status, who, attributes)?;
    rustix::fs::fsetxattr(&made, c"trusted.overlay.metacopy", &[], XattrFlags::empty())
        .map_err(|e| broken("fsetxattr(metacopy)", name, e))?;
    rustix::fs::ftruncate(&made, status.st_size as u64).map_err(|e| broken("ftruncate", name, e))?;
    times(&made, &status, Path::new("file"))
}

/// Owner, mode, attributes and access control list.
fn take_after(
    made: &OwnedFd,
    name: &CStr,
    status: &Stat,
    who: &Admitted,
    attributes: &mut Attributes,
) -> Called<()> {
    if (status.st_uid, status.st_gid) != (0, 0) {
        let (owner, group) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
        rustix::fs::fchown(made, Some(owner), Some(group)).map_err(|e| broken("fchown", name, e))?;
    }
    let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
    rustix::fs::fchmod(made, mode).map_err(|e| broken("fchmod", name, e))?;
    attributes.copy(made, name)?;
    if who.already(status) {
        return Ok(());
    }
    let list = access_list(status.st_mode, who.uid);
    rustix::fs::fsetxattr(made, c"system.posix_acl_access", &list, XattrFlags::empty())
        .map_err(|e| broken("fsetxattr(system.posix_acl_access)", name, e))
}

fn times(made: &OwnedFd, status: &Stat, path: &Path) -> Called<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: status.st_atime as _, tv_nsec: status.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: status.st_mtime as _, tv_nsec: status.st_mtime_nsec as _ },
    };
    rustix::fs::futimens(made, &times).map_err(|e| Broken::new(format!("futimens({})", shown(path)), e))
}

/// Copies extended attributes. One file system either knows them or does not.
struct Attributes {
    names: Vec<u8>,
    value: Vec<u8>,
    none: bool,
}

impl Attributes {
    fn copy(&mut self, to: &OwnedFd, name: &CStr) -> Called<()> {
        if self.none {
            return Ok(());
        }
        let length = match rustix::fs::llistxattr(name, &mut self.names[..]) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.none = true;
                return Ok(());
            }
            Err(e) => return Err(broken("llistxattr", name, e)),
        };
        for attribute in self.names[..length].split_inclusive(|b| *b == 0) {
            let Ok(attribute) = CStr::from_bytes_with_nul(attribute) else { continue };
            // The overlay's own marks, which an image must not set, and lists, which are made anew.
            if attribute.to_bytes().starts_with(b"trusted.") || attribute.to_bytes().starts_with(b"system.") {
                continue;
            }
            let length = rustix::fs::lgetxattr(name, attribute, &mut self.value[..])
                .map_err(|e| broken("lgetxattr", name, e))?;
            match rustix::fs::fsetxattr(to, attribute, &self.value[..length], XattrFlags::empty()) {
                // tmpfs has user.* since Linux 6.6 only; the overlay's own copying drops it as well.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(broken("fsetxattr", name, e)),
            }
        }
        Ok(())
    }
}

impl Admitted {
    /// Whether the user can write this without a list.
    fn already(&self, status: &Stat) -> bool {
        let need = need(status.st_mode);
        let class = match self.gids.contains(&status.st_gid) {
            true => status.st_mode >> 3,
            false => status.st_mode,
        };
        self.uid == 0 || status.st_uid == self.uid || class & need == need
    }
}

/// What the user needs: read and write; search and execute where anybody has it.
fn need(mode: u32) -> u32 {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => 7,
        _ if mode & 0o111 != 0 => 7,
        _ => 6,
    }
}

/// An access control list as its attribute (linux/posix_acl_xattr.h): owner, group and others as `mode` has them, the
/// user with what is needed, and the smallest mask that holds both the user and the group.
fn access_list(mode: u32, uid: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let (need, group) = (need(mode), mode >> 3 & 7);
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

/// What an entry is, asked where its directory does not say.
fn kind(dir: &OwnedFd, name: &CStr, listed: FileType) -> Called<FileType> {
    match listed {
        FileType::Unknown => {
            let status = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            Ok(FileType::from_raw_mode(status.map_err(|e| broken("fstatat", name, e))?.st_mode))
        }
        known => Ok(known),
    }
}

fn broken(call: &str, name: &CStr, errno: Errno) -> Broken {
    Broken::new(format!("{call}({})", grus_core::refusal::printable(&name.to_string_lossy())), errno)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::sync::atomic::AtomicBool;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::unshare;

    /// A tree whose paths are nearly as long as a path may be.
    fn deep(lower: &Path) -> PathBuf {
        let deep = (0..15).fold(lower.to_owned(), |path, _| path.join("d".repeat(240)));
        for number in 0..50 {
            fs::create_dir_all(deep.join(format!("{number}/in"))).expect("tree");
            fs::write(deep.join(format!("{number}/file")), "").expect("tree");
        }
        deep
    }

    fn all(dir: &Path) -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(dir).expect("a directory").flatten();
        let of = |path: PathBuf| match path.is_dir() {
            true => all(&path).into_iter().chain([path]).collect(),
            false => BTreeSet::from([path]),
        };
        entries.flat_map(|entry| of(entry.path())).collect()
    }

    #[test]
    fn all_directories_share_one_limit_and_deep_ones_are_as_wide_as_others() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: not root");
        }
        let dir = tempfile::tempdir_in("/run").expect("a directory");
        let [lower, one, two] = ["lower", "one", "two"].map(|name| dir.path().join(name));
        for path in [&lower, &one, &two] {
            fs::create_dir(path).expect("a fresh directory");
        }
        deep(&lower);
        let deadline =
            Deadline::new(Instant::now() + Duration::from_secs(60), Arc::new(AtomicBool::new(false)));
        let who = Admitted { uid: 54321, gids: vec![54321], deadline };
        let entries = all(&lower).len();
        let mut room = entries + 10;
        let mut filled = |upper: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let open = |path| crate::call::open(path, flags).expect("it is there");
            let work = || {
                // It changes its directory.
                unshare(false).expect("unshare");
                fill(&open(upper), &open(&lower), &who, &mut room)
            };
            std::thread::scope(|scope| scope.spawn(work).join()).expect("a thread")
        };
        assert_eq!(filled(&one), Ok(()));
        let made = all(&one).iter().map(|path| lower.join(path.strip_prefix(&one).expect("in it"))).collect();
        assert_eq!(all(&lower), made);
        assert_eq!(filled(&two).map_err(|broken| broken.errno), Err(Errno::TOOBIG));
    }
}
