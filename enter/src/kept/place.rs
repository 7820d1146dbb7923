//! Where kept containers are noted: `named.dir/NODE.JOB/NAME/`, all of it root's alone.
//!
//! `NODE.JOB` is a small tmpfs of its own. So one umount(2) takes all of a job away, nothing is there after a reboot,
//! and since it is a private mount, namespaces can be bound in it (mount_namespaces(7), unshare(1)).

use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use grus_core::kept::Kept;
use grus_core::path::AbsPath;
use grus_core::Refusal;
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, StatxAttributes, StatxFlags, Timespec, Timestamps, UTIME_NOW,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use crate::call::{attach, new_mount, proc_path, shown, Broken, Called, During};
use crate::deadline::Deadline;
use crate::failure::{Failure, Phase};
use crate::read::{contents, Small};
use crate::server::Served;
use crate::sys::confine;
use crate::trust::why_not_roots;

/// Notes and empty files: some hundred containers of one job.
const SIZE: &str = "4m";

/// What a job's mount is.
const CLOSED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// `NSFS_MAGIC` (linux/magic.h).
const NSFS: u64 = 0x6e73_6673;

/// The pinned namespace.
const NAMESPACE: &str = "ns";

/// The note.
const NOTE: &str = "container.json";

/// Most bytes of a note; an image's metadata is the most of it.
const MAX_NOTE: usize = 8 << 20;

/// How long to wait before a lock is tried again.
const AGAIN: Duration = Duration::from_millis(3);

/// `named.dir`, and the name in it of one job on one node.
#[derive(Debug)]
pub(crate) struct Jobs {
    dir: OwnedFd,
    path: PathBuf,
    own: CString,
}

impl Jobs {
    /// Opens `named.dir`, which is made if it is missing. It and all above it must be root's alone.
    pub fn open(dir: &AbsPath, node: &str, job: u32) -> Result<Self, Failure> {
        let path = dir.as_path();
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Broken::new(format!("mkdir({})", shown(path)), e).during(Phase::Kept)),
        }
        Self::existing(path, node, job)?
            .ok_or_else(|| Broken::new(format!("open({})", shown(path)), Errno::NOENT).during(Phase::Kept))
    }

    /// The same, where it is there.
    pub fn existing(path: &Path, node: &str, job: u32) -> Result<Option<Self>, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(Broken::new(format!("open({})", shown(path)), e).during(Phase::Kept)),
        };
        if let Some(why) = why_not_roots(&dir, path).during(Phase::Kept)? {
            return Err(Refusal::site(format!("named containers cannot be kept in {}: {why}", shown(path)))
                .hint("the administrator must mend named.dir in grus.toml: it must be writable by root only")
                .into());
        }
        // Slurm's names of nodes have no slash; one would lead elsewhere.
        let node = node.replace('/', "_");
        let own = CString::new(format!("{node}.{job}")).unwrap_or_default();
        Ok(Some(Self { dir, path: path.join(OsStr::new(&format!("{node}.{job}"))), own }))
    }

    /// The job's own mount, made at first need. The calling thread must be where it is to be mounted.
    pub fn job(&self, deadline: &Deadline) -> Called<OwnedFd> {
        match rustix::fs::mkdirat(&self.dir, &self.own, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(self.broken("mkdir", e)),
        }
        if let Some(there) = self.found()? {
            return Ok(there);
        }
        lock(&self.dir, deadline)?;
        let made = self.mounted();
        let _ = rustix::fs::flock(&self.dir, FlockOperation::Unlock);
        made
    }

    /// The mount, where it is there. Confined, whoever made it: a mount becomes one of its parent's peers by being
    /// attached (mount_namespaces(7)), and who attached it may have been killed before it was taken out of them.
    fn found(&self) -> Called<Option<OwnedFd>> {
        let there = self.enter()?;
        if !is_mount(&there)? {
            return Ok(None);
        }
        confine(there.as_fd(), CLOSED, &shown(&self.path))?;
        Ok(Some(there))
    }

    /// Under the lock: another step may have been faster.
    fn mounted(&self) -> Called<OwnedFd> {
        if let Some(there) = self.found()? {
            return Ok(there);
        }
        let options = [("source", "grus"), ("size", SIZE), ("mode", "0700")];
        let (tmpfs, there) = (new_mount("tmpfs", &options, CLOSED)?, self.enter()?);
        attach(tmpfs.as_fd(), there.as_fd(), &self.path)?;
        confine(tmpfs.as_fd(), CLOSED, &shown(&self.path))?;
        // A directory that can be read: fsmount(2) gives a mere place.
        self.enter()
    }

    fn enter(&self) -> Called<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, &self.own, flags, Mode::empty()).map_err(|e| self.broken("open", e))
    }

    /// Takes the job's mount off, with all that is pinned in it, and ends the servers of its containers; tasks go on. The
    /// calling thread must be where it is mounted.
    pub fn remove(&self) -> Called<()> {
        match self.enter() {
            Ok(there) => {
                end_servers(&there);
                let path = proc_path(&self.dir) + "/" + &self.own.to_string_lossy();
                while is_mount(&there)? {
                    match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                        Ok(()) => {}
                        Err(Errno::INVAL) => break,
                        Err(e) => return Err(self.broken("umount2", e)),
                    }
                }
            }
            Err(Broken { errno: Errno::NOENT, .. }) => return Ok(()),
            Err(broken) => return Err(broken),
        }
        rustix::fs::unlinkat(&self.dir, &self.own, AtFlags::REMOVEDIR).map_err(|e| self.broken("rmdir", e))
    }

    /// Jobs of this node that have something here, with the time since a step was last there.
    pub fn others(&self) -> Vec<(u32, Duration)> {
        let Ok(entries) = Dir::read_from(&self.dir) else { return vec![] };
        let own = self.own.to_string_lossy().into_owned();
        let Some((node, _)) = own.rsplit_once('.') else { return vec![] };
        let now = std::time::SystemTime::now();
        let other = |name: &str| {
            let (of, job) = name.rsplit_once('.')?;
            let job = (of == node && name != own).then(|| job.parse().ok())??;
            let status = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let made = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(status.st_mtime).ok()?);
            Some((job, now.duration_since(made).unwrap_or_default()))
        };
        entries.flatten().filter_map(|entry| other(&entry.file_name().to_string_lossy())).collect()
    }

    fn broken(&self, call: &str, errno: Errno) -> Broken {
        Broken::new(format!("{call}({})", shown(&self.path)), errno)
    }
}

/// Notes that a step of the job is here, for [`Jobs::others`].
pub(crate) fn used(job: &OwnedFd) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ };
    // Only a record.
    let _ = rustix::fs::futimens(job, &Timestamps { last_access: now, last_modification: now });
}

/// Waits for the lock, but not for ever.
fn lock(dir: &OwnedFd, deadline: &Deadline) -> Called<()> {
    loop {
        match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if deadline.passed() => return Err(Broken::new("flock", Errno::TIMEDOUT)),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(AGAIN),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Broken::new("flock", e)),
        }
    }
}

fn is_mount(dir: &OwnedFd) -> Called<bool> {
    let status = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .map_err(|e| Broken::new("statx", e))?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Ends the servers that are noted in a job's mount: they are in none of the job's control groups, and one that its user
/// has stopped would never see that its mount is gone. Nothing here is a reason to leave the rest.
fn end_servers(job: &OwnedFd) {
    let Ok(entries) = Dir::read_from(job) else { return };
    for entry in entries.flatten() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(dir) = rustix::fs::openat(job, entry.file_name(), flags, Mode::empty()) {
            Slot { dir }.end_server();
        }
    }
}

/// The directory of one name, locked: whoever has it decides alone what is in it.
#[derive(Debug)]
pub(crate) struct Slot {
    dir: OwnedFd,
}

impl Slot {
    /// Opens and locks it in the job's mount; `name` is one component.
    pub fn open(job: &OwnedFd, name: &str, deadline: &Deadline) -> Called<Self> {
        match rustix::fs::mkdirat(job, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Broken::new(format!("mkdirat({name})"), e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(job, name, flags, Mode::empty())
            .map_err(|e| Broken::new(format!("openat({name})"), e))?;
        lock(&dir, deadline)?;
        Ok(Self { dir })
    }

    /// The note and the namespace, if both are there. A maker who was killed leaves one of them or none.
    pub fn kept(&self) -> Called<Option<(Kept, OwnedFd)>> {
        let Some(kept) = self.noted()? else { return Ok(None) };
        let Some(namespace) = self.file(NAMESPACE)? else { return Ok(None) };
        let fs = rustix::fs::fstatfs(&namespace).map_err(|e| Broken::new("fstatfs(ns)", e))?;
        Ok((fs.f_type as u64 == NSFS).then_some((kept, namespace)))
    }

    fn noted(&self) -> Called<Option<Kept>> {
        let Some(note) = self.file(NOTE)? else { return Ok(None) };
        let Small::Bytes(text) = contents(note, Path::new(NOTE), MAX_NOTE)? else { return Ok(None) };
        Ok(Kept::parse(&text))
    }

    /// Ends the server that is noted, if it still runs.
    fn end_server(&self) {
        let server = self.noted().ok().flatten().and_then(|kept| kept.server);
        let served = server.and_then(|server| Served::noted("the image", server).ok().flatten());
        let _ = served.map(|served| served.end());
    }

    fn file(&self, name: &str) -> Called<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Broken::new(format!("openat({name})"), e)),
        }
    }

    /// Empties it, and ends the server of what was there; the calling thread must be where it is mounted.
    pub fn clear(&self) -> Called<()> {
        self.end_server();
        let gone = |result: Result<(), Errno>, call: &str| match result {
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => Ok(()),
            Err(e) => Err(Broken::new(call, e)),
        };
        gone(rustix::fs::unlinkat(&self.dir, NOTE, AtFlags::empty()), "unlinkat(container.json)")?;
        gone(
            rustix::mount::unmount(self.pin(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW),
            "umount2(ns)",
        )?;
        gone(rustix::fs::unlinkat(&self.dir, NAMESPACE, AtFlags::empty()), "unlinkat(ns)")
    }

    /// Pins the namespace; the calling thread must be where it is mounted.
    pub fn pin_namespace(&self, namespace: &OwnedFd) -> Called<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, NAMESPACE, flags, Mode::RUSR)
            .map_err(|e| Broken::new("openat(ns, O_CREAT)", e))?;
        rustix::mount::mount_bind(proc_path(namespace), self.pin())
            .map_err(|e| Broken::new("mount(namespace, ns, MS_BIND)", e))
    }

    fn pin(&self) -> String {
        format!("{}/{NAMESPACE}", proc_path(&self.dir))
    }

    /// Writes the note; from here on the container is there.
    pub fn note(&self, kept: &Kept) -> Called<()> {
        let broken = |call: &str, e| Broken::new(format!("{call}({NOTE})"), e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, "new", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| broken("openat", e))?;
        std::fs::File::from(file)
            .write_all(kept.to_json().as_bytes())
            .map_err(|e| Broken::io(format!("write({NOTE})"), &e))?;
        rustix::fs::renameat(&self.dir, "new", &self.dir, NOTE).map_err(|e| broken("renameat", e))
    }
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
