//! Owns metadata blocks: 8 KiB each, compressed where that helps, behind a 16-bit size. All tables are
//! made of them (kernel: fs/squashfs/squashfs_fs.h).

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::compress::Compressor;
use crate::error::{Error, FormatFault};

/// Bytes of a metadata block before compression.
pub(super) const BLOCK: usize = 8192;

/// Set in a metadata block's size when it is stored uncompressed.
pub(super) const UNCOMPRESSED: u16 = 1 << 15;

/// A table that is being written, in memory and compressed.
pub(super) struct Metadata<'c> {
    compressor: &'c std::cell::RefCell<Compressor>,
    out: Vec<u8>,
    /// The block being filled; never full.
    block: Vec<u8>,
    scratch: Vec<u8>,
    /// Where blocks begin in `out`.
    starts: Vec<u64>,
}

/// A place in a table: where its block begins, and the place within the unpacked block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u32,
    pub(super) offset: u16,
}

impl Place {
    /// As a reference in other tables.
    pub(super) fn packed(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }
}

impl<'c> Metadata<'c> {
    pub(super) fn new(compressor: &'c std::cell::RefCell<Compressor>) -> Self {
        Metadata {
            compressor,
            out: Vec::new(),
            block: Vec::with_capacity(BLOCK),
            scratch: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Where the next byte goes.
    pub(super) fn place(&self) -> Result<Place, Error> {
        let block = u32::try_from(self.out.len()).map_err(|_| Error::Format(FormatFault::Table))?;
        Ok(Place { block, offset: self.block.len() as u16 })
    }

    pub(super) fn write(&mut self, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            let n = data.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&data[..n]);
            data = &data[n..];
            if self.block.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.starts.push(self.out.len() as u64);
        let smaller =
            self.compressor.borrow_mut().compress(&self.block, &mut self.scratch).map_err(Error::Write)?;
        let (data, flag) = if smaller { (&self.scratch, 0) } else { (&self.block, UNCOMPRESSED) };
        self.out.extend_from_slice(&(data.len() as u16 | flag).to_le_bytes());
        self.out.extend_from_slice(data);
        self.block.clear();
        Ok(())
    }

    /// The finished table, and where its blocks begin in it.
    pub(super) fn finish(mut self) -> Result<(Vec<u8>, Vec<u64>), Error> {
        if !self.block.is_empty() {
            self.flush()?;
        }
        Ok((self.out, self.starts))
    }
}

/// The end of the file, where tables are appended.
pub(super) struct Tail<'f> {
    pub(super) out: &'f File,
    pub(super) end: u64,
}

impl Tail<'_> {
    /// Appends bytes and returns where they begin.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<u64, Error> {
        let start = self.end;
        self.out.write_all_at(data, start).map_err(Error::Write)?;
        self.end += data.len() as u64;
        Ok(start)
    }

    /// Appends a table and then the index of its blocks; returns where the index begins.
    pub(super) fn append_indexed(&mut self, table: Metadata<'_>) -> Result<u64, Error> {
        let (data, starts) = table.finish()?;
        let base = self.append(&data)?;
        let index: Vec<u8> = starts.iter().flat_map(|start| (base + start).to_le_bytes()).collect();
        self.append(&index)
    }
}
