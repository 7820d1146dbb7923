//! Owns the verdict on a SquashFS file that a stranger made: whether everything in it is as the format has it, before a
//! kernel, or anything else that trusts it, reads it. It reads, and changes nothing.
//!
//! It stands on the format alone (the kernel's fs/squashfs and mksquashfs), as a parser of its own: the reader that Grus
//! inspects images with (backhand) goes down directories by recursion, holds whole tables in memory, and takes what it
//! does not need to look at; and a check that shared code with Grus's writer would share its mistakes. It is safe Rust;
//! only zstd's decoder is C. Tables are read a metadata block at a time, in the order they lie in the file; some 32 bytes
//! are kept of each inode. So whatever an image states, memory and time stay below its [`Limits`].
//!
//! It is stricter than the kernel: tables without gaps, names in order, link counts right, nothing behind the image. What
//! mksquashfs, and Grus, write keeps all of it. An owner's mistake and an attack look the same here.
//!
//! A check says what the bytes were when they were read. Whoever can still write the file can change them afterwards.

mod bytes;
mod data;
mod inodes;
mod invalid;
mod layout;
mod listings;
mod path;
mod table;
mod tree;
mod unpack;
mod xattrs;

use std::cell::{Cell, RefCell};

pub use self::bytes::Bytes;
pub use self::invalid::{Broken, Invalid, Rule};

use self::data::Data;
use self::inodes::Inodes;
use self::layout::Layout;
use self::table::Reader;
use self::unpack::Unpacker;
use crate::limits::Limits;

/// What a valid image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its compression: gzip, xz, lz4 or zstd.
    pub compression: &'static str,
    /// Bytes of a full data block.
    pub block_size: u32,
    /// Bytes of the image, padding left out.
    pub size: u64,
    /// Inodes of all types.
    pub inodes: u32,
    /// Regular files, each once however many names it has.
    pub files: u32,
    /// Directories.
    pub directories: u32,
    /// Bytes of all regular files, holes counted.
    pub file_bytes: u64,
}

/// How much of an image is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its structure: all that the kernel parses.
    Structure,
    /// The data blocks too, each of which is unpacked.
    Data,
}

/// Checks the structure of an image, such as an open file.
///
/// Of `limits`, those that bound layers alone mean nothing here. `metadata_size` is for all unpacked tables together.
pub fn validate<B: Bytes + ?Sized>(image: &B, limits: &Limits) -> Result<Report, Invalid> {
    validate_to(image, limits, Depth::Structure)
}

/// Checks an image to this depth.
pub fn validate_to<B: Bytes + ?Sized>(image: &B, limits: &Limits, depth: Depth) -> Result<Report, Invalid> {
    let layout = layout::layout(image, limits)?;
    layout::trailing(image, &layout)?;
    let unpacker = RefCell::new(Unpacker::new(layout.method, layout.dictionary)?);
    let reader = Reader { image, unpacker, budget: Cell::new(limits.metadata_size) };
    let mut inodes = Inodes::default();
    let checked = tables(&reader, &layout, limits, depth, &mut inodes);
    let file_bytes = checked.map_err(|error| path::told(error, &reader, &layout, limits, &inodes))?;
    Ok(Report {
        compression: layout.compression,
        block_size: layout.block_size,
        size: layout.used,
        inodes: layout.inodes,
        files: inodes.files,
        directories: inodes.directory_count,
        file_bytes,
    })
}

/// Checks all tables; how many bytes the files have.
fn tables<B: Bytes + ?Sized>(
    reader: &Reader<'_, B>,
    layout: &Layout,
    limits: &Limits,
    depth: Depth,
    inodes: &mut Inodes,
) -> Result<u64, Invalid> {
    tree::owners(reader, layout)?;
    xattrs::read(reader, layout, limits)?;
    let mut data = Data::new(reader, layout, limits, depth == Depth::Data)?;
    inodes::read(reader, layout, limits, &mut data, inodes)?;
    listings::read(reader, layout, limits, inodes)?;
    tree::read(inodes, limits)?;
    tree::exported(reader, layout, inodes)?;
    Ok(data.total)
}
