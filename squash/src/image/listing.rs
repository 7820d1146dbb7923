//! Owns directory listings: runs of entries behind headers, and the index that saves the kernel reading
//! all of a large directory for one name.

use super::inodes::Listing;
use super::metadata::{Metadata, Place};
use crate::error::{Error, FormatFault};

/// Entries under one header (SQUASHFS_DIR_COUNT).
const RUN: usize = 256;

/// One name in a directory.
pub(super) struct Name<'a> {
    pub(super) name: &'a [u8],
    pub(super) inode: Place,
    pub(super) number: u32,
    /// Type of the basic inode, also if the inode is extended.
    pub(super) kind: u16,
}

/// Writes one directory's names, which are in order, and returns what its inode says of them.
pub(super) fn write(table: &mut Metadata<'_>, names: &[Name<'_>]) -> Result<Listing, Error> {
    let start = table.place()?;
    let mut size = 0u64;
    let (mut index, mut indexes) = (Vec::new(), 0u16);
    let mut indexed_block = start.block;
    let mut rest = names;
    while let Some(first) = rest.first() {
        let here = table.place()?;
        if here.block != indexed_block && indexes < u16::MAX {
            // Where the header is in the listing, its block in the table, the first name under it.
            index.extend((size as u32).to_le_bytes());
            index.extend(here.block.to_le_bytes());
            index.extend((first.name.len() as u32 - 1).to_le_bytes());
            index.extend(first.name);
            indexes += 1;
            indexed_block = here.block;
        }
        let (run, after) = rest.split_at(run_length(rest, here.offset));
        size += write_run(table, run)?;
        rest = after;
    }
    let size = u32::try_from(size).ok().filter(|&size| size < u32::MAX - 3);
    let size = size.ok_or(Error::Format(FormatFault::Table))?;
    Ok(Listing { start, size, index: (index, indexes) })
}

/// How many names fit under one header: their inodes in one metadata block, numbers within 16 bits of the
/// first's, no more than [`RUN`], and none beginning beyond the header's own block, so that every block
/// has a header the index can point at.
fn run_length(names: &[Name<'_>], offset: u16) -> usize {
    let first = &names[0];
    let mut place = usize::from(offset) + 12;
    let mut run = 0;
    for name in names.iter().take(RUN) {
        let delta = i64::from(name.number) - i64::from(first.number);
        let near = i16::try_from(delta).is_ok() && name.inode.block == first.inode.block;
        if run > 0 && (!near || place >= super::metadata::BLOCK) {
            break;
        }
        place += 8 + name.name.len();
        run += 1;
    }
    run
}

fn write_run(table: &mut Metadata<'_>, run: &[Name<'_>]) -> Result<u64, Error> {
    let first = &run[0];
    let mut out = Vec::with_capacity(12 + run.len() * 32);
    out.extend((run.len() as u32 - 1).to_le_bytes());
    out.extend(first.inode.block.to_le_bytes());
    out.extend(first.number.to_le_bytes());
    for name in run {
        out.extend(name.inode.offset.to_le_bytes());
        out.extend((name.number.wrapping_sub(first.number) as i16).to_le_bytes());
        out.extend(name.kind.to_le_bytes());
        out.extend((name.name.len() as u16 - 1).to_le_bytes());
        out.extend(name.name);
    }
    table.write(&out)?;
    Ok(out.len() as u64)
}
