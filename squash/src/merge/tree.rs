//! Owns the image's tree in memory: nodes, names, and the resolution of paths inside the root.

use std::collections::BTreeMap;

use super::record::{Meta, NO_XATTRS};
use crate::error::MergeFault;
use crate::limits::Limits;

/// A node's place in [`Tree::nodes`].
pub(crate) type NodeId = u32;

/// The root's place.
pub(crate) const ROOT: NodeId = 0;

/// Symlinks followed on one path, as in the kernel (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

/// What an inode is. Names are borrowed from the layers' records.
pub(crate) enum NodeBody<'a> {
    Dir(BTreeMap<&'a [u8], NodeId>),
    /// Number of its data.
    File(u32),
    Symlink(&'a [u8]),
    Char(u32),
    Block(u32),
    Fifo,
}

/// An inode to be.
pub(crate) struct Node<'a> {
    pub(crate) meta: Meta,
    pub(crate) body: NodeBody<'a>,
}

/// All nodes ever made. Those no name leads to any more are garbage and never written.
pub(crate) struct Tree<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    implicit: Meta,
    max_depth: usize,
    max_nodes: u64,
}

/// What to do where a path has no such directory.
pub(crate) enum Missing<'f> {
    /// Make it, as an extractor makes parents.
    Make,
    /// Give up quietly.
    GiveUp,
    /// Give up quietly; likewise at a symlink whose own path the function knows to be replaced.
    GiveUpUnless(&'f dyn Fn(&[u8]) -> bool),
}

impl<'a> Tree<'a> {
    /// A tree of one root directory. `time` dates directories nobody made an entry for.
    pub(crate) fn new(time: u32, limits: &Limits) -> Tree<'a> {
        let implicit = Meta { mode: 0o755, uid: 0, gid: 0, mtime: time, xattrs: NO_XATTRS };
        let root = Node { meta: implicit, body: NodeBody::Dir(BTreeMap::new()) };
        Tree { nodes: vec![root], implicit, max_depth: limits.path_depth, max_nodes: limits.entries }
    }

    pub(crate) fn add(&mut self, meta: Meta, body: NodeBody<'a>) -> NodeId {
        self.nodes.push(Node { meta, body });
        (self.nodes.len() - 1) as NodeId
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    pub(crate) fn children(&self, id: NodeId) -> Option<&BTreeMap<&'a [u8], NodeId>> {
        match &self.node(id).body {
            NodeBody::Dir(children) => Some(children),
            _ => None,
        }
    }

    pub(crate) fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<&'a [u8], NodeId>> {
        match &mut self.nodes[id as usize].body {
            NodeBody::Dir(children) => Some(children),
            _ => None,
        }
    }

    pub(crate) fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children(dir)?.get(name).copied()
    }

    /// The directory at a plain path, symlinks followed, never leaving the root: an absolute target
    /// starts at the image's root, and `..` of the root is the root.
    pub(crate) fn directory(
        &mut self,
        path: &'a [u8],
        missing: &Missing<'_>,
    ) -> Result<Option<NodeId>, MergeFault> {
        let mut here = vec![ROOT];
        let mut todo: Vec<&'a [u8]> = components(path).rev().collect();
        let (mut symlinks, mut consumed) = (0, 0);
        while let Some(name) = todo.pop() {
            let dir = here[here.len() - 1];
            if symlinks == 0 {
                consumed += name.len() + usize::from(consumed > 0);
            }
            if name == b".." {
                here.truncate((here.len() - 1).max(1));
                continue;
            }
            let Some(next) = self.child(dir, name) else {
                match missing {
                    Missing::Make => here.push(self.make_implicit(dir, name, here.len())?),
                    _ => return Ok(None),
                }
                continue;
            };
            match &self.node(next).body {
                NodeBody::Dir(_) => here.push(next),
                NodeBody::Symlink(target) => {
                    let target: &'a [u8] = target;
                    if let (Missing::GiveUpUnless(replaced), 0) = (missing, symlinks) {
                        if replaced(&path[..consumed]) {
                            return Ok(None);
                        }
                    }
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(MergeFault::SymlinkLoop);
                    }
                    if target.starts_with(b"/") {
                        here.truncate(1);
                    }
                    todo.extend(components(target).rev());
                }
                _ if matches!(missing, Missing::Make) => return Err(MergeFault::ParentNotDirectory),
                _ => return Ok(None),
            }
        }
        if here.len() > self.max_depth && matches!(missing, Missing::Make) {
            return Err(MergeFault::ParentImpossible); // symlinks can add up to more than any entry's path
        }
        Ok(here.last().copied())
    }

    fn make_implicit(&mut self, dir: NodeId, name: &'a [u8], depth: usize) -> Result<NodeId, MergeFault> {
        // A dangling symlink's target has not been through the checks on entries' names.
        if name.len() > 255 || depth > self.max_depth {
            return Err(MergeFault::ParentImpossible);
        }
        // One entry can have a parent for every other byte of its path.
        if self.nodes.len() as u64 > self.max_nodes {
            return Err(MergeFault::TooManyParents(self.max_nodes));
        }
        let node = self.add(self.implicit, NodeBody::Dir(BTreeMap::new()));
        if let Some(children) = self.children_mut(dir) {
            children.insert(name, node);
        }
        Ok(node)
    }

    /// Calls `visit` for every node a name leads to, once, parents first.
    pub(crate) fn reachable(&self, mut visit: impl FnMut(&Node<'a>)) {
        let mut seen = vec![false; self.nodes.len()];
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            if std::mem::replace(&mut seen[id as usize], true) {
                continue;
            }
            visit(self.node(id));
            todo.extend(self.children(id).into_iter().flat_map(BTreeMap::values));
        }
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// A plain path as parent and last name; `None` for the root.
pub(crate) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    })
}
