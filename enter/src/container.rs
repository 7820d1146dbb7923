//! A finished container: one descriptor of its mount namespace, and how a task joins it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use grus_core::image::ImageMeta;
use grus_core::path::AbsPath;
use grus_core::plan::LaunchPlan;
use grus_core::site::Seccomp;
use grus_core::swap::{InUse, Ruling};
use rustix::fs::OFlags;
use rustix::process::getuid;
use rustix::thread::{move_into_link_name_space, set_no_new_privs, LinkNameSpaceType};

use crate::call::{open, Broken, During};
use crate::failure::{reason, Failed, Failure, Phase};
use crate::filter::{denied, faked};
use crate::namespaces::Owned;
use crate::server::Served;
use crate::sys::filter_calls;
use crate::unkillable::Guard;

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
    /// What the node's cache said, where it was asked.
    pub cache: Option<String>,
    /// Which calls tasks lack.
    pub(crate) seccomp: Seccomp,
    /// Other namespaces of the container's own.
    pub(crate) others: Vec<Owned>,
    /// The user namespace in which the user is root, where one was asked for.
    pub(crate) user: Option<OwnedFd>,
    /// What is to be saved, where saving is asked for.
    pub saved: Option<Unsaved>,
    /// The processes that serve the image and other SquashFS files.
    pub(crate) servers: Vec<Served>,
    /// Whose it is.
    pub(crate) uid: u32,
    /// What lets other steps join; held open for them.
    #[expect(dead_code, reason = "a descriptor that others read")]
    pub(crate) told: OwnedFd,
}

/// What a container is saved from. Both descriptors are close-on-exec.
#[derive(Debug)]
pub struct Unsaved {
    /// The root with its changes and without what is mounted in it, read-only. None: it is just the image.
    pub tree: Option<OwnedFd>,
    /// The mount namespace that image and sources were opened in: the job's, where it has private directories.
    pub view: OwnedFd,
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
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(|e| failed("setns(namespace, CLONE_NEWNS)", e))?;
        for (kind, namespace) in &self.others {
            move_into_link_name_space(namespace.as_fd(), Some(*kind))
                .map_err(|e| failed(&format!("setns({kind:?})"), e))?;
        }
        set_no_new_privs(true).map_err(|e| failed("prctl(PR_SET_NO_NEW_PRIVS)", e))
    }

    /// Shows the calling task, which has joined and is the user by now, as root, where that was asked for. For a
    /// single-threaded process (task_init).
    ///
    /// setns(2) lets in the owner of a user namespace, who is the user. All rights that come with it are over things
    /// of that namespace, of which there are none: mounts, network and host name belong to the node's.
    pub fn show_as_root(&self) -> Result<(), Failure> {
        let Some(user) = &self.user else { return Ok(()) };
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))
            .map_err(|e| failed("setns(CLONE_NEWUSER)", e))?;
        if !getuid().is_root() {
            return Err(failed("getuid() after setns(CLONE_NEWUSER)", rustix::io::Errno::PERM));
        }
        filter_calls(&mut faked()).map_err(|broken| failed(&broken.call, broken.errno))
    }

    /// Takes calls away from the calling task, where the site wants that, for good. For a task that has joined, and
    /// needs none of them itself any more (task_init).
    pub fn deny_calls(&self) -> Result<(), Failure> {
        match self.seccomp {
            Seccomp::None => Ok(()),
            Seccomp::Default => {
                filter_calls(&mut denied()).map_err(|broken| failed(&broken.call, broken.errno))
            }
        }
    }

    /// Changes to a directory of the container's, as the task and through no magic link: what slurmstepd has open would be
    /// reached by one (`/proc/self/fd/7`), until execve(2) closes it. For a task that has joined (task_init).
    pub fn change_directory(&self, directory: &AbsPath) -> Result<(), String> {
        let opened = open(directory.as_path(), OFlags::PATH | OFlags::DIRECTORY);
        let changed = opened
            .and_then(|directory| rustix::process::fchdir(directory).map_err(|e| Broken::new("fchdir", e)));
        changed.map_err(|broken| match broken.errno {
            rustix::io::Errno::LOOP => "it leads through a link of /proc, or too many links".into(),
            errno => reason(errno),
        })
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

    /// Watches that no killed task waits for a server for ever; `told` hears whose connection was given up for that. Call
    /// it as root, from the process that lives as long as the step. None: nothing here is served.
    pub fn guard(&self, told: impl Fn(&str) + Send + 'static) -> Result<Option<Guard>, Failure> {
        Guard::of(&self.namespace, &self.servers, self.uid, told).during(Phase::Join)
    }

    /// The end of the step: a server that its user has stopped goes on, sees that the mount goes, and ends. It is not
    /// killed, as others may have joined the container.
    pub fn let_servers_go_on(&self) {
        self.servers.iter().for_each(Served::go_on);
    }

    /// What has lost its server although the container still exists: every file of it that is not cached is then an
    /// error to the tasks.
    pub fn lost(&self) -> Option<&str> {
        self.servers.iter().find(|server| server.has_ended()).map(|server| server.of.as_str())
    }
}

fn failed(call: &str, errno: rustix::io::Errno) -> Failure {
    Failure::Failed(Failed {
        phase: Phase::Join,
        call: call.into(),
        errno: Some(errno.raw_os_error()),
        advice: Some("the task was stopped; report this to the administrator".into()),
    })
}
