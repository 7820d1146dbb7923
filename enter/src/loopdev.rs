//! An image through the kernel's SquashFS: loop device and mount, both gone with the last user. The device serves
//! other file systems too.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::call::{new_mount, open_own, Broken, Called};
use crate::sys::{loop_configure, loop_free};

/// How often a device that another process has just taken is given up for the next one. Each round another process
/// made progress, so many are only needed when very many start at once.
const TRIES: u32 = 64;

/// What every image is mounted with, whoever wrote it.
pub(crate) const IMAGE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// What a loop device lets its file system do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read the file.
    ReadOnly,
    /// Change it.
    ReadWrite,
}

/// Mounts an open image, attached nowhere.
pub(crate) fn mount(image: &OwnedFd, path: &Path) -> Called<OwnedFd> {
    let (_device, name) = device(image, path, Access::ReadOnly)?;
    // The mount takes its own hold of the device before `_device` is closed, so autoclear waits for the mount.
    new_mount("squashfs", &[("source", &name), ("ro", "")], IMAGE)
}

/// A loop device of an open file, and its path; gone with its last user.
pub(crate) fn device(file: &OwnedFd, path: &Path, access: Access) -> Called<(OwnedFd, String)> {
    let control = open_own("/dev/loop-control", OFlags::RDWR)?;
    let mut last = Broken::new("ioctl(/dev/loopN, LOOP_CONFIGURE)", Errno::BUSY);
    for round in 0..TRIES {
        let name = format!("/dev/loop{}", loop_free(control.as_fd())?);
        // Read-only: LOOP_CONFIGURE then needs no write access to the file.
        let (flags, readonly) = match access {
            Access::ReadOnly => (OFlags::RDONLY, true),
            Access::ReadWrite => (OFlags::RDWR, false),
        };
        let tried = open_own(&name, flags).and_then(|device| {
            let shown = path.to_string_lossy();
            loop_configure(device.as_fd(), file.as_fd(), &shown, readonly).map(|()| device)
        });
        match tried {
            Ok(device) => return Ok((device, name)),
            // Taken in between (EBUSY), or going away just now (ENXIO).
            Err(broken) if matches!(broken.errno, Errno::BUSY | Errno::NXIO | Errno::AGAIN) => last = broken,
            Err(broken) => return Err(broken),
        }
        std::thread::sleep(Duration::from_micros(50 * u64::from(round.min(20))));
    }
    Err(last)
}
