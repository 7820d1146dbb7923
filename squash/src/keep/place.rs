//! Owns where one file's content is in a SquashFS file, as bytes of the index.

use std::io::{self, Read, Write};

use super::entry::{read_u32, read_u64};
use super::{damaged, ShortHash};

/// Tags: what follows.
const MISSING: u8 = 0;
const SMALL: u8 = 1;
const BLOCKS: u8 = 2;
const BLOCKS_AND_TAIL: u8 = 3;

/// A part of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) start: u64,
    /// The fragment's size word.
    pub(super) word: u32,
    pub(super) offset: u32,
}

/// A file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Of a small file, its content's hash; of a file with blocks, the hash the store compares files by.
    pub(super) hash: ShortHash,
    pub(super) start: u64,
    /// Size words of its blocks.
    pub(super) words: Vec<u32>,
    pub(super) tail: Option<Tail>,
}

/// Writes a place; None: the content is not in the image.
pub(super) fn write(out: &mut impl Write, place: Option<&Place>) -> io::Result<()> {
    let Some(place) = place else { return out.write_all(&[MISSING]) };
    let tag = match (place.words.is_empty(), place.tail) {
        (true, _) => SMALL,
        (false, None) => BLOCKS,
        (false, Some(_)) => BLOCKS_AND_TAIL,
    };
    out.write_all(&[tag])?;
    out.write_all(&place.hash)?;
    if let Some(tail) = place.tail {
        out.write_all(&tail.start.to_le_bytes())?;
        out.write_all(&tail.word.to_le_bytes())?;
        out.write_all(&tail.offset.to_le_bytes())?;
    }
    if !place.words.is_empty() {
        out.write_all(&place.start.to_le_bytes())?;
        for word in &place.words {
            out.write_all(&word.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Reads the place of a file of `size` bytes; None if its content is not in the image.
pub(super) fn read(from: &mut impl Read, size: u64, block_size: u64) -> io::Result<Option<Place>> {
    let mut tag = [0];
    from.read_exact(&mut tag)?;
    if tag[0] == MISSING {
        return Ok(None);
    }
    let mut place = Place::default();
    from.read_exact(&mut place.hash)?;
    if matches!(tag[0], SMALL | BLOCKS_AND_TAIL) {
        place.tail = Some(Tail { start: read_u64(from)?, word: read_u32(from)?, offset: read_u32(from)? });
    }
    let blocks = match tag[0] {
        SMALL if size < block_size => return Ok(Some(place)),
        BLOCKS => size.div_ceil(block_size),
        BLOCKS_AND_TAIL if size > block_size && !size.is_multiple_of(block_size) => size / block_size,
        _ => return Err(damaged("place and size contradict each other")),
    };
    place.start = read_u64(from)?;
    for _ in 0..blocks {
        place.words.push(read_u32(from)?);
    }
    Ok(Some(place))
}
