//! Owns the id table: users and groups, each number once.

use std::collections::HashMap;

use crate::error::{Error, FormatFault};

/// Ids in the order they are first needed.
#[derive(Default)]
pub(super) struct Ids {
    pub(super) all: Vec<u32>,
    indexes: HashMap<u32, u16>,
}

impl Ids {
    pub(super) fn index(&mut self, id: u32) -> Result<u16, Error> {
        if let Some(&index) = self.indexes.get(&id) {
            return Ok(index);
        }
        // The superblock counts them in 16 bits, so 65535 is the most.
        let index = u16::try_from(self.all.len()).ok().filter(|&index| index < u16::MAX);
        let index = index.ok_or(Error::Format(FormatFault::Ids))?;
        self.all.push(id);
        self.indexes.insert(id, index);
        Ok(index)
    }
}
