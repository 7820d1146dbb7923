//! A whole Slurm on one machine: munged, slurmctld and N slurmds with keys, sockets, ports and state of their own
//! under one directory, so that several can run beside each other and beside the machine's own Slurm.
//!
//! Dropping a [`Cluster`] takes it down, also in a panic; `GRUS_LAB_KEEP=1` keeps it for a look. What a killed
//! test run left behind, the next `up` sweeps away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::account::{checked, Account};
use crate::builder::ClusterBuilder;
use crate::command::Cmd;
use crate::conf::Settings;
use crate::daemon::{wait_until, Daemon};
use crate::leaks;
use crate::machine::{locked, replace};

/// Where labs live, unless `GRUS_LAB_ROOT` says otherwise. Not `/run`, which many machines mount noexec: batch
/// scripts are executed from slurmd's spool.
const ROOT: &str = "/var/lib/grus-lab";

/// The directory that holds all labs.
pub fn root() -> PathBuf {
    std::env::var_os("GRUS_LAB_ROOT").map_or_else(|| ROOT.into(), PathBuf::from)
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) account: Account,
    /// Taken down when dropped.
    pub(crate) owned: bool,
}

impl Cluster {
    /// A builder for the lab called `name`: short, lower case. The ordinary user is `grus-<name>`.
    pub fn builder(name: &str) -> ClusterBuilder {
        ClusterBuilder::new(name)
    }

    /// The lab of that name, running or half-way; not owned.
    pub fn open(name: &str) -> Result<Self> {
        let dir = root().join(name);
        let text = fs::read(dir.join("lab.json")).with_context(|| format!("there is no lab {name}"))?;
        let settings: Settings = serde_json::from_slice(&text)?;
        let account = Account::find(&settings.user)?.unwrap_or_else(|| Account {
            name: settings.user.clone(),
            uid: u32::MAX,
            gid: u32::MAX,
            home: dir.clone(),
        });
        Ok(Self { dir, settings, account, owned: false })
    }

    /// Directory that holds all of this lab's state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory the ordinary user owns; the working directory of [`Cluster::user`]'s commands.
    pub fn work_dir(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// The ordinary user.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Name of node `index`, from 1.
    pub fn node(&self, index: usize) -> String {
        self.settings.node(index)
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.settings.nodes
    }

    /// The cluster's `slurm.conf`, the value of SLURM_CONF for its clients.
    pub fn slurm_conf(&self) -> PathBuf {
        self.dir.join("etc/slurm.conf")
    }

    /// `program` as the ordinary user, in [`Cluster::work_dir`].
    pub fn user(&self, program: &str) -> Cmd {
        Cmd::as_user(&self.account, program).env("SLURM_CONF", self.slurm_conf()).cwd(self.work_dir())
    }

    /// `program` as root.
    pub fn root(&self, program: &str) -> Cmd {
        Cmd::new(program).env("SLURM_CONF", self.slurm_conf()).cwd(self.work_dir())
    }

    /// A fresh directory of the user's on the host, visible to both sides.
    pub fn fresh_dir(&self, name: &str) -> PathBuf {
        let dir = self.work_dir().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("what a test left can be removed");
        }
        fs::create_dir(&dir).expect("the work directory is there");
        self.give(&dir);
        dir
    }

    /// Makes a file or directory the user's.
    pub fn give(&self, path: &Path) {
        let account = self.account();
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).expect("root may chown");
    }

    /// Replaces `plugstack.conf`. The next srun, sbatch, salloc and step sees it; slurmd when restarted.
    pub fn set_plugstack(&self, text: &str) -> Result<()> {
        replace(&self.dir.join("etc/plugstack.conf"), text)
    }

    /// State of each node, in order, such as `idle`.
    pub fn node_states(&self) -> Result<Vec<String>> {
        let sinfo = self.root("sinfo").args(["--noheader", "--Node", "--format=%N %T"]);
        let mut lines: Vec<String> = checked(sinfo)?.lines().map(|l| l.trim().to_owned()).collect();
        lines.sort_by_key(|l| (l.len(), l.clone()));
        Ok(lines.iter().filter_map(|l| l.split_once(' ')).map(|(_, state)| state.to_owned()).collect())
    }

    /// Panics unless all nodes are idle within 20 s. A drained node, a trap of failing SPANK hooks, never gets
    /// there.
    #[track_caller]
    pub fn assert_nodes_idle(&self) {
        let mut states = Vec::new();
        let idle = wait_until(Duration::from_secs(20), || {
            states = self.node_states().unwrap_or_default();
            self.idle(&states)
        });
        let reasons = self.root("sinfo").args(["--list-reasons"]).run();
        assert!(idle, "wanted: {} idle nodes, there are: {states:?}\n{reasons}", self.settings.nodes);
    }

    /// Makes drained or down nodes usable again, for the tests that follow.
    pub fn resume_nodes(&self) -> Result<()> {
        let (name, number) = (&self.settings.node_prefix, self.settings.nodes);
        let update = ["update", &format!("NodeName={name}[1-{number}]"), "State=RESUME"];
        let output = self.root("scontrol").args(update).run();
        // Slurm calls it an error when a node needs no resuming.
        let harmless = output.stderr.contains("Invalid node state");
        ensure!(output.status.success() || harmless, "{output}");
        Ok(())
    }

    /// Stops and starts the slurmd of node `index`: it then has read `plugstack.conf` anew.
    pub fn restart_slurmd(&self, index: usize) -> Result<()> {
        let node = self.node(index);
        if let Some(daemon) = Daemon::recorded(&self.dir, &format!("slurmd-{node}")) {
            daemon.stop(Duration::from_secs(10))?;
        }
        self.start_slurmd(&node)?;
        self.wait_idle()
    }

    /// A record of all that a step could leave behind; see [`leaks::Snapshot`].
    pub fn snapshot(&self) -> leaks::Snapshot {
        leaks::Snapshot::take(self)
    }

    /// Takes everything down: jobs, daemons, user, files. Nothing is left.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        self.down_by_reference()
    }

    /// The same for a cluster in a static, which cannot be moved out and is never dropped.
    pub fn down_by_reference(&self) -> Result<()> {
        if self.kept() {
            return Ok(());
        }
        let _lock = locked()?;
        self.take_down()
    }

    /// Whether `GRUS_LAB_KEEP` asks to leave a test's lab as it is.
    fn kept(&self) -> bool {
        let kept = std::env::var_os("GRUS_LAB_KEEP").is_some() && self.dir.join("owner").exists();
        if kept {
            eprintln!("lab kept: end it with grus-lab --name {} down", self.settings.name);
            let _ = fs::remove_file(self.dir.join("owner"));
        }
        kept
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Err(error) = self.down_by_reference() {
            eprintln!("the lab in {} did not come down cleanly: {error:#}", self.dir.display());
        }
    }
}
