//! Owns the way through a table: metadata blocks one after the other, unpacked one at a time, so that memory does not
//! grow with the table. It knows nothing of what is in one.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::bytes::{read_u64, Bytes};
use super::invalid::{Checked, Rule};
use super::layout::{Indexed, BLOCK};
use super::unpack::Unpacker;

/// What all tables of one image are read with.
pub(super) struct Reader<'a, B: ?Sized> {
    pub(super) image: &'a B,
    pub(super) unpacker: RefCell<Unpacker>,
    /// Unpacked bytes of tables that are still allowed.
    pub(super) budget: Cell<u64>,
}

impl<B: Bytes + ?Sized> Reader<'_, B> {
    /// Takes bytes from what tables may have.
    pub(super) fn charge(&self, bytes: u64, at: u64) -> Checked {
        match self.budget.get().checked_sub(bytes) {
            Some(left) => {
                self.budget.set(left);
                Ok(())
            }
            None => Err(Rule::LimitMetadata.at(at, "")),
        }
    }
}

/// A place in a table.
pub(super) struct Table<'a, B: ?Sized> {
    reader: &'a Reader<'a, B>,
    range: Range<u64>,
    /// Where the list of blocks has the next one, of an indexed table.
    index: Option<u64>,
    /// Where the next block begins in the file.
    next: u64,
    /// The block that is being read: where it begins, and its bytes.
    begin: u64,
    block: Vec<u8>,
    at: usize,
    packed: Vec<u8>,
    /// The rule that is broken where the table ends too early.
    cut: Rule,
}

impl<'a, B: Bytes + ?Sized> Table<'a, B> {
    /// The table of the blocks in `range`, which they fill.
    pub(super) fn new(reader: &'a Reader<'a, B>, range: Range<u64>, cut: Rule) -> Self {
        let (begin, next) = (range.start, range.start);
        Table { reader, range, index: None, next, begin, block: vec![], at: 0, packed: vec![], cut }
    }

    /// A table with an index of its blocks.
    pub(super) fn indexed(reader: &'a Reader<'a, B>, table: &Indexed) -> Self {
        let index = Some(table.index);
        Table { index, ..Self::new(reader, table.blocks.clone(), Rule::TableLength) }
    }

    /// Goes to a place, as references have it: the block's in the table, and the byte's in the unpacked block.
    pub(super) fn seek(&mut self, place: u64) -> Checked {
        let block = self.range.start.checked_add(place >> 16).filter(|block| *block < self.range.end);
        let Some(block) = block else { return Err(self.cut.at(self.range.end, "")) };
        if block != self.begin || self.block.is_empty() {
            self.next = block;
            self.load()?;
        }
        self.at = ((place & 0xffff) as usize).min(self.block.len());
        Ok(())
    }

    /// Where the next byte is, as references have it.
    pub(super) fn place(&mut self) -> Checked<u64> {
        if self.at == self.block.len() && self.next < self.range.end {
            self.load()?;
        }
        Ok((self.begin - self.range.start) << 16 | self.at as u64)
    }

    /// Where the block is that is being read, in the file.
    pub(super) fn position(&self) -> u64 {
        self.begin
    }

    /// Bytes that are left of the block that is being read.
    pub(super) fn rest(&self) -> usize {
        self.block.len() - self.at
    }

    /// Takes bytes from what tables may have, for what is kept of this one.
    pub(super) fn charge(&self, bytes: usize) -> Checked {
        self.reader.charge(bytes as u64, self.begin)
    }

    /// Whether all was read.
    pub(super) fn done(&self) -> bool {
        self.at == self.block.len() && self.next == self.range.end
    }

    /// Fills `into` with the next bytes.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Checked {
        let mut filled = 0;
        while filled < into.len() {
            if self.at == self.block.len() {
                if self.next >= self.range.end {
                    return Err(self.cut.at(self.range.end, ""));
                }
                self.load()?;
            }
            let most = (into.len() - filled).min(self.block.len() - self.at);
            into[filled..filled + most].copy_from_slice(&self.block[self.at..self.at + most]);
            filled += most;
            self.at += most;
        }
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Checked<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u16(&mut self) -> Checked<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Checked<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Checked<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Unpacks the next block.
    fn load(&mut self) -> Checked {
        let begin = self.next;
        if let Some(index) = self.index {
            let listed = if index + 8 > self.reader.image.length()? { None } else { Some(index) };
            let listed = listed.map(|at| read_u64(self.reader.image, at)).transpose()?;
            if listed != Some(begin) {
                return Err(Rule::IndexEntry.at(index, format!("{listed:?} for a block at {begin}")));
            }
            self.index = Some(index + 8);
        }
        let beyond = |end: u64| Rule::MetadataBounds.at(begin, format!("it ends at {end}"));
        if self.range.end - begin < 2 {
            return Err(beyond(begin + 2));
        }
        let mut header = [0; 2];
        self.reader.image.read_at(&mut header, begin)?;
        let header = u16::from_le_bytes(header);
        let size = usize::from(header & 0x7fff);
        if size == 0 || size > BLOCK {
            return Err(Rule::MetadataSize.at(begin, format!("{size} bytes")));
        }
        let end = begin + 2 + size as u64;
        if end > self.range.end {
            return Err(beyond(end));
        }
        self.packed.resize(size, 0);
        self.reader.image.read_at(&mut self.packed, begin + 2)?;
        if header & 0x8000 != 0 {
            std::mem::swap(&mut self.block, &mut self.packed);
        } else {
            self.block.resize(BLOCK, 0);
            let unpacked = self.reader.unpacker.borrow_mut().unpack(&self.packed, &mut self.block);
            let size = unpacked.map_err(|why| Rule::MetadataUnpack.at(begin, escaped(&why)))?;
            self.block.truncate(size);
        }
        if self.block.is_empty() || (self.block.len() < BLOCK && end < self.range.end) {
            return Err(Rule::MetadataShort.at(begin, format!("{} bytes", self.block.len())));
        }
        self.reader.charge(self.block.len() as u64, begin)?;
        (self.begin, self.next, self.at) = (begin, end, 0);
        Ok(())
    }
}

/// What a library says, or a name of the image, as one line.
pub(super) fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}
