//! Owns which extended attributes an image keeps, and stores each different set once.

use std::collections::HashMap;
use std::rc::Rc;

use super::record::NO_XATTRS;

/// The three namespaces SquashFS has numbers for, in its order.
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// An attribute: namespace by SquashFS's number, name without it, value.
pub(crate) type Xattr = (u16, Vec<u8>, Vec<u8>);

/// All different sets of attributes, by number.
#[derive(Default)]
pub(crate) struct XattrSets {
    sets: Vec<Rc<[Xattr]>>,
    numbers: HashMap<Rc<[Xattr]>, u32>,
    /// POSIX ACLs left out.
    pub(crate) dropped_acls: u64,
    /// Other attributes left out.
    pub(crate) dropped: u64,
}

impl XattrSets {
    /// The number of this set, [`NO_XATTRS`] if nothing of it can be kept.
    pub(crate) fn number(&mut self, all: Vec<(Vec<u8>, Vec<u8>)>) -> u32 {
        let mut kept: Vec<Xattr> =
            all.into_iter().filter_map(|(name, value)| self.judge(&name, value)).collect();
        if kept.is_empty() {
            return NO_XATTRS;
        }
        kept.sort();
        kept.dedup_by(|later, first| (later.0, &later.1) == (first.0, &first.1));
        if let Some(&number) = self.numbers.get(kept.as_slice()) {
            return number;
        }
        let set: Rc<[Xattr]> = kept.into();
        let number = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.numbers.insert(set, number);
        number
    }

    pub(crate) fn set(&self, number: u32) -> &[Xattr] {
        &self.sets[number as usize]
    }

    /// Keeps what SquashFS can store, but for overlayfs' own attributes: an image could use them to
    /// redirect or hide files of the overlay it is mounted under (kernel: filesystems/overlayfs.rst).
    fn judge(&mut self, full: &[u8], value: Vec<u8>) -> Option<Xattr> {
        if full.starts_with(b"system.posix_acl_") {
            self.dropped_acls += 1;
            return None;
        }
        let found = PREFIXES.iter().enumerate().find_map(|(i, p)| Some((i as u16, full.strip_prefix(*p)?)));
        // The kernel takes names of up to 255 bytes, namespace included (XATTR_NAME_MAX).
        let possible = full.len() <= 255 && !full.contains(&0);
        match found {
            Some((prefix, name)) if possible && !name.is_empty() && !steers_overlay(prefix, name) => {
                Some((prefix, name.to_vec(), value))
            }
            _ => {
                self.dropped += 1;
                None
            }
        }
    }
}

/// overlayfs reads `trusted.overlay.*`, and `user.overlay.*` when mounted with userxattr.
fn steers_overlay(prefix: u16, name: &[u8]) -> bool {
    prefix < 2 && name.starts_with(b"overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Vec<(Vec<u8>, Vec<u8>)> {
        names.iter().map(|n| (n.as_bytes().to_vec(), b"v".to_vec())).collect()
    }

    #[test]
    fn same_sets_share_a_number_whatever_their_order() {
        let mut sets = XattrSets::default();
        let first = sets.number(set(&["user.a", "security.b"]));
        assert_eq!(sets.number(set(&["security.b", "user.a"])), first);
        assert_ne!(sets.number(set(&["user.a"])), first);
        assert_eq!(sets.number(vec![]), NO_XATTRS);
    }

    #[test]
    fn foreign_and_overlay_attributes_are_dropped_and_counted() {
        let mut sets = XattrSets::default();
        let dropped = [
            "system.posix_acl_access",
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "btrfs.x",
            "user.",
        ];
        assert_eq!(sets.number(set(&dropped)), NO_XATTRS);
        assert_eq!((sets.dropped_acls, sets.dropped), (1, 4));
        // Not overlayfs': it reads user. and trusted. only.
        assert_ne!(sets.number(set(&["security.overlay.x"])), NO_XATTRS);
    }
}
