//! Owns inode numbers, link counts and the order inodes are written in: directories after all below them,
//! so that a listing can point at inodes already written.

use crate::merge::tree::{NodeId, Tree, ROOT};

/// Number of an inode that no name leads to.
const NONE: u32 = 0;

/// What every inode must know of the others.
pub(super) struct Numbers {
    /// By node; from 1.
    numbers: Vec<u32>,
    /// By node: names of a file, 2 + subdirectories of a directory.
    links: Vec<u32>,
    /// All directories, children first, each with its parent.
    pub(super) directories: Vec<(NodeId, NodeId)>,
    /// How many inodes there are.
    pub(super) count: u32,
}

impl Numbers {
    pub(super) fn of(&self, node: NodeId) -> u32 {
        self.numbers[node as usize]
    }

    pub(super) fn links(&self, node: NodeId) -> u32 {
        self.links[node as usize]
    }

    /// Numbers the tree. Without recursion: an image may nest as deep as its limits allow.
    pub(super) fn assign(tree: &Tree<'_>) -> Numbers {
        let size = tree.nodes.len();
        let mut all =
            Numbers { numbers: vec![NONE; size], links: vec![0; size], directories: Vec::new(), count: 0 };
        // Parents come before children here; written backwards, children come before parents.
        let mut todo = vec![(ROOT, ROOT)];
        while let Some((dir, parent)) = todo.pop() {
            all.directories.push((dir, parent));
            let children = tree.children(dir).into_iter().flatten();
            todo.extend(children.filter(|(_, &c)| tree.children(c).is_some()).map(|(_, &c)| (c, dir)));
        }
        all.directories.reverse();
        for i in 0..all.directories.len() {
            let (dir, _) = all.directories[i];
            all.links[dir as usize] = 2;
            for &child in tree.children(dir).into_iter().flat_map(|c| c.values()) {
                if tree.children(child).is_some() {
                    all.links[dir as usize] += 1;
                    continue;
                }
                all.links[child as usize] += 1;
                all.number(child);
            }
            all.number(dir);
        }
        all
    }

    fn number(&mut self, node: NodeId) {
        if self.numbers[node as usize] == NONE {
            self.count += 1;
            self.numbers[node as usize] = self.count;
        }
    }
}
