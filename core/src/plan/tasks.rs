//! What tasks are beyond the files they see: whom they are shown as, what they are started through, what of the node
//! they do not share.

use super::decide::Launch;
use super::draft::Draft;
use super::resolve::{locate, Located};
use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};

/// Slurm's words for a step's nodes, and for a batch script's.
const NODE_COUNTS: [&str; 2] = ["SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES"];

/// How the step's tasks are launched; not set for `--mpi=none` (srun(1)).
const MPI_TYPE: &str = "SLURM_MPI_TYPE";

/// Whether the user is shown as root. Root is root already.
pub(super) fn remaps_root(launch: &Launch) -> bool {
    launch.job.user.uid != 0 && launch.request.remap_root.unwrap_or(launch.site.container.remap_root)
}

/// The image's ENTRYPOINT, where tasks go through it.
pub(super) fn entrypoint(launch: &Launch, draft: &Draft) -> Result<Vec<String>, Refusal> {
    let entrypoint = &launch.config.entrypoint;
    let [program, ..] = entrypoint.as_slice() else { return Ok(vec![]) };
    if !launch.request.entrypoint.unwrap_or(launch.site.container.entrypoint) {
        return Ok(vec![]);
    }
    let refuse = |why: &str| {
        Err(Refusal::image(format!("the image's ENTRYPOINT '{}' {why}", printable(program)))
            .hint("leave --container-entrypoint out, or pass --no-container-entrypoint"))
    };
    if program.is_empty() || entrypoint.iter().any(|word| word.contains('\0')) {
        return refuse("is no command");
    }
    if !program.contains('/') {
        // A task looks for it in its PATH.
        return Ok(entrypoint.clone());
    }
    let Ok(path) = AbsPath::parse(program) else {
        return refuse("is neither an absolute path nor the name of a program");
    };
    let Located { path: at, entry } = locate(draft.rootfs, &path)?;
    // What a mount brings, a task finds out.
    match entry.is_some() || draft.mounts.iter().any(|op| at.is_within(op.destination())) {
        true => Ok(entrypoint.clone()),
        false => refuse("is not in the image"),
    }
}

/// What does not work without the node's network, as far as it can be known.
pub(super) fn network_warnings(launch: &Launch) -> Option<String> {
    let net = launch.request.namespaces.is_some_and(|namespaces| namespaces.net);
    let environment = &launch.job.environment;
    let nodes = NODE_COUNTS.iter().find_map(|name| environment.get(*name)?.parse::<u32>().ok());
    let pmix = environment.get(MPI_TYPE).is_some_and(|kind| kind.starts_with("pmix"));
    let why = match (net, nodes.unwrap_or(1), pmix) {
        (false, ..) | (true, 0 | 1, false) => return None,
        (true, 2.., _) => "the tasks cannot reach other nodes, and MPI between nodes will not work",
        (true, _, true) => {
            "PMIx reaches slurmstepd by the network, and MPI programs will not start under --mpi=pmix"
        }
    };
    Some(format!("with --container-unshare=net {why}"))
}
