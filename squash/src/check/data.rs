//! Owns where contents are: block lists and fragments inside the data area, and, where that is asked for, whether each
//! block unpacks to what the file's size says.

use super::bytes::Bytes;
use super::invalid::{Checked, Rule};
use super::layout::Layout;
use super::table::{escaped, Reader, Table};
use crate::limits::Limits;

/// Set in a block's size where it is stored as it is; nothing is set above it.
const PLAIN: u32 = 1 << 24;
const NO_FRAGMENT: u32 = u32::MAX;

/// A regular file, as its inode has it.
pub(super) struct Content {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) fragment: u32,
    pub(super) offset: u32,
    pub(super) holes: u64,
}

/// The data area while inodes are read.
pub(super) struct Data<'a, B: ?Sized> {
    reader: &'a Reader<'a, B>,
    layout: &'a Layout,
    limits: &'a Limits,
    deep: bool,
    /// Unpacked bytes of each fragment; the most there may be where that is not known.
    fragments: Vec<u32>,
    packed: Vec<u8>,
    unpacked: Vec<u8>,
    /// Bytes of all files, and those of them that are no holes.
    pub(super) total: u64,
    stored: u64,
}

impl<'a, B: Bytes + ?Sized> Data<'a, B> {
    /// Reads and checks the fragment table; with `deep` the fragments too.
    pub(super) fn new(
        reader: &'a Reader<'a, B>,
        layout: &'a Layout,
        limits: &'a Limits,
        deep: bool,
    ) -> Checked<Self> {
        let (packed, unpacked) = (vec![], vec![0; layout.block_size as usize]);
        let (fragments, total, stored) = (vec![], 0, 0);
        let mut data = Data { reader, layout, limits, deep, fragments, packed, unpacked, total, stored };
        if let Some(indexed) = &layout.fragment {
            let mut table = Table::indexed(reader, indexed);
            for n in 0..layout.fragments {
                let (start, word, unused) = (table.u64()?, table.u32()?, table.u32()?);
                let at = table.position();
                let size = word & (PLAIN - 1);
                if size == 0 || size > layout.block_size || word >= PLAIN << 1 || unused != 0 {
                    return Err(Rule::FragmentWord.at(at, format!("fragment {n}: {word:#x}, {unused}")));
                }
                let end = start.checked_add(size.into()).filter(|end| *end <= layout.data.end);
                if start < layout.data.start || end.is_none() {
                    return Err(Rule::FragmentBounds.at(at, format!("fragment {n}: {size} bytes at {start}")));
                }
                reader.charge(4, at)?;
                let length = match (word & PLAIN != 0, deep) {
                    (true, _) => size,
                    (false, false) => layout.block_size,
                    (false, true) => data.block(start, word, None)? as u32,
                };
                data.fragments.push(length);
            }
            whole(&table)?;
        }
        Ok(data)
    }

    /// Checks a file, whose block list is next in the inode table.
    pub(super) fn file(&mut self, file: &Content, table: &mut Table<'a, B>) -> Checked {
        let Content { number, size, .. } = *file;
        if size > self.limits.file_size {
            return Err(Rule::LimitFile.of(number, format!("{size}, at most {}", self.limits.file_size)));
        }
        if file.holes > size {
            return Err(Rule::FileSparse.of(number, format!("{} of {size}", file.holes)));
        }
        let block_size = u64::from(self.layout.block_size);
        let whole = size / block_size;
        let rest = size % block_size;
        let blocks = whole + u64::from(rest > 0 && file.fragment == NO_FRAGMENT);
        let mut at = file.start;
        let mut holes = 0;
        for n in 0..blocks {
            let word = table.u32()?;
            let part = (size - n * block_size).min(block_size);
            if word == 0 {
                holes += part;
                continue;
            }
            let stored = word & (PLAIN - 1);
            if stored == 0 || u64::from(stored) > block_size || word >= PLAIN << 1 {
                return Err(Rule::FileBlock.of(number, format!("block {n}: {word:#x}")));
            }
            let end = at.checked_add(stored.into()).filter(|end| *end <= self.layout.data.end);
            let Some(end) = end.filter(|_| at >= self.layout.data.start) else {
                return Err(Rule::FileBounds.of(number, format!("block {n}: {stored} bytes at {at}")));
            };
            if word & PLAIN != 0 && u64::from(stored) != part {
                return Err(Rule::DataSize.of(number, format!("block {n}: {stored} bytes for {part}")));
            }
            if self.deep && word & PLAIN == 0 {
                let have = self.block(at, word, Some((number, n)))?;
                if have as u64 != part {
                    return Err(Rule::DataSize.of(number, format!("block {n}: {have} bytes for {part}")));
                }
            } else if self.deep {
                self.fetch(at, stored)?;
            }
            at = end;
        }
        self.tail(file, rest)?;
        self.count(number, size, holes)
    }

    /// The end of a file, in a fragment.
    fn tail(&self, file: &Content, rest: u64) -> Checked {
        let Content { number, fragment, offset, .. } = *file;
        if fragment == NO_FRAGMENT {
            return Ok(());
        }
        let Some(length) = self.fragments.get(fragment as usize) else {
            return Err(Rule::FileFragment.of(number, format!("{fragment} of {}", self.fragments.len())));
        };
        if rest == 0 {
            return Err(Rule::FileTail.of(number, ""));
        }
        match u64::from(offset) + rest <= u64::from(*length) {
            true => Ok(()),
            false => Err(Rule::FileOffset.of(number, format!("{rest} bytes at {offset} of {length}"))),
        }
    }

    /// Counts what files hold, against what an image of its size may.
    fn count(&mut self, number: u32, size: u64, holes: u64) -> Checked {
        self.total = self.total.saturating_add(size);
        self.stored = self.stored.saturating_add(size - holes);
        if self.total > self.limits.total_size {
            return Err(Rule::LimitTotal.of(number, format!("at most {}", self.limits.total_size)));
        }
        let most = self.layout.used.saturating_mul(self.limits.ratio).max(Limits::RATIO_FREE);
        match self.stored <= most {
            true => Ok(()),
            false => {
                Err(Rule::LimitRatio.of(number, format!("{} of {} bytes", self.stored, self.layout.used)))
            }
        }
    }

    /// Reads stored bytes of a block, which only fails where the disk does.
    fn fetch(&mut self, at: u64, size: u32) -> Checked {
        self.packed.resize(size as usize, 0);
        Ok(self.reader.image.read_at(&mut self.packed, at)?)
    }

    /// Unpacks a block; how many bytes it has.
    fn block(&mut self, at: u64, word: u32, of: Option<(u32, u64)>) -> Checked<usize> {
        self.fetch(at, word & (PLAIN - 1))?;
        let unpacked = self.reader.unpacker.borrow_mut().unpack(&self.packed, &mut self.unpacked);
        unpacked.map_err(|why| {
            let why = match of {
                Some((_, n)) => format!("block {n}: {}", escaped(&why)),
                None => escaped(&why),
            };
            Rule::DataUnpack.broken(Some(at), of.map(|(number, _)| number), why)
        })
    }
}

/// Checks that a table of entries was read to its end.
pub(super) fn whole<B: Bytes + ?Sized>(table: &Table<'_, B>) -> Checked {
    match table.done() {
        true => Ok(()),
        false => Err(Rule::TableLength.at(table.position(), "")),
    }
}
