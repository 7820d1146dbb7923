//! The image file: opened once, as the user, judged by that descriptor, mounted from that descriptor.

use std::os::fd::OwnedFd;
use std::path::Path;

use grus_core::plan::How;
use grus_core::refusal::printable;
use grus_core::site::{Site, UserImages};
use grus_core::Refusal;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::call::{open, stat, Broken, Called, During};
use crate::failure::{reason, Failure, Phase};
use crate::fuse::{self, Owner};
use crate::loopdev;
use crate::server::Served;
use crate::trust::{is_regular, why_not_kernels};
use crate::validated;

/// Length of the SquashFS 4.0 superblock that is looked at.
const SUPERBLOCK: usize = 96;

/// An image, opened.
#[derive(Debug)]
pub(crate) struct Image {
    /// The file, readable.
    pub file: OwnedFd,
}

impl Image {
    /// Opens the file at `path` with the permissions in force, and checks that it is a whole SquashFS.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Self::of(open(path, OFlags::RDONLY | OFlags::NONBLOCK), path)
    }

    /// Checks that what was opened at `path` is a whole SquashFS.
    pub fn of(opened: Called<OwnedFd>, path: &Path) -> Result<Self, Failure> {
        let name = printable(&path.to_string_lossy());
        let file = opened.map_err(|b| cannot_open(&name, &b))?;
        let status = stat(&file, path).during(Phase::Image)?;
        if !is_regular(&status) {
            return Err(not_an_image(&name, "it is not a regular file").into());
        }
        let mut head = [0; 512];
        // One without a size may be a user's in /proc, which answers when the user wants.
        let length = match status.st_size {
            0 => 0,
            _ => head_of(&file, &mut head)
                .map_err(|e| Broken::new(format!("pread({name})"), e).during(Phase::Image))?,
        };
        check(&name, &head[..length], status.st_size as u64)?;
        Ok(Self { file })
    }

    /// How it is to be mounted (ADR 4): by the kernel if root alone can have written it, else as the site says. Where that
    /// is the kernel too, it is looked at first.
    pub fn how(&self, path: &Path, site: &Site, owner: &Owner<'_>) -> Result<How, Failure> {
        match self.admitted(path, site)? {
            None => Ok(How::Kernel),
            Some(UserImages::Kernel) => {
                validated::check(&self.file, path, site, owner.identity, validated::TIME)
                    .map(|()| How::Kernel)
            }
            Some(UserImages::Fuse | UserImages::Refuse) => Ok(How::Fuse),
        }
    }

    /// Mounts it, attached nowhere: the mount, and its server where it has one, which `started` is told of.
    pub fn mount(
        &self,
        how: How,
        path: &Path,
        site: &Site,
        owner: &Owner<'_>,
        phase: Phase,
        started: impl FnOnce(&Served),
    ) -> Result<(OwnedFd, Option<Served>), Failure> {
        match how {
            How::Kernel | How::Cached => Ok((loopdev::mount(&self.file, path).during(phase)?, None)),
            How::Fuse | How::Unpacked => {
                let (mount, served) = fuse::mount(&self.file, &site.security.squashfuse, owner, started)?;
                Ok((mount, Some(served)))
            }
        }
    }

    /// What the site says of it if a user can have written it; None: root alone can. Refused where the site has none but
    /// its own.
    pub fn admitted(&self, path: &Path, site: &Site) -> Result<Option<UserImages>, Failure> {
        let why = why_not_kernels(&self.file, path, &site.repository.system).during(Phase::Image)?;
        let Some(why) = why else { return Ok(None) };
        match site.security.user_images {
            policy @ (UserImages::Fuse | UserImages::Kernel) => Ok(Some(policy)),
            UserImages::Refuse => {
                let name = printable(&path.to_string_lossy());
                Err(Refusal::user(format!(
                    "image {name}: this site runs those of its system repository only, and {why}"
                ))
                .hint("ask the administrator to add the image to the system repository")
                .into())
            }
        }
    }
}

fn head_of(file: &OwnedFd, head: &mut [u8]) -> Result<usize, Errno> {
    let mut length = 0;
    while length < head.len() {
        match rustix::io::pread(file, &mut head[length..], length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

/// Refuses what is not a whole SquashFS 4.0 file, before any mount.
fn check(name: &str, head: &[u8], size: u64) -> Result<(), Refusal> {
    if head.len() < 4 || head[..4] != *b"hsqs" {
        let archive = head.starts_with(&[0x1f, 0x8b]) || head.get(257..262) == Some(b"ustar");
        return Err(match archive {
            true => Refusal::image(format!("image {name} is an archive, not a SquashFS file"))
                .hint(format!("turn it into an image first: grus import {name}")),
            false => not_an_image(name, "it is not a SquashFS file"),
        });
    }
    let truncated = |whole: String| {
        Refusal::image(format!("image {name} is truncated: {size} of {whole} bytes are there"))
            .hint("pull, import or copy the image again")
    };
    if head.len() < SUPERBLOCK {
        return Err(truncated(format!("at least {SUPERBLOCK}")));
    }
    // Superblock: version major at 28, minor at 30, bytes used at 40, all little-endian (squashfs_fs.h).
    let (major, minor) = (u16::from_le_bytes([head[28], head[29]]), u16::from_le_bytes([head[30], head[31]]));
    if (major, minor) != (4, 0) {
        return Err(not_an_image(name, &format!("it is SquashFS {major}.{minor}, and only 4.0 is known")));
    }
    let used = u64::from_le_bytes(head[40..48].try_into().unwrap_or([0xff; 8]));
    match used <= size {
        true => Ok(()),
        false => Err(truncated(used.to_string())),
    }
}

fn not_an_image(name: &str, why: &str) -> Refusal {
    Refusal::image(format!("{name} is not an image: {why}"))
        .hint("name a file made by 'grus pull', 'grus import' or mksquashfs, or an image reference")
}

fn cannot_open(name: &str, broken: &Broken) -> Failure {
    let what = format!("cannot open image {name}: {}", reason(broken.errno));
    let hint = match broken.errno {
        Errno::NOENT | Errno::NOTDIR => "check the path; it must exist on every node of the job",
        Errno::ACCESS | Errno::PERM => {
            "it is opened with your own permissions; check them on the file and above it"
        }
        Errno::LOOP => "name the file itself; links of /proc are not followed",
        _ => "check the file on this node",
    };
    Refusal::user(what).hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: u16, used: u64) -> Vec<u8> {
        let mut head = vec![0; SUPERBLOCK];
        head[..4].copy_from_slice(b"hsqs");
        head[28..30].copy_from_slice(&version.to_le_bytes());
        head[40..48].copy_from_slice(&used.to_le_bytes());
        head
    }

    #[test]
    fn only_whole_squashfs_4_passes() {
        assert_eq!(check("i", &head(4, 4096), 4096), Ok(()));
        for (bytes, size, text) in [
            (head(4, 4097), 4096, "image i is truncated: 4096 of 4097 bytes are there"),
            (head(4, 9)[..50].to_vec(), 50, "image i is truncated: 50 of at least 96 bytes are there"),
            (head(3, 1), 4096, "i is not an image: it is SquashFS 3.0, and only 4.0 is known"),
            (vec![], 0, "i is not an image: it is not a SquashFS file"),
            (b"#!/bin/sh".to_vec(), 9, "i is not an image: it is not a SquashFS file"),
            (b"\x1f\x8b\x08\0".to_vec(), 4, "image i is an archive, not a SquashFS file"),
        ] {
            assert_eq!(check("i", &bytes, size).expect_err(text).what, text);
        }
    }
}
