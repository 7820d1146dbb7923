//! What a lab takes from the machine: the lock, ports, sessions, cgroups.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::cluster::root;

/// Who may open /dev/fuse, for a while: everyone, as udev(7) has it, or root.
#[derive(Debug)]
pub struct Fuse(Permissions);

const DEVICE: &str = "/dev/fuse";

impl Fuse {
    /// Until this is dropped.
    pub fn for_everyone(yes: bool) -> Self {
        let before = fs::metadata(DEVICE).expect("the module is loaded").permissions();
        let mode = if yes { 0o666 } else { 0o600 };
        fs::set_permissions(DEVICE, Permissions::from_mode(mode)).expect("root may chmod");
        Self(before)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = fs::set_permissions(DEVICE, self.0.clone());
    }
}

/// One `up` or `down` at a time on this machine, for as long as this lives.
pub(crate) struct Lock {
    file: File,
}

/// Waits for the lock.
pub(crate) fn locked() -> Result<Lock> {
    loop {
        fs::create_dir_all(root())?;
        fs::set_permissions(root(), Permissions::from_mode(0o755))?;
        let path = root().join("lock");
        let file = File::create(&path)?;
        file.lock()?;
        // The holder before us may have removed the file: then what we hold locks nobody out.
        if fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|held| held.ino() == now.ino())) {
            return Ok(Lock { file });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The last lab takes the directory with it.
        let alone = fs::read_dir(root()).is_ok_and(|entries| entries.count() == 1);
        if alone && fs::remove_file(root().join("lock")).is_ok() {
            let _ = fs::remove_dir(root());
        }
        let _ = self.file.unlock();
    }
}

/// First of `count` consecutive free loopback ports, below the range that outgoing connections take theirs from.
pub(crate) fn free_ports(count: usize) -> Result<u16> {
    let seed = std::process::id() as u16;
    for step in 0..500u16 {
        let base = 20_000 + (seed.wrapping_mul(31) % 500 + step) % 500 * 24;
        let all: std::io::Result<Vec<_>> =
            (base..base + count as u16).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        if all.is_ok() {
            return Ok(base);
        }
    }
    bail!("no {count} consecutive free ports on loopback")
}

/// A command in a session of its own, so that no terminal's signal reaches it. setsid(1) execs in place: the pid
/// stays.
pub(crate) fn session(program: &str) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

/// Writes a file by rename: no reader sees half of it.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// proctrack/cgroup ends stray children with the step, but needs the v1 freezer here (Slurm's v2 needs systemd).
pub(crate) fn usable_proctrack() -> &'static str {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/cgroup/freezer")) {
        "proctrack/cgroup"
    } else {
        "proctrack/linuxproc"
    }
}

/// Removes the empty cgroups slurmd leaves in each v1 hierarchy; one that is in use refuses and stays.
pub(crate) fn remove_cgroups(nodes: &[String]) {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
    for hierarchy in hierarchies.flatten() {
        for node in nodes {
            remove_empty_tree(&hierarchy.path().join(format!("slurm_{node}")));
        }
    }
}

fn remove_empty_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
