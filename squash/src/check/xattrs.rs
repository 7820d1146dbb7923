//! Owns the tables of extended attributes: the list of sets, and the pairs of name and value that sets lead to. The pairs
//! are held in memory, as sets and values may lie anywhere in them; their size counts against the tables' ceiling.

use std::collections::HashSet;

use super::bytes::{u16_at, u32_at, u64_at, Bytes};
use super::data::whole;
use super::invalid::{Checked, Rule};
use super::layout::{Layout, BLOCK};
use super::table::{escaped, Reader, Table};
use crate::limits::Limits;

/// Kinds of names, by number (SQUASHFS_XATTR_*), with the length of what the kernel puts before each.
const PREFIXES: [usize; 3] = ["user.".len(), "trusted.".len(), "security.".len()];
/// Set in the kind where the value is stored with another attribute.
const ELSEWHERE: u16 = 0x100;
/// Longest name, and most bytes of names that listxattr(2) tells (XATTR_NAME_MAX, XATTR_LIST_MAX).
const NAME: usize = 255;
const NAMES: usize = 65536;

/// The pairs of all sets, unpacked.
struct Pairs {
    /// Where each block begins in the table; all but the last have [`BLOCK`] bytes.
    blocks: Vec<u64>,
    bytes: Vec<u8>,
    /// Where the table is, for messages.
    at: u64,
}

/// Reads all sets.
pub(super) fn read<B: Bytes + ?Sized>(reader: &Reader<'_, B>, layout: &Layout, limits: &Limits) -> Checked {
    let Some(xattr) = &layout.xattr else { return Ok(()) };
    let mut pairs = Pairs { blocks: vec![], bytes: vec![], at: xattr.pairs.start };
    let mut table = Table::new(reader, xattr.pairs.clone(), Rule::XattrCut);
    while !table.done() {
        pairs.blocks.push(table.place()? >> 16);
        let begin = pairs.bytes.len();
        let size = table.rest();
        pairs.bytes.resize(begin + size, 0);
        table.read(&mut pairs.bytes[begin..])?;
    }
    let mut list = Table::indexed(reader, &xattr.list);
    for n in 0..xattr.count {
        let (place, count, size) = (list.u64()?, list.u32()?, list.u32()?);
        let bytes = pairs.set(n, place, (count, size), limits)?;
        // Many sets may share their bytes; the work is bounded all the same.
        reader.charge(bytes as u64, list.position())?;
    }
    whole(&list)
}

impl Pairs {
    /// Where in the bytes a place is.
    fn find(&self, place: u64) -> Option<usize> {
        let block = self.blocks.binary_search(&(place >> 16)).ok()?;
        let at = block * BLOCK + (place & 0xffff) as usize;
        ((place & 0xffff) < BLOCK as u64 && at < self.bytes.len()).then_some(at)
    }

    /// Checks one set; how many bytes it has.
    fn set(&self, n: u32, place: u64, (count, size): (u32, u32), limits: &Limits) -> Checked<usize> {
        let broken = |rule: Rule, detail: String| {
            let gap = if detail.is_empty() { "" } else { ": " };
            rule.at(self.at, format!("set {n}{gap}{detail}"))
        };
        if count == 0 {
            return Err(broken(Rule::XattrEmpty, String::new()));
        }
        let begin = self.find(place).ok_or_else(|| broken(Rule::XattrPlace, format!("{place:#x}")))?;
        let cut = || broken(Rule::XattrCut, String::new());
        // Names as listxattr(2) has them, and values.
        let (mut names, mut values) = (0, 0);
        let mut at = begin;
        let mut seen = HashSet::new();
        for _ in 0..count {
            let head = self.bytes.get(at..at + 4).ok_or_else(cut)?;
            let (kind, length) = (u16_at(head, 0), usize::from(u16_at(head, 2)));
            let name = self.bytes.get(at + 4..at + 4 + length).ok_or_else(cut)?;
            let Some(prefix) = PREFIXES.get(usize::from(kind & !ELSEWHERE)) else {
                return Err(broken(Rule::XattrPrefix, format!("{kind:#x}")));
            };
            let shown = || escaped(&String::from_utf8_lossy(name));
            if name.is_empty() || name.contains(&0) || prefix + length > NAME {
                return Err(broken(Rule::XattrName, shown()));
            }
            if !seen.insert((kind & !ELSEWHERE, name)) {
                return Err(broken(Rule::XattrTwice, shown()));
            }
            let value = at + 4 + length;
            at = self
                .value(value, limits)
                .ok_or_else(cut)?
                .map_err(|size| broken(Rule::LimitXattr, format!("{}, {size} bytes", shown())))?;
            let mut bytes = at - value - 4;
            if kind & ELSEWHERE != 0 {
                let there = self.elsewhere(value, at, limits);
                bytes = there.ok_or_else(|| broken(Rule::XattrValue, shown()))?;
            }
            names += prefix + length + 1;
            values += bytes;
            if names > NAMES {
                return Err(broken(Rule::LimitXattr, format!("names of more than {NAMES} bytes")));
            }
        }
        // mksquashfs states the latter, Grus and others the former; the kernel looks at neither.
        let (stored, listed) = (at - begin, names + values);
        match [stored, listed].contains(&(size as usize)) {
            true => Ok(stored),
            false => Err(broken(Rule::XattrSize, format!("{stored} or {listed} bytes, not {size}"))),
        }
    }

    /// Where the value ends whose length is at `at`; its size where that is over the limit. None where the table ends.
    fn value(&self, at: usize, limits: &Limits) -> Option<Result<usize, u32>> {
        let size = u32_at(self.bytes.get(at..at + 4)?, 0);
        if size as usize > limits.xattr_value {
            return Some(Err(size));
        }
        let end = at + 4 + size as usize;
        (end <= self.bytes.len()).then_some(Ok(end))
    }

    /// The length of the value that the one at `at`, which ends at `end`, leads to.
    fn elsewhere(&self, at: usize, end: usize, limits: &Limits) -> Option<usize> {
        let there = (end - at == 12).then(|| self.find(u64_at(&self.bytes, at + 4))).flatten()?;
        self.value(there, limits)?.ok().map(|end| end - there - 4)
    }
}
