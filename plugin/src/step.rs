//! A step on a node, in slurmstepd: from the request in the job's environment to tasks in the container.
//!
//! Nothing here returns an error to Slurm (see [`crate::hooks`]). What goes wrong becomes [`Step::Failed`]: said
//! once per node in user_init, from where it reaches the user, and the end of each task in task_init.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use grus_core::path::AbsPath;
use grus_core::request::{Components, Request, IMAGE_VARIABLE, VARIABLE};
use grus_core::site::Site;
use grus_core::Refusal;
use grus_enter::{Builder, Container, Failure, Guard};
use slurm_spank::{SpankError, SpankHandle};

use crate::hooks::Hook;
use crate::job::{identity, inputs};
use crate::journal::{self, Lost, Subject};
use crate::node::{self, Place};
use crate::save::{self, Save};
use crate::slurm_constants::{SLURM_BATCH_SCRIPT, SLURM_EXTERN_CONT, SLURM_INTERACTIVE_STEP};
use crate::{abi, entrypoint, mpi, say, settings};

/// A step's state on this node.
#[derive(Debug, Default)]
pub enum Step {
    /// Slurm has not called init_post_opt yet.
    #[default]
    Unread,
    /// No container is asked for: Grus does nothing.
    Host,
    /// One is asked for; user_init will build it.
    Wanted(Box<Wanted>),
    /// There it is.
    Ready(Box<Ready>),
    /// It cannot be had, so no task may run.
    Failed(Failed),
}

/// Signals of scancel and of time limits; signal(7).
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What a build waits for.
#[derive(Debug)]
pub struct Wanted {
    request: Request,
    site: Arc<Site>,
    stacks: PathBuf,
    builder: Builder,
    place: Place,
}

/// A container for the tasks to join.
#[derive(Debug)]
pub struct Ready {
    container: Container,
    place: Place,
    /// The job's working directory, without symbolic links.
    workdir: AbsPath,
    /// Device and inode of the host's root.
    host: (u64, u64),
    /// Whether the end of a server of SquashFS files was told.
    told: bool,
    /// How the container is saved at the end, if so.
    save: Option<Save>,
    /// Watches the servers of SquashFS files, once a task runs.
    guard: Option<Guard>,
}

/// A remembered failure.
#[derive(Debug)]
pub struct Failed {
    refusal: Refusal,
    told: bool,
}

impl Step {
    fn failed(refusal: Refusal) -> Self {
        Step::Failed(Failed { refusal, told: false })
    }

    /// After a panic in a hook: unless it was known that no container is wanted, no task may run.
    pub fn panicked(&mut self, hook: Hook, refusal: Refusal, spank: &SpankHandle) {
        if matches!(self, Step::Host) {
            return;
        }
        *self = match hook {
            Hook::UserInit | Hook::TaskExit => tell(Failed { refusal, told: false }, spank),
            Hook::Init
            | Hook::InitPostOpt
            | Hook::TaskInitPrivileged
            | Hook::TaskPostFork
            | Hook::TaskInit
            | Hook::JobEpilog
            | Hook::Exit => Step::failed(refusal),
        };
        if hook == Hook::TaskInit {
            self.enter_or_end(spank);
        }
    }

    /// init_post_opt, as root. Whether a container is asked for; if so, its builder thread is started here,
    /// where it gets slurmstepd's own file descriptors and root's rights even under `contain_spank`.
    pub fn read_request(&mut self, spank: &SpankHandle) {
        *self = match wanted(spank) {
            Ok(None) => Step::Host,
            Ok(Some(wanted)) => Step::Wanted(Box::new(wanted)),
            Err(refusal) => Step::failed(refusal),
        };
    }

    /// user_init: builds the container. What fails here or failed before is said here, once per node.
    pub fn build(&mut self, spank: &SpankHandle) {
        *self = match std::mem::take(self) {
            Step::Wanted(wanted) => start(*wanted, spank),
            Step::Failed(failed) => tell(failed, spank),
            other => other,
        };
    }

    /// task_init_privileged, in a task, as root. The namespace's descriptor is close-on-exec, so the user's
    /// program does not get it.
    pub fn join(&mut self) {
        let Step::Ready(ready) = self else { return };
        if let Err(failure) = ready.container.join() {
            say::failure(Some(&ready.place.node), &failure.what(), failure.hint().as_deref());
            let refusal = Refusal::site(failure.what());
            *self = Step::Failed(Failed { refusal, told: true });
        }
    }

    /// task_init, in a task, as the user, in the container: the last word before execve(2). Ends the task
    /// itself, since plugstack.conf may say `optional` and a return value would be ignored.
    pub fn enter_or_end(&mut self, spank: &SpankHandle) {
        match self {
            Step::Host => {}
            Step::Ready(ready) => {
                if let Err(failure) = ready.check_and_start(spank) {
                    say::failure(Some(&ready.place.node), &failure.what(), failure.hint().as_deref());
                    abi::exit_now(1);
                }
            }
            Step::Failed(failed) if failed.told => abi::exit_now(1),
            Step::Failed(failed) => {
                say::failure(None, &failed.refusal.what, failed.refusal.hint.as_deref());
                abi::exit_now(1);
            }
            Step::Unread | Step::Wanted(_) => {
                say::failure(None, "Slurm left out a hook, so there is no container", None);
                abi::exit_now(1);
            }
        }
    }

    /// task_post_fork.
    pub fn task_started(&mut self, spank: &SpankHandle) {
        let Step::Ready(ready) = self else { return };
        if let Some(save) = &mut ready.save {
            save.task_started(spank);
        }
        ready.watch_servers(spank);
    }

    /// exit, in slurmstepd.
    pub fn ended(&mut self) {
        if let Step::Ready(ready) = self {
            // Its thread must end before Slurm unloads its code.
            ready.guard = None;
            ready.container.let_servers_go_on();
        }
    }

    /// task_exit.
    pub fn task_ended(&mut self, spank: &SpankHandle) {
        let Step::Ready(ready) = self else { return };
        let status = spank.task_exit_status().unwrap_or_default();
        ready.tell_of_server(status, spank);
        let Ready { container, place, save, .. } = ready.as_mut();
        if let Some(save) = save {
            save.task_ended(status, container, &place.node, spank);
        }
    }
}

/// Whether a wait status (wait(2)) is neither success nor the end by a signal that Slurm itself sends.
fn failed_by_itself(status: i32) -> bool {
    let signal = status & 0x7f;
    status != 0 && signal != SIGKILL && signal != SIGTERM
}

impl Ready {
    /// With the first task: that is in slurmstepd itself, which user_init need not run in (`contain_spank`).
    fn watch_servers(&mut self, spank: &SpankHandle) {
        if !matches!(spank.task_id(), Ok(0)) {
            return;
        }
        let subject = Subject::of(spank, &self.place.node);
        let told = move |of: &str| {
            let what =
                format!("squashfuse_ll kept killed tasks waiting for {of}, so its connection was given up");
            journal::failed(&subject, &Lost::Server(&what));
        };
        match self.container.guard(told) {
            Ok(guard) => self.guard = guard,
            Err(failure) => say::warning(&format!("{}: {}", self.place.node, failure.what())),
        }
    }

    /// The kernel gives errors to tasks whose image or data is served by a process that is gone; this tells the user
    /// why, once per node. A task that Slurm ends may see the server end first.
    fn tell_of_server(&mut self, status: i32, spank: &SpankHandle) {
        if self.told || !failed_by_itself(status) {
            return;
        }
        let Some(lost) = self.container.lost() else { return };
        self.told = true;
        let what = format!("squashfuse_ll, which served {lost} to this step, has ended");
        let hint = "it was killed or ran out of memory; the tasks' errors come from that. Run the step again";
        say::failure(Some(&self.place.node), &what, Some(hint));
        journal::failed(&Subject::of(spank, &self.place.node), &Lost::Server(&what));
    }

    /// The last check and the last step of a task. Two file systems differ in device number, so a root of the
    /// host's device and inode is the host's, whatever went wrong before.
    fn check_and_start(&self, spank: &SpankHandle) -> Result<(), Failure> {
        if root()? == self.host {
            let refusal = Refusal::site("the task is not in its container")
                .hint("this is a bug of Grus; tell the administrator");
            return Err(refusal.into());
        }
        self.change_directory()?;
        self.container.show_as_root()?;
        self.container.deny_calls()?;
        entrypoint::start(&self.container.plan.entrypoint, spank).map_err(Failure::from)
    }

    /// To where the task is to start.
    fn change_directory(&self) -> Result<(), Refusal> {
        let Some(workdir) = &self.container.plan.workdir else {
            // Slurm has changed to the job's directory as it was written. If that leads over a symbolic link of
            // the host, it is not there in the container, but the directory itself is. Where it is not, Slurm
            // has said so.
            let _ = self.container.change_directory(&self.workdir);
            return Ok(());
        };
        self.container.change_directory(workdir).map_err(|error| {
            Refusal::image(format!("cannot start in the image's directory {workdir}: {error}"))
                .hint("pass --container-mount-workdir to start in the job's directory")
        })
    }
}

/// Device and inode of the root directory.
fn root() -> Result<(u64, u64), Refusal> {
    let root = std::fs::metadata("/").map_err(|error| Refusal::site(format!("cannot look at /: {error}")))?;
    Ok((root.dev(), root.ino()))
}

/// What init_post_opt can know; None where the step stays on the host.
fn wanted(spank: &SpankHandle) -> Result<Option<Wanted>, Refusal> {
    let (job, step) = (spank.job_id().map_err(unreadable)?, spank.job_stepid().map_err(unreadable)?);
    if step == SLURM_EXTERN_CONT {
        return Ok(None);
    }
    let environment = spank.job_env_os().map_err(unreadable)?;
    let Some(text) = request_text(&environment) else { return Ok(None) };
    let place = Place::find(job);
    let component = place.component(job, &environment);
    // The tasks must not see it: an srun inside the container would take it for its own.
    spank.unsetenv(VARIABLE).map_err(unreadable)?;
    let request = Components::decode(&text)?.of(component)?;
    if !request.wants_container() {
        return Ok(None);
    }
    let arguments = spank.plugin_argv().map_err(unreadable)?;
    let (site, stacks) = (settings::site(&arguments)?, settings::stacks(&arguments)?);
    if !runs_inside(step, &request, &site) {
        return Ok(None);
    }
    if let Some(image) = &request.image {
        spank.setenv(IMAGE_VARIABLE, image.shown(), true).map_err(unreadable)?;
    }
    let builder = Builder::start().map_err(|error| {
        Refusal::site(format!("cannot start a thread in slurmstepd: {error}"))
            .hint("the node may be short of memory or processes; tell the administrator")
    })?;
    let builder = builder.within(node::private_directories(job));
    Ok(Some(Wanted { request, site: Arc::new(site), stacks, builder, place }))
}

/// The request in the job's environment. Not by spank_getenv(3), whose code for 'not set' differs by release.
fn request_text(environment: &[&OsStr]) -> Option<String> {
    let name = VARIABLE.as_bytes();
    let value =
        |variable: &&OsStr| variable.as_bytes().strip_prefix(name)?.strip_prefix(b"=").map(<[u8]>::to_vec);
    environment.iter().find_map(value).map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// Slurm does not say what has to be known.
pub fn unreadable(error: SpankError) -> Refusal {
    Refusal::site(format!("slurmstepd does not tell what Grus must know: {error}"))
        .hint("this is a bug of Grus or Slurm; tell the administrator")
}

/// Batch scripts and salloc's shells stay on the host unless asked for; what srun starts runs inside.
fn runs_inside(step: u32, request: &Request, site: &Site) -> bool {
    match step {
        SLURM_EXTERN_CONT => false,
        SLURM_BATCH_SCRIPT | SLURM_INTERACTIVE_STEP => request.batch.unwrap_or(site.batch.container),
        _ => true,
    }
}

fn start(wanted: Wanted, spank: &SpankHandle) -> Step {
    let Wanted { request, site, stacks, builder, place } = wanted;
    let mut subject = Subject::of(spank, &place.node);
    subject.reference = asked(&request);
    let mode = mpi::mode(&request, &site).clone();
    let mut request = request;
    let inputs = identity(spank).and_then(|who| {
        let save = save::prepare(&mut request, &site, &who, spank);
        Ok((save, inputs(request, site, stacks, &place, who, spank)?))
    });
    subject.user = inputs.as_ref().ok().map(|(_, inputs)| inputs.job.user.name.clone());
    let built = inputs.map_err(Failure::from).and_then(|(save, inputs)| {
        let (workdir, host) = (inputs.job.workdir.clone(), root()?);
        let container = builder.build(inputs)?;
        mpi::check(&container, &mode, spank)?;
        set_environment(&container, spank)?;
        Ok((container, workdir, host, save))
    });
    match built {
        Ok((container, workdir, host, save)) => {
            journal::launched(&subject, &container);
            Step::Ready(Box::new(Ready { container, place, workdir, host, told: false, save, guard: None }))
        }
        Err(failure) => {
            let (what, hint) = (failure.what(), failure.hint());
            say::failure(Some(&place.node), &what, hint.as_deref());
            journal::failed(&subject, &Lost::Refused(&failure));
            Step::Failed(Failed { refusal: Refusal::site(what), told: true })
        }
    }
}

/// Says what was remembered before the user could be reached.
fn tell(failed: Failed, spank: &SpankHandle) -> Step {
    if !failed.told {
        let place = Place::find(spank.job_id().unwrap_or_default());
        say::failure(Some(&place.node), &failed.refusal.what, failed.refusal.hint.as_deref());
        journal::failed(&Subject::of(spank, &place.node), &Lost::Told(&failed.refusal.what));
    }
    Step::Failed(Failed { told: true, ..failed })
}

/// What is asked for, for the audit trail.
fn asked(request: &Request) -> Option<String> {
    match (&request.image, &request.name) {
        (Some(image), _) => Some(image.shown()),
        (None, name) => name.as_ref().map(ToString::to_string),
    }
}

/// The plan's changes to each task's environment. Slurm looks commands up by the PATH that is set here.
fn set_environment(container: &Container, spank: &SpankHandle) -> Result<(), Failure> {
    let edits = &container.plan.environment;
    let set = edits.set.iter().try_for_each(|(name, value)| spank.setenv(name, value, true));
    let unset = edits.unset.iter().try_for_each(|name| spank.unsetenv(name));
    set.and(unset).map_err(|error| unreadable(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_found_by_its_whole_name() {
        let found = |variables: &[&str]| request_text(&variables.iter().map(OsStr::new).collect::<Vec<_>>());
        assert_eq!(found(&["A=1", "SLURM_GRUS_REQUEST={}", "B=2"]).as_deref(), Some("{}"));
        assert_eq!(found(&["SLURM_GRUS_REQUEST=a=b"]).as_deref(), Some("a=b"));
        assert_eq!(
            found(&["SLURM_SPANK_GRUS_REQUEST={}", "SLURM_GRUS_REQUEST_X={}", "SLURM_GRUS_REQUEST"]),
            None
        );
    }

    #[test]
    fn batch_scripts_and_shells_run_inside_only_if_asked() {
        let mut site = Site::defaults();
        let said = |batch| Request { batch, ..Request::default() };
        for script in [SLURM_BATCH_SCRIPT, SLURM_INTERACTIVE_STEP] {
            assert!(!runs_inside(script, &said(None), &site));
            assert!(runs_inside(script, &said(Some(true)), &site));
        }
        assert!(runs_inside(0, &said(None), &site));
        site.batch.container = true;
        assert!(runs_inside(SLURM_BATCH_SCRIPT, &said(None), &site));
        assert!(!runs_inside(SLURM_BATCH_SCRIPT, &said(Some(false)), &site));
        assert!(!runs_inside(SLURM_EXTERN_CONT, &said(Some(true)), &site));
    }

    #[test]
    fn a_task_that_slurm_ends_has_not_failed_by_itself() {
        for (status, by_itself) in
            [(0, false), (9, false), (15, false), (7, true), (1 << 8, true), (135 << 8, true)]
        {
            assert_eq!(failed_by_itself(status), by_itself, "{status:#x}");
        }
    }
}
