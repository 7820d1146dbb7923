//! One container for the ranks of a launch on a node: the first makes it, the others join it. In one user and one
//! mount namespace shared memory and CMA (process_vm_readv(2)) keep their speed.
//!
//! Two sockets in the abstract namespace (unix(7)) stand for it, so that there is no file to clean up. `making` is held
//! by whoever makes the container, up to its execve(2); `made` is inherited by its program, and lives with that. The
//! kernel tells whoever connects which process listens, and as which user; from there on it is /proc/PID. Nothing is ever
//! accepted or sent: no process has to serve anybody.
//!
//! A rank that joins takes a share of an unpacked tree's lock, as the first one has it: whoever removes trees must see it in
//! use for as long as anybody is in it.
//!
//! A rank that finds neither makes the container itself: a first rank's early end costs the others a container each,
//! never a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grus_core::path::AbsPath;
use grus_core::plan::{ContainerEnvironment, LaunchPlan};
use grus_core::request::Unshare;
use rustix::fs::{flock, Dir, FlockOperation, MemfdFlags, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use rustix::thread::{move_into_thread_name_spaces, ThreadNameSpaceType};
use serde::{Deserialize, Serialize};

use crate::call::{open, open_own, shown, Broken, Called};
use crate::sys::{connect_abstract, listen};

/// How long a rank waits for the first one.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);

/// Connections that wait for ever: one for each rank that joins while the first one lives.
const RANKS: i32 = 4096;

/// The file in memory by which a container tells whose it is and what its programs are to know.
const MEMORY_FILE: &str = "grus-run";
const MAX_TEXT: u64 = 1 << 20;

/// What a joining rank is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Told {
    /// Of which launch, image and options; empty where it is of no launch.
    pub key: String,
    /// Its image.
    pub image: AbsPath,
    /// What its first program was given, for those that are no ranks of it.
    pub set: BTreeMap<String, String>,
    /// What was taken from it.
    pub unset: BTreeSet<String>,
    /// Namespaces of its own, beside.
    pub namespaces: Unshare,
    /// Where programs start.
    pub workdir: Option<AbsPath>,
    /// What they are started through.
    pub entrypoint: Vec<String>,
    /// Whether they are shown as root.
    pub remap_root: bool,
    /// What of their environment is the container's.
    pub brought: ContainerEnvironment,
    /// The lock of the tree that it runs on, where that was unpacked.
    pub lock: Option<PathBuf>,
}

/// Whose turn it is.
#[derive(Debug)]
pub(super) enum Turn {
    /// Ours: nobody else makes it.
    Lead(Lead),
    /// This process is in the container of another rank.
    Joined(Box<Told>, Held),
    /// There is no sharing, and why.
    Alone(String),
}

/// The right to make the container.
#[derive(Debug)]
pub(super) struct Lead {
    key: String,
    made: String,
    _making: UnixListener,
}

/// What the program inherits: it keeps the container open for other ranks, and its tree from being removed.
#[derive(Debug, Default)]
pub struct Held(Vec<OwnedFd>);

impl Held {
    /// With what tells others of the container, for `grus ps` and `grus exec`.
    pub(super) fn and_tell(mut self, plan: &LaunchPlan, lock: Option<PathBuf>) -> Called<Self> {
        self.0.push(tell(plan, String::new(), lock)?);
        Ok(self)
    }
}

/// Joins the container of `key`, or gets the right to make it. This process has one thread and is in no namespace of its
/// own.
pub(super) fn turn(key: &str, uid: u32) -> Turn {
    let [made, making] = ["made", "making"].map(|what| format!("grus-run-{uid}-{key}-{what}"));
    let end = Instant::now() + PATIENCE;
    let mut known = false;
    while Instant::now() < end {
        match leader(&made, uid)
            .and_then(|found| found.map(|pid| join(pid, |told| told.key == key)).transpose())
        {
            Ok(Some((told, held))) => return Turn::Joined(Box::new(told), held),
            Ok(None) => {}
            // Its process has just ended.
            Err(broken) if matches!(broken.errno, Errno::SRCH | Errno::NOENT) => {}
            Err(broken) => {
                return Turn::Alone(format!("{}: {}", broken.call, crate::failure::reason(broken.errno)))
            }
        }
        match name(&making) {
            Ok(lock) => {
                // Whoever had it before may have finished since we looked.
                match leader(&made, uid) {
                    Ok(None) => return Turn::Lead(Lead { key: key.to_owned(), made, _making: lock }),
                    _ => drop(lock),
                }
            }
            // Asked once: each connection waits at that socket for ever.
            Err(Errno::ADDRINUSE) if !known => match leader(&making, uid) {
                Ok(_) => known = true,
                Err(broken) => return Turn::Alone(broken.call),
            },
            Err(Errno::ADDRINUSE) => {}
            Err(errno) => return Turn::Alone(format!("bind(@{making}): {}", crate::failure::reason(errno))),
        }
        std::thread::sleep(PAUSE);
    }
    Turn::Alone(format!("no other rank made the container within {} s", PATIENCE.as_secs()))
}

/// A listening socket of this name.
fn name(name: &str) -> Result<UnixListener, Errno> {
    let listener = SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address));
    let listener = listener.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    listen(listener.as_fd(), RANKS).map_err(|broken| broken.errno)?;
    Ok(listener)
}

/// The process that listens at this name, if one does; an error if it is another user's.
fn leader(name: &str, own: u32) -> Called<Option<Pid>> {
    match connect_abstract(name) {
        Ok((pid, uid)) if uid == own => Ok(Pid::from_raw(pid)),
        Ok((_, uid)) => Err(Broken::new(format!("@{name} is held by user id {uid}"), Errno::PERM)),
        Err(Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(Broken::new(format!("connect(@{name})"), errno)),
    }
}

/// Joins the container that the process `pid` is in. Everything is read below one descriptor of /proc/PID, which is of
/// that one process for ever; it is looked at again once there is a pidfd, which therefore is of the same one.
pub(super) fn join(pid: Pid, fits: impl Fn(&Told) -> bool) -> Called<(Told, Held)> {
    let process = open_own(&format!("/proc/{}", pid.as_raw_pid()), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let gone = || Broken::new(format!("/proc/{}: no container's", pid.as_raw_pid()), Errno::SRCH);
    let watch = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Broken::new("pidfd_open", e))?;
    let told = told(&process)?.filter(fits).ok_or_else(gone)?;
    // While its process, which has it too, is there: seen by the next call.
    let held = told.lock.as_deref().map(in_use).transpose()?.flatten();
    let mut all = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
    all.set(ThreadNameSpaceType::NETWORK, told.namespaces.net);
    all.set(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION, told.namespaces.ipc);
    all.set(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, told.namespaces.uts);
    move_into_thread_name_spaces(watch.as_fd(), all)
        .map_err(|e| Broken::new(format!("setns(pidfd, {all:?})"), e))?;
    Ok((told, Held(held.into_iter().collect())))
}

/// A share of the lock of an unpacked tree, for the program to inherit. None where there are no locks.
fn in_use(lock: &Path) -> Called<Option<OwnedFd>> {
    let file = open(lock, OFlags::RDWR)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => inherited(file).map(Some),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(None),
        Err(e) => Err(Broken::new(format!("flock({})", shown(lock)), e)),
    }
}

fn inherited(fd: OwnedFd) -> Called<OwnedFd> {
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).map_err(|e| Broken::new("fcntl(F_SETFD)", e))?;
    Ok(fd)
}

/// What the process tells by its file in memory.
pub(super) fn told(process: &OwnedFd) -> Called<Option<Told>> {
    let broken = |e| Broken::new("/proc/PID/fd", e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fds = rustix::fs::openat(process, "fd", flags, rustix::fs::Mode::empty()).map_err(broken)?;
    for entry in Dir::read_from(&fds).map_err(broken)? {
        let Ok(entry) = entry else { continue };
        let Ok(link) = rustix::fs::readlinkat(&fds, entry.file_name(), Vec::new()) else { continue };
        if !link.to_string_lossy().starts_with(&format!("/memfd:{MEMORY_FILE} ")) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened =
            rustix::fs::openat(&fds, entry.file_name(), flags, rustix::fs::Mode::empty()).map_err(broken)?;
        let mut text = vec![];
        let read = File::from(opened).take(MAX_TEXT).read_to_end(&mut text);
        read.map_err(|e| Broken::io("read(memfd)", &e))?;
        return Ok(serde_json::from_slice(&text).ok());
    }
    Ok(None)
}

impl Lead {
    /// Tells the others that the container is there. They find what they need from here on in this process.
    pub fn done(self, plan: &LaunchPlan, lock: Option<PathBuf>) -> Called<Held> {
        let told = tell(plan, self.key, lock)?;
        let made = name(&self.made).map_err(|e| Broken::new(format!("bind(@{})", self.made), e))?;
        Ok(Held(vec![inherited(made.into())?, told]))
    }
}

/// The file in memory, for the program to inherit.
fn tell(plan: &LaunchPlan, key: String, lock: Option<PathBuf>) -> Called<OwnedFd> {
    let told = Told {
        key,
        image: plan.image.clone(),
        set: plan.environment.set.clone(),
        unset: plan.environment.unset.clone(),
        namespaces: plan.namespaces,
        workdir: plan.workdir.clone(),
        entrypoint: plan.entrypoint.clone(),
        remap_root: plan.remap_root,
        brought: plan.brought.clone(),
        lock,
    };
    let file = rustix::fs::memfd_create(MEMORY_FILE, MemfdFlags::empty())
        .map_err(|e| Broken::new(format!("memfd_create({MEMORY_FILE})"), e))?;
    let mut file = File::from(file);
    let text = serde_json::to_vec(&told).unwrap_or_default();
    file.write_all(&text).map_err(|e| Broken::io(format!("write({MEMORY_FILE})"), &e))?;
    Ok(file.into())
}
