//! Owns what must hold once all names are known: every inode is named as often as it says, and all directories hang on
//! the root. No recursion: an image may nest as it likes.

use super::bytes::Bytes;
use super::data::whole;
use super::inodes::{Inodes, DIRECTORY};
use super::invalid::{Checked, Rule};
use super::layout::Layout;
use super::table::{Reader, Table};
use crate::limits::Limits;

/// Compares names and counts of links, then walks up from every directory.
pub(super) fn read(inodes: &mut Inodes, limits: &Limits) -> Checked {
    for (number, inode) in inodes.all.iter().enumerate().skip(1) {
        let number = number as u32;
        let root = number == inodes.root;
        if inode.names == 0 && !root {
            return Err(Rule::Unnamed.of(number, ""));
        }
        if inode.kind == DIRECTORY {
            // Each of the directories in it links to it, and so do its name and its `.`; squashfs-tools-ng counts all that
            // is in it.
            let links = [inode.below, inode.entries].map(|below| below.saturating_add(2));
            if !links.contains(&inode.links) {
                let detail = format!("{}, with {} directories in it", inode.links, inode.below);
                return Err(Rule::DirectoryLinks.of(number, detail));
            }
        } else if inode.links != inode.names {
            return Err(Rule::Links.of(number, format!("{} names, {} links", inode.names, inode.links)));
        }
    }
    let mut way = vec![];
    for number in 1..inodes.all.len() as u32 {
        if inodes.all[number as usize].kind == DIRECTORY {
            depth(inodes, number, limits, &mut way)?;
        }
    }
    Ok(())
}

/// Notes how far a directory is from the root. Its parents are right by now: each directory has one name, in the
/// directory that it says.
fn depth(inodes: &mut Inodes, number: u32, limits: &Limits, way: &mut Vec<u32>) -> Checked {
    let mut at = number;
    while at != inodes.root && inodes.all[at as usize].depth == 0 {
        if way.len() >= inodes.directory_count as usize {
            return Err(Rule::Cycle.of(number, ""));
        }
        way.push(at);
        at = inodes.all[at as usize].parent;
    }
    let mut depth = inodes.all[at as usize].depth;
    while let Some(at) = way.pop() {
        depth += 1;
        if depth as usize > limits.path_depth {
            return Err(Rule::LimitDepth.of(at, format!("at most {}", limits.path_depth)));
        }
        inodes.all[at as usize].depth = depth;
    }
    Ok(())
}

/// Compares the export table with where inodes are.
pub(super) fn exported<B: Bytes + ?Sized>(
    reader: &Reader<'_, B>,
    layout: &Layout,
    inodes: &Inodes,
) -> Checked {
    let Some(indexed) = &layout.export else { return Ok(()) };
    let mut table = Table::indexed(reader, indexed);
    for (number, inode) in inodes.all.iter().enumerate().skip(1) {
        let place = table.u64()?;
        if place != inode.place {
            let detail = format!("{place:#x}, not {:#x}", inode.place);
            return Err(Rule::ExportEntry.broken(Some(table.position()), Some(number as u32), detail));
        }
    }
    whole(&table)
}

/// Reads the table of owners.
pub(super) fn owners<B: Bytes + ?Sized>(reader: &Reader<'_, B>, layout: &Layout) -> Checked {
    let mut table = Table::indexed(reader, &layout.id);
    for n in 0..layout.id_count {
        // (uid_t) -1 stands for "do not change" in chown(2), and no one can be it.
        if table.u32()? == u32::MAX {
            return Err(Rule::IdValue.at(table.position(), format!("number {n}")));
        }
    }
    whole(&table)
}
