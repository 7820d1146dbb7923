//! Containers of `grus run` that are there, found by what their programs have inherited; and one more program in one of
//! them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use grus_core::environment::Edits;
use grus_core::plan::LaunchPlan;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::{no_more_rights, shared, Inside};
use crate::call::{open_own, During};
use crate::failure::{Failure, Phase};
use crate::timing::Clock;

/// A container of the caller's on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its first process that others can join.
    pub pid: u32,
    /// How many there are in it.
    pub processes: usize,
    /// Its mount namespace, as /proc/PID/ns/mnt has it.
    pub mounts: PathBuf,
}

/// All of them, the oldest process ids first.
pub fn running(uid: u32) -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = entries.filter(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == uid));
    let mut pids: Vec<u32> = own.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut all: BTreeMap<PathBuf, (usize, Option<u32>)> = BTreeMap::new();
    for pid in pids {
        let Ok(mounts) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        let (processes, first) = all.entry(mounts).or_default();
        *processes += 1;
        if first.is_none() {
            let process = open_own(&format!("/proc/{pid}"), OFlags::RDONLY | OFlags::DIRECTORY);
            let tells = process.is_ok_and(|process| matches!(shared::told(&process), Ok(Some(_))));
            *first = tells.then_some(pid);
        }
    }
    let mut found: Vec<Running> = all
        .into_iter()
        .filter_map(|(mounts, (processes, first))| Some(Running { pid: first?, processes, mounts }))
        .collect();
    found.sort_by_key(|running| running.pid);
    found
}

/// Moves the calling process, which must have one thread, into the container of process `pid`, for good. None: it is in
/// none of the caller's.
pub fn join(pid: u32) -> Result<Option<Inside>, Failure> {
    let clock = Clock::start(Phase::Join);
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let (told, held) = match shared::join(pid, |_| true) {
        Ok(joined) => joined,
        Err(broken) if matches!(broken.errno, Errno::SRCH | Errno::NOENT | Errno::ACCESS) => return Ok(None),
        Err(broken) => return Err(broken).during(Phase::Join),
    };
    no_more_rights(told.remap_root)?;
    let environment = Edits { set: told.set, unset: told.unset };
    let plan = LaunchPlan::of_joined(told.image, environment, told.workdir);
    let plan = LaunchPlan { remap_root: told.remap_root, namespaces: told.namespaces, ..plan };
    let held = held.and_tell(&plan, told.lock).during(Phase::Join)?;
    Ok(Some(Inside { plan, meta: None, timings: clock.stop(), held }))
}
