//! The end of a job on a node: the containers that it kept are taken away. slurmd waits for this, and drains the node if
//! it fails; so it is quick, and never fails.

use std::fs;
use std::os::unix::process::parent_id;
use std::path::PathBuf;

use grus_enter::{remove_kept, Failure};
use slurm_spank::SpankHandle;

use crate::{say, settings};

/// Slurm's name of this node, in the environment of prologs and epilogs.
const NODE: &str = "SLURMD_NODENAME";

/// Takes away what the job has kept on this node, if anything.
pub fn job_ended(spank: &SpankHandle) {
    let node = node();
    if let Err(failure) = remove(spank, &node) {
        say::failure(Some(&node), &failure.what(), failure.hint().as_deref());
    }
}

fn remove(spank: &SpankHandle, node: &str) -> Result<(), Failure> {
    let (Ok(job), Ok(arguments)) = (spank.job_id(), spank.plugin_argv()) else { return Ok(()) };
    let site = settings::site(&arguments)?;
    // Slurm may have put this process into the job's own mount namespace; slurmd, its parent, is where steps keep
    // their containers.
    let slurmd = PathBuf::from(format!("/proc/{}/ns/mnt", parent_id()));
    let same = fs::read_link("/proc/self/ns/mnt").ok() == fs::read_link(&slurmd).ok();
    remove_kept(&site.named.dir, node, job, (!same).then_some(slurmd.as_path()))
}

/// The node's name, as the steps have it.
fn node() -> String {
    std::env::var(NODE).unwrap_or_else(|_| {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        host.trim().split('.').next().unwrap_or_default().into()
    })
}
