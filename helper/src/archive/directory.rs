//! Owns a directory as a root file system: what is on other file systems stays there.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use grus_core::platform::Platform;
use grus_core::refusal::printable;
use grus_squash::{DirectorySource, Judge, LayerSource, Verdict};

use super::rootfs;
use crate::failure::Failure;
use crate::image::Image;
use crate::output;

/// The tree below `from`, as the caller can read it.
pub fn open(from: &Path, name: &str, platform: &Platform) -> Result<Image, Failure> {
    let failed = |e: &io::Error| Failure::io("read", from, e);
    let device = fs::metadata(from).map_err(|e| failed(&e))?.dev();
    let judge = OneFileSystem { device, top: name.to_owned() };
    let source = DirectorySource { path: from.to_owned(), judge: Arc::new(judge) };
    let reader = source.open().map_err(|e| failed(&e))?;
    Ok(rootfs::image(reader, name, platform))
}

struct OneFileSystem {
    device: u64,
    top: String,
}

impl Judge for OneFileSystem {
    /// Only directories tell: an overlay shows files with other devices than its directories.
    fn entry(&self, path: &Path, meta: &Metadata) -> io::Result<Verdict> {
        if !meta.is_dir() || meta.dev() == self.device {
            return Ok(Verdict::Take);
        }
        let path = printable(&path.display().to_string());
        output::warn(&format!("{}/{path} is empty in the image: it is another file system", self.top));
        Ok(Verdict::TakeEmpty)
    }
}
