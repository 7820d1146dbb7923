//! Owns where a layer's bytes come from. It refuses to care what they are: see [`crate::decode`].

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// One layer blob, as the registry has it: a tar, plain or compressed with gzip or zstd (told apart by
/// their magic numbers, never by media type).
pub trait LayerSource: Send + Sync {
    /// Opens the blob at its first byte. The reader is read to its very end before the conversion
    /// succeeds, so it can check a digest and give an error at the end; any error it gives fails
    /// the conversion and is handed on with [`LayerSource::name`].
    ///
    /// Called once for each layer, top first; again for a layer below the top if data that seemed
    /// hidden is needed after all. The topmost layer is never opened twice, so a pipe will do for a
    /// single layer.
    fn open(&self) -> io::Result<Box<dyn Read + Send>>;

    /// What to call the layer in messages, such as its digest.
    fn name(&self) -> String;
}

impl<T: LayerSource + ?Sized> LayerSource for Arc<T> {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        (**self).open()
    }
    fn name(&self) -> String {
        (**self).name()
    }
}

impl<T: LayerSource + ?Sized> LayerSource for Box<T> {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        (**self).open()
    }
    fn name(&self) -> String {
        (**self).name()
    }
}

/// A layer or rootfs tar in a file, trusted as it is.
#[derive(Clone, Debug)]
pub struct FileSource {
    /// Where it is.
    pub path: PathBuf,
}

impl LayerSource for FileSource {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(&self.path)?))
    }
    fn name(&self) -> String {
        self.path.display().to_string()
    }
}
