//! Owns the inode table, read from its first byte to its last: every type, every field. What it finds of an inode is kept
//! in a few bytes, for the listings to be compared with.

use super::bytes::{u16_at, u32_at, Bytes};
use super::data::{Content, Data};
use super::invalid::{Broken, Checked, Invalid, Rule};
use super::layout::Layout;
use super::table::{Reader, Table};
use crate::limits::Limits;

/// Types of inodes and of names; an extended inode's is 7 higher (squashfs_fs.h).
pub(super) const DIRECTORY: u8 = 1;
pub(super) const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const CHARACTER: u8 = 5;
const SOCKET: u8 = 7;
const NO_XATTR: u32 = u32::MAX;
/// What an entry of an index takes in memory beside its name, in bytes.
const KEPT: usize = 64;

/// What is kept of an inode.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// Where it is in the table, as references have it.
    pub(super) place: u64,
    pub(super) links: u32,
    /// Names that were found to lead to it.
    pub(super) names: u32,
    /// A directory's parent, as it says; directories, and names of all kinds, that were found in it.
    pub(super) parent: u32,
    pub(super) below: u32,
    pub(super) entries: u32,
    /// A directory's distance from the root, once that is known.
    pub(super) depth: u32,
    /// 0 where no inode has this number.
    pub(super) kind: u8,
}

/// A directory whose listing is yet to be read.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) number: u32,
    /// Where its listing is in the directory table.
    pub(super) place: u64,
    /// Bytes of its listing.
    pub(super) size: u32,
    pub(super) index: Vec<Indexed>,
}

/// An entry of a directory's index: where in the listing it leads, in which block that is, the first name there.
#[derive(Debug)]
pub(super) struct Indexed {
    pub(super) position: u32,
    pub(super) block: u32,
    pub(super) name: Vec<u8>,
}

/// All inodes.
#[derive(Default)]
pub(super) struct Inodes {
    /// By number; the first is none's.
    pub(super) all: Vec<Inode>,
    /// Those with something in them.
    pub(super) directories: Vec<Directory>,
    /// The root's number; 0 until it was found.
    pub(super) root: u32,
    pub(super) files: u32,
    pub(super) directory_count: u32,
}

/// What one inode states, beside what is kept of it.
struct Head {
    number: u32,
    kind: u8,
    extended: bool,
}

/// Reads the inode table into `inodes`, which has what was read also after an error.
pub(super) fn read<'a, B: Bytes + ?Sized>(
    reader: &'a Reader<'a, B>,
    layout: &Layout,
    limits: &Limits,
    data: &mut Data<'a, B>,
    inodes: &mut Inodes,
) -> Checked {
    let mut table = Table::new(reader, layout.inode.clone(), Rule::InodeCut);
    inodes.all = vec![Inode::default(); layout.inodes as usize + 1];
    let mut count = 0u32;
    while !table.done() {
        let place = table.place()?;
        let at = table.position();
        count += 1;
        if count > layout.inodes {
            return Err(Rule::InodeTotal.at(at, format!("more than {}", layout.inodes)));
        }
        one(&mut table, place, layout, limits, data, inodes).map_err(|error| located(error, at))?;
    }
    if count != layout.inodes {
        return Err(Rule::InodeTotal.at(4, format!("{count} of {}", layout.inodes)));
    }
    match inodes.root {
        0 => Err(Rule::RootPlace.at(32, format!("{:#x}", layout.root))),
        root if inodes.all[root as usize].kind != DIRECTORY => Err(Rule::RootType.of(root, "")),
        _ => Ok(()),
    }
}

/// An error of an inode, which is in the block at `at`.
fn located(error: Invalid, at: u64) -> Invalid {
    match error {
        Invalid::Broken(broken) if broken.at.is_none() => {
            Invalid::Broken(Box::new(Broken { at: Some(at), ..*broken }))
        }
        error => error,
    }
}

fn one<'a, B: Bytes + ?Sized>(
    table: &mut Table<'a, B>,
    place: u64,
    layout: &Layout,
    limits: &Limits,
    data: &mut Data<'a, B>,
    inodes: &mut Inodes,
) -> Checked {
    let head = head(table, layout)?;
    let Head { number, kind, extended } = head;
    let known = &inodes.all[number as usize];
    if known.kind != 0 {
        return Err(Rule::InodeTwice.of(number, ""));
    }
    let mut inode = Inode { place, kind, ..Inode::default() };
    let xattr = match kind {
        DIRECTORY => {
            let (directory, xattr) = directory(table, &head, &mut inode, limits)?;
            inodes.directory_count += 1;
            if directory.size > 0 {
                inodes.directories.push(directory);
            }
            xattr
        }
        FILE => {
            inodes.files += 1;
            file(table, &head, &mut inode, data)?
        }
        SYMLINK => symlink(table, &head, &mut inode, limits)?,
        _ => {
            inode.links = table.u32()?;
            if kind <= CHARACTER {
                // A device's number: any will do.
                table.u32()?;
            }
            if extended {
                table.u32()?
            } else {
                NO_XATTR
            }
        }
    };
    let sets = layout.xattr.as_ref().map_or(0, |xattr| xattr.count);
    if xattr != NO_XATTR && xattr >= sets {
        return Err(Rule::XattrIndex.of(number, format!("{xattr} of {sets}")));
    }
    if place == layout.root {
        inodes.root = number;
    }
    inodes.all[number as usize] = inode;
    Ok(())
}

/// The fields that all inodes begin with.
fn head<B: Bytes + ?Sized>(table: &mut Table<'_, B>, layout: &Layout) -> Checked<Head> {
    let base: [u8; 16] = table.array()?;
    let number = u32_at(&base, 12);
    let (kind, mode) = (u16_at(&base, 0), u16_at(&base, 2));
    if !(1..=14).contains(&kind) {
        return Err(Rule::InodeType.of(number, kind.to_string()));
    }
    if number == 0 || number > layout.inodes {
        return Err(Rule::InodeNumber.of(number, format!("of {}", layout.inodes)));
    }
    if mode & !0o7777 != 0 {
        return Err(Rule::InodeMode.of(number, format!("{mode:#o}")));
    }
    for owner in [u16_at(&base, 4), u16_at(&base, 6)] {
        if owner >= layout.id_count {
            return Err(Rule::InodeOwner.of(number, format!("{owner} of {}", layout.id_count)));
        }
    }
    let extended = kind > u16::from(SOCKET);
    let kind = if extended { kind as u8 - SOCKET } else { kind as u8 };
    Ok(Head { number, kind, extended })
}

fn file<'a, B: Bytes + ?Sized>(
    table: &mut Table<'a, B>,
    head: &Head,
    inode: &mut Inode,
    data: &mut Data<'a, B>,
) -> Checked<u32> {
    let number = head.number;
    let (content, xattr) = if head.extended {
        let (start, size, holes) = (table.u64()?, table.u64()?, table.u64()?);
        inode.links = table.u32()?;
        let (fragment, offset) = (table.u32()?, table.u32()?);
        (Content { number, start, size, fragment, offset, holes }, table.u32()?)
    } else {
        inode.links = 1;
        let (start, fragment, offset) = (table.u32()?.into(), table.u32()?, table.u32()?);
        let size = table.u32()?.into();
        (Content { number, start, size, fragment, offset, holes: 0 }, NO_XATTR)
    };
    data.file(&content, table)?;
    Ok(xattr)
}

fn symlink<B: Bytes + ?Sized>(
    table: &mut Table<'_, B>,
    head: &Head,
    inode: &mut Inode,
    limits: &Limits,
) -> Checked<u32> {
    inode.links = table.u32()?;
    let length = table.u32()? as usize;
    if length == 0 {
        return Err(Rule::LinkLength.of(head.number, ""));
    }
    // Longer ones are not readable: the kernel wants them to fit into a page (fs/squashfs/inode.c).
    if length > limits.path_length {
        return Err(Rule::LimitTarget.of(head.number, format!("{length}, at most {}", limits.path_length)));
    }
    let mut target = vec![0; length];
    table.read(&mut target)?;
    if target.contains(&0) {
        return Err(Rule::LinkNul.of(head.number, ""));
    }
    if head.extended {
        table.u32()
    } else {
        Ok(NO_XATTR)
    }
}

fn directory<B: Bytes + ?Sized>(
    table: &mut Table<'_, B>,
    head: &Head,
    inode: &mut Inode,
    limits: &Limits,
) -> Checked<(Directory, u32)> {
    let number = head.number;
    let (block, offset, size, indexes, xattr);
    if head.extended {
        inode.links = table.u32()?;
        size = table.u32()?;
        block = table.u32()?;
        inode.parent = table.u32()?;
        indexes = table.u16()?;
        offset = table.u16()?;
        xattr = table.u32()?;
    } else {
        block = table.u32()?;
        inode.links = table.u32()?;
        size = table.u16()?.into();
        offset = table.u16()?;
        inode.parent = table.u32()?;
        (indexes, xattr) = (0, NO_XATTR);
    }
    // 3 stand for . and ..; the shortest listing is a header and a name of one byte.
    let Some(size) = size.checked_sub(3).filter(|size| *size == 0 || *size > 12 + 8) else {
        return Err(Rule::DirectorySize.of(number, size.to_string()));
    };
    // The kernel follows an index without looking whether there is anything to find (fs/squashfs/namei.c).
    if size == 0 && indexes > 0 {
        return Err(Rule::DirectoryIndex.of(number, "of an empty directory"));
    }
    let mut index = vec![];
    for _ in 0..indexes {
        let (position, block, length) = (table.u32()?, table.u32()?, table.u32()?);
        let length = length as usize;
        if length >= limits.name_length {
            return Err(Rule::LimitName.of(number, format!("in its index, {length} + 1")));
        }
        let mut name = vec![0; length + 1];
        table.read(&mut name)?;
        table.charge(KEPT)?;
        index.push(Indexed { position, block, name });
    }
    let place = u64::from(block) << 16 | u64::from(offset);
    Ok((Directory { number, place, size, index }, xattr))
}
