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

/// Reads an open file from its start.
pub(crate) fn contents(fd: OwnedFd, path: &Path, limit: usize) -> Called<Small> {
    let status = stat(&fd, path)?;
    if !is_regular(&status) {
        return Ok(Small::NotAFile);
    }
    if status.st_size > limit as i64 {
        return Ok(Small::TooLong);
    }
    let mut bytes = Vec::with_capacity(status.st_size as usize + 1);
    File::from(fd).take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|e| {
        let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
        Broken::new(format!("read({})", crate::call::shown(path)), errno)
    })?;
    Ok(if bytes.len() > limit { Small::TooLong } else { Small::Bytes(bytes) })
}
