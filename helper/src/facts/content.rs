//! Random access to a file in a SquashFS image: only the blocks that are asked for are unpacked. Libraries of
//! gigabytes are told by a few of them.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use backhand::compression::CompressionAction;
use backhand::{DataSize, FilesystemReader, SquashfsFileReader};
use grus_core::elf::ReadAt;

use super::reader::Unpacker;

/// Most bytes unpacked for one image: a bound on time for images made to waste it.
const MAX_UNPACKED: u64 = 32 << 30;

/// Blocks and fragments that are kept unpacked. Neighbours share fragments.
const KEPT: usize = 16;

/// frag_index of a file without a fragment (kernel: SQUASHFS_INVALID_FRAG).
const NO_FRAGMENT: usize = 0xffff_ffff;

/// Unpacks blocks of one image.
pub struct Blocks<'a> {
    system: &'a FilesystemReader<'static>,
    image: File,
    kept: RefCell<VecDeque<(u64, Rc<Vec<u8>>)>>,
    left: Cell<u64>,
}

impl<'a> Blocks<'a> {
    /// Of the image that `system` was read from.
    pub fn new(system: &'a FilesystemReader<'static>, image: File) -> Self {
        Self { system, image, kept: RefCell::default(), left: Cell::new(MAX_UNPACKED) }
    }

    /// Whether the image has used up what may be unpacked of it.
    pub fn exhausted(&self) -> bool {
        self.left.get() == 0
    }

    /// Counts bytes that are unpacked. None once there are too many.
    fn charge(&self, bytes: u64) -> Option<()> {
        self.left.set(self.left.get().saturating_sub(bytes));
        (!self.exhausted()).then_some(())
    }

    /// One block at `at` of the image, unpacked. None if it is damaged.
    fn block(&self, at: u64, size: DataSize) -> Option<Rc<Vec<u8>>> {
        if let Some((_, block)) = self.kept.borrow().iter().find(|(of, _)| *of == at) {
            return Some(block.clone());
        }
        let most = self.system.block_size as usize;
        let length = size.size() as usize;
        if length > most {
            return None;
        }
        self.charge(most as u64)?;
        let mut packed = vec![0; length];
        self.image.read_exact_at(&mut packed, at).ok()?;
        let block = if size.uncompressed() {
            packed
        } else {
            let mut out = Vec::with_capacity(most);
            let how = self.system.compressor?.into();
            Unpacker.decompress(&packed, &mut out, how).ok()?;
            out
        };
        if block.len() > most {
            return None;
        }
        let block = Rc::new(block);
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT {
            kept.pop_back();
        }
        kept.push_front((at, block.clone()));
        Some(block)
    }
}

/// A regular file of the image.
pub struct Content<'a> {
    blocks: &'a Blocks<'a>,
    file: &'a SquashfsFileReader,
    /// Where each block begins in the image; a hole has its successor's place.
    starts: Vec<u64>,
    damaged: Cell<bool>,
}

impl<'a> Content<'a> {
    /// The content of `file`.
    pub fn new(blocks: &'a Blocks<'a>, file: &'a SquashfsFileReader) -> Self {
        let mut at = file.blocks_start();
        let start = |size: &DataSize| {
            let start = at;
            at = at.saturating_add(u64::from(size.size()));
            start
        };
        let starts = file.block_sizes().iter().map(start).collect();
        Self { blocks, file, starts, damaged: Cell::new(false) }
    }

    /// Length in bytes.
    pub fn length(&self) -> usize {
        self.file.file_len()
    }

    /// Whether something that the file should have could not be read.
    pub fn damaged(&self) -> bool {
        self.damaged.get()
    }

    /// Adds bytes `from..to` of the block with number `n` to `out`.
    fn part(&self, n: usize, from: usize, to: usize, out: &mut Vec<u8>) -> Option<()> {
        let sizes = self.file.block_sizes();
        if let Some(size) = sizes.get(n) {
            if size.size() == 0 {
                // It costs no less for having no place in the image.
                self.blocks.charge((to - from) as u64)?;
                out.resize(out.len() + (to - from), 0);
                return Some(());
            }
            let block = self.blocks.block(*self.starts.get(n)?, *size)?;
            out.extend_from_slice(block.get(from..to)?);
            return Some(());
        }
        // The tail of the file, in a block that it shares with others.
        let index = self.file.frag_index();
        if n != sizes.len() || index == NO_FRAGMENT {
            return None;
        }
        let fragment = self.blocks.system.fragments.as_ref()?.get(index)?;
        let block = self.blocks.block(fragment.start, fragment.size)?;
        let skip = self.file.block_offset() as usize;
        out.extend_from_slice(block.get(skip.checked_add(from)?..skip.checked_add(to)?)?);
        Some(())
    }

    fn bytes(&self, offset: usize, end: usize) -> Option<Vec<u8>> {
        let block = self.blocks.system.block_size as usize;
        // The length is below the file's; what it really has may be less, so memory grows as it comes.
        let mut out = Vec::with_capacity((end - offset).min(block));
        let mut at = offset;
        while at < end {
            let n = at / block;
            let to = end.min((n + 1) * block);
            self.part(n, at - n * block, to - n * block, &mut out)?;
            at = to;
        }
        Some(out)
    }
}

impl ReadAt for Content<'_> {
    fn read_at(&self, offset: u64, len: usize) -> Option<Cow<'_, [u8]>> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(len).filter(|end| *end <= self.length())?;
        let bytes = self.bytes(offset, end);
        self.damaged.set(self.damaged.get() || bytes.is_none());
        bytes.map(Cow::Owned)
    }
}
