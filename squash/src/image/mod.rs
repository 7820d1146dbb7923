//! Owns the file around the data area: inode, directory, fragment, export, id and xattr tables, and the
//! superblock, which is written last. Format: SquashFS 4.0, as in the kernel's fs/squashfs.

mod ids;
mod inodes;
mod listing;
mod metadata;
mod numbers;
mod xattrs;

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use self::ids::Ids;
use self::inodes::{Identity, Inodes};
use self::listing::Name;
use self::metadata::{Metadata, Place, Tail, UNCOMPRESSED};
use self::numbers::Numbers;
use self::xattrs::XattrTable;
use crate::compress::{format_options, Compressor};
use crate::error::{Error, FormatFault};
use crate::merge::tree::{NodeBody, NodeId, Tree, ROOT};
use crate::merge::xattrs::XattrSets;
use crate::options::Compression;
use crate::store::{Layout, Stored};

const SUPERBLOCK: u64 = 96;
const MAGIC: u32 = 0x7371_7368;
/// The file is padded to this, as block devices need.
const PAD: u64 = 4096;

/// Flags: tails in fragments, duplicates looked for, export table, compressor options present.
const FLAGS: u16 = 0x20 | 0x40 | 0x80 | 0x400;

/// Everything the tables are made of.
pub(crate) struct Image<'a> {
    pub(crate) tree: &'a Tree<'a>,
    pub(crate) xattrs: &'a XattrSets,
    /// By number of the data.
    pub(crate) data: &'a [Stored],
    pub(crate) layout: &'a Layout,
    pub(crate) compression: Compression,
    pub(crate) block_size: u32,
    /// Seconds since 1970.
    pub(crate) time: u32,
}

/// What was written.
pub(crate) struct Written {
    pub(crate) size: u64,
    pub(crate) inodes: u64,
}

/// Writes the compressor's options behind where the superblock will be. Data begin where this returns.
pub(crate) fn begin(out: &File, compression: Compression) -> Result<u64, Error> {
    let (_, options) = format_options(compression);
    let mut block = (options.len() as u16 | UNCOMPRESSED).to_le_bytes().to_vec();
    block.extend(options);
    out.write_all_at(&block, SUPERBLOCK).map_err(Error::Write)?;
    Ok(SUPERBLOCK + block.len() as u64)
}

/// Where the tables are, for the superblock.
struct Tables {
    root: Place,
    ids: u16,
    inode: u64,
    directory: u64,
    fragment: u64,
    export: u64,
    id: u64,
    xattr: u64,
}

impl Image<'_> {
    /// Writes tables and superblock.
    pub(crate) fn write(&self, out: &File) -> Result<Written, Error> {
        let compressor = RefCell::new(Compressor::new(self.compression)?);
        let numbers = Numbers::assign(self.tree);
        let mut inodes = Inodes {
            table: Metadata::new(&compressor),
            ids: Ids::default(),
            xattrs: XattrTable::new(self.xattrs, &compressor),
        };
        let mut listings = Metadata::new(&compressor);
        let places = self.inodes(&numbers, &mut inodes, &mut listings)?;

        // The kernel checks that the tables stand in this order, each index right before the next table.
        let mut tail = Tail { out, end: self.layout.end };
        let inode = tail.append(&inodes.table.finish()?.0)?;
        let directory = tail.append(&listings.finish()?.0)?;
        let mut fragments = Metadata::new(&compressor);
        for &(start, size) in &self.layout.fragments {
            fragments.write(&start.to_le_bytes())?;
            fragments.write(&u64::from(size).to_le_bytes())?;
        }
        let fragment = tail.append_indexed(fragments)?;
        let mut export = vec![0u64; numbers.count as usize];
        for (node, place) in places.iter().enumerate() {
            if let (Some(place), number @ 1..) = (place, numbers.of(node as NodeId)) {
                export[number as usize - 1] = place.packed();
            }
        }
        let export = tail.append_indexed(table_of(&compressor, export.iter().map(|r| r.to_le_bytes()))?)?;
        let ids = inodes.ids.all.len() as u16;
        let id =
            tail.append_indexed(table_of(&compressor, inodes.ids.all.iter().map(|id| id.to_le_bytes()))?)?;
        let xattr = inodes.xattrs.finish(&mut tail)?;

        let root = places[ROOT as usize].ok_or(Error::Format(FormatFault::Table))?;
        let tables = Tables { root, ids, inode, directory, fragment, export, id, xattr };
        self.superblock(out, &numbers, &tables, tail.end)?;
        Ok(Written { size: tail.end.next_multiple_of(PAD), inodes: u64::from(numbers.count) })
    }

    /// All inodes and listings; the inodes' places, by node.
    fn inodes(
        &self,
        numbers: &Numbers,
        inodes: &mut Inodes<'_>,
        listings: &mut Metadata<'_>,
    ) -> Result<Vec<Option<Place>>, Error> {
        let mut places: Vec<Option<Place>> = vec![None; self.tree.nodes.len()];
        for &(dir, parent) in &numbers.directories {
            let mut names = Vec::new();
            for (&name, &child) in self.tree.children(dir).into_iter().flatten() {
                let inode = match places[child as usize] {
                    Some(place) => place,
                    None => self.leaf(numbers, inodes, child)?,
                };
                places[child as usize] = Some(inode);
                names.push(Name { name, inode, number: numbers.of(child), kind: self.kind(child) });
            }
            let listing = listing::write(listings, &names)?;
            // The root's parent is a number no inode has, as mksquashfs writes it.
            let above = if dir == ROOT { numbers.count + 1 } else { numbers.of(parent) };
            let meta = &self.tree.node(dir).meta;
            let id = Identity { number: numbers.of(dir), links: numbers.links(dir) };
            places[dir as usize] = Some(inodes.directory(meta, id, above, &listing)?);
        }
        Ok(places)
    }

    fn leaf(&self, numbers: &Numbers, inodes: &mut Inodes<'_>, node: NodeId) -> Result<Place, Error> {
        let id = Identity { number: numbers.of(node), links: numbers.links(node) };
        let node = self.tree.node(node);
        let meta = &node.meta;
        match node.body {
            NodeBody::File(data) => {
                inodes.file(meta, id, &self.data[data as usize], self.layout, self.block_size)
            }
            NodeBody::Symlink(target) => inodes.symlink(meta, id, target),
            NodeBody::Char(device) => inodes.special(inodes::CHAR, meta, id, Some(device)),
            NodeBody::Block(device) => inodes.special(inodes::BLOCK, meta, id, Some(device)),
            NodeBody::Fifo => inodes.special(inodes::FIFO, meta, id, None),
            // Directories are written with their listings, before any name of theirs is.
            NodeBody::Dir(_) => Err(Error::Format(FormatFault::Table)),
        }
    }

    fn kind(&self, node: NodeId) -> u16 {
        match self.tree.node(node).body {
            NodeBody::Dir(_) => inodes::DIR,
            NodeBody::File(_) => inodes::FILE,
            NodeBody::Symlink(_) => inodes::SYMLINK,
            NodeBody::Char(_) => inodes::CHAR,
            NodeBody::Block(_) => inodes::BLOCK,
            NodeBody::Fifo => inodes::FIFO,
        }
    }

    fn superblock(&self, out: &File, numbers: &Numbers, tables: &Tables, end: u64) -> Result<(), Error> {
        let (compressor, _) = format_options(self.compression);
        let mut block = Vec::with_capacity(SUPERBLOCK as usize);
        let fragments = self.layout.fragments.len() as u32;
        for value in [MAGIC, numbers.count, self.time, self.block_size, fragments] {
            block.extend(value.to_le_bytes());
        }
        let block_log = self.block_size.trailing_zeros() as u16;
        for value in [compressor, block_log, FLAGS, tables.ids, 4, 0] {
            block.extend(value.to_le_bytes());
        }
        let Tables { root, inode, directory, fragment, export, id, xattr, .. } = *tables;
        for value in [root.packed(), end, id, xattr, inode, directory, fragment, export] {
            block.extend(value.to_le_bytes());
        }
        // Cuts off what a copy at the end gave back, and pads.
        out.set_len(end).map_err(Error::Write)?;
        out.set_len(end.next_multiple_of(PAD)).map_err(Error::Write)?;
        out.write_all_at(&block, 0).map_err(Error::Write)
    }
}

fn table_of<const N: usize>(
    compressor: &RefCell<Compressor>,
    entries: impl Iterator<Item = [u8; N]>,
) -> Result<Metadata<'_>, Error> {
    let mut table = Metadata::new(compressor);
    for entry in entries {
        table.write(&entry)?;
    }
    Ok(table)
}
