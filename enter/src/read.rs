//! Reading a whole small file that may be hostile: never hangs, never more than the limit.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::call::{open, stat, Broken, Called};
use crate::trust::is_regular;

/// What was found where a small file is expected.
#[derive(Debug)]
pub(crate) enum Small {
    /// Nothing of that name.
    Missing,
    /// Something that is no regular file: a directory, a FIFO, a device.
    NotAFile,
    /// More than the limit.
    TooLong,
    /// The content.
    Bytes(Vec<u8>),
}

/// Opens and reads the file at `path`. A FIFO does not hold it up, a terminal does not become its own.
pub(crate) fn small(path: &Path, limit: usize) -> Called<Small> {
    match open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => contents(fd, path, limit),
        Err(broken) if matches!(broken.errno, Errno::NOENT | Errno::NOTDIR) => Ok(Small::Missing),
        // What open(2) says of a socket, or of a device without a driver.
        Err(broken) if broken.errno == Errno::NXIO => Ok(Small::NotAFile),
        Err(broken) => Err(broken),
    }
}

/// The same for a file of the kernel's, which has no size (proc(5)).
pub(crate) fn of_kernel(path: &Path, limit: usize) -> Called<Small> {
    let fd = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    match is_regular(&stat(&fd, path)?) {
        true => read(fd, path, limit, 0),
        false => Ok(Small::NotAFile),
    }
}

/// Reads an open file from its start. One without a size is not read: it may be a user's in /proc, which answers when the
/// user wants.
pub(crate) fn contents(fd: OwnedFd, path: &Path, limit: usize) -> Called<Small> {
    let status = stat(&fd, path)?;
    match status.st_size {
        _ if !is_regular(&status) => Ok(Small::NotAFile),
        0 => Ok(Small::Bytes(vec![])),
        size if size > limit as i64 => Ok(Small::TooLong),
        size => read(fd, path, limit, size as usize),
    }
}

fn read(fd: OwnedFd, path: &Path, limit: usize, size: usize) -> Called<Small> {
    let mut bytes = Vec::with_capacity(size + 1);
    File::from(fd).take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|e| {
        let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
        Broken::new(format!("read({})", crate::call::shown(path)), errno)
    })?;
    Ok(if bytes.len() > limit { Small::TooLong } else { Small::Bytes(bytes) })
}
