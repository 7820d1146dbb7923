//! Owns the inode table: basic inodes, and extended ones only where a basic one lacks the room.

use super::ids::Ids;
use super::metadata::{Metadata, Place};
use super::xattrs::XattrTable;
use crate::error::Error;
use crate::merge::record::Meta;
use crate::store::{Layout, Stored, NO_EXTENT};

/// Inode and directory entry types; an extended inode's is 7 higher.
pub(super) const DIR: u16 = 1;
pub(super) const FILE: u16 = 2;
pub(super) const SYMLINK: u16 = 3;
pub(super) const BLOCK: u16 = 4;
pub(super) const CHAR: u16 = 5;
pub(super) const FIFO: u16 = 6;
const EXTENDED: u16 = 7;

/// Where the inode has no xattrs.
const NO_XATTR: u32 = u32::MAX;

/// The inode table with the tables it fills on the way.
pub(super) struct Inodes<'c> {
    pub(super) table: Metadata<'c>,
    pub(super) ids: Ids,
    pub(super) xattrs: XattrTable<'c>,
}

/// What a directory inode says of its listing.
pub(super) struct Listing {
    pub(super) start: Place,
    /// Bytes of the listing; the inode states 3 more, for `.` and `..`.
    pub(super) size: u32,
    /// Encoded index entries, and how many.
    pub(super) index: (Vec<u8>, u16),
}

/// Number and link count of the inode to write.
#[derive(Clone, Copy)]
pub(super) struct Identity {
    pub(super) number: u32,
    pub(super) links: u32,
}

impl Inodes<'_> {
    fn header(&mut self, kind: u16, meta: &Meta, number: u32) -> Result<Vec<u8>, Error> {
        let mut inode = Vec::with_capacity(64);
        inode.extend(kind.to_le_bytes());
        inode.extend(meta.mode.to_le_bytes());
        inode.extend(self.ids.index(meta.uid)?.to_le_bytes());
        inode.extend(self.ids.index(meta.gid)?.to_le_bytes());
        inode.extend(meta.mtime.to_le_bytes());
        inode.extend(number.to_le_bytes());
        Ok(inode)
    }

    fn put(&mut self, inode: &[u8]) -> Result<Place, Error> {
        let place = self.table.place()?;
        self.table.write(inode)?;
        Ok(place)
    }

    pub(super) fn directory(
        &mut self,
        meta: &Meta,
        id: Identity,
        parent: u32,
        listing: &Listing,
    ) -> Result<Place, Error> {
        let xattr = self.xattrs.index(meta.xattrs)?;
        let size = listing.size + 3;
        let (index, indexes) = &listing.index;
        if let (Ok(size), NO_XATTR, 0) = (u16::try_from(size), xattr, *indexes) {
            let mut inode = self.header(DIR, meta, id.number)?;
            put_u32s(&mut inode, &[listing.start.block, id.links]);
            inode.extend(size.to_le_bytes());
            inode.extend(listing.start.offset.to_le_bytes());
            put_u32s(&mut inode, &[parent]);
            return self.put(&inode);
        }
        let mut inode = self.header(DIR + EXTENDED, meta, id.number)?;
        put_u32s(&mut inode, &[id.links, size, listing.start.block, parent]);
        inode.extend(indexes.to_le_bytes());
        inode.extend(listing.start.offset.to_le_bytes());
        put_u32s(&mut inode, &[xattr]);
        inode.extend(index);
        self.put(&inode)
    }

    pub(super) fn file(
        &mut self,
        meta: &Meta,
        id: Identity,
        stored: &Stored,
        layout: &Layout,
        block_size: u32,
    ) -> Result<Place, Error> {
        let xattr = self.xattrs.index(meta.xattrs)?;
        let extent =
            if stored.extent == NO_EXTENT { None } else { Some(layout.files[stored.extent as usize]) };
        let sizes = extent.as_ref().map_or(&[][..], |extent| layout.blocks(extent));
        let start = extent.map_or(0, |extent| extent.start);
        let holes = holes(sizes, stored.size, block_size);
        let small = (u32::try_from(start), u32::try_from(stored.size));
        let mut inode;
        if let ((Ok(start), Ok(size)), 1, 0, NO_XATTR) = (small, id.links, holes, xattr) {
            inode = self.header(FILE, meta, id.number)?;
            put_u32s(&mut inode, &[start, stored.fragment, stored.offset, size]);
        } else {
            inode = self.header(FILE + EXTENDED, meta, id.number)?;
            for value in [start, stored.size, holes] {
                inode.extend(value.to_le_bytes());
            }
            put_u32s(&mut inode, &[id.links, stored.fragment, stored.offset, xattr]);
        }
        put_u32s(&mut inode, sizes);
        self.put(&inode)
    }

    pub(super) fn symlink(&mut self, meta: &Meta, id: Identity, target: &[u8]) -> Result<Place, Error> {
        let xattr = self.xattrs.index(meta.xattrs)?;
        let extended = if xattr == NO_XATTR { 0 } else { EXTENDED };
        let mut inode = self.header(SYMLINK + extended, meta, id.number)?;
        put_u32s(&mut inode, &[id.links, target.len() as u32]);
        inode.extend(target);
        if xattr != NO_XATTR {
            put_u32s(&mut inode, &[xattr]);
        }
        self.put(&inode)
    }

    /// Devices and fifos; `device` only for the former.
    pub(super) fn special(
        &mut self,
        kind: u16,
        meta: &Meta,
        id: Identity,
        device: Option<u32>,
    ) -> Result<Place, Error> {
        let xattr = self.xattrs.index(meta.xattrs)?;
        let extended = if xattr == NO_XATTR { 0 } else { EXTENDED };
        let mut inode = self.header(kind + extended, meta, id.number)?;
        put_u32s(&mut inode, &[id.links]);
        if let Some(device) = device {
            put_u32s(&mut inode, &[device]);
        }
        if xattr != NO_XATTR {
            put_u32s(&mut inode, &[xattr]);
        }
        self.put(&inode)
    }
}

/// Bytes of a file in blocks that are not stored: st_blocks leaves them out.
fn holes(sizes: &[u32], file_size: u64, block_size: u32) -> u64 {
    let block_size = u64::from(block_size);
    let blocks = sizes.iter().enumerate().filter(|(_, &size)| size == 0);
    blocks.map(|(i, _)| (file_size - i as u64 * block_size).min(block_size)).sum()
}

fn put_u32s(inode: &mut Vec<u8>, values: &[u32]) {
    for value in values {
        inode.extend(value.to_le_bytes());
    }
}
