//! Owns the xattr tables: attributes of each different set, and the list of sets that inodes point into.

use std::collections::HashMap;

use super::metadata::{Metadata, Tail};
use crate::compress::Compressor;
use crate::error::Error;
use crate::merge::record::NO_XATTRS;
use crate::merge::xattrs::XattrSets;

/// The tables, in the order inodes need the sets: unused sets are left out.
pub(super) struct XattrTable<'c> {
    sets: &'c XattrSets,
    pairs: Metadata<'c>,
    list: Metadata<'c>,
    indexes: HashMap<u32, u32>,
}

impl<'c> XattrTable<'c> {
    pub(super) fn new(sets: &'c XattrSets, compressor: &'c std::cell::RefCell<Compressor>) -> Self {
        XattrTable {
            sets,
            pairs: Metadata::new(compressor),
            list: Metadata::new(compressor),
            indexes: HashMap::new(),
        }
    }

    /// What an inode with this set states.
    pub(super) fn index(&mut self, set: u32) -> Result<u32, Error> {
        if set == NO_XATTRS {
            return Ok(u32::MAX);
        }
        if let Some(&index) = self.indexes.get(&set) {
            return Ok(index);
        }
        let place = self.pairs.place()?;
        let mut size = 0u32;
        let xattrs = self.sets.set(set);
        for (prefix, name, value) in xattrs {
            let mut pair = Vec::with_capacity(8 + name.len() + value.len());
            pair.extend(prefix.to_le_bytes());
            pair.extend((name.len() as u16).to_le_bytes());
            pair.extend(name);
            pair.extend((value.len() as u32).to_le_bytes());
            pair.extend(value);
            size += pair.len() as u32;
            self.pairs.write(&pair)?;
        }
        self.list.write(&place.packed().to_le_bytes())?;
        self.list.write(&(xattrs.len() as u32).to_le_bytes())?;
        self.list.write(&size.to_le_bytes())?;
        let index = self.indexes.len() as u32;
        self.indexes.insert(set, index);
        Ok(index)
    }

    /// Writes the tables; where their header is, or all ones if there are none.
    pub(super) fn finish(self, tail: &mut Tail<'_>) -> Result<u64, Error> {
        if self.indexes.is_empty() {
            return Ok(u64::MAX);
        }
        let (pairs, _) = self.pairs.finish()?;
        let pairs_start = tail.append(&pairs)?;
        let (list, starts) = self.list.finish()?;
        let base = tail.append(&list)?;
        let mut header = pairs_start.to_le_bytes().to_vec();
        header.extend((self.indexes.len() as u32).to_le_bytes());
        header.extend(0u32.to_le_bytes());
        header.extend(starts.iter().flat_map(|start| (base + start).to_le_bytes()));
        tail.append(&header)
    }
}
