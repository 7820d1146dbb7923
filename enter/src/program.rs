//! A program that is run beside the tasks: an image's server, an image's loader. `sys` starts it.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::process::Resource;

/// A program to run as a user, with nothing of the caller's but what is named here.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// Its path.
    pub path: &'a CStr,
    /// Its arguments, the first one its name.
    pub arguments: &'a [CString],
    /// Its environment, `NAME=value`.
    pub environment: &'a [CString],
    /// What becomes its descriptors from 0 on; at most [`MOST_DESCRIPTORS`].
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Limits of its own, hard and soft (setrlimit(2)).
    pub limits: &'a [(Resource, u64)],
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub gids: &'a [u32],
}

/// Most descriptors that a [`Program`] gets.
pub(crate) const MOST_DESCRIPTORS: usize = 5;
