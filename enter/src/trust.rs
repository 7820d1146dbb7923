//! Whether root alone can have written a file: the question behind D6 and behind reading a site file.
//!
//! The file itself and every directory above it must be owned by root and not be writable by group or others; a
//! sticky directory such as /tmp counts as writable. A POSIX ACL that lets anyone else write shows in the group bits
//! (acl(5), its mask), so it is noticed too. FUSE never counts: its server makes up owners and modes. Rules for the
//! ACLs and identities of network file systems belong to issue 6.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::call::{open_own, proc_path, shown, stat, Broken, Called};

/// `FUSE_SUPER_MAGIC` (statfs(2)).
const FUSE: u64 = 0x6573_5546;

/// Why a file is not root's alone; None if it is.
///
/// The path is the kernel's for the open file; it is walked anew from the root, component by component without
/// links, and must end at the very same file. So nothing can be swapped between check and use: what is used is
/// the descriptor.
pub(crate) fn why_not_roots(file: &OwnedFd, name: &Path) -> Called<Option<String>> {
    let path = path_of(file)?;
    let opened = stat(file, name)?;
    let mut at = open_own("/", OFlags::PATH | OFlags::DIRECTORY)?;
    let mut so_far = PathBuf::from("/");
    let mut components: Vec<_> = path.components().skip(1).collect();
    let last = components.pop();
    for component in components {
        if let Some(why) = fault(&at, &so_far)? {
            return Ok(Some(why));
        }
        so_far.push(component);
        at = match step(&at, component.as_os_str(), OFlags::DIRECTORY) {
            Ok(next) => next,
            Err(e) => return Ok(Some(unreachable_now(&so_far, e))),
        };
    }
    if let Some(why) = fault(&at, &so_far)? {
        return Ok(Some(why));
    }
    if let Some(last) = last {
        so_far.push(last);
        at = match step(&at, last.as_os_str(), OFlags::empty()) {
            Ok(next) => next,
            Err(e) => return Ok(Some(unreachable_now(&so_far, e))),
        };
    }
    let found = stat(&at, &so_far)?;
    if (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino) {
        return Ok(Some(format!("{} was replaced", shown(&so_far))));
    }
    fault(&at, &so_far)
}

/// The kernel's path of an open file, without links (proc_pid_fd(5)).
pub(crate) fn path_of(file: impl AsFd) -> Called<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let link = proc_path(&file);
    let path =
        rustix::fs::readlink(&link, Vec::new()).map_err(|e| Broken::new(format!("readlink({link})"), e))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())))
}

/// Why this one file or directory is not root's alone.
fn fault(at: &OwnedFd, name: &Path) -> Called<Option<String>> {
    let status = stat(at, name)?;
    if let Some(why) = others_can_write(&status) {
        return Ok(Some(format!("{} is {why}", shown(name))));
    }
    let fs = rustix::fs::fstatfs(at).map_err(|e| Broken::new(format!("fstatfs({})", shown(name)), e))?;
    Ok((fs.f_type as u64 == FUSE).then(|| format!("{} is on a FUSE file system", shown(name))))
}

/// Why others than root can write what has this status.
pub(crate) fn others_can_write(status: &Stat) -> Option<String> {
    match (status.st_uid, status.st_mode & 0o022) {
        (0, 0) => None,
        (0, _) if status.st_mode & 0o002 != 0 => Some("writable by others".into()),
        (0, _) => Some("writable by its group".into()),
        (uid, _) => Some(format!("owned by user id {uid}, not by root")),
    }
}

/// Whether this is a regular file.
pub(crate) fn is_regular(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::RegularFile
}

fn step(at: &OwnedFd, name: &std::ffi::OsStr, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    rustix::fs::openat2(at, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn unreachable_now(name: &Path, errno: Errno) -> String {
    format!("{} cannot be reached by root: {}", shown(name), crate::failure::reason(errno))
}
