//! The builder thread: started early as root, handed its work by whoever knows the request (ADR 1).
//!
//! Why a thread, and why so early: it shares slurmstepd's descriptor table, so that the namespace's descriptor stays
//! where tasks are forked from even when user_init runs in a process of its own (contain_spank), and it can become
//! root again by itself. It is an ordinary thread and may allocate; a fork of slurmstepd may not.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grus_core::path::AbsPath;
use grus_core::plan::Job;
use grus_core::platform::Platform;
use grus_core::request::Request;
use grus_core::server::Server;
use grus_core::site::Site;
use rustix::process::{getpid, Pid};
use rustix::thread::gettid;

use crate::call::During;
use crate::container::Container;
use crate::deadline::Deadline;
use crate::failure::{Failed, Failure, Phase};
use crate::server::kill;
use crate::{launch, mount_namespace, sys};

/// How long a build may take if nothing else is said.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Everything a build is made from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// What the user asks for.
    pub request: Request,
    /// The site's choices.
    pub site: Arc<Site>,
    /// Where the profiles of the host's MPI stacks are; None: there are none.
    pub stacks: Option<PathBuf>,
    /// The job.
    pub job: Job,
    /// The image file that submission found; opened as the user. `/` where the request names a container and no image.
    pub image: AbsPath,
    /// The step.
    pub step: StepId,
    /// The user's id.
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
    /// The user's supplementary groups.
    pub gids: Vec<u32>,
    /// The node's platform.
    pub platform: Platform,
    /// The node's name, for texts.
    pub node: Option<String>,
    /// How long [`Builder::build`] waits; [`TIME_LIMIT`] unless there is a reason.
    pub limit: Duration,
}

/// A step, as far as containers that outlive it depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepId {
    /// Its job.
    pub job: u32,
    /// Its number.
    pub step: u32,
    /// How often the job was started again (requeue).
    pub restart: u32,
}

/// A thread that waits to build one container. Dropping it ends the thread.
#[derive(Debug)]
pub struct Builder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    namespace: Option<PathBuf>,
}

/// What caller and thread share. Plain futexes of one memory, so that they work between processes that share it.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    abandoned: Arc<AtomicBool>,
}

#[derive(Debug)]
enum State {
    /// No work yet.
    Waiting,
    /// Work, not yet taken.
    Handed(Box<Work>),
    /// Being done; how far it is, and the servers of SquashFS files.
    Running(Phase, Vec<Server>),
    /// Done, or nothing to do.
    Ended(Option<Box<Result<Container, Failure>>>),
}

#[derive(Debug)]
struct Work {
    inputs: Inputs,
    /// Process and thread that asked: the container is built from what they see.
    caller: (Pid, Pid),
    /// Or from what this mount namespace shows, if they see no other than the thread.
    namespace: Option<PathBuf>,
    deadline: Deadline,
}

impl Builder {
    /// Starts the thread; call it as root (init_post_opt). It blocks all signals, and needs 256 KiB of stack.
    pub fn start() -> io::Result<Self> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let shared =
            Arc::new(Shared { state: Mutex::new(State::Waiting), changed: Condvar::new(), abandoned });
        let of_thread = Arc::clone(&shared);
        let thread = sys::with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("grus-builder".into())
                .stack_size(256 << 10)
                .spawn(move || of_thread.serve())
        })?;
        Ok(Self { shared, thread: Some(thread), namespace: None })
    }

    /// Builds from what the mount namespace at `path` shows (an nsfs file, as job_container/tmpfs keeps one for
    /// each job), unless the caller of [`Builder::build`] is in a namespace of its own already. The path is opened
    /// as root: it must come from the kernel or the administrator.
    pub fn within(mut self, path: Option<PathBuf>) -> Self {
        self.namespace = path;
        self
    }

    /// Hands the work over and waits for the container.
    ///
    /// May be called with the user's effective id, and from a process that shares only memory with the one that
    /// called [`Builder::start`] (Slurm's contain_spank); the container's descriptor is in the starter's table.
    pub fn build(mut self, inputs: Inputs) -> Result<Container, Failure> {
        // Bounded, so that no limit is too long for a clock to hold.
        let limit = inputs.limit.min(Duration::from_secs(24 * 60 * 60));
        let end = Instant::now() + limit;
        let work = Work {
            inputs,
            caller: (getpid(), gettid()),
            namespace: self.namespace.take(),
            deadline: Deadline::new(end, Arc::clone(&self.shared.abandoned)),
        };
        self.shared.set(State::Handed(Box::new(work)));
        match self.shared.wait(end) {
            Ok(result) => {
                self.join();
                result
            }
            Err((phase, servers)) => {
                // Before whatever the caller does next, which may be a seteuid(2) of libc's (`Credentials`).
                self.shared.abandoned.store(true, Ordering::SeqCst);
                // A server that does not answer holds the thread up; its end sets it free.
                servers.iter().for_each(|server| kill(*server));
                self.thread = None;
                Err(late(phase, !servers.is_empty(), limit))
            }
        }
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics.
            let _ = thread.join();
        }
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.shared.set(State::Ended(None));
            self.join();
        }
    }
}

fn late(phase: Phase, served: bool, limit: Duration) -> Failure {
    let (call, advice) = match (phase, served) {
        (Phase::Mount | Phase::Own, true) => {
            ("squashfuse_ll did not answer", "the image's file system may hang on this node; try again")
        }
        (Phase::Save | Phase::Image | Phase::Cache | Phase::Plan, _) => {
            ("the file system did not answer", "it may hang on this node; try again, or on other nodes")
        }
        _ => ("it was not done", "the node may be overloaded; try again"),
    };
    Failure::Failed(Failed {
        phase,
        call: format!("{call} within {} s", limit.as_secs()),
        errno: None,
        advice: Some(advice.into()),
    })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A state is replaced as a whole, so a panic elsewhere cannot have left it half-made.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_all();
    }

    /// The caller's side: waits for the end, or says how far the work is.
    fn wait(&self, end: Instant) -> Result<Result<Container, Failure>, (Phase, Vec<Server>)> {
        let mut state = self.lock();
        loop {
            match &mut *state {
                State::Ended(result) => {
                    let gone = || Box::new(Err(broken_off()));
                    return Ok(*result.take().unwrap_or_else(gone));
                }
                State::Waiting | State::Handed(_) | State::Running(..) => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(match &*state {
                    State::Running(phase, servers) => (*phase, servers.clone()),
                    _ => (Phase::Handover, vec![]),
                });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|p| p.into_inner()).0;
        }
    }

    /// The thread's side, from beginning to end.
    fn serve(&self) {
        let Some(work) = self.next() else { return };
        let result =
            catch_unwind(AssertUnwindSafe(|| self.work(*work))).unwrap_or_else(|_| Err(broken_off()));
        if self.abandoned.load(Ordering::SeqCst) {
            return;
        }
        self.set(State::Ended(Some(Box::new(result))));
    }

    fn next(&self) -> Option<Box<Work>> {
        let mut state = self.lock();
        loop {
            match std::mem::replace(&mut *state, State::Running(Phase::Handover, vec![])) {
                State::Handed(work) => return Some(work),
                State::Ended(_) => return None,
                waiting => *state = waiting,
            }
            state = self.changed.wait(state).unwrap_or_else(|p| p.into_inner());
        }
    }

    fn work(&self, work: Work) -> Result<Container, Failure> {
        let progress = |phase, servers: &[Server]| *self.lock() = State::Running(phase, servers.to_vec());
        launch::container(
            work.inputs,
            &work.deadline,
            || follow(work.caller, work.namespace.as_deref()),
            progress,
        )
    }
}

fn broken_off() -> Failure {
    Failure::Failed(Failed {
        phase: Phase::Handover,
        call: "the builder thread broke off".into(),
        errno: None,
        advice: Some("this is a bug of Grus; please report it".into()),
    })
}

/// Goes to the caller's mount namespace if this thread is in another one, else to `namespace` if there is one: then
/// the job has private directories (job_container/tmpfs, namespace/tmpfs), and binds are to come from there.
fn follow((process, thread): (Pid, Pid), namespace: Option<&Path>) -> Result<(), Failure> {
    let (process, thread) = (process.as_raw_nonzero(), thread.as_raw_nonzero());
    let theirs = format!("/proc/{process}/task/{thread}/ns/mnt");
    if !mount_namespace::join(Path::new(&theirs)).during(Phase::Handover)? {
        if let Some(namespace) = namespace {
            mount_namespace::join(namespace).during(Phase::Handover)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
