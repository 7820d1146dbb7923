//! Whether root alone can have written a file: the question behind ADR 4 and behind reading a site file.
//!
//! The file itself and every directory above it must be owned by root and not be writable by group or others; a
//! sticky directory such as /tmp counts as writable. A POSIX ACL that lets anyone else write shows in the group bits
//! (acl(5), its mask), so it is noticed too. FUSE never counts: its server makes up owners and modes.
//!
//! Bytes for a kernel parser must also lie on a file system of the node's own. Elsewhere owner, mode and access lists
//! are the server's word, and who is root on another of its clients may write what root owns; that word is taken for
//! the system repository only, which the site names. And nobody may still have the file open for writing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use grus_core::refusal::printable;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::call::{open, open_own, proc_path, shown, stat, Broken, Called};
use crate::sys::open_for_writing;

/// `FUSE_SUPER_MAGIC` (statfs(2)).
const FUSE: u64 = 0x6573_5546;

/// File systems whose owners and modes this node's kernel keeps (statfs(2), linux/magic.h). Overlay is of layers that
/// root chose; one that a user makes in a user namespace is not to be reached from here.
const OWN: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x3153_464a, "jfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
    (0x9660, "iso9660"),
];

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

/// Why the bytes of a file are not for a kernel parser, since others than root may write them; None if they may not.
/// `system` is the system repository.
pub(crate) fn why_not_kernels(file: &OwnedFd, name: &Path, system: &str) -> Called<Option<String>> {
    if let Some(why) = why_not_roots(file, name)? {
        return Ok(Some(why));
    }
    let kind = kind_of(file, name)?;
    if !is_nodes_own(kind) && !is_below(file, system)? {
        let name = printable(&name.to_string_lossy());
        return Ok(Some(format!("{name} is on a file system (type {kind:#x}) that is not the node's own")));
    }
    Ok(open_for_writing(file.as_fd()).then(|| format!("{} is open for writing", shown(name))))
}

/// Whether a file is on a FUSE file system, whose server may be a user's.
pub(crate) fn is_on_fuse(file: &OwnedFd, name: &Path) -> Called<bool> {
    Ok(kind_of(file, name)? == FUSE)
}

fn is_nodes_own(kind: u64) -> bool {
    OWN.iter().any(|(own, _)| *own == kind)
}

/// Whether an open file lies below a directory, links in the directory's path followed; below none if it is missing.
fn is_below(file: &OwnedFd, dir: &str) -> Called<bool> {
    if !dir.starts_with('/') {
        return Ok(false);
    }
    match open(Path::new(dir), OFlags::PATH | OFlags::DIRECTORY) {
        Ok(dir) => Ok(path_of(file)?.starts_with(path_of(&dir)?)),
        Err(_) => Ok(false),
    }
}

fn kind_of(file: &OwnedFd, name: &Path) -> Called<u64> {
    let fs = rustix::fs::fstatfs(file).map_err(|e| Broken::new(format!("fstatfs({})", shown(name)), e))?;
    // The type's size and sign differ by architecture; the numbers have 32 bits.
    Ok(fs.f_type as u64 & 0xffff_ffff)
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
    Ok((kind_of(at, name)? == FUSE).then(|| format!("{} is on a FUSE file system", shown(name))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_count_on_the_nodes_own_file_systems_only() {
        // linux/magic.h, and the documentation of those that are not in it.
        for (kind, servers) in [
            (0x6969, "nfs"),
            (0x0bd0_0bd0, "lustre"),
            (0x0102_1997, "9p"),
            (FUSE, "fuse"),
            (0xff53_4d42, "cifs"),
            (0xfe53_4d42, "smb2"),
            (0x00c3_6400, "ceph"),
            (0x4750_4653, "gpfs"),
            (0x1983_0326, "beegfs"),
            (0x5346_414f, "afs"),
            (0x0116_1970, "gfs2"),
            (0x7461_636f, "ocfs2"),
            (0x2003_0528, "orangefs"),
            (0x6a65_6a63, "virtiofs"),
            (0x4d44, "fat, which keeps no owners"),
            (0, "one that is not known"),
        ] {
            assert!(!is_nodes_own(kind), "{servers}");
        }
        let here = open_own("/", OFlags::PATH).expect("a root");
        let kind = kind_of(&here, Path::new("/")).expect("statfs");
        assert!(is_nodes_own(kind), "the tests' own root, {kind:#x}");
    }

    #[test]
    fn a_file_that_someone_may_still_write_is_not_the_kernels() {
        let dir = tempfile::tempdir_in("/run").expect("a directory");
        let name = dir.path().join("image");
        std::fs::write(&name, "bytes").expect("a file");
        let file = open(&name, OFlags::RDONLY).expect("it is there");
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: not root");
        }
        let why = || why_not_kernels(&file, &name, "").expect("calls work");
        assert_eq!(why(), None);
        // As a user who held it open while root took the file over.
        let writer = std::fs::File::options().append(true).open(&name).expect("it is there");
        assert!(why().is_some_and(|why| why.ends_with("is open for writing")));
        drop(writer);
        assert_eq!(why(), None, "asking leaves nothing behind");
    }
}
