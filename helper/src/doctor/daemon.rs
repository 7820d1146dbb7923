//! slurmd of this machine: whether it has read plugstack.conf as it is now. It looks once, when it starts, whether a
//! plugin has an epilog.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::slurm::changed;
use super::Check;
use crate::steps::started;

/// One slurmd.
struct Daemon {
    pid: u32,
    since: SystemTime,
    /// Its slurm.conf: None if the caller may not know.
    conf: Option<String>,
}

pub fn check(conf: &Path, plugstack: &Path) -> Check {
    let name = "slurm.slurmd";
    let all = daemons();
    let ours = |daemon: &&Daemon| {
        daemon.conf.as_deref().is_some_and(|other| match other {
            "" => std::env::var_os("SLURM_CONF").is_none_or(|own| own.is_empty()),
            other => Path::new(other) == conf,
        })
    };
    let known: Vec<&Daemon> = match all.iter().all(|daemon| daemon.conf.is_some()) {
        true => all.iter().filter(ours).collect(),
        // One is Slurm's on this machine; which of several is meant, only root can see.
        false if all.len() == 1 => all.iter().collect(),
        false if !all.is_empty() => {
            return Check::ok(name, format!("{} slurmd run here; only root can tell them apart", all.len()))
        }
        false => vec![],
    };
    let Some(changed) = changed(plugstack).filter(|_| !known.is_empty()) else {
        return Check::ok(name, "no slurmd runs here: this is no compute node");
    };
    match known.iter().find(|daemon| daemon.since < changed) {
        None => Check::ok(name, "slurmd was started after plugstack.conf was last changed"),
        Some(old) => {
            let found = format!("slurmd ({}) was started before plugstack.conf was last changed", old.pid);
            Check::warning(name, found)
                .means("it may not know the job's epilog, which removes named containers")
                .mend("systemctl restart slurmd; running jobs go on")
        }
    }
}

fn daemons() -> Vec<Daemon> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(daemon).collect()
}

fn daemon(pid: u32) -> Option<Daemon> {
    let of = |file: &str| format!("/proc/{pid}/{file}");
    if fs::read_to_string(of("comm")).ok()?.trim() != "slurmd" {
        return None;
    }
    let stat = fs::read_to_string(of("stat")).ok()?;
    let uptime = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = uptime.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    // The boot's second is rounded down.
    let since = UNIX_EPOCH + Duration::from_secs(boot + 1) + started(&stat)?;
    Some(Daemon { pid, since, conf: conf_of(&of("cmdline"), &of("environ")) })
}

/// `-f FILE` of its command line, else SLURM_CONF of its environment; empty for neither.
fn conf_of(cmdline: &str, environ: &str) -> Option<String> {
    let cmdline = fs::read(cmdline).ok()?;
    let words: Vec<&[u8]> = cmdline.split(|b| *b == 0).collect();
    if let Some(at) = words.iter().position(|word| *word == b"-f") {
        return words.get(at + 1).map(|file| String::from_utf8_lossy(file).into_owned());
    }
    let environ = fs::read(environ).ok()?;
    let set = environ.split(|b| *b == 0).find_map(|pair| pair.strip_prefix(b"SLURM_CONF=".as_slice()));
    Some(set.map(|conf| String::from_utf8_lossy(conf).into_owned()).unwrap_or_default())
}
