//! Owns the readers' side of a download: each layer as a blocking stream. It refuses to end well unless
//! digest and size were right.

use std::io::{self, Read};
use std::sync::{Arc, PoisonError};

use bytes::{Buf, Bytes};
use grus_squash::LayerSource;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::download::Download;
use super::error::{Kind, RegistryError};
use super::transport::lock;
use super::window::Taken;
use super::Layer;
use crate::digest::Verified;

/// The running tasks of a download. Its connections end when this is dropped.
pub struct Running {
    download: Arc<Download>,
    tasks: Vec<AbortHandle>,
    /// Keeps the threads alive.
    _threads: Arc<dyn Send + Sync>,
}

impl Running {
    /// Starts `connections` tasks.
    pub fn start(
        download: Arc<Download>,
        connections: usize,
        on: &Handle,
        threads: Arc<dyn Send + Sync>,
    ) -> Self {
        let tasks =
            (0..connections.max(1)).map(|_| on.spawn(download.clone().connection()).abort_handle()).collect();
        Self { download, tasks, _threads: threads }
    }

    /// The layers as sources, bottom first.
    pub fn sources(self, mut held: Vec<Option<Held>>) -> Vec<Arc<dyn LayerSource>> {
        let running = Arc::new(self);
        held.resize_with(running.download.layers.len(), || None);
        let source = |(layer, held)| -> Arc<dyn LayerSource> {
            Arc::new(Source { running: running.clone(), layer, held })
        };
        held.into_iter().enumerate().map(source).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.download.fail(RegistryError::new(Kind::Cancelled, "stopped"));
    }
}

/// One layer.
struct Source {
    running: Arc<Running>,
    layer: usize,
    held: Option<Held>,
}

/// The beginning of a layer, or all of it, that the caller has already.
pub struct Held {
    /// How many bytes.
    pub len: u64,
    /// They themselves. Not trusted: the layer's digest is checked over them and what is fetched.
    pub source: Arc<dyn LayerSource>,
}

impl LayerSource for Source {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let pass = lock(&self.running.download.window).open(self.layer);
        self.running.download.wake();
        let stream = Stream { running: self.running.clone(), layer: self.layer, pass, bytes: Bytes::new() };
        let Some(held) = self.held.as_ref().filter(|h| h.len > 0) else { return Ok(Box::new(stream)) };
        let Layer { digest, size, .. } = self.running.download.layers[self.layer].clone();
        let whole = held.source.open()?.take(held.len).chain(stream);
        Ok(Box::new(Verified::new(whole, digest, Some(size))))
    }

    fn name(&self) -> String {
        self.running.download.layers[self.layer].digest.to_string()
    }
}

/// A layer being read.
struct Stream {
    running: Arc<Running>,
    layer: usize,
    pass: u32,
    bytes: Bytes,
}

impl Stream {
    /// The next bytes; empty at the end.
    fn next(&self) -> Result<Bytes, RegistryError> {
        let download = &self.running.download;
        let mut window = lock(&download.window);
        let mut waited = false;
        loop {
            let taken = window.take(self.layer, self.pass)?;
            let work = window.has_work() || window.is_growing();
            match taken {
                Taken::Bytes(bytes) => {
                    drop(window);
                    // Room was made; whoever waits for it may go on.
                    if work || waited {
                        download.wake();
                    }
                    return Ok(bytes);
                }
                Taken::End => return Ok(Bytes::new()),
                Taken::Nothing => {
                    // A reader that has nothing may pass the bound: somebody may be waiting for just that.
                    if !waited {
                        download.wake();
                    }
                    waited = true;
                    window = download.readable.wait(window).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.bytes.is_empty() {
            self.bytes = self.next()?;
        }
        let n = self.bytes.len().min(buffer.len());
        self.bytes.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        lock(&self.running.download.window).close(self.layer, self.pass);
        self.running.download.wake();
    }
}
