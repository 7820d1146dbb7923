//! What a step could leave behind, counted before and after: loop devices, mounts in any mount namespace,
//! processes, files. Cgroups are left out: Slurm makes and removes them, and at times leaves an empty one for later.
//!
//! Only what belongs to one lab is looked at (its directory, its user's uid, descendants named by Slurm), so that
//! another lab on the same machine disturbs no count.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};

use crate::cluster::Cluster;
use crate::daemon::{start_time, wait_until};

/// A picture of the machine, as far as one lab could have changed it. Each line names one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: BTreeSet<String>,
    dir: PathBuf,
    home: PathBuf,
    uid: u32,
}

impl Snapshot {
    /// Takes the picture for `cluster`.
    pub fn take(cluster: &Cluster) -> Self {
        let account = cluster.account();
        Self::of(cluster.dir(), &account.home, account.uid)
    }

    fn of(dir: &Path, home: &Path, uid: u32) -> Self {
        let mut lines = BTreeSet::new();
        loop_devices(&[dir, home], &mut lines);
        mounts(dir, uid, &mut lines);
        processes(dir, uid, &mut lines);
        files(dir, uid, &mut lines);
        Self { lines, dir: dir.into(), home: home.into(), uid }
    }

    /// What is there now and was not when the picture was taken.
    pub fn new_things(&self) -> Vec<String> {
        let now = Self::of(&self.dir, &self.home, self.uid);
        now.lines.difference(&self.lines).cloned().collect()
    }

    /// Sends `signal` to each process that is new since the picture and whose command line `chosen` holds for.
    /// Panics if there is none.
    #[track_caller]
    pub fn kill_new(&self, signal: Signal, chosen: impl Fn(&str) -> bool) {
        let mut hit = 0;
        for thing in self.new_things() {
            let Some((pid, command)) = thing.strip_prefix("process ").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let id = pid.parse().ok().and_then(Pid::from_raw);
            if let Some(id) = id.filter(|_| chosen(command)) {
                // It may be gone between the picture and here; then there is nothing to kill.
                hit += u32::from(rustix::process::kill_process(id, signal).is_ok());
            }
        }
        assert!(hit > 0, "there was no such process: {:#?}", self.new_things());
    }

    /// Panics if something new is still there after 10 s; the kernel and slurmd clean up a little later than
    /// srun returns.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let mut left = Vec::new();
        let clean = wait_until(Duration::from_secs(10), || {
            left = self.new_things();
            left.is_empty()
        });
        assert!(clean, "left behind:\n{}", left.join("\n"));
    }
}

/// Loop devices whose backing file lies under one of `roots`.
fn loop_devices(roots: &[&Path], lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        if roots.iter().any(|root| Path::new(backing.trim_end()).starts_with(root)) {
            lines.insert(format!("loop device {:?} on {}", entry.file_name(), backing.trim_end()));
        }
    }
}

/// Every mount of the host's namespace, and every other mount namespace one of the lab's processes is in.
fn mounts(dir: &Path, uid: u32, lines: &mut BTreeSet<String>) {
    let own = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        // Mount ids and tags change without meaning; the mount point and what is on it do not.
        let point = line.split(' ').nth(4).unwrap_or_default();
        let what = line.split_once(" - ").map_or("", |(_, rest)| rest);
        // Another lab's.
        if Path::new(point).starts_with(crate::cluster::root()) && !Path::new(point).starts_with(dir) {
            continue;
        }
        lines.insert(format!("mount {point} of {what}"));
    }
    for pid in pids() {
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if namespace != own && is_ours(pid, dir, uid) {
            lines.insert(format!("mount namespace {}", namespace.display()));
        }
    }
}

/// Processes of the lab's user, slurmstepds of the lab, and whatever serves a mount for it.
fn processes(dir: &Path, uid: u32, lines: &mut BTreeSet<String>) {
    for pid in pids().into_iter().filter(|&pid| is_ours(pid, dir, uid)) {
        if let Some(start) = start_time(pid) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            lines.insert(format!("process {pid} (started {start}) {}", command.trim_end()));
        }
    }
}

/// Files in Slurm's spool and temporary directories, and the user's in the places anyone may write.
fn files(dir: &Path, uid: u32, lines: &mut BTreeSet<String>) {
    let spools = fs::read_dir(dir.join("spool")).into_iter().flatten().flatten();
    for spool in spools.filter(|e| e.file_name() != "ctld") {
        // A killed slurmstepd cannot remove its own socket; slurmd does so later.
        list(&spool.path(), &|meta| !meta.file_type().is_socket(), lines);
    }
    // slurmd's own state, not a step's.
    lines.retain(|line| !line.contains("/cred_state") && !line.contains("/hwloc_topo"));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("tmp-") {
            list(&entry.path(), &|_| true, lines);
        }
    }
    for place in ["/tmp", "/var/tmp", "/dev/shm", "/run"] {
        list(Path::new(place), &|meta| meta.uid() == uid, lines);
    }
    list(Path::new("/run/grus"), &|_| true, lines);
}

/// Everything below `dir` that `wanted` holds for, directories of others entered only one level deep.
fn list(dir: &Path, wanted: &dyn Fn(&fs::Metadata) -> bool, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if wanted(&meta) {
            lines.insert(format!("file {}", entry.path().display()));
            if meta.is_dir() {
                list(&entry.path(), wanted, lines);
            }
        }
    }
}

/// Ends what outlived the lab's daemons: slurmstepds, ranks, FUSE servers.
pub(crate) fn kill_strays(dir: &Path, uid: u32) -> Result<()> {
    let strays = || pids().into_iter().filter(|&pid| is_ours(pid, dir, uid)).collect::<Vec<_>>();
    wait_until(Duration::from_secs(3), || strays().is_empty());
    for pid in strays() {
        let Some(id) = Pid::from_raw(pid as i32) else { continue };
        let Ok(pidfd) = pidfd_open(id, PidfdFlags::empty()) else { continue };
        // Asked again with the descriptor held: the pid cannot have changed hands in between.
        if is_ours(pid, dir, uid) {
            pidfd_send_signal(&pidfd, Signal::KILL)?;
        }
    }
    wait_until(Duration::from_secs(5), || strays().is_empty());
    Ok(())
}

/// A live process that is the lab user's, or a slurmstepd of this lab (it holds the node's log open).
fn is_ours(pid: u32, dir: &Path, uid: u32) -> bool {
    if start_time(pid).is_none() {
        return false;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    // u32::MAX stands for a user that does not exist: setuid(2) refuses it, so no process has it.
    if uids.split_whitespace().any(|id| id.parse() == Ok(uid)) {
        return true;
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.starts_with("slurmstepd") && holds_open(pid, &dir.join("log"))
}

fn holds_open(pid: u32, dir: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(dir)))
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
