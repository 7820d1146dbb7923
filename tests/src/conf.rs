//! The text of a lab's `slurm.conf` and `cgroup.conf`: pure, from settings.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// All that a lab's configuration depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub name: String,
    pub node_prefix: String,
    pub nodes: usize,
    pub cpus: usize,
    pub user: String,
    pub proctrack: String,
    pub task_plugin: String,
    pub jobacct: String,
    pub mpi_default: String,
    pub extra: Vec<String>,
    /// Devices of `/dev` that the nodes lack: a shell pattern.
    pub hidden_devices: Option<String>,
    /// Device nodes that each node counts as its GPUs.
    pub gpus: Vec<PathBuf>,
    /// Whether a step can open its own alone.
    pub constrain_devices: bool,
}

impl Settings {
    pub fn node(&self, index: usize) -> String {
        format!("{}{index}", self.node_prefix)
    }

    pub fn all_nodes(&self) -> Vec<String> {
        (1..=self.nodes).map(|i| self.node(i)).collect()
    }
}

/// The whole `slurm.conf`. `host` is this machine's short name, as slurmctld compares it; addresses are all
/// loopback, so no resolver is asked. slurmctld listens on `port`, the slurmds on those that follow.
pub(crate) fn slurm_conf(settings: &Settings, dir: &Path, host: &str, port: u16) -> String {
    let mut text = places(settings, dir, host, port);
    text.push_str(&plugins(settings));
    for line in &settings.extra {
        text.push_str(line);
        text.push('\n');
    }
    let Settings { node_prefix, nodes, cpus, gpus, .. } = settings;
    let gres = if gpus.is_empty() { String::new() } else { format!(" Gres=gpu:{}", gpus.len()) };
    if !gpus.is_empty() {
        text.push_str("GresTypes=gpu\n");
    }
    let (first, last) = (port + 1, port + *nodes as u16);
    // Several slurmds on one host: a port and a set of paths each (%n), told apart by `slurmd -N`.
    let _ = writeln!(
        text,
        "NodeName={node_prefix}[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
         CPUs={cpus} RealMemory=2000{gres} State=UNKNOWN"
    );
    text.push_str("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES:4\n");
    text
}

/// Names, ports and paths, all the lab's own.
fn places(settings: &Settings, dir: &Path, host: &str, port: u16) -> String {
    let (name, dir) = (&settings.name, dir.display());
    // Job ids of different labs differ, for they name things that labs share (cgroups, /dev/shm).
    let first_job = u32::from(port) * 100;
    format!(
        "\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket
CredType=cred/munge
FirstJobId={first_job}
StateSaveLocation={dir}/spool/ctld
SlurmdSpoolDir={dir}/spool/%n
TmpFS={dir}/tmp-%n
SlurmctldPidFile={dir}/spool/ctld/pid
SlurmdPidFile={dir}/spool/%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=verbose
PlugStackConfig={dir}/etc/plugstack.conf
JobCompType=jobcomp/filetxt
JobCompLoc={dir}/spool/ctld/jobcomp
"
    )
}

/// What Slurm does and how soon: quick to schedule, slow to give up, jobs remembered for the tests to ask about.
fn plugins(settings: &Settings) -> String {
    let Settings { proctrack, task_plugin, jobacct, mpi_default, .. } = settings;
    format!(
        "\
ProctrackType={proctrack}
TaskPlugin={task_plugin}
JobAcctGatherType={jobacct}
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault={mpi_default}
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait=5
UnkillableStepTimeout=30
MinJobAge=300
SlurmdParameters=config_overrides
LaunchParameters=use_interactive_step
"
    )
}

/// The `cgroup.conf`: cgroups follow processes and confine nothing, unless a test asks for devices.
pub(crate) fn cgroup_conf(settings: &Settings) -> String {
    let devices = if settings.constrain_devices { "yes" } else { "no" };
    format!("CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices={devices}\n")
}

/// The `gres.conf`, where there are GPUs.
pub(crate) fn gres_conf(settings: &Settings) -> Option<String> {
    let line = |file: &PathBuf| format!("Name=gpu File={}\n", file.display());
    (!settings.gpus.is_empty()).then(|| settings.gpus.iter().map(line).collect())
}
