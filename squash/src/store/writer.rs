//! Owns the data area of the file: takes blocks in whatever order they were compressed in, writes them in
//! the order they were read in, and takes a file back off the end when it turns out to be a copy.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crossbeam_channel::{Receiver, Sender};

use super::pool::{Item, Outcome, Slot, Target, What};
use crate::keep::{self, short, ShortHash};

/// Set in a block's size word when it is stored uncompressed.
pub(crate) const UNCOMPRESSED: u32 = 1 << 24;

/// Where a file's own blocks are: from `start`, sizes `first..first + count` of [`Layout::sizes`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Where everything in the data area is.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// Size words of all blocks; 0 is a hole.
    pub(crate) sizes: Vec<u32>,
    /// By number of the file.
    pub(crate) files: Vec<Extent>,
    /// By number of the file: what files are compared by, which its blocks' hashes go into.
    pub(crate) keys: Vec<ShortHash>,
    /// By number of the fragment: start and size word.
    pub(crate) fragments: Vec<(u64, u32)>,
    /// End of the data area.
    pub(crate) end: u64,
    /// Bytes of files that were copies of others.
    pub(crate) duplicate_bytes: u64,
}

impl Layout {
    pub(crate) fn blocks(&self, extent: &Extent) -> &[u32] {
        &self.sizes[extent.first as usize..(extent.first + extent.count) as usize]
    }
}

/// Writes until no more items can come; records of finished layers to `index`.
pub(super) fn write(
    out: &File,
    index: Option<&File>,
    start: u64,
    items: &Receiver<Item>,
    free: &Sender<Slot>,
) -> io::Result<Layout> {
    let mut writer = Writer {
        out,
        index,
        index_end: keep::HEADER,
        free,
        layout: Layout { end: start, ..Layout::default() },
        open: None,
        seen: HashMap::new(),
    };
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for item in items {
        waiting.insert(item.order, item.what);
        while let Some(what) = waiting.remove(&next) {
            writer.take(what)?;
            next += 1;
        }
    }
    Ok(writer.layout)
}

struct Writer<'a> {
    out: &'a File,
    index: Option<&'a File>,
    /// Where the next layer's record goes.
    index_end: u64,
    free: &'a Sender<Slot>,
    layout: Layout,
    open: Option<OpenFile>,
    /// Complete files by the hash of their blocks.
    seen: HashMap<[u8; 32], u32>,
}

/// The file whose blocks are arriving.
struct OpenFile {
    number: u32,
    extent: Extent,
    hasher: blake3::Hasher,
}

impl Writer<'_> {
    fn take(&mut self, what: What) -> io::Result<()> {
        match what {
            What::Block { target, slot, outcome } => self.block(target, slot, &outcome),
            What::Holes { file, blocks } => {
                for _ in 0..blocks {
                    self.add(file, 0, None);
                }
                Ok(())
            }
            What::EndFile { file, size, tail } => {
                self.end_file(file, size, tail);
                Ok(())
            }
            What::EndLayer(section) => {
                if let Some(index) = self.index {
                    self.index_end = keep::write(index, self.index_end, &section, &self.layout)?;
                }
                Ok(())
            }
            What::Failed(e) => Err(e),
        }
    }

    fn block(&mut self, target: Target, slot: Slot, outcome: &Outcome) -> io::Result<()> {
        let (data, size, hash): (&[u8], u32, _) = match outcome {
            Outcome::Zeros => (&[], 0, None),
            Outcome::Compressed(hash) => (&slot.output, slot.output.len() as u32, Some(hash)),
            Outcome::Stored(hash) => (&slot.input, slot.input.len() as u32 | UNCOMPRESSED, Some(hash)),
        };
        let start = self.layout.end;
        if let Target::File(file) = target {
            self.add(file, size, hash);
        }
        self.out.write_all_at(data, start)?;
        self.layout.end = start + data.len() as u64;
        if let Target::Fragment(number) = target {
            debug_assert_eq!(number as usize, self.layout.fragments.len());
            self.layout.fragments.push((start, size));
        }
        // Nobody takes slots back once all is read.
        let _ = self.free.send(slot);
        Ok(())
    }

    /// Adds a block to the open file, opening it with the first. Before the block is written.
    fn add(&mut self, file: u32, size: u32, hash: Option<&[u8; 32]>) {
        let layout = &mut self.layout;
        let open = self.open.get_or_insert_with(|| OpenFile {
            number: file,
            extent: Extent { start: layout.end, first: layout.sizes.len() as u32, count: 0 },
            hasher: blake3::Hasher::new(),
        });
        debug_assert_eq!(open.number, file);
        layout.sizes.push(size);
        open.extent.count += 1;
        open.hasher.update(&size.to_le_bytes());
        if let Some(hash) = hash {
            open.hasher.update(hash);
        }
    }

    /// A copy gives its place back; the next file overwrites it.
    fn end_file(&mut self, file: u32, size: u64, tail: Option<[u8; 32]>) {
        let Some(mut open) = self.open.take() else { return };
        open.hasher.update(&size.to_le_bytes());
        open.hasher.update(&tail.unwrap_or_default());
        let key = *open.hasher.finalize().as_bytes();
        let layout = &mut self.layout;
        debug_assert_eq!(file as usize, layout.files.len());
        layout.keys.push(short(&key));
        match self.seen.get(&key) {
            Some(&same) => {
                layout.end = open.extent.start;
                layout.sizes.truncate(open.extent.first as usize);
                layout.files.push(layout.files[same as usize]);
                layout.duplicate_bytes += size;
            }
            None => {
                self.seen.insert(key, file);
                layout.files.push(open.extent);
            }
        }
    }
}
