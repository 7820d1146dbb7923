//! The launch plan: what a container is, as a list of small operations, each printable as one line.
//!
//! [`decide`] makes it from a request, an image, a site, a user and a job. It asks the image's tree and the
//! host through two small read-only traits, [`Rootfs`] and [`Host`]: the node answers them with file
//! descriptors, `grus plan` with a reader and the user's own view, tests with a table. `enter` acts a plan out
//! and decides nothing; it resolves every destination again inside the rootfs, so a plan is not trusted.

mod binds;
mod client;
mod decide;
mod devices;
mod draft;
mod driver;
mod facts;
mod hooks;
mod modules;
mod resolve;
mod seen;
mod show;
mod stack;
mod tasks;

pub use decide::{decide, ContainerEnvironment, Launch};
pub use devices::wants_devices;
pub use driver::{fits, Fit};
pub use facts::{Entry, Host, Job, Kind, Opener, Rootfs, Unavailable};
pub use modules::{fullest_wish, modules, standings, wish, Standing};
pub use resolve::exists;
pub use seen::Seen;

use crate::environment::Edits;
use crate::mount::{Size, Tmpfs};
use crate::path::AbsPath;
use crate::request::Unshare;
use crate::swap::Check;

/// Everything one node does to start a step's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchPlan {
    /// The image file.
    pub image: AbsPath,
    /// How it is mounted.
    pub how: How,
    /// Whether the whole root can be changed by the user; else it is read-only.
    pub writable: bool,
    /// Missing destinations, parents first, made in the tmpfs layer of an overlay. None: no overlay.
    pub skeleton: Vec<Made>,
    /// Mounts, in the order they are made.
    pub mounts: Vec<Op>,
    /// Changes to each task's environment.
    pub environment: Edits,
    /// What they were decided from that is the container's own.
    pub brought: ContainerEnvironment,
    /// Where tasks start, if not in the job's working directory.
    pub workdir: Option<AbsPath>,
    /// Whether tasks are shown as root, by a user namespace.
    pub remap_root: bool,
    /// Namespaces of the container's own.
    pub namespaces: Unshare,
    /// What each task's command becomes the arguments of; empty: nothing.
    pub entrypoint: Vec<String>,
    /// The host's MPI stack of which libraries are swapped in.
    pub stack: Option<String>,
    /// What the image's loader must say before tasks start, where libraries of the host are swapped in.
    pub check: Option<Check>,
    /// The site's modules that it has.
    pub modules: Vec<String>,
    /// The devices it was given, and from which file.
    pub devices: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl LaunchPlan {
    /// Of a task that joins a container which is there: nothing is left to be made, the environment is the task's own.
    pub fn of_joined(image: AbsPath, environment: Edits, workdir: Option<AbsPath>) -> Self {
        Self {
            image,
            // Nothing is mounted.
            how: How::Kernel,
            writable: false,
            skeleton: vec![],
            mounts: vec![],
            environment,
            brought: ContainerEnvironment::default(),
            workdir,
            remap_root: false,
            namespaces: Unshare::default(),
            entrypoint: vec![],
            stack: None,
            check: None,
            modules: vec![],
            devices: vec![],
            warnings: vec![],
        }
    }

    /// Whether tasks can change anything of the image, as they see it.
    pub fn can_change(&self) -> bool {
        self.writable || self.mounts.iter().any(|op| matches!(op, Op::Volatile { .. }))
    }
}

/// How the image is mounted (ADR 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Loop device and the kernel's SquashFS: bytes that only root can write.
    Kernel,
    /// squashfuse_ll as the user.
    Fuse,
    /// By the kernel, from a copy in the node's cache.
    Cached,
    /// Not at all: its tree was unpacked, as the user, where there is no FUSE (`grus run`).
    Unpacked,
}

/// What is made where the image has nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Make {
    /// A directory.
    Directory,
    /// An empty file, to mount on.
    File,
    /// A symbolic link to this path of the container.
    Link(AbsPath),
}

/// A directory, an empty file or a link that the image lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Where. Its parent is in the image or comes earlier in the list.
    pub path: AbsPath,
    /// What.
    pub make: Make,
    /// Permission bits: a copy of the image's for a directory that the image has, so that the overlay shows
    /// the same; 0755 or 0644 for a new one.
    pub mode: u32,
    /// Owner: likewise a copy, or root.
    pub uid: u32,
    /// Group: likewise.
    pub gid: u32,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A host file or directory. Always nosuid.
    Bind {
        /// On the host.
        source: AbsPath,
        /// In the container.
        destination: AbsPath,
        /// With what is mounted below it.
        recursive: bool,
        /// Nothing below it can be written.
        readonly: bool,
        /// Nothing below it can be executed.
        noexec: bool,
        /// Device nodes work through it.
        devices: bool,
        /// With whose permissions the source was opened.
        opener: Opener,
    },
    /// A text that Grus makes, as a read-only file.
    Text {
        /// In the container.
        destination: AbsPath,
        /// Its content.
        content: Vec<u8>,
        /// Whether it is a program.
        executable: bool,
    },
    /// A directory of the image, writable for the user.
    Volatile {
        /// In the container.
        destination: AbsPath,
    },
    /// An empty directory in memory, the user's.
    Tmpfs {
        /// In the container.
        destination: AbsPath,
        /// Its size and so on.
        tmpfs: Tmpfs,
        /// Nothing in it can be written.
        readonly: bool,
        /// Nothing in it can be executed.
        noexec: bool,
    },
    /// The tree of a SquashFS file, read-only, mounted as images are (ADR 4).
    Squashfs {
        /// The file, on the host.
        source: AbsPath,
        /// In the container.
        destination: AbsPath,
        /// Nothing in it can be executed.
        noexec: bool,
        /// With whose permissions the file is opened.
        opener: Opener,
    },
    /// An empty directory on the node's disk, the user's, gone with the container.
    Scratch {
        /// In the container.
        destination: AbsPath,
        /// How much it may hold.
        size: Size,
        /// Nothing in it can be executed.
        noexec: bool,
    },
    /// A mount point in an empty directory that was mounted before.
    Make {
        /// In the container.
        destination: AbsPath,
        /// A directory or a file.
        make: Make,
    },
}

impl Op {
    /// Where it is mounted.
    pub fn destination(&self) -> &AbsPath {
        match self {
            Op::Bind { destination, .. }
            | Op::Text { destination, .. }
            | Op::Volatile { destination }
            | Op::Tmpfs { destination, .. }
            | Op::Squashfs { destination, .. }
            | Op::Scratch { destination, .. }
            | Op::Make { destination, .. } => destination,
        }
    }
}

#[cfg(test)]
mod tests;
