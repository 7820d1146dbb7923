//! Why a container could not be had: a refusal, or a system call that failed.
//!
//! A failed call is shown with its arguments, like strace does, and with advice where the system's own
//! words mislead.

use std::fmt;

use grus_core::Refusal;
use rustix::io::Errno;

/// What was being done. Its Display begins the user's sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Handing work to the builder thread and waiting for it.
    Handover,
    /// Taking on the user's identity and laying it down.
    Credentials,
    /// Opening and judging the image.
    Image,
    /// Looking for a copy of the image in the node's cache, or making one.
    Cache,
    /// Mounting the image.
    Mount,
    /// Taking or making a container that the job keeps.
    Kept,
    /// Finding the container of a running step.
    Running,
    /// Reading the image's tree and deciding the plan.
    Plan,
    /// Cloning the sources of binds.
    Sources,
    /// Making directories in memory and on disk, and mounting SquashFS files.
    Own,
    /// Making the private mount namespace.
    Namespace,
    /// Making the root file system: tmpfs, missing destinations, overlay.
    Rootfs,
    /// Mounting on the destinations.
    Binds,
    /// Making directories writable.
    Volatile,
    /// Making the container's root the root.
    Pivot,
    /// Asking the image's loader whether it finds what was proved.
    Verify,
    /// A task's joining.
    Join,
    /// Saving the container.
    Save,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Handover => "cannot build the container",
            Phase::Credentials => "cannot act as the user",
            Phase::Image => "cannot open the image",
            Phase::Cache => "cannot use the node's cache",
            Phase::Mount => "cannot mount the image",
            Phase::Kept => "cannot take the named container",
            Phase::Running => "cannot join the running step",
            Phase::Plan => "cannot read the image's tree",
            Phase::Sources => "cannot bind a source",
            Phase::Own => "cannot make a mount",
            Phase::Namespace => "cannot make a mount namespace",
            Phase::Rootfs => "cannot make the root file system",
            Phase::Binds => "cannot mount in the container",
            Phase::Volatile => "cannot make a directory writable",
            Phase::Pivot => "cannot change to the container's root",
            Phase::Verify => "cannot verify the host's libraries in the container",
            Phase::Join => "cannot join the container",
            Phase::Save => "the container is not saved",
        })
    }
}

/// A system call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was being done.
    pub phase: Phase,
    /// The call with its arguments, or a sentence where no call failed.
    pub call: String,
    /// The error; None where no call failed.
    pub errno: Option<i32>,
    /// The way out.
    pub advice: Option<String>,
}

/// No container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Grus says no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The system says no.
    #[error("{0}")]
    Failed(Failed),
}

impl Failure {
    /// One line: what failed, on what.
    pub fn what(&self) -> String {
        self.to_string()
    }

    /// One line: the way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Failure::Refused(refusal) => refusal.hint.clone(),
            Failure::Failed(failed) => failed.advice.clone(),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.call)?;
        match self.errno {
            Some(errno) => write!(f, ": {}", reason(Errno::from_raw_os_error(errno))),
            None => Ok(()),
        }
    }
}

/// The system's words for an error, as strerror(3) has them, without Rust's ` (os error N)`.
pub(crate) fn reason(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The way out where the system's own words do not show it.
pub(crate) fn advice(phase: Phase, errno: Errno) -> Option<String> {
    let text = match (phase, errno) {
        (_, Errno::NOSYS) => "this node's kernel is too old: Grus needs Linux 5.12 or newer",
        (Phase::Mount, Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTTY) => {
            "ask the administrator to load the kernel modules loop, squashfs and fuse on this node"
        }
        (Phase::Mount, Errno::INVAL | Errno::IO) => {
            "the image may be damaged, or compressed in a way this kernel was built without; pull it again"
        }
        (Phase::Own, Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTTY) => {
            "ask the administrator to load the kernel modules loop, squashfs, fuse and ext4 on this node"
        }
        (Phase::Own, Errno::INVAL | Errno::IO) => {
            "the file may be damaged, or compressed in a way this kernel was built without"
        }
        (Phase::Kept, Errno::TIMEDOUT) => "another step is making the container and is slow; try again",
        (Phase::Kept, Errno::NOSPC) => "the job keeps too many containers on this node; use fewer names",
        (Phase::Mount | Phase::Own | Phase::Volatile | Phase::Rootfs, Errno::NOMEM | Errno::NOSPC) => {
            "the node is short of memory"
        }
        (Phase::Volatile, Errno::OPNOTSUPP) => {
            "this node's kernel lacks access control lists on tmpfs (CONFIG_TMPFS_POSIX_ACL)"
        }
        (Phase::Volatile, Errno::PERM) => {
            "the image may hold marks of another overlay; import it again without them"
        }
        (Phase::Binds, Errno::XDEV | Errno::LOOP) => {
            "a link in a directory that is mounted leads elsewhere; mount on the place that it leads to"
        }
        (_, Errno::PERM) => {
            "this must run as root with all capabilities; ask the administrator how slurmd runs"
        }
        (_, Errno::MFILE | Errno::NFILE) => "too many files are open on this node",
        _ => return None,
    };
    Some(text.into())
}
