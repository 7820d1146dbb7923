//! Owns the connections of a download: each works on one range after the other, takes a broken one up again
//! where it broke, and goes to the next mirror where the first gives up. What is fetched when is decided in
//! [`super::window`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::Notify;

use super::answer;
use super::content_range;
use super::endpoint::{host_of, Endpoint};
use super::error::{Kind, RegistryError};
use super::retry::{Again, Backoff, Failure};
use super::transport::{lock, pause, Call, Reply, Transport};
use super::window::{Claim, Window};
use super::{Layer, Progress};

/// A download under way, shared by its connections and its readers.
pub struct Download {
    transport: Arc<Transport>,
    endpoints: Vec<Endpoint>,
    /// The endpoint to ask first: the last that answered well.
    preferred: AtomicUsize,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
    progress: Arc<dyn Progress>,
    /// What is on its way.
    pub window: Mutex<Window>,
    /// Connections wait here for work or room.
    work: Notify,
    /// Readers wait here for bytes.
    pub readable: Condvar,
    /// Where the registry redirected a layer to, by endpoint and layer.
    direct: Mutex<HashMap<(usize, usize), Url>>,
}

/// How an attempt ended that did not fail.
enum Attempt {
    Done,
    /// Somebody else has it, or nobody wants it any more.
    Void,
}

impl Download {
    /// Fetches each layer from the byte `starts` says, once [`Download::connection`] runs.
    pub fn new(
        transport: Arc<Transport>,
        endpoints: Vec<Endpoint>,
        layers: Vec<Layer>,
        starts: &[u64],
        progress: Arc<dyn Progress>,
    ) -> Self {
        let settings = &transport.settings;
        let connections = settings.connections.max(1);
        let window = Window::new(&layers, starts, settings.buffer, settings.segment, connections);
        Self {
            window: Mutex::new(window),
            transport,
            endpoints,
            preferred: AtomicUsize::new(0),
            layers,
            progress,
            work: Notify::new(),
            readable: Condvar::new(),
            direct: Mutex::default(),
        }
    }

    /// One connection's life: works until its task is aborted.
    pub async fn connection(self: Arc<Self>) {
        loop {
            let claim = self.when(|window| window.claim()).await;
            self.fetch(claim).await;
        }
    }

    /// Something changed that connections wait for.
    pub fn wake(&self) {
        self.work.notify_waiters();
    }

    /// Ends everything; the readers get `error`.
    pub fn fail(&self, error: RegistryError) {
        lock(&self.window).fail(error);
        self.readable.notify_all();
        self.wake();
    }

    async fn when<T>(&self, mut ready: impl FnMut(&mut Window) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.work.notified());
            changed.as_mut().enable();
            if let Some(found) = ready(&mut lock(&self.window)) {
                return found;
            }
            changed.await;
        }
    }

    async fn fetch(&self, mut claim: Claim) {
        let settings = &self.transport.settings;
        let mut backoff = Backoff::new(settings.retries, settings.retry_pause);
        let mut endpoint = self.preferred.load(Ordering::Relaxed);
        let (mut at, start) = (claim.start, Instant::now());
        loop {
            let before = at;
            let direct = lock(&self.direct).get(&(endpoint, claim.layer)).cloned();
            let failure = match self.attempt(&mut claim, endpoint, direct.clone(), &mut at).await {
                Ok(Attempt::Done) => return lock(&self.window).done(&claim, start.elapsed()),
                Ok(Attempt::Void) => return self.wake(),
                Err(failure) => failure,
            };
            if at > before {
                backoff.progressed();
            }
            if direct.is_some() {
                // A signed address expires; the registry gives a new one.
                let mut kept = lock(&self.direct);
                if kept.get(&(endpoint, claim.layer)) == direct.as_ref() {
                    kept.remove(&(endpoint, claim.layer));
                }
                if failure.again == Again::Never {
                    continue;
                }
            }
            self.progress.restarted(claim.layer, at, &failure.error);
            match backoff.pause(failure) {
                Ok(time) => pause(time).await,
                Err(error) if endpoint + 1 < self.endpoints.len() && error.kind != Kind::Cancelled => {
                    self.progress
                        .note(&format!("{error}; going on with {}", self.endpoints[endpoint + 1].registry));
                    endpoint += 1;
                    self.preferred.store(endpoint, Ordering::Relaxed);
                    backoff = Backoff::new(settings.retries, settings.retry_pause);
                }
                Err(error) => return self.fail(error),
            }
        }
    }

    /// One request for what of `claim` is still missing; `at` moves with every byte that arrived.
    async fn attempt(
        &self,
        claim: &mut Claim,
        endpoint: usize,
        direct: Option<Url>,
        at: &mut u64,
    ) -> Result<Attempt, Failure> {
        let size = self.layers[claim.layer].size;
        let complete = *at == 0 && claim.end == size;
        let range = (!claim.whole && !complete).then(|| format!("bytes={at}-{}", claim.end - 1));
        let path = format!("blobs/{}", self.layers[claim.layer].digest);
        let call = Call {
            endpoint: &self.endpoints[endpoint],
            method: Method::GET,
            path: &path,
            accept: None,
            range: range.clone(),
            direct,
        };
        let Reply { mut response, redirected } = self.transport.send(&call).await?;
        call.endpoint.check_version(&response)?;
        if let Some(url) = redirected {
            lock(&self.direct).insert((endpoint, claim.layer), url);
        }
        let skip = match (response.status(), &range) {
            (StatusCode::PARTIAL_CONTENT, Some(_)) => {
                let header = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
                if !header.is_some_and(|h| content_range::fits(h, *at..claim.end, size)) {
                    return Ok(self.without_ranges(claim));
                }
                lock(&self.window).ranges_work(claim);
                self.wake();
                0
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => return Ok(self.without_ranges(claim)),
            (StatusCode::OK, Some(_)) => {
                lock(&self.window).ranges_fail(claim);
                self.wake();
                if lock(&self.window).is_void(claim) {
                    return Ok(Attempt::Void);
                }
                *at
            }
            (StatusCode::OK, None) => *at,
            (status, _) => {
                let what = format!("{} answered {status} where a layer was due", host_of(response.url()));
                return Err(Failure { error: RegistryError::new(Kind::Corrupt, what), again: Again::Yes });
            }
        };
        if response.status() == StatusCode::OK {
            self.check_length(claim, &response)?;
        }
        self.body(claim, &mut response, skip, at).await
    }

    /// The server's ranges are wrong: the layer is fetched as a whole, by another claim.
    fn without_ranges(&self, claim: &mut Claim) -> Attempt {
        let mut window = lock(&self.window);
        // Twice: a first question would otherwise go on with this answer, which is not the whole layer.
        window.ranges_fail(claim);
        window.ranges_fail(claim);
        drop(window);
        self.wake();
        Attempt::Void
    }

    /// A whole layer whose length is announced wrongly is not worth reading.
    fn check_length(&self, claim: &Claim, response: &reqwest::Response) -> Result<(), Failure> {
        let layer = &self.layers[claim.layer];
        let header = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        match header.and_then(|v| v.parse::<u64>().ok()) {
            Some(length) if length != layer.size => {
                let host = host_of(response.url());
                let what = format!("{} has {} bytes, {host} announces {length}", layer.shown(), layer.size);
                Err(Failure { error: RegistryError::new(Kind::Corrupt, what), again: Again::Yes })
            }
            _ => Ok(()),
        }
    }

    async fn body(
        &self,
        claim: &Claim,
        response: &mut reqwest::Response,
        mut skip: u64,
        at: &mut u64,
    ) -> Result<Attempt, Failure> {
        let url = response.url().clone();
        let mut over = false;
        while *at < claim.end {
            if claim.whole {
                let room = |window: &mut Window| {
                    window.make_way(claim);
                    window.may_grow(claim).then_some(())
                };
                self.when(room).await;
                if lock(&self.window).is_void(claim) {
                    return Ok(Attempt::Void);
                }
            }
            let chunk = self.transport.chunk(response).await.map_err(|e| answer::unreachable(&url, &e))?;
            let Some(mut chunk) = chunk else { return Err(self.short(claim, &url, *at)) };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let _ = chunk.split_to(skipped as usize);
            let wanted = (claim.end - *at).min(chunk.len() as u64);
            over = wanted < chunk.len() as u64;
            chunk.truncate(wanted as usize);
            if !chunk.is_empty() && !self.deliver(claim, *at, chunk) {
                return Ok(Attempt::Void);
            }
            *at += wanted;
        }
        // Reads the end of the body, so that the connection can be used again.
        over = over || matches!(self.transport.chunk(response).await, Ok(Some(more)) if !more.is_empty());
        let size = self.layers[claim.layer].size;
        match over && claim.end == size {
            true => {
                let what = format!(
                    "{} has {size} bytes, {} sends more",
                    self.layers[claim.layer].shown(),
                    host_of(&url)
                );
                Err(RegistryError::new(Kind::Corrupt, what).into())
            }
            false => Ok(Attempt::Done),
        }
    }

    fn short(&self, claim: &Claim, url: &Url, at: u64) -> Failure {
        let layer = &self.layers[claim.layer];
        let (shown, size) = (layer.shown(), layer.size);
        let what = format!("{shown} of {size} bytes ended at byte {at} of what {} sends", host_of(url));
        Failure { error: RegistryError::new(Kind::Corrupt, what), again: Again::Yes }
    }

    /// Hands bytes on, and hashes all that is in order. False if nobody wants them.
    fn deliver(&self, claim: &Claim, at: u64, bytes: Bytes) -> bool {
        {
            // Told under the lock: a reader that has seen the end has seen all progress.
            let mut window = lock(&self.window);
            let Some(gained) = window.arrived(claim, at, bytes) else { return false };
            if gained > 0 {
                self.progress.bytes(claim.layer, gained);
            }
        }
        let mut next = lock(&self.window).next_to_hash(claim.layer);
        while let Some(hashing) = next {
            let done = hashing.run();
            let mut window = lock(&self.window);
            if window.hashed(done) {
                self.progress.finished(claim.layer);
            }
            next = window.next_to_hash(claim.layer);
            drop(window);
            self.readable.notify_all();
        }
        true
    }
}
