//! Extended attributes of files in a SquashFS image, which the reader does not give (kernel: fs/squashfs/xattr.c,
//! xattr_id.c; squashfs_fs.h has the layout). File capabilities are such attributes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use backhand::compression::{CompressionAction, Compressor};

use crate::facts::reader::Unpacker;

/// Bytes of a block of metadata, unpacked.
const BLOCK: usize = 8192;
/// No attributes: of an inode, and of an image.
const NONE: u32 = 0xffff_ffff;
/// Bytes of an entry of the table of ids.
const ID: u64 = 16;
/// Most attributes of a file, and the longest value (xattr(7), XATTR_SIZE_MAX).
const MOST: u32 = 1024;
const LONGEST: u32 = 65536;
/// The value is elsewhere, and here is where.
const ELSEWHERE: u16 = 0x100;

/// The attributes of one image.
pub struct Xattrs(Option<Table>);

struct Table {
    image: File,
    /// What places are relative to.
    start: u64,
    /// Number of ids, and where the blocks of the table are.
    ids: u32,
    blocks: u64,
    compressor: Option<Compressor>,
    kept: RefCell<HashMap<u64, Unpacked>>,
}

/// A block of metadata, unpacked, and where the next one is.
type Unpacked = Rc<(Vec<u8>, u64)>;

impl Xattrs {
    /// Of the image whose superblock says that the table is at `at`.
    pub fn read(image: File, at: u64, compressor: Option<Compressor>) -> io::Result<Self> {
        if at == u64::MAX {
            return Ok(Self(None));
        }
        let mut head = [0; 16];
        image.read_exact_at(&mut head, at)?;
        let (start, ids) = (number(&head[..8]), number(&head[8..12]) as u32);
        let kept = RefCell::default();
        Ok(Self(Some(Table { image, start, ids, blocks: at + 16, compressor, kept })))
    }

    /// The attributes that an inode's index stands for, by their keys in a tar.
    pub fn of(&self, index: u32) -> io::Result<Vec<(String, Vec<u8>)>> {
        match &self.0 {
            Some(table) if index != NONE => table.of(index),
            _ => Ok(vec![]),
        }
    }
}

impl Table {
    fn of(&self, index: u32) -> io::Result<Vec<(String, Vec<u8>)>> {
        if index >= self.ids {
            return Err(damaged());
        }
        let byte = u64::from(index) * ID;
        let mut at = [0; 8];
        self.image.read_exact_at(&mut at, self.blocks + byte / BLOCK as u64 * 8)?;
        let mut id = At { table: self, block: number(&at), offset: (byte % BLOCK as u64) as usize };
        let (place, count) = (id.number(8)?, id.number(4)? as u32);
        if count > MOST {
            return Err(damaged());
        }
        let mut list = self.at(place);
        (0..count).map(|_| self.one(&mut list)).collect()
    }

    fn one(&self, list: &mut At<'_>) -> io::Result<(String, Vec<u8>)> {
        let kind = list.number(2)? as u16;
        let length = list.number(2)? as usize;
        let name = String::from_utf8(list.bytes(length)?).map_err(|_| damaged())?;
        let space = match kind & 0xff {
            0 => "user",
            1 => "trusted",
            2 => "security",
            _ => return Err(damaged()),
        };
        let mut value = list.value()?;
        if kind & ELSEWHERE != 0 {
            let place = value.get(..8).map(number).ok_or_else(damaged)?;
            value = self.at(place).value()?;
        }
        Ok((format!("SCHILY.xattr.{space}.{name}"), value))
    }

    /// A place as SquashFS writes it: a block, and bytes into it once it is unpacked.
    fn at(&self, place: u64) -> At<'_> {
        let block = self.start.saturating_add(place >> 16);
        At { table: self, block, offset: (place & 0xffff) as usize }
    }

    /// A block of metadata, unpacked, and where the next one is.
    fn block(&self, at: u64) -> io::Result<Unpacked> {
        if let Some(block) = self.kept.borrow().get(&at) {
            return Ok(block.clone());
        }
        let mut head = [0; 2];
        self.image.read_exact_at(&mut head, at)?;
        let head = u16::from_le_bytes(head);
        let length = usize::from(head & 0x7fff);
        if length > BLOCK {
            return Err(damaged());
        }
        let mut packed = vec![0; length];
        self.image.read_exact_at(&mut packed, at + 2)?;
        let bytes = if head & 0x8000 != 0 {
            packed
        } else {
            let how = self.compressor.ok_or_else(damaged)?;
            let mut out = Vec::with_capacity(BLOCK);
            Unpacker.decompress(&packed, &mut out, how).map_err(|_| damaged())?;
            out
        };
        let block = Rc::new((bytes, at + 2 + length as u64));
        self.kept.borrow_mut().insert(at, block.clone());
        Ok(block)
    }
}

/// A place in the metadata that moves on as it is read.
struct At<'a> {
    table: &'a Table,
    block: u64,
    offset: usize,
}

impl At<'_> {
    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(length.min(BLOCK));
        while out.len() < length {
            let block = self.table.block(self.block)?;
            let (bytes, next) = &*block;
            let left = bytes.get(self.offset..).unwrap_or_default();
            if left.is_empty() {
                if bytes.is_empty() || self.offset > bytes.len() {
                    return Err(damaged());
                }
                (self.block, self.offset) = (*next, 0);
                continue;
            }
            let take = left.len().min(length - out.len());
            out.extend_from_slice(&left[..take]);
            self.offset += take;
        }
        Ok(out)
    }

    fn number(&mut self, length: usize) -> io::Result<u64> {
        self.bytes(length).map(|bytes| number(&bytes))
    }

    fn value(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number(4)? as u32;
        match length > LONGEST {
            true => Err(damaged()),
            false => self.bytes(length as usize),
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its extended attributes are damaged")
}
