//! A process that serves a SquashFS file to a container (squashfuse_ll), as notes about containers tell of it.

use serde::{Deserialize, Serialize};

/// A process, told from a later one of the same number by its start, and what it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (proc_pid_stat(5)).
    pub started: u64,
    /// The kernel's number of its FUSE connection: the minor number of the mount's device (the kernel's
    /// Documentation/filesystems/fuse/fuse.rst, "Control filesystem").
    pub connection: u32,
}
