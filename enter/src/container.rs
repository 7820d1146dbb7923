//! A finished container: one descriptor of its mount namespace, and how a task joins it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use grus_core::image::ImageMeta;
use grus_core::plan::LaunchPlan;
use grus_core::swap::{InUse, Ruling};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::thread::{move_into_link_name_space, set_no_new_privs, LinkNameSpaceType};

use crate::failure::{Failed, Failure, Phase};

/// How long each phase of the build took, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings(pub Vec<(Phase, Duration)>);

/// A step's container on this node. It lives as long as this descriptor or a task in it.
#[derive(Debug)]
pub struct Container {
    /// The mount namespace, close-on-exec, in the descriptor table of the process that called `Builder::start`.
    pub namespace: OwnedFd,
    /// What was acted out: environment and working directory are for the caller.
    pub plan: LaunchPlan,
    /// What was decided about the image's MPI, if anything was.
    pub ruling: Option<Ruling>,
    /// The image's metadata, where it has some.
    pub meta: Option<ImageMeta>,
    /// How long it took.
    pub timings: Timings,
    /// The tree to save, where saving is asked for and it is not just the image: the root with its changes and without
    /// what is mounted in it, read-only, close-on-exec.
    pub saved: Option<OwnedFd>,
    /// The process that serves the image (a pidfd, close-on-exec), where one does.
    pub(crate) server: Option<OwnedFd>,
}

impl Container {
    /// Moves the calling task into the container, for good. For a single-threaded process with all of root's
    /// capabilities (task_init_privileged); cheap, two system calls.
    ///
    /// setns(2) moves root and working directory to the container's root as well, and needs CAP_SYS_ADMIN and
    /// CAP_SYS_CHROOT, so it comes before Slurm becomes the user. no_new_privs (prctl(2)) comes after it: it is
    /// irrevocable, and a task whose setns failed stays as it was. It does not hinder Slurm's own setuid(2),
    /// only what execve(2) would grant.
    pub fn join(&self) -> Result<(), Failure> {
        let failed = |call: &str, errno: rustix::io::Errno| {
            Failure::Failed(Failed {
                phase: Phase::Join,
                call: call.into(),
                errno: Some(errno.raw_os_error()),
                advice: Some("the task was stopped; report this to the administrator".into()),
            })
        };
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(|e| failed("setns(namespace, CLONE_NEWNS)", e))?;
        set_no_new_privs(true).map_err(|e| failed("prctl(PR_SET_NO_NEW_PRIVS)", e))
    }

    /// The MPIs that tasks run on, as far as they are known: a swap that was not carried out tells nothing of them.
    pub fn mpi_in_use(&self) -> &[InUse] {
        match &self.ruling {
            Some(ruling) if ruling.swap.stack == self.plan.stack.as_deref().unwrap_or_default() => {
                &ruling.in_use
            }
            _ => &[],
        }
    }

    /// Whether the image's server has ended although the container still exists: every file that is not cached is
    /// then an error to the tasks. Asks the process, not the file system, which could hang.
    pub fn server_is_gone(&self) -> bool {
        let Some(server) = &self.server else { return false };
        // A pidfd is readable once its process has ended (pidfd_open(2)).
        let mut ended = [PollFd::new(server, PollFlags::IN)];
        poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}
