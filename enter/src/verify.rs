//! The last proof before tasks start (ADR 9): the image's own loader, as the user and inside the container, must find
//! what was proved.
//!
//! The loader is a stranger's program. It runs as the first process of a PID namespace, so that nothing it starts
//! outlives it, with bounded time, memory and output, without privilege and with no descriptor but its output and the node's /dev/null.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use grus_core::plan::LaunchPlan;
use grus_core::refusal::printable;
use grus_core::swap::{judge_trace, Check, TRACE_ENVIRONMENT};
use grus_core::Refusal;
use rustix::fs::OFlags;
use rustix::process::{kill_process, Resource, Signal};

use crate::call::{open_own, During};
use crate::failure::{Failed, Failure, Phase};
use crate::program::{pipe, proc, said, Identity, Program};
use crate::sys::{spawn_confined, wait, KILLED};

/// How long the loader may take. A cold file system behind the image is the slow part.
const TIME: Duration = Duration::from_secs(20);

/// Processor seconds, address space, no core file; ld.so itself is one process.
const LIMITS: &[(Resource, u64)] = &[(Resource::Cpu, 10), (Resource::As, 16 << 30), (Resource::Core, 0)];

/// What [`verify`] needs of the node. To be opened while the thread's root is the node's: the container's /dev and /proc
/// are whatever its user wants, and this is root.
#[derive(Debug)]
pub(crate) struct Node {
    null: OwnedFd,
    proc: OwnedFd,
}

impl Node {
    pub fn open() -> Result<Self, Failure> {
        let null = open_own("/dev/null", OFlags::RDWR).during(Phase::Verify)?;
        Ok(Self { null, proc: proc().during(Phase::Verify)? })
    }
}

/// Does what the plan wants to be verified. Runs on a thread that is in the container's namespace. `job` is the job's
/// environment; `identity` is whom the loader runs as, None: as whom the thread does.
pub(crate) fn verify(
    plan: &LaunchPlan,
    node: &Node,
    job: &BTreeMap<String, String>,
    identity: Option<Identity<'_>>,
) -> Result<(), Failure> {
    let (Some(check), Some(stack)) = (&plan.check, &plan.stack) else { return Ok(()) };
    let output = trace(check, node, &environment(plan, job), identity)?;
    judge_trace(check, &output).map_err(|why| {
        let what = format!("host stack '{}' in this image, {}: {why}", printable(stack), check.object);
        Refusal::image(what)
            .hint("--container-mpi=image runs the image's own MPI; please report it with what 'grus explain' says")
            .into()
    })
}

/// What the loader says.
fn trace(
    check: &Check,
    node: &Node,
    environment: &[CString],
    identity: Option<Identity<'_>>,
) -> Result<String, Failure> {
    let loader = cstring(check.loader.as_str());
    let arguments = [loader.clone(), cstring(check.object.as_str())];
    let (output, end) = pipe().during(Phase::Verify)?;
    let program = Program {
        path: &loader,
        arguments: &arguments,
        environment,
        descriptors: &[node.null.as_fd(), end.as_fd(), end.as_fd()],
        proc: node.proc.as_fd(),
        cgroups: &[],
        limits: LIMITS,
        identity,
    };
    let pid = spawn_confined(&program).during(Phase::Verify)?;
    drop(end);
    let said = said(output, TIME);
    // At the end of its output it has told everything; else it has had its time.
    let _ = kill_process(pid, Signal::KILL);
    wait(pid, KILLED);
    match said {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(why) => Err(Failure::Failed(Failed {
            phase: Phase::Verify,
            call: format!("{} {}: {why}", check.loader, check.object),
            errno: None,
            advice: Some(
                "the image's file system may be slow; mpi.verify = false in grus.toml leaves this out".into(),
            ),
        })),
    }
}

/// The loader's variables as a task would have them, and those that make it tell.
fn environment(plan: &LaunchPlan, job: &BTreeMap<String, String>) -> Vec<CString> {
    let edits = &plan.environment;
    let kept = job.iter().filter(|(name, _)| !edits.unset.contains(*name) && !edits.set.contains_key(*name));
    let loaders = kept.chain(&edits.set).filter(|(name, _)| name.starts_with("LD_"));
    let told = TRACE_ENVIRONMENT.iter();
    loaders
        .filter(|(name, _)| told.clone().all(|(ours, _)| ours != name))
        .map(|(name, value)| cstring(&format!("{name}={value}")))
        .chain(told.clone().map(|(name, value)| cstring(&format!("{name}={value}"))))
        .collect()
}

/// Paths and variables of a plan have no NUL; one that had would be cut there.
fn cstring(text: &str) -> CString {
    let text: String = text.chars().take_while(|c| *c != '\0').collect();
    CString::new(text).unwrap_or_default()
}
