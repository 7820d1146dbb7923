//! An image through the kernel's SquashFS: loop device and mount, both gone with the last user. The device serves
//! other file systems too.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::call::{new_mount, open_own, Broken, Called, PLAIN};
use crate::sys::{loop_configure, loop_free};

/// How often a device that another process has just taken is given up for the next one. Each round another process
/// made progress, so many are only needed when very many start at once.
const TRIES: u32 = 64;

/// What every image is mounted with, whoever wrote it.
pub(crate) const IMAGE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY.union(PLAIN);

/// What a loop device lets its file system do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read the file.
    ReadOnly,
    /// Change it.
    ReadWrite,
}

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_config` of linux/loop.h, its `struct loop_info64` written out.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LoopConfig {
    fd: u32,
    block_size: u32,
    device_inode_rdevice: [u64; 3],
    offset_sizelimit: [u64; 2],
    number_encryption: [u32; 3],
    flags: u32,
    file_name: [u8; 64],
    crypt_name_key: [u8; 96],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// A device of `file`, gone by itself with its last user. `name` is shown by losetup(8).
fn config(file: &OwnedFd, name: &str, access: Access) -> LoopConfig {
    let mut file_name = [0; 64];
    for (to, from) in file_name[..63].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        device_inode_rdevice: [0; 3],
        offset_sizelimit: [0; 2],
        number_encryption: [0; 3],
        flags: LO_FLAGS_AUTOCLEAR | if access == Access::ReadOnly { LO_FLAGS_READ_ONLY } else { 0 },
        file_name,
        crypt_name_key: [0; 96],
        init: [0; 2],
        reserved: [0; 8],
    }
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
        let flags = if access == Access::ReadOnly { OFlags::RDONLY } else { OFlags::RDWR };
        let tried = open_own(&name, flags).and_then(|device| {
            let config = config(file, &path.to_string_lossy(), access);
            loop_configure(device.as_fd(), &config).map(|()| device)
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
