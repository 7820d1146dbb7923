//! Owns the search for the path of a broken inode, for its message: a second way through the listings, after an error.
//! Nothing here is an error; where no path can be found, there is none.

use std::collections::HashMap;

use super::bytes::Bytes;
use super::inodes::{Inodes, DIRECTORY};
use super::invalid::{Invalid, Rule};
use super::layout::Layout;
use super::listings::walk;
use super::table::{escaped, Reader, Table};
use crate::limits::Limits;

/// Most bytes of names that are held.
const NAMES: usize = 16 << 20;
/// Longest path that is shown, in components.
const DEPTH: usize = 512;

/// Adds the path to an error of an inode.
pub(super) fn told<B: Bytes + ?Sized>(
    error: Invalid,
    reader: &Reader<'_, B>,
    layout: &Layout,
    limits: &Limits,
    inodes: &Inodes,
) -> Invalid {
    let Invalid::Broken(mut broken) = error else { return error };
    if let Some(inode) = broken.inode {
        reader.budget.set(limits.metadata_size);
        broken.path = find(inode, reader, layout, limits, inodes);
    }
    Invalid::Broken(broken)
}

fn find<B: Bytes + ?Sized>(
    wanted: u32,
    reader: &Reader<'_, B>,
    layout: &Layout,
    limits: &Limits,
    inodes: &Inodes,
) -> Option<String> {
    let mut names: HashMap<u32, (u32, Vec<u8>)> = HashMap::new();
    let mut held = 0;
    for directory in &inodes.directories {
        let mut table = Table::new(reader, layout.directory.clone(), Rule::ListingCut);
        let listed = table.seek(directory.place).and_then(|()| {
            walk(&mut table, directory, limits, |entry, _| {
                let known = inodes.all.get(entry.number as usize);
                let leads = known.is_some_and(|inode| inode.kind == DIRECTORY);
                if (leads || entry.number == wanted) && held < NAMES {
                    held += entry.name.len() + 64;
                    names.entry(entry.number).or_insert_with(|| (directory.number, entry.name.to_vec()));
                }
                Ok(())
            })
        });
        // The broken one may be among them; the others' names are still good. But it has to end.
        if matches!(listed, Err(Invalid::Broken(broken)) if broken.rule == Rule::LimitMetadata) {
            break;
        }
    }
    let mut parts = vec![];
    let mut at = wanted;
    while at != inodes.root {
        let (parent, name) = names.get(&at).filter(|_| parts.len() < DEPTH)?;
        parts.push(escaped(&String::from_utf8_lossy(name)));
        at = *parent;
    }
    parts.reverse();
    Some(format!("/{}", parts.join("/")))
}
