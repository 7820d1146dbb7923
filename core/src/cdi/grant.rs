//! What Slurm gave a step of the node's GPUs, told from the variables it sets.
//!
//! slurmstepd sets a step's variables before any plugin is called (src/slurmd/slurmstepd/mgr.c, `_step_setup`:
//! gres_g_step_set_env) and a task's own after the last hook but one (`gres_g_task_set_env`), so what is here is the
//! whole step's; the tasks' own stay as Slurm sets them.

use std::collections::BTreeMap;

/// The node's numbers of a step's GPUs, and of a batch script's.
const STEP: &str = "SLURM_STEP_GPUS";
const JOB: &str = "SLURM_JOB_GPUS";
/// Which step this is: the allocator's and a batch script's have high numbers or none (slurm_protocol_defs.h).
const STEP_ID: &str = "SLURM_STEP_ID";
const FIRST_SPECIAL: u32 = 0xffff_fff0;

/// Which of what a task can open it is to use, by vendor.
pub(super) const VISIBLE: [(&str, &str); 4] = [
    ("nvidia.com/gpu", "CUDA_VISIBLE_DEVICES"),
    ("amd.com/gpu", "ROCR_VISIBLE_DEVICES"),
    ("intel.com/gpu", "ZE_AFFINITY_MASK"),
    ("amd.com/gpu", "GPU_DEVICE_ORDINAL"),
];

/// A step's GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// By the node's numbers, in the order of gres.conf.
    pub indices: Vec<u32>,
    /// By names of their own, where Slurm knows them (MIG).
    pub ids: Vec<String>,
    /// Whether other GPUs can be hidden: the numbers that programs are told count what can be opened. Without
    /// ConstrainDevices they count all of the node's, and would mean others if some were hidden.
    pub local: bool,
}

impl Grant {
    /// From the environment of a task; None where Slurm says nothing of GPUs.
    pub fn of(environment: &BTreeMap<String, String>) -> Option<Self> {
        let get = |name: &str| environment.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let ordinary = get(STEP_ID).and_then(|id| id.parse().ok()).is_some_and(|id: u32| id < FIRST_SPECIAL);
        // A step inherits the batch script's variables, and may have been given less.
        let given = get(STEP).or_else(|| get(JOB).filter(|_| !ordinary))?;
        let indices = numbers(given)?;
        let visible: Vec<&str> = VISIBLE.iter().filter_map(|(_, name)| get(name)).collect();
        let by_id = |list: &&&str| list.split(',').all(is_id);
        let ids =
            visible.iter().find(by_id).map_or(vec![], |ids| ids.split(',').map(str::to_owned).collect());
        let counted = |list: &str| list.split(',').zip(0..).all(|(n, i): (&str, u32)| n.parse() == Ok(i));
        let local = visible.iter().all(|list| counted(list) || by_id(&list));
        Some(Self { indices, ids, local })
    }
}

/// Whether this is a GPU's or a MIG instance's own name (nvidia-smi(1)).
pub(super) fn is_id(word: &str) -> bool {
    word.starts_with("GPU-") || word.starts_with("MIG-")
}

/// `0,2-3`. What is no number makes no grant: then nothing is known.
pub(super) fn numbers(list: &str) -> Option<Vec<u32>> {
    const MOST: usize = 1024;
    let mut all = vec![];
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last.checked_sub(first)? as usize >= MOST || all.len() >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(variables: &[(&str, &str)]) -> Option<Grant> {
        Grant::of(&variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_step_has_what_slurm_gave_it_and_a_script_what_its_job_has() {
        let of = |variables: &[(&str, &str)]| grant(variables).map(|grant| grant.indices);
        assert_eq!(of(&[("SLURM_STEP_GPUS", "1,3"), ("SLURM_JOB_GPUS", "0-3")]), Some(vec![1, 3]));
        assert_eq!(of(&[("SLURM_JOB_GPUS", "0-2")]), Some(vec![0, 1, 2]));
        assert_eq!(of(&[("SLURM_JOB_GPUS", "2"), ("SLURM_STEP_ID", "4294967291")]), Some(vec![2]));
        assert_eq!(of(&[("SLURM_JOB_GPUS", "0"), ("SLURM_STEP_ID", "0")]), None, "a step without");
        for nothing in ["", "x", "0,x", "3-1", "0-4294967295"] {
            assert_eq!(of(&[("SLURM_STEP_GPUS", nothing)]), None, "{nothing}");
        }
        assert_eq!(of(&[("CUDA_VISIBLE_DEVICES", "0")]), None, "a user's own");
    }

    #[test]
    fn others_are_hidden_only_where_no_number_changes_its_meaning() {
        let local = |visible| {
            let grant = grant(&[("SLURM_STEP_GPUS", "1"), ("CUDA_VISIBLE_DEVICES", visible)]);
            grant.map(|grant| (grant.local, grant.ids.len()))
        };
        assert_eq!(local("0"), Some((true, 0)), "ConstrainDevices");
        assert_eq!(local("1"), Some((false, 0)));
        assert_eq!(local("MIG-a,MIG-b"), Some((true, 2)));
        assert_eq!(local("GPU-a,1"), Some((false, 0)));
    }
}
