//! Programs that are run beside the tasks: an image's server, an image's loader, mkfs.ext4. `sys` starts them. Those that
//! the site names are run only if root alone can have written them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use grus_core::path::AbsPath;
use grus_core::refusal::printable;
use grus_core::Refusal;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_setfl, OFlags};
use rustix::io::Errno;
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::Resource;

use crate::call::{open, open_own, shown, stat, Broken, Called, During};
use crate::failure::{reason, Failure, Phase};
use crate::trust::{is_regular, path_of, why_not_roots};

/// How much of what a program says is read, in bytes.
pub(crate) const MAX_OUTPUT: usize = 1 << 20;

/// A program, and what is to be said where it cannot be run.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    /// Its path, as the site has it.
    pub path: &'a AbsPath,
    /// The site's key for it.
    pub key: &'static str,
    /// The package that it comes in.
    pub package: &'static str,
    /// What it is wanted for.
    pub phase: Phase,
}

impl Named<'_> {
    /// Its path without links, if root alone can have written it.
    pub fn trusted(&self) -> Result<CString, Failure> {
        let fd = self.found()?;
        if let Some(why) = why_not_roots(&fd, self.path.as_path()).during(self.phase)? {
            let hint = "it and every directory above it must be writable by root only";
            return Err(self.refuse(&format!("is not trusted: {why}"), hint.into()));
        }
        self.resolved(&fd)
    }

    /// Its path without links, whoever wrote it: for a user who runs it with no rights but the own.
    pub fn any(&self) -> Result<CString, Failure> {
        self.resolved(&self.found()?)
    }

    fn resolved(&self, fd: &OwnedFd) -> Result<CString, Failure> {
        Ok(cstr(&path_of(fd).during(self.phase)?.to_string_lossy()))
    }

    fn found(&self) -> Result<OwnedFd, Failure> {
        let path = self.path.as_path();
        let fd = match open(path, OFlags::PATH) {
            Ok(fd) => fd,
            Err(b) if matches!(b.errno, Errno::NOENT | Errno::NOTDIR) => {
                let hint = format!(
                    "ask the administrator to install the package '{}', or to set {} in grus.toml",
                    self.package, self.key
                );
                return Err(self.refuse("is not installed on this node", hint));
            }
            Err(b) => {
                let hint = format!("see {}", self.key);
                return Err(self.refuse(&format!("cannot be used: {}", reason(b.errno)), hint));
            }
        };
        let status = stat(&fd, path).during(self.phase)?;
        if !is_regular(&status) || status.st_mode & 0o111 == 0 {
            let hint = format!("the administrator must mend {} in grus.toml", self.key);
            return Err(self.refuse("is not a program", hint));
        }
        Ok(fd)
    }

    fn refuse(&self, why: &str, hint: String) -> Failure {
        let path = shown(self.path.as_path());
        Refusal::site(format!("{}: {path} {why}", self.phase)).hint(hint).into()
    }
}

/// The node's /proc, for a [`Program`]; while the thread's root is the node's.
pub(crate) fn proc() -> Called<OwnedFd> {
    open_own("/proc", OFlags::PATH | OFlags::DIRECTORY)
}

/// A pipe to hear a program by, our end and the program's. Ours does not block; the program's does, or it would lose what
/// we are too slow to read.
pub(crate) fn pipe() -> Called<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC)
        .and_then(|(ours, theirs)| fcntl_setfl(&ours, OFlags::NONBLOCK).map(|()| (ours, theirs)))
        .map_err(|e| Broken::new("pipe2", e))
}

/// A text without a NUL.
pub(crate) fn cstr(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// What a program that has ended said last, by the pipe of its standard error, which does not block.
pub(crate) fn last_words(messages: OwnedFd) -> Option<String> {
    let mut text = Vec::new();
    // Everything it wrote is there.
    let _ = File::from(messages).take(4096).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map(|line| printable(line.trim()))
}

/// Everything that a program says until it closes this pipe, which does not block; an error where that takes too long
/// or is too much.
pub(crate) fn said(output: OwnedFd, time: Duration) -> Result<Vec<u8>, String> {
    let end = Instant::now() + time;
    let mut file = File::from(output);
    let mut bytes = vec![];
    let mut part = [0; 16 << 10];
    loop {
        match file.read(&mut part) {
            Ok(0) => return Ok(bytes),
            Ok(more) if bytes.len() + more > MAX_OUTPUT => return Err("it says more than 1 MiB".into()),
            Ok(more) => bytes.extend_from_slice(&part[..more]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(format!("it does not end within {} s", time.as_secs()));
                }
                let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&wait)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(format!("poll: {e}")),
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// A program to run as a user, with nothing of the caller's but what is named here.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// Its path.
    pub path: &'a CStr,
    /// Its arguments, the first one its name.
    pub arguments: &'a [CString],
    /// Its environment, `NAME=value`.
    pub environment: &'a [CString],
    /// What becomes its descriptors from 0 on; at most [`MOST_DESCRIPTORS`].
    pub descriptors: &'a [BorrowedFd<'a>],
    /// The node's /proc: there it gives up slurmstepd's exemption from the OOM killer. Not by its path, where the caller is
    /// in a container, whose /proc is whatever its user wants.
    pub proc: BorrowedFd<'a>,
    /// Open `cgroup.procs` files of the cgroups that it is to be in, if not in its caller's.
    pub cgroups: &'a [BorrowedFd<'a>],
    /// Limits of its own, hard and soft (setrlimit(2)).
    pub limits: &'a [(Resource, u64)],
    /// Whom it runs as; None: as whom its caller does.
    pub identity: Option<Identity<'a>>,
}

/// User, primary group and supplementary groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub gids: &'a [u32],
}

/// Most descriptors that a [`Program`] gets.
pub(crate) const MOST_DESCRIPTORS: usize = 5;
