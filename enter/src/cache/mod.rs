//! The node's cache: copies of users' images that root made and checked, for the kernel to mount.
//!
//! `images/HEX` is a copy, named by the SHA-256 of its content; `known/KEY` is another name of it (a hard link), where
//! KEY is of one user and of one state of one file (device, inode, size, times). So a user is given a copy only for
//! bytes that this user has shown, whatever a file claims to be; a changed file is another KEY; and a launch that finds
//! its copy costs one open. A KEY that is a file of its own says why that image is not for the cache; its mode tells it
//! from a copy, which may lose its other name at any moment.
//!
//! A copy is written to a file without a name and linked once it is complete, on the disk and checked: there is never a
//! part of one, also after a crash. One copy is made at a time; who finds another at work does not wait. Nothing here
//! fails a launch: without a copy, the image is served by squashfuse.

mod room;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use grus_core::digest::Digest;
use grus_core::refusal::Cause;
use grus_core::site::Site;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::Digest as _;

use crate::call::{open_own, proc_path, shown, stat, Broken, Called};
use crate::deadline::Deadline;
use crate::failure::{reason, Failure};
use crate::program::Identity;
use crate::trust::{is_on_fuse, is_regular, why_not_kernels};
use crate::validated;

/// How long a copy may take, and its check: what is left of a launch's time is for a server.
const TIME: Duration = Duration::from_secs(30);

/// Whose id the check has: near the end of the numbers, where no name service has anybody, and not -1 or -2.
const NOBODY: u32 = 0xffff_fff0;

/// Bytes that are read, hashed and written at once.
const PART: usize = 1 << 20;

/// Most bytes of a reason.
const MAX_REASON: usize = 1000;

/// The mode of a copy: it can be read by all who have its descriptor, which is for the check, and written by none.
const COPY: u32 = 0o444;

/// The mode of a reason.
const REASON: u32 = 0o400;

/// What the cache has for an image.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A copy that the kernel may mount, and whether it was made just now.
    Copy(OwnedFd, &'static str),
    /// None, and why.
    None(String),
}

/// Finds or makes a copy of an image that `uid` has opened.
pub(crate) fn copy_of(image: &OwnedFd, site: &Site, uid: u32, deadline: &Deadline) -> Option<Answer> {
    let dir = site.node_cache.dir.as_ref()?;
    let answer = Cache::open(dir.as_path(), site, uid).and_then(|cache| match cache {
        Ok(cache) => cache.copy_of(image, deadline),
        Err(why) => Ok(Answer::None(why)),
    });
    Some(answer.unwrap_or_else(|b| Answer::None(format!("{}: {}", b.call, reason(b.errno)))))
}

/// The directory, opened.
#[derive(Debug)]
struct Cache<'a> {
    dir: OwnedFd,
    images: OwnedFd,
    known: OwnedFd,
    site: &'a Site,
    uid: u32,
}

impl<'a> Cache<'a> {
    /// Opens it; root alone must have access to it, and to all above it must root alone write.
    fn open(path: &Path, site: &'a Site, uid: u32) -> Called<Result<Self, String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let broken = |e| Broken::new(format!("open({})", shown(path)), e);
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(broken)?;
        if let Some(why) = why_not_kernels(&dir, path, "")? {
            return Ok(Err(format!("node-cache.dir is not trusted: {why}")));
        }
        let within = |name: &str| {
            let broken = |e| Broken::new(format!("open({}/{name})", shown(path)), e);
            match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(broken(e)),
            }
            let opened = rustix::fs::openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty());
            let opened = opened.map_err(broken)?;
            let status = stat(&opened, name.as_ref())?;
            // Copies of what others may not read are in it.
            match (status.st_uid, status.st_mode & 0o077) {
                (0, 0) => Ok(opened),
                _ => Err(broken(Errno::PERM)),
            }
        };
        let (images, known) = (within("images")?, within("known")?);
        Ok(Ok(Self { dir, images, known, site, uid }))
    }

    fn copy_of(&self, image: &OwnedFd, deadline: &Deadline) -> Called<Answer> {
        // Its server may say anything of a file, and may keep whoever reads it waiting.
        if is_on_fuse(image, "image".as_ref())? {
            return Ok(Answer::None("the image is on a FUSE file system".into()));
        }
        let (key, size) = self.key(image)?;
        if let Some(found) = self.known(&key)? {
            return Ok(found);
        }
        let most = self.site.node_cache.size.bytes();
        if size > most {
            return Ok(Answer::None("the image is larger than the cache".into()));
        }
        let Some(_lock) = self.lock()? else {
            return Ok(Answer::None("another image is being copied".into()));
        };
        // Whoever had the lock before may have made it.
        if let Some(found) = self.known(&key)? {
            return Ok(found);
        }
        // One may be there that says nothing.
        room::unlink(&self.known, &key)?;
        if !room::make(&self.images, &self.known, size, most)? {
            return Ok(Answer::None("the cache is full of images in use".into()));
        }
        let end = Instant::now() + TIME;
        let late = || deadline.passed() || Instant::now() >= end;
        let (copy, digest) = match self.copied(image, size, late)? {
            Ok(copied) => copied,
            // Another time it may be otherwise: nothing is noted.
            Err(why) => return Ok(Answer::None(why)),
        };
        if self.key(image)?.0 != key {
            return Ok(Answer::None("the image changed while it was copied".into()));
        }
        self.publish(&key, copy, &digest)
    }

    /// One user's name for this state of the file, and its size.
    fn key(&self, image: &OwnedFd) -> Called<(String, u64)> {
        let s = stat(image, "image".as_ref())?;
        let key = format!(
            "{}.{:x}.{:x}.{:x}.{:x}.{:x}.{:x}.{:x}",
            self.uid, s.st_dev, s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec
        );
        Ok((key, s.st_size as u64))
    }

    /// What is noted for a key; its use is noted.
    fn known(&self, key: &str) -> Called<Option<Answer>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.known, key, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(Broken::new("open(known)", e)),
        };
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ };
        // Only a record; of a copy and of a reason alike.
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
        let status = stat(&file, key.as_ref())?;
        if !is_regular(&status) || status.st_uid != 0 {
            return Err(Broken::new("open(known)", Errno::PERM));
        }
        if status.st_mode & 0o777 == COPY {
            return Ok(Some(Answer::Copy(file, "found")));
        }
        let mut text = [0; MAX_REASON];
        let length = rustix::io::pread(&file, &mut text, 0).map_err(|e| Broken::new("pread(known)", e))?;
        // One that a crash of the node has emptied says nothing.
        Ok((length > 0).then(|| Answer::None(String::from_utf8_lossy(&text[..length]).into_owned())))
    }

    /// The right to make copies; None while another has it.
    fn lock(&self) -> Called<Option<Lock>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let broken = |e| Broken::new("flock(node-cache lock)", e);
        let lock = rustix::fs::openat(&self.dir, "lock", flags, Mode::RUSR | Mode::WUSR).map_err(broken)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(lock))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(broken(e)),
        }
    }

    /// A copy without a name, on the disk, and the digest of what is in it.
    fn copied(
        &self,
        image: &OwnedFd,
        size: u64,
        late: impl Fn() -> bool,
    ) -> Called<Result<(OwnedFd, Digest), String>> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(&self.images, ".", flags, Mode::from_raw_mode(COPY))
            .map_err(|e| Broken::new("open(node-cache, O_TMPFILE)", e))?;
        // Whatever this thread's umask.
        rustix::fs::fchmod(&copy, Mode::from_raw_mode(COPY)).map_err(|e| Broken::new("fchmod(copy)", e))?;
        let mut hash = sha2::Sha256::new();
        let mut part = vec![0; PART];
        let mut at = 0;
        while at < size {
            if late() {
                return Ok(Err(format!("copying it took longer than {} s", TIME.as_secs())));
            }
            let read = rustix::io::pread(image, &mut part, at).map_err(|e| Broken::new("pread(image)", e))?;
            if read == 0 {
                return Ok(Err("it is shorter than it says".into()));
            }
            hash.update(&part[..read]);
            let mut rest = &part[..read];
            while !rest.is_empty() {
                let written = rustix::io::write(&copy, rest).map_err(|e| Broken::new("write(copy)", e))?;
                rest = &rest[written..];
            }
            at += read as u64;
        }
        rustix::fs::fsync(&copy).map_err(|e| Broken::new("fsync(copy)", e))?;
        // What is mounted must not be open for writing anywhere.
        let readable = open_own(&proc_path(&copy), OFlags::RDONLY)?;
        Ok(Ok((readable, Digest::from_bytes(&hash.finalize().into()))))
    }

    /// Gives a checked copy its names; or, where there is one of the same content, that one another name.
    fn publish(&self, key: &str, copy: OwnedFd, digest: &Digest) -> Called<Answer> {
        let hex = digest.hex();
        let broken = |e| Broken::new("linkat(copy)", e);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, how) = match rustix::fs::openat(&self.images, hex, flags, Mode::empty()) {
            Ok(there) => (there, "found by its content"),
            Err(Errno::NOENT) => {
                match self.check(&copy) {
                    Ok(()) => {}
                    Err(Failure::Refused(why)) if why.cause == Cause::Image => {
                        return self.refused(key, why.what)
                    }
                    Err(failure) => return Ok(Answer::None(failure.what())),
                }
                let follow = AtFlags::SYMLINK_FOLLOW;
                rustix::fs::linkat(rustix::fs::CWD, proc_path(&copy), &self.images, hex, follow)
                    .map_err(broken)?;
                (copy, "made")
            }
            Err(e) => return Err(Broken::new("open(images)", e)),
        };
        rustix::fs::linkat(&self.images, hex, &self.known, key, AtFlags::empty()).map_err(broken)?;
        Ok(Answer::Copy(file, how))
    }

    /// Whether a kernel parser may meet the copy: hostile bytes are hostile under any name. `grus verify` reads it in a
    /// process that has no rights at all, so that the user cannot reach it, and what it parses cannot reach slurmstepd.
    fn check(&self, copy: &OwnedFd) -> Result<(), Failure> {
        let nobody = Identity { uid: NOBODY, gid: NOBODY, gids: &[] };
        validated::check(copy, Path::new("of the user's"), self.site, Some(nobody), TIME)
    }

    /// Notes why this one is not for the cache, so that it is not copied at each launch. Like a copy, a note has its name
    /// only once it is whole.
    fn refused(&self, key: &str, why: String) -> Called<Answer> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let broken = |e| Broken::new("write(known)", e);
        let mode = Mode::from_raw_mode(REASON);
        let note = rustix::fs::openat(&self.known, ".", flags, mode).map_err(broken)?;
        let text = &why.as_bytes()[..why.len().min(MAX_REASON)];
        rustix::io::write(note.as_fd(), text).map_err(broken)?;
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(rustix::fs::CWD, proc_path(&note), &self.known, key, follow).map_err(broken)?;
        Ok(Answer::None(why))
    }
}

/// Given up by name: a process that is forked meanwhile has the file open, too.
struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests;
