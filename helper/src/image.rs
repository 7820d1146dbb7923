//! What an image is on its way from a source to the repository: layers as streams, a configuration, a digest. Sources
//! ([`crate::registry`], [`crate::archive`]) make one, [`crate::build`] takes it.

use std::sync::{Arc, OnceLock};

use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_squash::LayerSource;

use crate::oci::Config;

/// An image ready to be converted.
pub struct Image {
    /// Its digest, or how to have it.
    pub identity: Identity,
    /// What it runs on.
    pub platform: Platform,
    /// Its configuration.
    pub config: Config,
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
}

/// One layer.
pub struct Layer {
    /// Its digest as the manifest has it.
    pub digest: Digest,
    /// Its size in bytes as it is stored; 0 if unknown.
    pub size: u64,
    /// Its bytes.
    pub source: Arc<dyn LayerSource>,
}

/// An image's name in the repository.
pub enum Identity {
    /// The digest of its manifest.
    Known(Digest),
    /// Its one layer's digest, set when the layer was read to its end.
    AfterReading(Arc<OnceLock<Digest>>),
}
