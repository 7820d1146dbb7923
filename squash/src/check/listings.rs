//! Owns the directory table: every listing, one after the other as they lie there, every name, and what each leads to.

use super::bytes::{u16_at, Bytes};
use super::inodes::{Directory, Inodes, DIRECTORY};
use super::invalid::{Checked, Rule};
use super::layout::{Layout, BLOCK};
use super::table::{escaped, Reader, Table};
use crate::limits::Limits;

/// Most entries under one header (SQUASHFS_DIR_COUNT).
const RUN: u32 = 256;

/// One name.
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) number: u32,
    /// Where its inode is.
    place: u64,
    kind: u16,
}

/// Reads all listings, and notes with each inode how often it is named.
pub(super) fn read<'a, B: Bytes + ?Sized>(
    reader: &'a Reader<'a, B>,
    layout: &Layout,
    limits: &Limits,
    inodes: &mut Inodes,
) -> Checked {
    let mut table = Table::new(reader, layout.directory.clone(), Rule::ListingCut);
    inodes.directories.sort_by_key(|directory| directory.place);
    let directories = std::mem::take(&mut inodes.directories);
    let mut read = || {
        for directory in &directories {
            let place = table.place()?;
            if place != directory.place {
                let detail = format!("{:#x}, not {place:#x}", directory.place);
                return Err(Rule::ListingPlace.broken(
                    Some(table.position()),
                    Some(directory.number),
                    detail,
                ));
            }
            walk(&mut table, directory, limits, |entry, at| note(inodes, directory.number, &entry, at))?;
        }
        match table.done() {
            true => Ok(()),
            false => Err(Rule::ListingRest.at(table.position(), "")),
        }
    };
    let result = read();
    inodes.directories = directories;
    result
}

/// Reads the listing of one directory, which is next in the table. `each` gets every entry, and where it is.
pub(super) fn walk<B: Bytes + ?Sized>(
    table: &mut Table<'_, B>,
    directory: &Directory,
    limits: &Limits,
    mut each: impl FnMut(Entry<'_>, u64) -> Checked,
) -> Checked {
    let number = directory.number;
    let mut index = directory.index.iter();
    let mut due = index.next();
    let (mut left, mut last) = (directory.size, Vec::new());
    while left > 0 {
        let (here, position) = (table.place()?, directory.size - left);
        let at = table.position();
        left = left.checked_sub(12).ok_or_else(|| Rule::EntryCut.broken(Some(at), Some(number), ""))?;
        let (count, block, base) = (table.u32()?, table.u32()?, table.u32()?);
        if count >= RUN {
            return Err(Rule::HeaderCount.broken(Some(at), Some(number), format!("{count} + 1")));
        }
        for n in 0..=count {
            let at = table.position();
            let broken = |rule: Rule, detail: String| rule.broken(Some(at), Some(number), detail);
            let cut = || broken(Rule::EntryCut, String::new());
            left = left.checked_sub(8).ok_or_else(cut)?;
            let head: [u8; 8] = table.array()?;
            let length = usize::from(u16_at(&head, 6)) + 1;
            if length > limits.name_length {
                return Err(broken(Rule::LimitName, format!("{length}, at most {}", limits.name_length)));
            }
            left = left.checked_sub(length as u32).ok_or_else(cut)?;
            let mut name = vec![0; length];
            table.read(&mut name)?;
            ordered(&last, &name).map_err(|rule| broken(rule, shown(&name)))?;
            if n == 0 {
                if let Some(indexed) = due.filter(|indexed| indexed.position <= position) {
                    let right = (indexed.position, u64::from(indexed.block)) == (position, here >> 16);
                    if !right || indexed.name != name {
                        return Err(broken(Rule::DirectoryIndex, shown(&indexed.name)));
                    }
                    due = index.next();
                }
            }
            let number = base.wrapping_add_signed(i32::from(u16_at(&head, 2) as i16));
            let place = u64::from(block) << 16 | u64::from(u16_at(&head, 0));
            each(Entry { name: &name, number, place, kind: u16_at(&head, 4) }, at)?;
            last = name;
        }
    }
    match due {
        None => Ok(()),
        Some(indexed) => Err(Rule::DirectoryIndex.of(number, shown(&indexed.name))),
    }
}

/// Checks a name, which must come after the one before it.
fn ordered(last: &[u8], name: &[u8]) -> Result<(), Rule> {
    if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Rule::EntryName);
    }
    match last.cmp(name) {
        std::cmp::Ordering::Less => Ok(()),
        std::cmp::Ordering::Equal => Err(Rule::EntryTwice),
        std::cmp::Ordering::Greater => Err(Rule::EntryOrder),
    }
}

/// Compares an entry with the inode it leads to.
fn note(inodes: &mut Inodes, parent: u32, entry: &Entry<'_>, at: u64) -> Checked {
    let broken = |rule: Rule, detail: String| {
        let detail = format!("{}{}{detail}", shown(entry.name), if detail.is_empty() { "" } else { ": " });
        Err(rule.broken(Some(at), Some(parent), detail))
    };
    let Some(inode) = inodes.all.get_mut(entry.number as usize).filter(|inode| inode.kind != 0) else {
        return broken(Rule::EntryNumber, entry.number.to_string());
    };
    if inode.place != entry.place || (entry.place & 0xffff) as usize >= BLOCK {
        return broken(Rule::EntryPlace, format!("{:#x}, not {:#x}", entry.place, inode.place));
    }
    if entry.kind != u16::from(inode.kind) {
        return broken(Rule::EntryType, format!("{}, not {}", entry.kind, inode.kind));
    }
    inode.names = inode.names.saturating_add(1);
    let directory = inode.kind == DIRECTORY;
    inodes.all[parent as usize].entries += 1;
    if !directory {
        return Ok(());
    }
    let inode = &inodes.all[entry.number as usize];
    if entry.number == inodes.root {
        return broken(Rule::RootNamed, String::new());
    }
    if inode.names > 1 {
        return broken(Rule::DirectoryTwice, String::new());
    }
    if inode.parent != parent {
        return broken(Rule::DirectoryParent, inode.parent.to_string());
    }
    inodes.all[parent as usize].below += 1;
    Ok(())
}

/// A name as one line.
fn shown(name: &[u8]) -> String {
    escaped(&String::from_utf8_lossy(name))
}
