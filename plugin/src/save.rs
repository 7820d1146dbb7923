//! `--container-save` on the step's first node: once its last task has ended, the site's `grus` program, as the user,
//! writes the container. In task_exit, before Slurm tells srun of that end: later, in `exit`, whatever still runs is
//! being killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use grus_core::path::AbsPath;
use grus_core::request::Request;
use grus_core::saving::Order;
use grus_core::site::Site;
use grus_core::Refusal;
use grus_enter::{saving, Container};
use slurm_spank::SpankHandle;

use crate::{abi, cgroup, say};

/// Signals of scancel, of time limits, and of a node that is out of memory; signal(7).
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What is to be done at the end.
#[derive(Debug)]
pub struct Save {
    file: AbsPath,
    command: PathBuf,
    who: abi::Identity,
    /// Tasks on this node that have not ended.
    left: u32,
    killed: bool,
    /// The cgroups of each task, by its number.
    cgroups: BTreeMap<i32, Vec<PathBuf>>,
}

/// For the step's first node: the others' request asks for nothing. In user_init, with the user's effective id, so
/// that a file that cannot be written is told before any work is done.
pub fn prepare(
    request: &mut Request,
    site: &Site,
    who: &abi::Identity,
    spank: &SpankHandle,
) -> Result<Option<Save>, Refusal> {
    // A container that is joined is another step's to save.
    let Some(file) = request.save.clone().filter(|_| !request.joins()) else { return Ok(None) };
    if spank.job_nodeid().unwrap_or_default() != 0 {
        request.save = None;
        return Ok(None);
    }
    saving::check(file.as_path())?;
    let command = site.pull.command.as_path().to_owned();
    let left = spank.job_local_task_count().unwrap_or(1);
    Ok(Some(Save { file, command, who: who.clone(), left, killed: false, cgroups: BTreeMap::new() }))
}

impl Save {
    /// task_post_fork: a task lives.
    pub fn task_started(&mut self, spank: &SpankHandle) {
        if let (Ok(task), Ok(pid)) = (spank.task_id(), spank.task_pid()) {
            self.cgroups.insert(task, cgroup::of_process(pid));
        }
    }

    /// task_exit: a task has ended; after the last one, saves.
    pub fn task_ended(&mut self, status: i32, container: &mut Container, node: &str, spank: &SpankHandle) {
        self.left = self.left.saturating_sub(1);
        self.killed |= [SIGKILL, SIGTERM].contains(&(status & 0x7f));
        if self.left > 0 {
            return;
        }
        let file = &self.file;
        if self.killed {
            let what = format!("the container is not saved to {file}: the step was cancelled or killed");
            return say::failure(
                Some(node),
                &what,
                Some("only a step whose tasks end by themselves is saved"),
            );
        }
        let cgroups = spank.task_id().ok().and_then(|task| self.cgroups.get(&task));
        let cgroups = cgroup::open(cgroups.map_or(&[], Vec::as_slice));
        // Taken, so that nothing holds the tree once it is written.
        let tree = container.saved.take();
        if tree.is_none() && container.plan.can_change() {
            let what = format!("the container is not saved to {file}: its tree is not at hand");
            return say::failure(Some(node), &what, Some("save it in the step that makes the container"));
        }
        let order = Order::new(file, &container.plan, tree.is_some()).encode();
        match self.run(&order, tree, cgroups) {
            Ok(output) => self.tell(&output, node),
            Err(error) => {
                let what = format!("cannot run {} to save {file}: {error}", self.command.display());
                say::failure(
                    Some(node),
                    &what,
                    Some("ask the administrator to check pull.command in grus.toml"),
                );
            }
        }
    }

    fn run(&self, order: &str, tree: Option<OwnedFd>, cgroups: Vec<File>) -> std::io::Result<Output> {
        let mut command = Command::new(&self.command);
        command.args(["save-container", order]).env_clear().current_dir("/");
        command.stdin(tree.map_or_else(Stdio::null, Stdio::from));
        abi::become_user(&mut command, &self.who, cgroups);
        command.output()
    }

    /// Hands on what the program said: its result, its warnings, its failure.
    fn tell(&self, output: &Output, node: &str) {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut failed = None;
        let mut hint = None;
        for line in errors.lines() {
            if let Some(warning) = line.strip_prefix("grus: warning: ") {
                say::warning(&format!("{node}: {warning}"));
            } else if let Some(text) = line.strip_prefix("hint: ") {
                hint = Some(text.to_owned());
            } else {
                failed = Some(line.strip_prefix("grus: ").unwrap_or(line).to_owned());
            }
        }
        if output.status.success() {
            return say::result(node, String::from_utf8_lossy(&output.stdout).trim_end());
        }
        let why = match (failed, output.status.signal()) {
            (Some(failed), _) => failed,
            (None, Some(signal)) => format!("it was stopped by signal {signal}"),
            (None, None) => format!("it ended with {}", output.status),
        };
        let hint = hint.unwrap_or_else(|| "nothing was written; run the step again".into());
        say::failure(Some(node), &format!("the container is not saved to {}: {why}", self.file), Some(&hint));
    }
}
