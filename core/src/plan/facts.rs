//! What a decision may ask: the image's tree, the host's files, the job.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::elf::Object;
use crate::identity::User;
use crate::path::AbsPath;
use crate::refusal::Refusal;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A device node.
    Device,
    /// A FIFO or socket.
    Other,
}

/// One name in an image's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its type.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// The image's tree, read only.
pub trait Rootfs {
    /// The entry at `path`, not following a link at its end. The caller has resolved all links above it.
    /// `None` if there is none.
    fn entry(&self, path: &AbsPath) -> Result<Option<Entry>, Refusal>;

    /// The content of the regular file at `path` (links resolved), at most `limit` bytes; `None` if it is not
    /// there or is no regular file. A longer one is refused.
    fn read(&self, path: &AbsPath, limit: usize) -> Result<Option<Vec<u8>>, Refusal>;
}

/// With whose permissions a source is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The job's user: what the user could not reach on the host stays out of reach.
    User,
    /// Root, for what the site's configuration names.
    Site,
}

/// A source that cannot be had; Display is the system's reason, e.g. `Permission denied`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host's files, as bind sources.
pub trait Host {
    /// The type of what `path` leads to, links followed, opened as `opener`. A node keeps what it opened, so
    /// that the mount is of exactly this file.
    fn source(&self, path: &AbsPath, opener: Opener) -> Result<Kind, Unavailable>;

    /// The first of `paths` that `opener` cannot reach, and why; for what lies below a source.
    fn missing(&self, paths: &BTreeSet<AbsPath>, opener: Opener) -> Option<(AbsPath, Unavailable)>;

    /// The facts of a program or library, without its symbols; None for what is neither, or cannot be read by `opener`.
    fn library(&self, path: &AbsPath, opener: Opener) -> Option<Object>;

    /// Whether the job's user may open the device node at `path`.
    fn usable(&self, path: &AbsPath) -> Result<(), Unavailable>;

    /// A small text of the kernel's about a driver; None where there is none.
    fn text(&self, path: &AbsPath, limit: usize) -> Option<Vec<u8>>;

    /// The host's own passwd(5); empty where it has none.
    fn passwd(&self) -> Vec<u8>;
}

/// The job, as far as a container depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The job's user.
    pub user: User,
    /// The job's working directory.
    pub workdir: AbsPath,
    /// The environment a task would have on the host.
    pub environment: BTreeMap<String, String>,
    /// Directories that Slurm's launch uses (PMIx, PMI), accessible to the user: bound at their own paths where they
    /// exist.
    pub slurm_paths: Vec<AbsPath>,
}
