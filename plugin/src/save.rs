//! `--container-save` on the step's first node: once its last task has ended, the site's `grus` program, as the user and
//! with the job's private directories in view, writes the container. In task_exit, before Slurm tells srun of that end:
//! later, in `exit`, whatever still runs is being killed.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use grus_core::path::AbsPath;
use grus_core::request::Request;
use grus_core::saving::Order;
use grus_core::site::Site;
use grus_enter::{Container, Said, Saver, Unsaved};
use slurm_spank::SpankHandle;

use crate::{abi, cgroup, say};

/// Signals of scancel, of time limits, and of a node that is out of memory; signal(7).
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What is to be done at the end.
#[derive(Debug)]
pub struct Save {
    file: AbsPath,
    command: AbsPath,
    who: abi::Identity,
    /// Tasks on this node that have not ended.
    left: u32,
    killed: bool,
    /// The cgroups of each task, by its number.
    cgroups: BTreeMap<i32, Vec<PathBuf>>,
}

/// For the step's first node: the others' request asks for nothing. In user_init, before the container is built, which
/// tells of a file that cannot be written before any work is done.
pub fn prepare(request: &mut Request, site: &Site, who: &abi::Identity, spank: &SpankHandle) -> Option<Save> {
    // A container that is joined is another step's to save.
    let file = request.save.clone().filter(|_| !request.joins())?;
    if spank.job_nodeid().unwrap_or_default() != 0 {
        request.save = None;
        return None;
    }
    let command = site.pull.command.clone();
    let left = spank.job_local_task_count().unwrap_or(1);
    Some(Save { file, command, who: who.clone(), left, killed: false, cgroups: BTreeMap::new() })
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
        let Some(Unsaved { tree, view }) = container.saved.take() else {
            let what = format!("the container is not saved to {file}: its tree is not at hand");
            return say::failure(Some(node), &what, Some("save it in the step that makes the container"));
        };
        let order = Order::new(file, &container.plan, tree.is_some()).encode();
        let abi::Identity { uid, gid, gids } = &self.who;
        let (command, order, cgroups) = (&self.command, order.as_str(), cgroups.as_slice());
        let saver = Saver { command, order, tree, view: &view, cgroups, uid: *uid, gid: *gid, gids };
        match saver.run() {
            Ok(said) => self.tell(&said, node),
            Err(failure) => say::failure(Some(node), &failure.what(), failure.hint().as_deref()),
        }
    }

    /// Hands on what the program said: its result, its warnings, its failure.
    fn tell(&self, said: &Said, node: &str) {
        let mut failed = None;
        let mut hint = None;
        for line in said.errors.lines() {
            if let Some(warning) = line.strip_prefix("grus: warning: ") {
                say::warning(&format!("{node}: {warning}"));
            } else if let Some(text) = line.strip_prefix("hint: ") {
                hint = Some(text.to_owned());
            } else {
                failed = Some(line.strip_prefix("grus: ").unwrap_or(line).to_owned());
            }
        }
        let status = said.status.map(ExitStatus::from_raw);
        if status.is_some_and(|status| status.success()) {
            return say::result(node, said.output.trim_end());
        }
        let why = match (failed, status, status.and_then(|status| status.signal())) {
            (Some(failed), ..) => failed,
            (None, _, Some(signal)) => format!("it was stopped by signal {signal}"),
            (None, Some(status), None) => format!("it ended with {status}"),
            (None, None, None) => "it ended while another process traced it".into(),
        };
        let hint = hint.unwrap_or_else(|| "nothing was written; run the step again".into());
        say::failure(Some(node), &format!("the container is not saved to {}: {why}", self.file), Some(&hint));
    }
}
