//! Owns the write side of an image repository (its layout is in [`grus_core::repository`]).
//!
//! Correct without locks, also on NFS and Lustre: an image, then its tag, appears by rename, whole or not at
//! all. A lock is only taken to spare double work, and its failure changes nothing.

mod layers;
mod lock;
mod partial;
mod read;
mod remove;
mod temp;
mod write;

use std::path::{Path, PathBuf};

use grus_core::repository::Layout;

pub use layers::{Keep, Kept, Start};
pub use lock::Lock;
pub use partial::{Left, Partial};
pub use read::{Listing, Row};
pub use remove::Removed;
pub use temp::TempFile;
pub use write::put;
pub(crate) use write::read_limited;

/// One repository, which need not exist yet.
#[derive(Clone, Debug)]
pub struct Repository {
    layout: Layout,
    /// Everyone may read what is written here, whatever the umask.
    public: bool,
}

impl Repository {
    /// The repository at `root`. `public`: the system's, whose files everyone may read.
    pub fn new(root: impl Into<PathBuf>, public: bool) -> Self {
        Self { layout: Layout::new(root), public }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// The paths in it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}
