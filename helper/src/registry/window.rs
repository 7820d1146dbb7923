//! Owns what of an image is on its way: a window over all layers in the order they will be read, top layer
//! first, cut into ranges. Pure bookkeeping: no network, no clock, no lock.
//!
//! Ranges are claimed in the order they will be read, so the memory always holds what is needed next, every
//! connection works on it, however the layers differ in size, and none waits with a half-read answer. At
//! most `budget` bytes are claimed or buffered; beyond that, one range for each reader that has nothing
//! left (so that no order of reading can block; where all connections wait in the middle of whole layers for
//! room, one leaves its layer for that). Bytes are hashed in order, whatever order they arrive in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::error::{Kind, RegistryError};
use super::pace::Pace;
use super::{Blob, Layer};
use crate::digest::digest_of_hash;

/// The state of a download.
#[derive(Debug)]
pub struct Window {
    streams: Vec<Stream>,
    budget: u64,
    /// The most claims there are at a time.
    connections: usize,
    pace: Pace,
    held: u64,
    failed: Option<RegistryError>,
}

#[derive(Debug)]
struct Stream {
    layer: Layer,
    /// Bytes at the beginning that the caller has.
    start: u64,
    mode: Mode,
    /// First byte nobody has claimed.
    next: u64,
    /// Bytes hashed and handed to `ready`.
    frontier: u64,
    /// Arrived, by offset, not yet hashed.
    pending: BTreeMap<u64, Bytes>,
    ready: VecDeque<Bytes>,
    /// None while somebody hashes.
    hasher: Option<Sha256>,
    verified: bool,
    /// Share of [`Window::held`].
    held: u64,
    /// Claims under way.
    claims: usize,
    /// Counts re-readings of the layer.
    pass: u32,
    /// Counts changes that make claims void.
    epoch: u32,
    opened: bool,
    /// A reader waits.
    starving: bool,
    /// Bytes in `pending`, and those that are being hashed.
    waiting: u64,
    /// The most that was here so far, over all passes.
    seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing was asked yet.
    Unknown,
    /// The first range is asked for; whether ranges are honoured is not known.
    Probing,
    /// Ranges are honoured.
    Ranges,
    /// They are not: one stream, from its beginning.
    Whole,
}

/// A piece of work: fetch `start..end` of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Index of the layer.
    pub layer: usize,
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// The server does not honour ranges: no Range may be sent.
    pub whole: bool,
    epoch: u32,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next bytes.
    Bytes(Bytes),
    /// The end; the digest was right.
    End,
    /// Nothing yet.
    Nothing,
}

/// Bytes being hashed, outside of any lock.
#[derive(Debug)]
pub struct Hashing {
    layer: usize,
    pass: u32,
    hasher: Sha256,
    bytes: Bytes,
}

impl Hashing {
    /// The work itself.
    pub fn run(mut self) -> Self {
        self.hasher.update(&self.bytes);
        self
    }
}

impl Window {
    /// A window of `budget` bytes over `layers` (bottom first) from the byte `starts` says, in ranges of
    /// at most `segment` bytes, for so many connections. A layer that does not start at 0 is for its reader to
    /// judge.
    pub fn new(layers: &[Layer], starts: &[u64], budget: u64, segment: u64, connections: usize) -> Self {
        let start = |(n, layer): (usize, &Layer)| starts.get(n).map_or(0, |s| (*s).min(layer.size));
        let streams = layers.iter().enumerate().map(|l| Stream::new(l.1.clone(), start(l))).collect();
        let mut window =
            Self { streams, budget, connections, pace: Pace::new(segment), held: 0, failed: None };
        for index in 0..window.streams.len() {
            window.finish_if_complete(index);
        }
        window
    }

    fn finish_if_complete(&mut self, layer: usize) {
        if self.streams[layer].frontier == self.streams[layer].layer.size {
            self.finish(layer);
        }
    }

    /// The next piece of work, if there is room for one.
    pub fn claim(&mut self) -> Option<Claim> {
        let (index, len) = self.claimable()?;
        let segment = self.pace.segment();
        let stream = &mut self.streams[index];
        let whole = stream.mode == Mode::Whole;
        let start = if whole { stream.frontier } else { stream.next };
        let end = if whole { stream.layer.size } else { start + len };
        if stream.mode == Mode::Unknown {
            // What fits in one range is fetched without asking for one.
            stream.mode = if stream.layer.size > segment { Mode::Probing } else { Mode::Ranges };
        }
        stream.next = end;
        stream.claims += 1;
        let claim = Claim { layer: index, start, end, whole, epoch: stream.epoch };
        if !whole {
            self.hold(index, len);
        }
        Some(claim)
    }

    /// Whether [`Window::claim`] would give one.
    pub fn has_work(&self) -> bool {
        self.claimable().is_some()
    }

    fn claimable(&self) -> Option<(usize, u64)> {
        if self.failed.is_some() {
            return None;
        }
        let mut full = false;
        for (index, stream) in self.streams.iter().enumerate().rev() {
            if stream.next >= stream.layer.size || stream.mode == Mode::Probing {
                continue;
            }
            let len = (stream.layer.size - stream.next).min(self.pace.segment());
            full = full || self.held + len > self.budget;
            if !full || (stream.is_out() && stream.claims == 0) {
                return Some((index, len));
            }
        }
        None
    }

    /// Whether the layer of a whole-stream claim may grow by another piece.
    pub fn may_grow(&self, claim: &Claim) -> bool {
        self.held < self.budget || self.streams[claim.layer].is_out() || self.is_void(claim)
    }

    /// Gives up a whole-stream claim that has no room to grow, where a reader of another layer has nothing left and no
    /// connection is free to fetch that. What was hashed stays, and the layer goes on from there later.
    pub fn make_way(&mut self, claim: &Claim) {
        let stuck = |s: &Stream| s.is_out() && s.claims == 0 && s.next < s.layer.size;
        let busy: usize = self.streams.iter().map(|s| s.claims).sum();
        if busy >= self.connections && !self.may_grow(claim) && self.streams.iter().any(stuck) {
            self.begin_anew(claim.layer);
        }
    }

    /// Whether a connection may be waiting for room to grow.
    pub fn is_growing(&self) -> bool {
        self.streams.iter().any(|s| s.mode == Mode::Whole && s.claims > 0)
    }

    /// Whether work on `claim` is in vain.
    pub fn is_void(&self, claim: &Claim) -> bool {
        self.failed.is_some() || self.streams[claim.layer].epoch != claim.epoch
    }

    /// The first range was honoured.
    pub fn ranges_work(&mut self, claim: &Claim) {
        if !self.is_void(claim) && self.streams[claim.layer].mode == Mode::Probing {
            self.streams[claim.layer].mode = Mode::Ranges;
        }
    }

    /// The server sends the whole layer instead of a range. If this was the first question, its answer is
    /// used: `claim` grows to the whole. Otherwise the layer begins anew as a whole, and `claim` is void.
    pub fn ranges_fail(&mut self, claim: &mut Claim) {
        if self.is_void(claim) {
            return;
        }
        let stream = &mut self.streams[claim.layer];
        let first = stream.mode == Mode::Probing;
        stream.mode = Mode::Whole;
        if first {
            self.release(claim.layer, claim.end - claim.start);
            let stream = &mut self.streams[claim.layer];
            stream.next = stream.layer.size;
            claim.end = stream.layer.size;
            claim.whole = true;
            return;
        }
        self.begin_anew(claim.layer);
    }

    /// Makes all claims of a layer void, to be fetched from where it was hashed.
    fn begin_anew(&mut self, layer: usize) {
        let stream = &mut self.streams[layer];
        stream.epoch += 1;
        stream.claims = 0;
        stream.pending.clear();
        stream.waiting = 0;
        stream.next = stream.frontier;
        let kept: u64 = stream.ready.iter().map(|b| b.len() as u64).sum();
        let held = stream.held;
        self.release(layer, held.saturating_sub(kept));
    }

    /// Bytes of `claim` arrived at offset `at`. Gives how many more of the layer are here than ever before, in order
    /// or not; None if they came in vain.
    pub fn arrived(&mut self, claim: &Claim, at: u64, bytes: Bytes) -> Option<u64> {
        if self.is_void(claim) {
            return None;
        }
        if claim.whole {
            self.hold(claim.layer, bytes.len() as u64);
        }
        let stream = &mut self.streams[claim.layer];
        stream.waiting += bytes.len() as u64;
        stream.pending.insert(at, bytes);
        let here = (stream.frontier + stream.waiting).min(stream.layer.size);
        let gained = here.saturating_sub(stream.seen);
        stream.seen += gained;
        Some(gained)
    }

    /// All of `claim` arrived, in this time.
    pub fn done(&mut self, claim: &Claim, took: Duration) {
        if !self.is_void(claim) {
            self.streams[claim.layer].claims -= 1;
        }
        if !claim.whole {
            self.pace.took(claim.end - claim.start, took);
        }
    }

    /// The next bytes of `layer` to hash, if they are there and nobody is hashing.
    pub fn next_to_hash(&mut self, layer: usize) -> Option<Hashing> {
        loop {
            let stream = &mut self.streams[layer];
            let (&at, _) = stream.pending.first_key_value().filter(|(at, _)| **at <= stream.frontier)?;
            stream.hasher.as_ref()?;
            let mut bytes = stream.pending.remove(&at).unwrap_or_default();
            let known = (stream.frontier - at).min(bytes.len() as u64);
            stream.waiting = stream.waiting.saturating_sub(known);
            let _ = bytes.split_to(known as usize);
            let pass = stream.pass;
            let hasher = if bytes.is_empty() { None } else { stream.hasher.take() };
            self.release(layer, known);
            if let Some(hasher) = hasher {
                return Some(Hashing { layer, pass, hasher, bytes });
            }
        }
    }

    /// Hashed bytes become readable. Whether the layer is complete now, and right.
    pub fn hashed(&mut self, done: Hashing) -> bool {
        let stream = &mut self.streams[done.layer];
        if stream.pass != done.pass {
            return false;
        }
        stream.frontier += done.bytes.len() as u64;
        stream.waiting = stream.waiting.saturating_sub(done.bytes.len() as u64);
        stream.ready.push_back(done.bytes);
        stream.hasher = Some(done.hasher);
        stream.frontier == stream.layer.size && self.finish(done.layer)
    }

    /// Judges a complete layer by its digest.
    fn finish(&mut self, layer: usize) -> bool {
        let stream = &mut self.streams[layer];
        let found = digest_of_hash(stream.hasher.take().unwrap_or_default());
        let unchecked = stream.start > 0 || stream.layer.kind == Blob::AnyFile;
        stream.verified = unchecked || found == stream.layer.digest;
        if !stream.verified {
            let error = stream.layer.damaged(&found);
            self.fail(error);
        }
        self.failed.is_none()
    }

    /// Begins a reading of `layer`; every one after the first fetches it again. Returns its pass.
    pub fn open(&mut self, layer: usize) -> u32 {
        if self.streams[layer].opened {
            self.reset(layer);
        }
        let stream = &mut self.streams[layer];
        stream.opened = true;
        stream.pass
    }

    /// Ends a reading, early or not: what is buffered is given up.
    pub fn close(&mut self, layer: usize, pass: u32) {
        if self.streams[layer].pass == pass && !self.streams[layer].verified {
            self.reset(layer);
            let stream = &mut self.streams[layer];
            stream.next = stream.layer.size;
        }
    }

    fn reset(&mut self, layer: usize) {
        let held = self.streams[layer].held;
        self.release(layer, held);
        let old = &mut self.streams[layer];
        let fresh = Stream {
            mode: if old.mode == Mode::Probing { Mode::Unknown } else { old.mode },
            pass: old.pass + 1,
            epoch: old.epoch + 1,
            opened: old.opened,
            seen: old.seen,
            ..Stream::new(old.layer.clone(), old.start)
        };
        *old = fresh;
        self.finish_if_complete(layer);
    }

    /// The next bytes for the reader of `pass`.
    pub fn take(&mut self, layer: usize, pass: u32) -> Result<Taken, RegistryError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let stream = &mut self.streams[layer];
        if stream.pass != pass {
            return Err(RegistryError::new(Kind::Cancelled, "the layer was opened again"));
        }
        if let Some(bytes) = stream.ready.pop_front() {
            stream.starving = false;
            self.release(layer, bytes.len() as u64);
            return Ok(Taken::Bytes(bytes));
        }
        if stream.verified {
            return Ok(Taken::End);
        }
        stream.starving = true;
        Ok(Taken::Nothing)
    }

    /// The first failure ends everything.
    pub fn fail(&mut self, error: RegistryError) {
        self.failed.get_or_insert(error);
        for stream in &mut self.streams {
            stream.pending.clear();
            stream.ready.clear();
        }
    }

    fn hold(&mut self, layer: usize, n: u64) {
        self.streams[layer].held += n;
        self.held += n;
    }

    fn release(&mut self, layer: usize, n: u64) {
        let stream = &mut self.streams[layer];
        let n = n.min(stream.held);
        stream.held -= n;
        self.held -= n;
    }
}

impl Stream {
    fn new(layer: Layer, start: u64) -> Self {
        Self {
            layer,
            start,
            mode: Mode::Unknown,
            next: start,
            frontier: start,
            pending: BTreeMap::new(),
            ready: VecDeque::new(),
            hasher: Some(Sha256::new()),
            verified: false,
            held: 0,
            claims: 0,
            pass: 0,
            epoch: 0,
            opened: false,
            starving: false,
            waiting: 0,
            seen: start,
        }
    }

    /// Whether its reader waits and nothing is there for it.
    fn is_out(&self) -> bool {
        self.starving && self.ready.is_empty()
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
