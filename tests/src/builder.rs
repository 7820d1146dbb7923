//! What a test wants its cluster to be like, and `up`.

use std::fs;
use std::path::PathBuf;

use anyhow::{bail, ensure, Context, Result};

use crate::account::Account;
use crate::cluster::{root, Cluster};
use crate::conf::Settings;
use crate::daemon::start_time;
use crate::machine::{locked, usable_proctrack, Lock};

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    settings: Settings,
    plugstack: String,
    persistent: bool,
}

impl ClusterBuilder {
    pub(crate) fn new(name: &str) -> Self {
        let settings = Settings {
            name: name.into(),
            node_prefix: name.into(),
            nodes: 2,
            cpus: 8,
            user: format!("grus-{name}"),
            proctrack: usable_proctrack().into(),
            task_plugin: "task/none".into(),
            jobacct: "jobacct_gather/linux".into(),
            mpi_default: "none".into(),
            extra: Vec::new(),
            hidden_devices: None,
            gpus: Vec::new(),
            constrain_devices: false,
        };
        Self { settings, plugstack: String::new(), persistent: false }
    }

    /// Number of nodes (2).
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.settings.nodes = nodes;
        self
    }

    /// CPUs each node claims to have (8), whatever the machine has.
    pub fn cpus(mut self, cpus: usize) -> Self {
        self.settings.cpus = cpus;
        self
    }

    /// Node names are this and a number; by default the lab's name. Two running labs must differ in it.
    pub fn node_prefix(mut self, prefix: &str) -> Self {
        self.settings.node_prefix = prefix.into();
        self
    }

    /// `TaskPlugin=` (`task/none`).
    pub fn task_plugin(mut self, plugin: &str) -> Self {
        self.settings.task_plugin = plugin.into();
        self
    }

    /// `ProctrackType=` (cgroup where the machine has a usable one, else linuxproc).
    pub fn proctrack(mut self, plugin: &str) -> Self {
        self.settings.proctrack = plugin.into();
        self
    }

    /// `JobAcctGatherType=` (`jobacct_gather/linux`).
    pub fn jobacct(mut self, plugin: &str) -> Self {
        self.settings.jobacct = plugin.into();
        self
    }

    /// `MpiDefault=` (`none`).
    pub fn mpi_default(mut self, plugin: &str) -> Self {
        self.settings.mpi_default = plugin.into();
        self
    }

    /// One more line for `slurm.conf`.
    pub fn extra(mut self, line: &str) -> Self {
        self.settings.extra.push(line.into());
        self
    }

    /// The nodes have no such devices; a shell pattern of names in `/dev`, such as `loop*`.
    pub fn hidden_devices(mut self, pattern: &str) -> Self {
        self.settings.hidden_devices = Some(pattern.into());
        self
    }

    /// Each node counts these device nodes as its GPUs (GRES).
    pub fn gpus(mut self, files: &[PathBuf]) -> Self {
        self.settings.gpus = files.to_vec();
        self
    }

    /// Steps can open the GPUs that Slurm gave them, and no others; takes task/cgroup.
    pub fn constrain_devices(mut self) -> Self {
        self.settings.constrain_devices = true;
        self.task_plugin("task/cgroup")
    }

    /// The whole `plugstack.conf` (empty).
    pub fn plugstack(mut self, text: &str) -> Self {
        self.plugstack = text.into();
        self
    }

    /// Outlives this process, until `down` is called by whoever attaches to it.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Brings it up; all nodes are idle when this returns. A persistent lab that already runs with the same
    /// settings is taken over as it is, any other of the same name is taken down first.
    pub fn up(self) -> Result<Cluster> {
        ensure!(rustix::process::getuid().is_root(), "only root can bring a lab up");
        let _lock = self.locked_and_free()?;
        let dir = root().join(&self.settings.name);
        if let Ok(running) = Cluster::open(&self.settings.name) {
            if self.persistent && running.settings == self.settings && running.answers() {
                running.set_plugstack(&self.plugstack)?;
                return Ok(running);
            }
            running.take_down()?;
        }
        refuse_shared_node_names(&self.settings)?;
        fs::create_dir_all(dir.join("pids"))?;
        fs::write(dir.join("lab.json"), serde_json::to_vec_pretty(&self.settings)?)?;
        if !self.persistent {
            let pid = std::process::id();
            let start = start_time(pid).context("own start time")?;
            fs::write(dir.join("owner"), format!("{pid} {start}"))?;
        }
        let account = Account::ensure(&dir, &self.settings.user)?;
        let cluster = Cluster { dir, account, settings: self.settings, owned: !self.persistent };
        // From here on a failure drops `cluster`, which takes down what is up.
        cluster.write_files(&self.plugstack)?;
        if let Err(error) = cluster.start() {
            let logs = cluster.log_tails();
            return Err(error.context(logs));
        }
        Ok(cluster)
    }
}

impl ClusterBuilder {
    /// The lock, once no other live test run has a lab of this name: two runs of the same tests take turns.
    fn locked_and_free(&self) -> Result<Lock> {
        let mut told = false;
        loop {
            let lock = locked()?;
            sweep()?;
            let owner = Owner::of(&self.settings.name);
            match owner.filter(|owner| owner.alive() && owner.pid != std::process::id()) {
                None => return Ok(lock),
                Some(owner) if !told => {
                    eprintln!("waiting for lab {} of process {}", self.settings.name, owner.pid)
                }
                Some(_) => {}
            }
            drop(lock);
            told = true;
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    }
}

/// The test run a lab belongs to.
struct Owner {
    pid: u32,
    start_time: u64,
}

impl Owner {
    /// None for a persistent lab, and for none at all.
    fn of(name: &str) -> Option<Self> {
        let text = fs::read_to_string(root().join(name).join("owner")).ok()?;
        let (pid, start) = text.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_time: start.parse().ok()? })
    }

    fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

/// Takes down labs whose owner, a test run, is no more. Returns the names of those it leaves running.
fn sweep() -> Result<Vec<String>> {
    let mut running = Vec::new();
    for entry in fs::read_dir(root())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let gone = Owner::of(&name).is_some_and(|owner| !owner.alive());
        match Cluster::open(&name) {
            Ok(lab) if gone => lab.take_down()?,
            _ => running.push(name),
        }
    }
    Ok(running)
}

/// proctrack/cgroup's hierarchies are named by node: equal names in two labs would tear each other's down.
fn refuse_shared_node_names(settings: &Settings) -> Result<()> {
    for name in sweep()? {
        if name != settings.name
            && Cluster::open(&name).is_ok_and(|lab| lab.settings.node_prefix == settings.node_prefix)
        {
            bail!("lab {name} already has nodes called {}1...", settings.node_prefix);
        }
    }
    Ok(())
}
