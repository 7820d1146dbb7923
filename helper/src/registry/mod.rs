//! The registry client: names to verified manifests, and layers as verified streams.
//!
//! It owns everything that speaks HTTP: credentials, TLS, mirrors, retries, the parallel download. It
//! refuses to write to disk: bytes leave it through [`grus_squash::LayerSource`] only, and no byte
//! stream ends well whose digest or size is not the manifest's.

mod answer;
mod attached;
pub mod auth_store;
pub mod challenge;
mod content_range;
mod credential_helper;
pub mod credentials;
mod download;
mod endpoint;
mod error;
mod file;
mod layer_stream;
pub mod manifest;
pub mod mirrors;
mod pace;
mod platform_choice;
mod resolve;
mod retry;
mod secret;
mod settings;
mod tls;
mod token;
mod transport;
mod window;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_squash::LayerSource;

use self::download::Download;
use self::endpoint::Endpoint;
use self::layer_stream::Running;
use self::resolve::{worth_another, Resolver};
use self::transport::{lock, Transport};

pub use attached::{Attached, MAX_SIGNATURE, MAX_SIGNATURES};
pub use error::{Kind, RegistryError};
pub use file::{address, WebFile};
pub use layer_stream::Held;
pub use platform_choice::must_fit;
pub use secret::Secret;
pub use settings::{Login, Paths, Settings};

/// One layer of a manifest, or a file of a web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob as the registry has it.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type, as the manifest writes it.
    pub media_type: String,
    /// What it is.
    pub kind: Blob,
}

/// What is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob {
    /// A layer.
    Layer,
    /// A file of a web server that must have the digest.
    File,
    /// A file of which nobody stated a digest: the digest means nothing, and nothing is checked by it.
    AnyFile,
}

impl Layer {
    /// Its name in messages.
    fn shown(&self) -> String {
        match self.kind {
            Blob::Layer => format!("layer {}", self.digest),
            Blob::File => format!("the file {}", self.digest),
            Blob::AnyFile => "the file".to_owned(),
        }
    }

    /// It is complete, and is `found`.
    fn damaged(&self, found: &Digest) -> RegistryError {
        let what = format!("{} is damaged: what arrived has the digest {found}", self.shown());
        let error = RegistryError::new(Kind::Corrupt, what);
        match self.kind {
            Blob::Layer => error,
            _ => error.hint("check the digest that was stated, and whether the file was replaced"),
        }
    }
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
    /// What the user may want to know, such as a mirror that is down.
    pub notes: Vec<String>,
    /// Where the layers are to be had, the best first.
    endpoints: Vec<Endpoint>,
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
    /// `n` more bytes of the layer are here than ever before, in whatever order they came.
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
pub struct Client {
    transport: Arc<Transport>,
    threads: Arc<Threads>,
    cancelled: AtomicBool,
    requests: Mutex<Vec<tokio::task::AbortHandle>>,
    downloads: Mutex<Vec<Weak<Download>>>,
}

impl Client {
    /// A client by `settings`. Fails only if threads cannot be had.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(|e| RegistryError::new(Kind::Site, format!("cannot start threads: {e}")))?;
        Ok(Self {
            transport: Arc::new(Transport::new(settings)),
            threads: Arc::new(Threads(Some(runtime))),
            cancelled: AtomicBool::new(false),
            requests: Mutex::default(),
            downloads: Mutex::default(),
        })
    }

    /// Finds the image for `platform` and verifies manifest and configuration.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, RegistryError> {
        let resolver = Resolver { transport: self.transport.clone(), reference: reference.clone() };
        let (endpoints, platform) = (self.endpoints(reference)?, platform.clone());
        self.run(async move {
            let mut notes = Vec::new();
            for (at, endpoint) in endpoints.iter().enumerate() {
                match resolver.resolve(endpoint, &platform).await {
                    Ok(found) => {
                        return Ok(Resolved { endpoints: endpoints[at..].to_vec(), notes, ..found });
                    }
                    Err(error) if at + 1 < endpoints.len() && worth_another(&error) => notes.push(error.what),
                    Err(error) => return Err(error),
                }
            }
            Err(nowhere(&resolver.reference))
        })
    }

    /// The digest behind a reference, by one request: is it still [`Resolved::top_digest`]?
    pub fn head(&self, reference: &Reference) -> Result<Digest, RegistryError> {
        let resolver = Resolver { transport: self.transport.clone(), reference: reference.clone() };
        let endpoints = self.endpoints(reference)?;
        self.run(async move {
            for (at, endpoint) in endpoints.iter().enumerate() {
                match resolver.head(endpoint).await {
                    Err(error) if at + 1 < endpoints.len() && worth_another(&error) => {}
                    answer => return answer,
                }
            }
            Err(nowhere(&resolver.reference))
        })
    }

    /// Starts to download all layers, the top one first, and returns their sources, bottom first.
    /// Dropping the sources stops it.
    pub fn download(
        &self,
        resolved: &Resolved,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Arc<dyn LayerSource>>, RegistryError> {
        self.download_rest(resolved, Vec::new(), progress)
    }

    /// The same where the caller has the beginning of some layers, or all of them: `held` by layer, bottom
    /// first. The sources give whole layers all the same; progress counts only what is fetched.
    pub fn download_rest(
        &self,
        resolved: &Resolved,
        held: Vec<Option<Held>>,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Arc<dyn LayerSource>>, RegistryError> {
        self.start(resolved.endpoints.clone(), resolved.layers.clone(), held, progress)
    }

    fn start(
        &self,
        endpoints: Vec<Endpoint>,
        layers: Vec<Layer>,
        held: Vec<Option<Held>>,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Arc<dyn LayerSource>>, RegistryError> {
        self.check()?;
        let starts: Vec<u64> = held.iter().map(|h| h.as_ref().map_or(0, |h| h.len)).collect();
        let download = Arc::new(Download::new(self.transport.clone(), endpoints, layers, &starts, progress));
        lock(&self.downloads).push(Arc::downgrade(&download));
        let connections = self.transport.settings.connections;
        let running = Running::start(download, connections, self.threads.handle()?, self.threads.clone());
        Ok(running.sources(held))
    }

    /// Ends all requests and downloads at once; from then on every call fails with [`Kind::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        for request in lock(&self.requests).drain(..) {
            request.abort();
        }
        for download in lock(&self.downloads).drain(..).filter_map(|d| d.upgrade()) {
            download.fail(stopped());
        }
    }

    /// Whether the registry accepts the account of [`Settings::login`] (or the stored one): for `grus login`.
    pub fn check_login(&self, registry: &str) -> Result<(), RegistryError> {
        let endpoint = mirrors::load(&self.transport.settings.paths)?.api(registry)?;
        let transport = self.transport.clone();
        self.run(async move { resolve::knock(&transport, &endpoint).await })
    }

    fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        mirrors::load(&self.transport.settings.paths)?.endpoints(reference)
    }

    fn check(&self) -> Result<(), RegistryError> {
        match self.cancelled.load(Ordering::SeqCst) {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let runtime = self.threads.handle()?;
        let task = runtime.spawn(work);
        lock(&self.requests).push(task.abort_handle());
        self.check()?;
        let result = runtime.block_on(task);
        lock(&self.requests).retain(|r| !r.is_finished());
        result.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> RegistryError {
    RegistryError::new(Kind::Cancelled, "stopped")
}

fn nowhere(reference: &Reference) -> RegistryError {
    RegistryError::new(Kind::Site, format!("registries.conf leaves no place to get {reference} from"))
}

/// The runtime's threads. Ended without waiting: a connection may hang.
struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    fn handle(&self) -> Result<&tokio::runtime::Handle, RegistryError> {
        self.0.as_ref().map(|r| r.handle()).ok_or_else(stopped)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
