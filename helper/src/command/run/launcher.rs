//! What the launcher of a parallel program tells its ranks by their environment.

use std::collections::BTreeMap;
use std::path::Path;

use grus_core::path::AbsPath;

/// Directories of a launcher's that are not in /tmp: where PMIx and PALS talk to their ranks.
pub fn launch_paths(environment: &BTreeMap<String, String>) -> Vec<AbsPath> {
    let of =
        |name: &str| AbsPath::parse(environment.get(name)?).ok().filter(|path| path.as_path().is_absolute());
    let dirs = ["PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR"].into_iter().filter_map(of);
    let above = of("PALS_APINFO").and_then(|file| file.parent());
    let mut all: Vec<AbsPath> = dirs
        .chain(above)
        .filter(|dir| !dir.as_path().starts_with("/tmp") && Path::new(dir.as_str()).is_dir())
        .collect();
    all.sort_by_key(AbsPath::depth);
    all.dedup();
    all
}

/// What names the launch of which this is one of several ranks on this host, as launchers tell it: PMIx's (Open MPI,
/// PRRTE, srun --mpi=pmix), Hydra's (MPICH, Intel MPI) by the proxy that is the ranks' parent, and Slurm's own.
pub fn launch(environment: &BTreeMap<String, String>) -> Option<String> {
    let get = |name: &str| environment.get(name).map(String::as_str);
    let several = |names: &[&str]| {
        names.iter().any(|n| get(n).and_then(|v| v.parse().ok()).is_some_and(|n: u32| n > 1))
    };
    if let (Some(name), true) = (
        get("PMIX_NAMESPACE"),
        several(&["OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"]),
    ) {
        return Some(format!("pmix {name}"));
    }
    if several(&["MPI_LOCALNRANKS"]) {
        return Some(format!("hydra {}", std::os::unix::process::parent_id()));
    }
    match (get("SLURM_JOB_ID"), get("SLURM_STEP_ID"), get("SLURM_PROCID")) {
        (Some(job), Some(step), Some(_)) if several(&["SLURM_STEP_NUM_TASKS"]) => {
            Some(format!("slurm {job}.{step}"))
        }
        _ => None,
    }
}
