//! The job as slurmstepd knows it: who, where, with which environment and image.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use grus_core::name::Name;
use grus_core::path::AbsPath;
use grus_core::plan::Job;
use grus_core::platform::Platform;
use grus_core::request::{Request, VARIABLE};
use grus_core::site::Site;
use grus_core::Refusal;
use grus_enter::{account, Inputs, StepId, TIME_LIMIT};
use slurm_spank::SpankHandle;

use crate::abi;
use crate::node::Place;
use crate::slurm_constants::SLURM_BATCH_SCRIPT;
use crate::step::unreadable;

/// Everything the build is made from: the job as slurmstepd knows it.
pub fn inputs(
    request: Request,
    site: Arc<Site>,
    stacks: PathBuf,
    place: &Place,
    who: abi::Identity,
    spank: &SpankHandle,
) -> Result<Inputs, Refusal> {
    let abi::Identity { uid, gid, gids } = who;
    let (job_id, step) = (spank.job_id().map_err(unreadable)?, spank.job_stepid().map_err(unreadable)?);
    let mut slurm_paths = place.launch_paths(job_id, step, uid);
    if step == SLURM_BATCH_SCRIPT {
        // The copy of the script in the spool directory, which is what gets executed.
        let argv = spank.job_argv().map_err(unreadable)?;
        slurm_paths.extend(argv.first().and_then(|script| AbsPath::parse(script).ok()));
    }
    let job = Job {
        user: account::user(uid, gid, &gids)?,
        workdir: workdir()?,
        environment: environment(&spank.job_env_os().map_err(unreadable)?),
        slurm_paths,
    };
    let node = Some(place.node.clone());
    let image = image_of(&request)?;
    let restart = job.environment.get("SLURM_RESTART_COUNT").and_then(|count| count.parse().ok());
    let step = StepId { job: job_id, step, restart: restart.unwrap_or_default() };
    Ok(Inputs {
        request,
        site,
        stacks: Some(stacks),
        job,
        image,
        step,
        uid,
        gid,
        gids,
        platform: Platform::here(),
        node,
        limit: TIME_LIMIT,
    })
}

/// The image that submission found; `/` where a container is taken as it is.
fn image_of(request: &Request) -> Result<AbsPath, Refusal> {
    if request.image.is_none() || matches!(request.name, Some(Name::OfStep { .. })) {
        return Ok(AbsPath::root());
    }
    request.resolved.as_ref().map(|resolved| resolved.path.clone()).ok_or_else(|| {
        Refusal::user("the container options name no image that was found at submission")
            .hint(format!("do not set {VARIABLE} by hand; use the options of srun and sbatch"))
    })
}

/// The job's user.
pub fn identity(spank: &SpankHandle) -> Result<abi::Identity, Refusal> {
    let (uid, gid) = (spank.job_uid().map_err(unreadable)?, spank.job_gid().map_err(unreadable)?);
    let gids = spank.job_supplementary_gids().map_err(unreadable)?;
    Ok(abi::Identity { uid, gid, gids })
}

/// The job's directory: Slurm has changed to it, or to a substitute where it is missing.
fn workdir() -> Result<AbsPath, Refusal> {
    let directory = env::current_dir()
        .map_err(|error| Refusal::user(format!("the job's working directory is of no use: {error}")))?;
    AbsPath::parse(&directory.to_string_lossy())
}

/// `NAME=value` as pairs; what is not UTF-8 is not ours to judge and stays as it is.
fn environment(variables: &[&OsStr]) -> BTreeMap<String, String> {
    let pairs = variables.iter().filter_map(|variable| variable.to_str()?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
