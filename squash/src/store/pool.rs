//! Owns the threads that compress, and the fixed set of buffers that bounds memory: a block is read into
//! a slot, compressed within it, written from it, and the slot goes back to the reader.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};

use crossbeam_channel::{Receiver, Sender};

use crate::compress::Compressor;
use crate::keep::Section;

/// A block's place while it is on its way.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
}

/// What a block belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// A file, by its number among files with blocks of their own.
    File(u32),
    /// A fragment, by its number.
    Fragment(u32),
}

/// A block to compress; `order` is its place in the output.
pub(crate) struct Job {
    pub(crate) order: u64,
    pub(crate) target: Target,
    pub(crate) slot: Slot,
}

/// How a block came out.
pub(crate) enum Outcome {
    /// All zeros: nothing is stored.
    Zeros,
    /// `slot.output` is to be stored; hash of it.
    Compressed([u8; 32]),
    /// `slot.input` is to be stored, as it would not get smaller; hash of it.
    Stored([u8; 32]),
}

/// What the writer is given, in any order.
pub(crate) struct Item {
    pub(crate) order: u64,
    pub(crate) what: What,
}

pub(crate) enum What {
    Block {
        target: Target,
        slot: Slot,
        outcome: Outcome,
    },
    /// This many blocks of a file are holes.
    Holes {
        file: u32,
        blocks: u64,
    },
    /// A file's blocks are complete. `tail` tells files of the same blocks but different tails apart.
    EndFile {
        file: u32,
        size: u64,
        tail: Option<[u8; 32]>,
    },
    /// A layer ends here; all its content comes before.
    EndLayer(Box<Section>),
    /// A compressor gave up.
    Failed(io::Error),
}

/// Compresses jobs until there are no more, or nobody takes the results.
pub(super) fn work(mut compressor: Compressor, jobs: &Receiver<Job>, done: &Sender<Item>) {
    for Job { order, target, mut slot } in jobs {
        // Equal compressed blocks are equal blocks, and there is less to hash.
        let outcome = if matches!(target, Target::File(_)) && all_zero(&slot.input) {
            Ok(Outcome::Zeros)
        } else {
            compress(&mut compressor, &mut slot).map(|smaller| match (smaller, target) {
                (true, Target::File(_)) => Outcome::Compressed(hash(&slot.output)),
                (false, Target::File(_)) => Outcome::Stored(hash(&slot.input)),
                // Fragments are never compared as a whole.
                (true, Target::Fragment(_)) => Outcome::Compressed([0; 32]),
                (false, Target::Fragment(_)) => Outcome::Stored([0; 32]),
            })
        };
        let what = match outcome {
            Ok(outcome) => What::Block { target, slot, outcome },
            Err(e) => What::Failed(e),
        };
        if done.send(Item { order, what }).is_err() {
            return;
        }
    }
}

/// A panic in a codec becomes an error: a block that never comes would leave the writer waiting.
fn compress(compressor: &mut Compressor, slot: &mut Slot) -> io::Result<bool> {
    let run = || compressor.compress(&slot.input, &mut slot.output);
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(io::Error::other("a compressor panicked")))
}

pub(super) fn hash(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

fn all_zero(data: &[u8]) -> bool {
    data.chunks(64).all(|chunk| chunk.iter().fold(0, |seen, &b| seen | b) == 0)
}
