//! Owns file contents on their way from a layer into the data area: cut into blocks, packed into
//! fragments, deduplicated, compressed in parallel, written in the order they were read in. That order,
//! and where fragments end, depend on the content alone, so the bytes never depend on timing.
//!
//! Memory: `2 * workers + 64` slots of two blocks each, whatever the image.

mod pool;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{bounded, unbounded, Receiver, Sender};

use self::pool::{hash, Item, Job, Slot, Target, What};
pub(crate) use self::writer::{Layout, UNCOMPRESSED};
use crate::compress::Compressor;
use crate::error::Error;
use crate::fault::Fault;
use crate::keep::{short, Section, ShortHash};
use crate::options::Compression;
use crate::tar::Content;

/// Number of no fragment, as SquashFS writes it.
pub(crate) const NO_FRAGMENT: u32 = u32::MAX;
/// Number of no extent: the file has no blocks of its own.
pub(crate) const NO_EXTENT: u32 = u32::MAX;

/// Slots beyond those that compressors hold: with 128 KiB blocks some ten milliseconds of work, so that neither the reader
/// nor a compressor runs dry while another of them, or the writer, waits for a core or the disk.
const SPARE_SLOTS: usize = 64;

/// The tail of a larger file goes into a fragment if it is at most this part of a block: a block of its
/// own is cheaper to page in, but not worth it for a few KiB.
const TAIL_PART: u64 = 8;

/// Where a file's content is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) size: u64,
    /// Number in [`Layout::files`], or [`NO_EXTENT`].
    pub(crate) extent: u32,
    /// Number in [`Layout::fragments`], or [`NO_FRAGMENT`].
    pub(crate) fragment: u32,
    /// Place in the fragment.
    pub(crate) offset: u32,
    /// Of a file without extent: its content's hash.
    pub(crate) hash: ShortHash,
}

impl Stored {
    /// Content that is nowhere: of an empty file, or not stored.
    pub(crate) fn nowhere(size: u64) -> Stored {
        Stored { size, extent: NO_EXTENT, fragment: NO_FRAGMENT, offset: 0, hash: [0; 16] }
    }
}

/// The reading end of the pipeline.
pub(crate) struct Store<'scope> {
    jobs: Sender<Job>,
    direct: Sender<Item>,
    free: Receiver<Slot>,
    slots_left: usize,
    writer: ScopedJoinHandle<'scope, io::Result<Layout>>,
    block_size: u64,
    order: u64,
    files: u32,
    fragments: u32,
    /// The fragment being filled.
    filling: Slot,
    /// Small files and tails by the hash of their content: fragment and place in it.
    seen: HashMap<[u8; 32], (u32, u32)>,
    duplicate_bytes: u64,
}

impl<'scope> Store<'scope> {
    /// Starts the threads. Data are written from `start` on; records of finished layers to `index`.
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        out: &'env File,
        index: Option<&'env File>,
        start: u64,
        compression: Compression,
        block_size: u32,
        workers: usize,
    ) -> Result<Store<'scope>, Error> {
        let slots = 2 * workers + SPARE_SLOTS;
        let (jobs, todo) = bounded::<Job>(slots);
        let (direct, items) = unbounded();
        let (give_back, free) = unbounded();
        for _ in 0..workers {
            let (todo, done, compressor) = (todo.clone(), direct.clone(), Compressor::new(compression)?);
            scope.spawn(move || pool::work(compressor, &todo, &done));
        }
        let writer = scope.spawn(move || writer::write(out, index, start, &items, &give_back));
        Ok(Store {
            jobs,
            direct,
            free,
            slots_left: slots,
            writer,
            block_size: u64::from(block_size),
            order: 0,
            files: 0,
            fragments: 0,
            filling: Slot::default(),
            seen: HashMap::new(),
            duplicate_bytes: 0,
        })
    }

    /// Stores a file of `size` bytes. `keep_going` is asked before each block.
    pub(crate) fn file(
        &mut self,
        size: u64,
        content: &mut impl Content,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<Stored, Fault> {
        let mut stored = Stored::nowhere(size);
        if size == 0 {
            return Ok(stored);
        }
        if size < self.block_size {
            let mut tail = self.begin_tail(size, content)?;
            (stored.fragment, stored.offset) = self.place_tail(&mut tail)?;
            stored.hash = short(&tail.hash);
            self.duplicate_bytes += if tail.copy { size } else { 0 };
            return Ok(stored);
        }
        let file = self.files;
        let rest = size % self.block_size;
        let packed = rest > 0 && rest <= self.block_size / TAIL_PART;
        let mut left = if packed { size - rest } else { size };
        while left > 0 {
            if !keep_going() {
                return Err(Fault::Cancelled);
            }
            let hole = content.hole_ahead().min(left);
            if hole >= self.block_size || (hole > 0 && hole == left) {
                let blocks =
                    if hole == left { hole.div_ceil(self.block_size) } else { hole / self.block_size };
                let bytes = left.min(blocks * self.block_size);
                content.skip_hole(bytes);
                self.send_direct(What::Holes { file, blocks })?;
                left -= bytes;
                continue;
            }
            let mut slot = self.slot()?;
            let bytes = left.min(self.block_size);
            slot.input.resize(bytes as usize, 0);
            content.fill(&mut slot.input)?;
            self.send_block(Target::File(file), slot)?;
            left -= bytes;
        }
        // The file ends before its tail is placed: that may send a full fragment off, which must not lie
        // within the blocks that a copy gives back.
        let tail = if packed { Some(self.begin_tail(rest, content)?) } else { None };
        self.send_direct(What::EndFile { file, size, tail: tail.as_ref().map(|tail| tail.hash) })?;
        self.files += 1;
        stored.extent = file;
        if let Some(mut tail) = tail {
            (stored.fragment, stored.offset) = self.place_tail(&mut tail)?;
        }
        Ok(stored)
    }

    /// Reads a tail: behind what is in the fragment being filled, if it fits there, else apart.
    fn begin_tail(&mut self, size: u64, content: &mut impl Content) -> Result<Tail, Fault> {
        let have = self.filling.input.len();
        if have as u64 + size <= self.block_size {
            self.filling.input.resize(have + size as usize, 0);
            content.fill(&mut self.filling.input[have..])?;
            let hash = hash(&self.filling.input[have..]);
            return Ok(Tail { hash, apart: None, start: have, copy: false });
        }
        let mut slot = self.slot()?;
        slot.input.resize(size as usize, 0);
        content.fill(&mut slot.input)?;
        Ok(Tail { hash: hash(&slot.input), apart: Some(slot), start: 0, copy: false })
    }

    /// Gives a tail its place, which is an older one's if that has the same content.
    fn place_tail(&mut self, tail: &mut Tail) -> Result<(u32, u32), Fault> {
        if let Some(&place) = self.seen.get(&tail.hash) {
            tail.copy = true;
            match tail.apart.take() {
                Some(slot) => self.spare(slot),
                None => self.filling.input.truncate(tail.start),
            }
            return Ok(place);
        }
        if let Some(slot) = tail.apart.take() {
            self.send_fragment(slot)?;
        }
        let place = (self.fragments, tail.start as u32);
        self.seen.insert(tail.hash, place);
        Ok(place)
    }

    /// Sends the fragment off and goes on with `next`.
    fn send_fragment(&mut self, next: Slot) -> Result<(), Fault> {
        let full = std::mem::replace(&mut self.filling, next);
        self.send_block(Target::Fragment(self.fragments), full)?;
        self.fragments += 1;
        Ok(())
    }

    /// Ends a layer, and with it the fragment: what the layer's content is made of is then in the file, and
    /// can be taken from there, whatever becomes of the rest.
    pub(crate) fn end_layer(&mut self, section: Option<Section>) -> Result<(), Fault> {
        if !self.filling.input.is_empty() {
            let mut next = self.slot()?;
            next.input.clear();
            self.send_fragment(next)?;
        }
        match section {
            Some(section) => self.send_direct(What::EndLayer(Box::new(section))),
            None => Ok(()),
        }
    }

    /// Ends the data area: where everything is, and the bytes of files that were copies.
    pub(crate) fn finish(mut self) -> Result<(Layout, u64), Error> {
        if !self.filling.input.is_empty() && self.send_fragment(Slot::default()).is_err() {
            return Err(self.failure());
        }
        let duplicates = self.duplicate_bytes;
        let layout = self.join()?;
        let duplicates = duplicates + layout.duplicate_bytes;
        Ok((layout, duplicates))
    }

    /// Why the pipeline stopped, once it gave [`Fault::Closed`].
    pub(crate) fn failure(self) -> Error {
        match self.join() {
            Err(e) => e,
            Ok(_) => Error::Write(io::Error::other("a compressor stopped")),
        }
    }

    fn join(self) -> Result<Layout, Error> {
        drop((self.jobs, self.direct, self.free));
        match self.writer.join() {
            Ok(result) => result.map_err(Error::Write),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn slot(&mut self) -> Result<Slot, Fault> {
        if let Ok(slot) = self.free.try_recv() {
            return Ok(slot);
        }
        if self.slots_left > 0 {
            self.slots_left -= 1;
            let room = || Vec::with_capacity(self.block_size as usize);
            return Ok(Slot { input: room(), output: Vec::new() });
        }
        self.free.recv().map_err(|_| Fault::Closed)
    }

    /// A slot that was not needed after all.
    fn spare(&mut self, slot: Slot) {
        drop(slot);
        self.slots_left += 1;
    }

    fn send_block(&mut self, target: Target, slot: Slot) -> Result<(), Fault> {
        self.jobs.send(Job { order: self.order, target, slot }).map_err(|_| Fault::Closed)?;
        self.order += 1;
        Ok(())
    }

    fn send_direct(&mut self, what: What) -> Result<(), Fault> {
        self.direct.send(Item { order: self.order, what }).map_err(|_| Fault::Closed)?;
        self.order += 1;
        Ok(())
    }
}

/// A tail that has been read but not placed.
struct Tail {
    hash: [u8; 32],
    apart: Option<Slot>,
    start: usize,
    copy: bool,
}
