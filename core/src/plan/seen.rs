//! What was seen of an image when its MPI was ruled on (docs/adr/0009): a node that looks at the same places of a
//! mount nobody has read from yet waits for a millisecond.
//!
//! It is as hostile as the image and may do as much: plans are not trusted, whatever they were made from.

use std::cell::RefCell;
use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde::{Deserialize, Serialize};

use super::resolve::locate;
use super::{Entry, Rootfs};
use crate::ldcache::{self, MAX_CACHE};
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::swap::{Swap, LIBRARY_DIR};

/// The loader's cache.
pub(super) const CACHE: &str = "/etc/ld.so.cache";

/// Most entries.
const MAX_ENTRIES: usize = 500;

/// Longest cache, in bytes; a node makes a longer one itself.
const MAX_KEPT: usize = 24 << 10;

/// Where a swap goes in an image, and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seen {
    /// What is at each of these paths; null: nothing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<AbsPath, Option<Entry>>,
    /// The container's /etc/ld.so.cache, finished, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<String>,
}

impl Seen {
    /// Looks where `swap` goes.
    pub fn of(swap: &Swap, rootfs: &dyn Rootfs) -> Result<Self, Refusal> {
        let notes = Notes { rootfs, entries: RefCell::default() };
        let cache = AbsPath::parse(CACHE)?;
        let above = swap.over.keys().filter_map(AbsPath::parent);
        let bound = swap.extras.iter().map(|extra| extra.destination.clone());
        for path in above.chain(bound).chain([AbsPath::parse(LIBRARY_DIR)?, cache.clone()]) {
            locate(&notes, &path)?;
        }
        let images = rootfs.read(&locate(&notes, &cache)?.path, MAX_CACHE)?.unwrap_or_default();
        let cache = swap.cache(ldcache::parse(&images).ok()).filter(|text| text.len() <= MAX_KEPT);
        Ok(Self { entries: notes.entries.into_inner(), cache: cache.map(|text| STANDARD.encode(text)) })
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What serde does not check.
    pub fn check(&self) -> Result<(), String> {
        let long = self.cache.as_ref().is_some_and(|text| text.len() > MAX_KEPT.div_ceil(3) * 4);
        match self.entries.len() > MAX_ENTRIES || long {
            true => Err("it has seen too much of the image".into()),
            false => Ok(()),
        }
    }

    /// The container's /etc/ld.so.cache, if it was finished.
    pub fn cache(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.cache.as_ref()?).ok()
    }
}

/// Notes what is asked of a tree.
struct Notes<'a> {
    rootfs: &'a dyn Rootfs,
    entries: RefCell<BTreeMap<AbsPath, Option<Entry>>>,
}

impl Rootfs for Notes<'_> {
    fn entry(&self, path: &AbsPath) -> Result<Option<Entry>, Refusal> {
        let entry = self.rootfs.entry(path)?;
        self.entries.borrow_mut().insert(path.clone(), entry.clone());
        Ok(entry)
    }

    fn read(&self, path: &AbsPath, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        self.rootfs.read(path, limit)
    }
}

/// A tree of which something was seen before.
pub(super) struct Known<'a> {
    /// The tree.
    pub rootfs: &'a dyn Rootfs,
    /// What was seen.
    pub seen: Option<&'a Seen>,
}

impl Rootfs for Known<'_> {
    fn entry(&self, path: &AbsPath) -> Result<Option<Entry>, Refusal> {
        let Some(seen) = self.seen else { return self.rootfs.entry(path) };
        let mut at = Some(path.clone());
        while let Some(here) = at {
            match seen.entries.get(&here) {
                Some(entry) if here == *path => return Ok(entry.clone()),
                // Nothing is below what is not there.
                Some(None) => return Ok(None),
                Some(Some(_)) => break,
                None => at = here.parent(),
            }
        }
        self.rootfs.entry(path)
    }

    fn read(&self, path: &AbsPath, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        self.rootfs.read(path, limit)
    }
}
