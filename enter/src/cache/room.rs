//! Room in the cache: what was used least recently goes, what is in use stays.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::call::{Broken, Called};
use crate::sys::open_elsewhere;

/// Most names in `known`: one for each user and state of a file.
const MOST_NAMES: usize = 10_000;

/// A name in a directory, and what it is.
type Named = (CString, Stat);

/// Makes room for `size` bytes of at most `most`, and for one more name; false where what is in use leaves none. To be
/// called under the lock.
pub(super) fn make(images: &OwnedFd, known: &OwnedFd, size: u64, most: u64) -> Called<bool> {
    let (mut copies, mut names) = (list(images)?, list(known)?);
    // Reasons, which take no room but a name; and names of copies, which are made again by a look at the file.
    names.sort_by_key(|(_, status)| used(status));
    let surplus = (names.len() + 1).saturating_sub(MOST_NAMES);
    for (name, _) in names.drain(..surplus) {
        unlink(known, &name)?;
    }
    copies.sort_by_key(|(_, status)| used(status));
    let mut left = copies.iter().fold(0u64, |sum, (_, status)| sum.saturating_add(status.st_size as u64));
    for (name, status) in &copies {
        if left.saturating_add(size) <= most {
            break;
        }
        if in_use(images, name)? {
            continue;
        }
        // The copy's own name last: who finds it by another one in between has a whole copy.
        for (other, _) in names.iter().filter(|(_, other)| other.st_ino == status.st_ino) {
            unlink(known, other)?;
        }
        unlink(images, name)?;
        left -= status.st_size as u64;
    }
    Ok(left.saturating_add(size) <= most)
}

/// When it was last used: noted as its time of last change, which nothing else sets.
fn used(status: &Stat) -> (i64, u64) {
    (status.st_mtime as _, status.st_mtime_nsec as _)
}

/// Whether a mount, or a launch on the way to one, has it open.
fn in_use(images: &OwnedFd, name: &CString) -> Called<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(images, name, flags, Mode::empty()).map_err(|e| Broken::new("open(images)", e))?;
    Ok(open_elsewhere(file.as_fd()))
}

fn list(dir: &OwnedFd) -> Called<Vec<Named>> {
    let broken = |e| Broken::new("getdents64(node-cache)", e);
    let mut found = vec![];
    for entry in Dir::read_from(dir).map_err(broken)? {
        let name = entry.map_err(broken)?.file_name().to_owned();
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => found.push((name, status)),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(broken(e)),
        }
    }
    Ok(found)
}

/// Takes a name away, if it is there.
pub(super) fn unlink(dir: &OwnedFd, name: impl rustix::path::Arg) -> Called<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Broken::new("unlinkat(node-cache)", e)),
    }
}
