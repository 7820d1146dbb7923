//! Storage for upper layers: where the changes of writable directories lie.

use std::os::fd::OwnedFd;

use grus_core::mount::Limit;
use grus_core::site::Site;

use crate::call::{new_mount, During, PLAIN};
use crate::deadline::Deadline;
use crate::disk::Disk;
use crate::failure::{Failure, Phase};

/// An empty file system of root's, attached nowhere and gone with its last mount: in memory or, where the site has
/// `volatile.dir`, on the node's disk.
#[derive(Debug)]
pub(crate) struct Storage {
    /// Its mount.
    pub mount: OwnedFd,
}

impl Storage {
    /// Of the site's `volatile.size`. To be called before the new namespace is made, whose /dev is covered.
    pub fn new(site: &Site, deadline: &Deadline) -> Result<Self, Failure> {
        let mount = match (&site.volatile.dir, site.volatile.size) {
            (Some(dir), Limit::Bytes(size)) => {
                let disk = Disk { dir, size: size.bytes(), phase: Phase::Volatile };
                disk.mount(site, deadline, PLAIN)?
            }
            // A site whose directory has a size in percent is refused when it is read.
            (_, size) => return Self::memory(size),
        };
        Ok(Self { mount })
    }

    /// Of this size, in memory.
    pub fn memory(size: Limit) -> Result<Self, Failure> {
        let size = size.to_string();
        let options = [("source", "grus"), ("size", size.as_str()), ("mode", "0755")];
        Ok(Self { mount: new_mount("tmpfs", &options, PLAIN).during(Phase::Volatile)? })
    }
}
