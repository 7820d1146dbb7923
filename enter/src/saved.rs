//! The tree that `--container-save` saves: the root as tasks change it, without the mounts in it.
//!
//! A copy of the root's mount, with volatile directories mounted on it again, beside the container's own tree; then one
//! descriptor of a read-only copy of all that, attached nowhere. It is for a program that runs as the user.

use std::os::fd::{AsFd, OwnedFd};

use grus_core::path::AbsPath;
use rustix::fs::OFlags;
use rustix::mount::MountAttrFlags;

use crate::apply::Scratch;
use crate::call::{attach, clone_tree, new_dir, open_in, Called, OWN, PLAIN};
use crate::sys::confine;

/// The tree in the making.
#[derive(Debug)]
pub(crate) struct Saved {
    root: OwnedFd,
}

impl Saved {
    /// Of the root, or of the image that it is made of; attached.
    pub fn new(of: &OwnedFd, scratch: &Scratch) -> Called<Self> {
        let root = clone_tree(of.as_fd(), false, "/".as_ref())?;
        // Attached, as only then something can be mounted on it (move_mount(2)).
        let place = new_dir(scratch.dir.as_fd(), c"saved")?;
        attach(root.as_fd(), place.as_fd(), "/".as_ref())?;
        Ok(Self { root })
    }

    /// Adds the overlay of a volatile directory.
    pub fn add(&self, overlay: &OwnedFd, destination: &AbsPath) -> Called<()> {
        let path = destination.as_path();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let on = open_in(self.root.as_fd(), path, flags, OWN)?;
        attach(clone_tree(overlay.as_fd(), false, path)?.as_fd(), on.as_fd(), path)
    }

    /// The finished tree.
    pub fn keep(self) -> Called<OwnedFd> {
        let tree = clone_tree(self.root.as_fd(), true, "/".as_ref())?;
        let set = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        confine(tree.as_fd(), PLAIN | set, "/")?;
        Ok(tree)
    }
}
