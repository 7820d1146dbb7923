//! Owns the meaning of layers: their records are played bottom up into one tree, as an extractor would
//! act on a disk. Within a layer, first what it takes from lower layers, then its entries in order; so
//! markers mean the same before and after their siblings (OCI image-spec, layer.md: whiteouts apply to
//! lower layers only).

use std::collections::HashSet;

use super::path::LINK_TARGETS;
use super::record::{Body, LayerRecord, Record};
use super::tree::{split, Missing, NodeBody, NodeId, Tree, ROOT};
use crate::error::MergeFault;

/// A contradiction, with the path of the entry that made it.
#[derive(Debug)]
pub(crate) struct Misfit<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) what: MergeFault,
}

/// Plays one layer onto the tree of the layers below it.
pub(crate) fn replay<'a>(tree: &mut Tree<'a>, layer: &'a LayerRecord) -> Result<(), Misfit<'a>> {
    take_away(tree, layer)?;
    for record in &layer.entries {
        let path = layer.name(record.path);
        put(tree, layer, record, path).map_err(|what| Misfit { path, what })?;
    }
    // Their other names have them now; a later layer has its own.
    if let Some(root) = tree.children_mut(ROOT) {
        root.remove(LINK_TARGETS);
    }
    Ok(())
}

/// Whiteouts and opaque markers. A lower symlink on the way is followed, unless this layer has a
/// directory in its place: then nothing of the lower layers is below, and following would delete what
/// the symlink led to. (Replacing `lib -> usr/lib` by an opaque directory `lib` must leave usr/lib.)
fn take_away<'a>(tree: &mut Tree<'a>, layer: &'a LayerRecord) -> Result<(), Misfit<'a>> {
    if !layer.entries.iter().any(|r| matches!(r.body, Body::Whiteout | Body::Opaque)) {
        return Ok(());
    }
    let dirs: HashSet<&[u8]> =
        layer.entries.iter().filter(|r| matches!(r.body, Body::Dir)).map(|r| layer.name(r.path)).collect();
    let replaced = |path: &[u8]| dirs.contains(path);
    let missing = Missing::GiveUpUnless(&replaced);
    for record in &layer.entries {
        let path = layer.name(record.path);
        let misfit = |what| Misfit { path, what };
        match record.body {
            Body::Whiteout => {
                let Some((parent, name)) = split(path) else { continue };
                let dir = tree.directory(parent, &missing).map_err(misfit)?;
                if let Some(children) = dir.and_then(|dir| tree.children_mut(dir)) {
                    children.remove(name);
                }
            }
            Body::Opaque => {
                let dir = tree.directory(path, &missing).map_err(misfit)?;
                if let Some(children) = dir.and_then(|dir| tree.children_mut(dir)) {
                    children.clear();
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn put<'a>(
    tree: &mut Tree<'a>,
    layer: &'a LayerRecord,
    record: &'a Record,
    path: &'a [u8],
) -> Result<(), MergeFault> {
    let body = match record.body {
        Body::Whiteout | Body::Opaque => return Ok(()),
        Body::HardLink(target) => {
            let node = link_target(tree, layer.name(target))?;
            let (parent, name) = split(path).ok_or(MergeFault::RootNotDirectory)?;
            return bind(tree, parent, name, node);
        }
        Body::Dir => return put_directory(tree, record, path),
        Body::File(data) => NodeBody::File(data),
        Body::Symlink(target) => NodeBody::Symlink(layer.name(target)),
        Body::Char(device) => NodeBody::Char(device),
        Body::Block(device) => NodeBody::Block(device),
        Body::Fifo => NodeBody::Fifo,
    };
    let (parent, name) = split(path).ok_or(MergeFault::RootNotDirectory)?;
    let node = tree.add(record.meta, body);
    bind(tree, parent, name, node)
}

/// A directory over a directory takes its metadata and keeps its children; over anything else it stands
/// in its place (a symlink to a directory included, as Docker and umoci do).
fn put_directory<'a>(tree: &mut Tree<'a>, record: &'a Record, path: &'a [u8]) -> Result<(), MergeFault> {
    let Some((parent, name)) = split(path) else {
        tree.nodes[ROOT as usize].meta = record.meta;
        return Ok(());
    };
    let dir = parent_directory(tree, parent)?;
    match tree.child(dir, name) {
        Some(old) if tree.children(old).is_some() => tree.nodes[old as usize].meta = record.meta,
        _ => {
            let node = tree.add(record.meta, NodeBody::Dir(Default::default()));
            if let Some(children) = tree.children_mut(dir) {
                children.insert(name, node);
            }
        }
    }
    Ok(())
}

/// Gives `node` a name; what had it before loses it, a directory with all below it.
fn bind<'a>(tree: &mut Tree<'a>, parent: &'a [u8], name: &'a [u8], node: NodeId) -> Result<(), MergeFault> {
    let dir = parent_directory(tree, parent)?;
    if let Some(children) = tree.children_mut(dir) {
        children.insert(name, node);
    }
    Ok(())
}

fn parent_directory<'a>(tree: &mut Tree<'a>, path: &'a [u8]) -> Result<NodeId, MergeFault> {
    tree.directory(path, &Missing::Make)?.ok_or(MergeFault::ParentNotDirectory)
}

/// The node a hard link shares, whichever layer made it. The last component is not followed, as by
/// link(2). The link's own metadata is ignored, as by tar: the inode has its own.
fn link_target<'a>(tree: &mut Tree<'a>, target: &'a [u8]) -> Result<NodeId, MergeFault> {
    let (parent, name) = split(target).ok_or(MergeFault::LinkToDirectory)?;
    let dir = tree.directory(parent, &Missing::GiveUp)?;
    let node = dir.and_then(|dir| tree.child(dir, name)).ok_or(MergeFault::LinkTargetMissing)?;
    match tree.children(node) {
        Some(_) => Err(MergeFault::LinkToDirectory),
        None => Ok(node),
    }
}
