//! Bringing a cluster up and taking it down: files, daemons, and the order of both.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::account::{checked, Account};
use crate::cluster::Cluster;
use crate::command::Cmd;
use crate::conf::{cgroup_conf, gres_conf, slurm_conf};
use crate::daemon::{ignore_missing, wait_until, Daemon};
use crate::leaks;
use crate::machine::{free_ports, remove_cgroups, replace, session};

impl Cluster {
    pub(crate) fn write_files(&self, plugstack: &str) -> Result<()> {
        for sub in ["", "etc", "log", "pids", "munge", "spool", "spool/ctld", "work"] {
            let path = self.dir.join(sub);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        for node in self.settings.all_nodes() {
            fs::create_dir_all(self.dir.join("spool").join(&node))?;
            let tmp = self.dir.join(format!("tmp-{node}"));
            fs::create_dir_all(&tmp)?;
            fs::set_permissions(&tmp, Permissions::from_mode(0o1777))?;
        }
        let slurm = Account::find("slurm")?.context("there is no user slurm: run ci/packages")?;
        let munge = Account::find("munge")?.context("there is no user munge: run ci/packages")?;
        for sub in ["log", "spool/ctld"] {
            chown(self.dir.join(sub), Some(slurm.uid), Some(slurm.gid))?;
        }
        chown(self.dir.join("munge"), Some(munge.uid), Some(munge.gid))?;
        chown(self.work_dir(), Some(self.account.uid), Some(self.account.gid))?;

        let key = self.dir.join("munge/key");
        let mut random = [0; 1024];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        fs::write(&key, random)?;
        fs::set_permissions(&key, Permissions::from_mode(0o400))?;
        chown(&key, Some(munge.uid), Some(munge.gid))?;

        let host = checked(Cmd::new("hostname").arg("-s"))?;
        let port = free_ports(self.settings.nodes + 1)?;
        replace(&self.slurm_conf(), &slurm_conf(&self.settings, &self.dir, host.trim(), port))?;
        replace(&self.dir.join("etc/cgroup.conf"), &cgroup_conf(&self.settings))?;
        if let Some(text) = gres_conf(&self.settings) {
            replace(&self.dir.join("etc/gres.conf"), &text)?;
        }
        self.set_plugstack(plugstack)
    }

    pub(crate) fn start(&self) -> Result<()> {
        let munge = self.dir.join("munge");
        let file = |option: &str, name: &str| format!("--{option}={}", munge.join(name).display());
        let mut munged = session("setpriv");
        munged.args(["--reuid=munge", "--regid=munge", "--clear-groups", "--", "/usr/sbin/munged"]);
        // --force: tolerate odd owners of parent directories, which are the machine's business.
        munged.args(["--foreground", "--force"]);
        munged.args([file("key-file", "key"), file("socket", "socket"), file("pid-file", "pid")]);
        munged.args([file("log-file", "log"), file("seed-file", "seed")]);
        Daemon::start(&self.dir, "munged", &mut munged)?;
        let socket = munge.join("socket");
        let up = wait_until(Duration::from_secs(10), || socket.exists());
        ensure!(up, "munged does not listen");

        let mut slurmctld = session("/usr/sbin/slurmctld");
        slurmctld.args(["-D", "-i"]).env("SLURM_CONF", self.slurm_conf());
        Daemon::start(&self.dir, "slurmctld", &mut slurmctld)?;
        let up = wait_until(Duration::from_secs(20), || self.answers());
        ensure!(up, "slurmctld does not answer");
        for node in self.settings.all_nodes() {
            self.start_slurmd(&node)?;
        }
        self.wait_idle()
    }

    pub(crate) fn start_slurmd(&self, node: &str) -> Result<Daemon> {
        let mut slurmd = match &self.settings.hidden_devices {
            None => session("/usr/sbin/slurmd"),
            Some(pattern) => {
                // Each of the two programs before slurmd execs in place, so the pid is slurmd's.
                let mut unshare = session("unshare");
                unshare.args(["--mount", "--propagation=slave", "bash", "-euc"]);
                unshare.args([include_str!("hidden-devices.sh"), "bash"]);
                unshare.arg(self.dir.join(format!("dev-{node}"))).args([pattern, "/usr/sbin/slurmd"]);
                unshare
            }
        };
        slurmd.args(["-D", "-N", node]).env("SLURM_CONF", self.slurm_conf());
        Daemon::start(&self.dir, &format!("slurmd-{node}"), &mut slurmd)
    }

    pub(crate) fn answers(&self) -> bool {
        self.root("scontrol").arg("ping").run().stdout.contains("is UP")
    }

    pub(crate) fn wait_idle(&self) -> Result<()> {
        let idle = wait_until(Duration::from_secs(30), || self.node_states().is_ok_and(|s| self.idle(&s)));
        ensure!(idle, "not all nodes came up: {:?}", self.node_states());
        Ok(())
    }

    pub(crate) fn idle(&self, states: &[String]) -> bool {
        states.len() == self.settings.nodes && states.iter().all(|s| s == "idle")
    }

    pub(crate) fn log_tails(&self) -> String {
        let tail = Cmd::new("sh").args(["-c", "tail -n 15 log/* munge/log"]).cwd(&self.dir).run();
        format!("the lab in {} did not come up\n{}", self.dir.display(), tail.stdout)
    }

    pub(crate) fn take_down(&self) -> Result<()> {
        if self.answers() {
            let users = format!("--user=root,{}", self.account.name);
            let _ = self.root("scancel").arg(users).run();
            wait_until(Duration::from_secs(10), || {
                self.root("squeue").arg("--noheader").run().stdout.trim().is_empty()
            });
        }
        for name in self.daemons()? {
            if let Some(daemon) = Daemon::recorded(&self.dir, &name) {
                daemon.stop(Duration::from_secs(10))?;
            }
        }
        leaks::kill_strays(&self.dir, self.account.uid)?;
        remove_cgroups(&self.settings.all_nodes());
        unmount_below(&self.dir);
        Account::remove_if_made(&self.dir)?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    /// Recorded daemons in the order to stop them: munged last, for the others still talk.
    pub(crate) fn daemons(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(self.dir.join("pids")) {
            Ok(entries) => entries,
            Err(error) => return ignore_missing(error).map(|()| Vec::new()).map_err(Into::into),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_by_key(|name| (name == "munged", name == "slurmctld"));
        Ok(names)
    }
}

/// Takes off what jobs without an end have left mounted.
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut points: Vec<&Path> = points.filter(|point| point.starts_with(dir)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        let _ = Cmd::new("umount").arg("--lazy").arg(point).run();
    }
}
