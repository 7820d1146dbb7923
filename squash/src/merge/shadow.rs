//! Owns the guess at which files of lower layers are hidden, made while layers pass top first. Only an
//! optimisation: the replay decides, and asks for a second pass where a guess was wrong.

use std::collections::hash_map::{Entry, HashMap};

use super::record::{Body, LayerRecord};

/// This name is taken by an upper layer: a lower file of this name is hidden.
const TAKEN: u8 = 1;
/// Nothing of lower layers shows below this name.
const COVERS: u8 = 2;
/// An upper layer has a hard link to this name: do not hide it.
const WANTED: u8 = 4;

const ROOT: u32 = 0;

/// What complete upper layers say of names, as a tree of names.
pub(crate) struct Shadow {
    children: HashMap<(u32, Box<[u8]>), u32>,
    /// By node number.
    flags: Vec<u8>,
    max_nodes: u64,
}

impl Shadow {
    /// One that knows no more than `max_nodes` names: a path of 4 KiB can have 512 of them.
    pub(crate) fn new(max_nodes: u64) -> Shadow {
        Shadow { children: HashMap::new(), flags: vec![0], max_nodes }
    }

    /// Adds a complete layer. Links are judged first: what hides a name in this layer does not unwant
    /// the target of a link in it.
    pub(crate) fn add(&mut self, layer: &LayerRecord) {
        for record in &layer.entries {
            let Body::HardLink(target) = record.body else { continue };
            if !self.hides(layer.name(record.path)) {
                self.note(layer.name(target), WANTED);
            }
        }
        for record in &layer.entries {
            let flags = match record.body {
                Body::Dir => TAKEN,
                Body::Opaque => COVERS,
                _ => TAKEN | COVERS,
            };
            self.note(layer.name(record.path), flags);
        }
    }

    /// Whether a regular file of this plain path in the next lower layer seems hidden.
    pub(crate) fn hides(&self, path: &[u8]) -> bool {
        let mut node = ROOT;
        let mut covered = false;
        for name in path.split(|&b| b == b'/') {
            covered |= self.flags[node as usize] & COVERS != 0;
            // Boxed for the look-up only; names are short and the allocator is fast.
            match self.children.get(&(node, name.into())) {
                Some(&child) => node = child,
                None => return covered,
            }
        }
        let flags = self.flags[node as usize];
        flags & WANTED == 0 && (covered || flags & TAKEN != 0)
    }

    /// Notes what is said of a name; nothing where there are too many, which makes for a worse guess only.
    fn note(&mut self, path: &[u8], flags: u8) {
        let mut node = ROOT;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let next = self.flags.len() as u32;
            node = match self.children.entry((node, name.into())) {
                Entry::Occupied(child) => *child.get(),
                Entry::Vacant(_) if u64::from(next) > self.max_nodes => return,
                Entry::Vacant(place) => {
                    self.flags.push(0);
                    *place.insert(next)
                }
            };
        }
        self.flags[node as usize] |= flags;
    }
}
