//! Which hook does what in which of Slurm's programs. One page; the work is in [`Submit`] and [`Step`].
//!
//! | hook                 | srun            | sbatch, salloc  | slurmstepd                            | slurmd |
//! |----------------------|-----------------|-----------------|---------------------------------------|--------|
//! | init                 | begin           | begin           | begin                                 |   -    |
//! | init_post_opt        | find, publish   | find, publish   | read the request, start the builder   |   -    |
//! | user_init            |                 |                 | build the container, or say why not   |        |
//! | task_init_privileged |                 |                 | join it                               |        |
//! | task_init            |                 |                 | start, or end without a container     |        |
//! | task_post_fork       |                 |                 | note its cgroups; watch its servers   |        |
//! | task_exit            |                 |                 | save; tell of a server that is gone   |        |
//! | exit                 |                 |                 | stop watching, let servers go on      |        |
//!
//! `job_epilog` runs in a process of its own at the end of each job on each node, without `init` before it: it takes
//! away the containers that the job kept (docs/adr/0010).
//!
//! Options are registered in [`crate::abi`], before `init`. No hook fails: on the submit side a refusal ends the
//! program, on a node it is remembered until it can end the tasks. A failing hook would drain nodes, or be
//! ignored where plugstack.conf says `optional`.

use std::sync::{Mutex, MutexGuard};

use slurm_spank::{Context, SpankHandle};

use crate::epilog;
use crate::step::Step;
use crate::submit::{refuse, Role, Submit};
use grus_core::Refusal;

/// The hooks we export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The plugin is loaded.
    Init,
    /// All options are known.
    InitPostOpt,
    /// slurmstepd, with the user's effective id.
    UserInit,
    /// A task, still root.
    TaskInitPrivileged,
    /// A task, as the user, before execve(2).
    TaskInit,
    /// slurmstepd, as root: a task exists and waits.
    TaskPostFork,
    /// slurmstepd has collected a task.
    TaskExit,
    /// The job has ended on this node.
    JobEpilog,
    /// The process of Slurm's ends.
    Exit,
}

/// Grus in one of Slurm's processes.
#[derive(Debug, Default)]
pub enum Grus {
    /// Not begun, or in slurmd, where there is nothing to do.
    #[default]
    Idle,
    /// In srun, sbatch or salloc.
    Submit(Submit),
    /// In slurmstepd and in the tasks it forks.
    Step(Step),
}

impl Grus {
    /// The table above.
    pub fn run(&mut self, hook: Hook, spank: &mut SpankHandle) {
        match (hook, self) {
            (Hook::Init, grus) => grus.begin(spank),
            (Hook::InitPostOpt, Grus::Submit(submit)) => submit.options_known(role(spank), spank),
            (Hook::InitPostOpt, Grus::Step(step)) => step.read_request(spank),
            (Hook::UserInit, Grus::Step(step)) => step.build(spank),
            (Hook::TaskInitPrivileged, Grus::Step(step)) => step.join(),
            (Hook::TaskInit, Grus::Step(step)) => step.enter_or_end(spank),
            (Hook::TaskPostFork, Grus::Step(step)) => step.task_started(spank),
            (Hook::TaskExit, Grus::Step(step)) => step.task_ended(spank),
            (Hook::Exit, Grus::Step(step)) => step.ended(),
            (Hook::JobEpilog, _) => epilog::job_ended(spank),
            _ => {}
        }
    }

    /// `init` comes once per component of a heterogeneous job; what the first one left is kept.
    fn begin(&mut self, spank: &SpankHandle) {
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.to_string();
            *last_panic() = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }));
        *self = match (std::mem::take(self), spank.context()) {
            (Grus::Idle, Ok(Context::Local | Context::Allocator)) => Grus::Submit(Submit::default()),
            (Grus::Idle, Ok(Context::Remote)) => Grus::Step(Step::default()),
            (begun, _) => begun,
        };
    }

    /// A panic is a bug of ours and a failure of the job: the end at submission, remembered on a node.
    pub fn panicked(&mut self, hook: Hook, spank: &SpankHandle) {
        let refusal = Refusal::site(format!("internal error in {hook:?}: {}", last_panic()))
            .hint("this is a bug of Grus; tell the administrator");
        match (self, spank.context()) {
            (_, Ok(Context::Local | Context::Allocator)) => refuse(&refusal),
            (Grus::Step(step), _) => step.panicked(hook, refusal, spank),
            _ => {}
        }
    }
}

/// What the last panic said, in one line. Kept here instead of being printed over the user's screen, and only for
/// the Rust code in this file: each plugin has a panic hook of its own.
fn last_panic() -> MutexGuard<'static, String> {
    static TEXT: Mutex<String> = Mutex::new(String::new());
    TEXT.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn role(spank: &SpankHandle) -> Role {
    match spank.context() {
        Ok(Context::Allocator) => Role::Job,
        _ => Role::Step,
    }
}
