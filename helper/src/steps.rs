//! Owns what can be known of running steps and their containers: from Slurm, all steps of the caller; from /proc, the
//! caller's own processes on this machine, their image and whether they are in a container; and the containers of `grus
//! run`.
//!
//! Which image a step on another node runs in, nobody tells an ordinary user; it is not guessed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use grus_core::refusal::{printable, Refusal};
use grus_core::request::IMAGE_VARIABLE;
use grus_enter::rootless::Running;

use crate::failure::{reason, Failure};

/// A step as Slurm lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `JOBID.STEPID`.
    pub id: String,
    /// The same as Slurm writes it for a task of a job array, `ARRAY_TASK.STEPID`; empty for others.
    pub array: String,
    /// Its name, mostly the program's.
    pub name: String,
    /// How long it has been running, as Slurm writes it.
    pub time: String,
    /// Its nodes, as Slurm writes them.
    pub nodes: String,
}

/// What a step is on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// The node's name.
    pub node: String,
    /// The image it asked for, `joined` for a step in another's container; None where it runs on the host.
    pub image: Option<String>,
    /// Its processes here.
    pub processes: usize,
}

/// The caller's running steps, tasks of batch scripts and of `extern` steps left out.
pub fn of_caller() -> Result<Vec<Step>, Failure> {
    of_slurm().and_then(|steps| {
        let hint = "this needs Slurm's commands; add their directory to PATH";
        steps.ok_or_else(|| Refusal::site("cannot run squeue: it is not installed").hint(hint).into())
    })
}

/// The same; None where there is no Slurm.
pub fn of_slurm() -> Result<Option<Vec<Step>>, Failure> {
    let Some(text) = squeue(&["--steps", "--format=%i|%M|%N|%j"])? else { return Ok(None) };
    let mut steps = listed(&text);
    // Processes and containers know their job by its own number.
    if steps.iter().any(|step| is_of_array(&step.id)) {
        let jobs = squeue(&["--array", "--format=%i|%A"])?.unwrap_or_default();
        number(&mut steps, &jobs);
    }
    Ok(Some(steps))
}

/// What it says of the caller's; None where there is no Slurm.
fn squeue(arguments: &[&str]) -> Result<Option<String>, Failure> {
    let mut command = Command::new("squeue");
    command.args(["--me", "--noheader"]).args(arguments).env("LC_ALL", "C");
    let said = match command.output() {
        Ok(said) => said,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Refusal::site(format!("cannot run squeue: {}", reason(&e))).into()),
    };
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr);
        let why = why.lines().last().unwrap_or("it ended without a word");
        return Err(Failure::System {
            what: format!("squeue failed: {}", printable(why)),
            hint: Some("'grus doctor' checks Slurm".into()),
        });
    }
    Ok(Some(String::from_utf8_lossy(&said.stdout).into_owned()))
}

fn is_of_array(id: &str) -> bool {
    id.contains('_')
}

/// Gives steps of job arrays their jobs' own numbers; `jobs` has a line for each, `ARRAY_TASK|JOBID`.
fn number(steps: &mut [Step], jobs: &str) {
    let jobs: BTreeMap<&str, &str> = jobs.lines().filter_map(|line| line.trim().split_once('|')).collect();
    for step in steps.iter_mut().filter(|step| is_of_array(&step.id)) {
        let Some((task, number)) = step.id.split_once('.') else { continue };
        if let Some(job) = jobs.get(task) {
            let id = format!("{}.{number}", printable(job.trim()));
            step.array = std::mem::replace(&mut step.id, id);
        }
    }
}

fn listed(text: &str) -> Vec<Step> {
    let step = |line: &str| {
        // The name comes last, since it may hold anything.
        let mut parts = line.splitn(4, '|').map(|part| printable(part.trim()));
        let (id, time, nodes, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let step = Step { id, array: String::new(), name, time, nodes };
        // `17.batch`, `17.extern`, `17.interactive` cannot be joined by number.
        let numbered = step.id.rsplit('.').next().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        numbered.then_some(step)
    };
    text.lines().filter_map(step).collect()
}

/// The caller's containers of `grus run` on this machine, in the shape of steps: `run.PID`.
pub fn of_run(running: &[Running]) -> Vec<(Step, Here)> {
    let node = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let node = printable(node.trim());
    let shown = |running: &Running| {
        let read = |name: &str| fs::read(format!("/proc/{}/{name}", running.pid)).unwrap_or_default();
        let image = variables(&read("environ")).remove(IMAGE_VARIABLE);
        let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
        let age = age(&String::from_utf8_lossy(&read("stat"))).unwrap_or_default();
        let step = Step {
            id: format!("run.{}", running.pid),
            array: String::new(),
            name: printable(&name),
            time: duration(age),
            nodes: node.clone(),
        };
        let image = Some(image.map_or("?".into(), |image| printable(&image)));
        (step, Here { node: node.clone(), image, processes: running.processes })
    };
    running.iter().map(shown).collect()
}

/// How long after the boot a process started, by its /proc/PID/stat: field 22, in ticks that are hundredths of a second
/// everywhere; the name in field 2 may hold anything but ends at the last parenthesis (proc_pid_stat(5)).
pub fn started(stat: &str) -> Option<Duration> {
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Seconds since a process started, by its /proc/PID/stat.
fn age(stat: &str) -> Option<u64> {
    let up = fs::read_to_string("/proc/uptime").ok()?;
    let up: u64 = up.split('.').next()?.parse().ok()?;
    up.checked_sub(started(stat)?.as_secs())
}

/// As Slurm writes it: `1:02`, `3:00:02`, `2-03:00:02`.
fn duration(seconds: u64) -> String {
    let (minutes, s) = (seconds / 60, seconds % 60);
    match (minutes / 60 / 24, minutes / 60 % 24, minutes % 60) {
        (0, 0, m) => format!("{m}:{s:02}"),
        (0, h, m) => format!("{h}:{m:02}:{s:02}"),
        (d, h, m) => format!("{d}-{h:02}:{m:02}:{s:02}"),
    }
}

/// The caller's steps that have processes on this machine, by `JOBID.STEPID`. Containers of `grus run` in them are not
/// the step's.
pub fn here(running: &[Running]) -> BTreeMap<String, Here> {
    let (uid, own) = (nix::unistd::Uid::effective().as_raw(), namespace("self"));
    let mut all: BTreeMap<String, Here> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|b| b.is_ascii_digit()) || entry.metadata().map_or(true, |m| m.uid() != uid) {
            continue;
        }
        // A process of the caller's: nobody else's environment can be read, and root's are no steps.
        let Ok(environment) = fs::read(format!("/proc/{name}/environ")) else { continue };
        let variables = variables(&environment);
        let get = |name: &str| variables.get(name).cloned().unwrap_or_default();
        let (job, step) = (get("SLURM_JOB_ID"), get("SLURM_STEP_ID"));
        if job.is_empty() || step.is_empty() {
            continue;
        }
        let place = namespace(&name);
        let apart = running.iter().any(|running| Some(&running.mounts) == place.as_ref());
        let contained = own.is_some() && !apart && place.is_some_and(|place| Some(place) != own);
        let here = all.entry(format!("{job}.{step}")).or_default();
        here.processes += 1;
        here.node = printable(&get("SLURMD_NODENAME"));
        if contained && here.image.is_none() {
            let image = printable(&get(IMAGE_VARIABLE));
            here.image = Some(if image.is_empty() { "joined".into() } else { image });
        }
    }
    all
}

fn variables(environment: &[u8]) -> BTreeMap<String, String> {
    let pairs =
        environment.split(|b| *b == 0).filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn namespace(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_slurms() {
        let times = [5, 62, 3 * 3600 + 2, 51 * 3600 + 2].map(duration);
        assert_eq!(times, ["0:05", "1:02", "3:00:02", "2-03:00:02"]);
        assert!(age(&fs::read_to_string("/proc/self/stat").expect("proc")).is_some_and(|age| age < 3600));
        assert_eq!(age("1 (a) b"), None);
    }

    #[test]
    fn steps_are_those_with_a_number() {
        let text = "17.0|1:02|n[1-2]|a|b\n17.batch|2:00|n1|batch\n18.3|0:01|n2|a b\nnonsense\n";
        let steps = listed(text);
        let ids: Vec<&str> = steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(ids, ["17.0", "18.3"]);
        assert_eq!((steps[0].nodes.as_str(), steps[0].name.as_str()), ("n[1-2]", "a|b"));
        assert!(listed("").is_empty());
    }
    #[test]
    fn steps_of_a_job_array_have_their_jobs_own_numbers() {
        let mut steps = listed("123_4.0|1:02|n1|a\n17.1|0:03|n2|b\n");
        number(&mut steps, "123_4|127\n123_5|128\n17|17\n");
        let ids: Vec<_> = steps.iter().map(|step| (step.id.as_str(), step.array.as_str())).collect();
        assert_eq!(ids, [("127.0", "123_4.0"), ("17.1", "")]);
    }
}
