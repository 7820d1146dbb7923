//! A background process that outlives its starter and is only ever signalled if it is still the same process.
//!
//! The record `<dir>/pids/<name>` holds the pid and the process's start time (proc_pid_stat(5), field 22), so a
//! later run can stop what an earlier one started and never hits a stranger that got a recycled pid.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use rustix::process::{pidfd_open, pidfd_send_signal, waitpid, Pid, PidfdFlags, Signal, WaitOptions};

/// A started daemon, known by its record.
#[derive(Debug, Clone)]
pub struct Daemon {
    record: PathBuf,
    pid: u32,
    start_time: u64,
}

impl Daemon {
    /// Starts `program` in a session of its own, its output going to `<dir>/log/<name>.out`.
    /// The program must stay in the foreground: the recorded pid is the one spawned.
    pub fn start(dir: &Path, name: &str, program: &mut Command) -> Result<Self> {
        let log = fs::File::create(dir.join("log").join(format!("{name}.out")))?;
        let child = program
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name} ({program:?})"))?;
        let pid = child.id();
        let start_time = start_time(pid).with_context(|| format!("{name} ended at once"))?;
        let record = dir.join("pids").join(name);
        fs::write(&record, format!("{pid} {start_time}\n"))?;
        Ok(Self { record, pid, start_time })
    }

    /// The daemon of that name recorded in `dir`, if there is a record.
    pub fn recorded(dir: &Path, name: &str) -> Option<Self> {
        let record = dir.join("pids").join(name);
        let text = fs::read_to_string(&record).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self { record, pid: pid.parse().ok()?, start_time: start.parse().ok()? })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the recorded process still runs (a zombie does not).
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Sends a signal, if the process is still the recorded one.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid.try_into()?).context("pid 0 was recorded")?;
        // The descriptor is taken before the identity is checked: from here on a recycled pid cannot be hit.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        if self.alive() {
            pidfd_send_signal(&pidfd, signal)?;
        }
        Ok(())
    }

    /// Ends the process: TERM, and KILL after `grace`. The record goes last.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        if !self.ended_within(grace) {
            self.signal(Signal::KILL)?;
            if !self.ended_within(Duration::from_secs(10)) {
                bail!("process {} ({}) does not end", self.pid, self.record.display());
            }
        }
        fs::remove_file(&self.record).or_else(ignore_missing)?;
        Ok(())
    }

    fn ended_within(&self, limit: Duration) -> bool {
        wait_until(limit, || {
            if let Some(pid) = Pid::from_raw(self.pid as i32) {
                // Reaps it when it is our child; ECHILD otherwise, which is as good.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
            !self.alive()
        })
    }
}

/// Start time of a running process in clock ticks since boot; `None` for a zombie or no process.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold anything, parentheses included: fields are counted from its last ')'.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Polls `done` until it holds or `limit` is over; says whether it held.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(10));
    }
}

/// For removals: what is already gone is no error.
pub(crate) fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}
