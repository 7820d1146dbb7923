//! Reading an image repository (DESIGN D7) without a lock, and without trust in who may write it.

use std::path::{Path, PathBuf};

use grus_core::digest::Digest;
use grus_core::image::ImageMeta;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::repository::Layout;
use grus_core::Refusal;

/// An image in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name in the repository.
    pub digest: Digest,
    /// The SquashFS file.
    pub path: PathBuf,
    /// Its metadata.
    pub meta: ImageMeta,
}

/// Looks an image up by digest, else by tag. `None` if the repository does not have it.
pub fn find(layout: &Layout, reference: &Reference, platform: &Platform) -> Result<Option<Found>, Refusal> {
    let _ = (layout, reference, platform);
    Ok(None)
}

/// All images of a repository, by digest; unreadable ones are left out.
pub fn list(layout: &Layout) -> Result<Vec<Found>, Refusal> {
    let _ = layout;
    Ok(vec![])
}

/// The metadata beside an image file; `None` if there is none.
pub fn meta_beside(image: &Path) -> Result<Option<ImageMeta>, Refusal> {
    let _ = image;
    Ok(None)
}
