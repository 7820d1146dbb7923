//! A process that serves a SquashFS file by FUSE, and what is asked of it: whether it still runs, and what it does.

use std::fs;
use std::os::fd::OwnedFd;

use grus_core::server::Server;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};

use crate::call::{Broken, Called};

/// A server of a container.
#[derive(Debug)]
pub(crate) struct Served {
    /// What it serves, for messages.
    pub of: String,
    /// Which process it is.
    pub server: Server,
    /// A pidfd of it, close-on-exec.
    watch: OwnedFd,
}

impl Served {
    /// Of a process that was just started, and cannot have been forgotten yet.
    pub fn started(pid: Pid, connection: u32) -> Called<Self> {
        let watch = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Broken::new(PIDFD_OPEN, e))?;
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let (_, started) =
            stat(pid).ok_or_else(|| Broken::new(format!("read(/proc/{pid}/stat)"), Errno::SRCH))?;
        Ok(Self { of: "the image".into(), server: Server { pid, started, connection }, watch })
    }

    /// Of one that a note tells of, if it still runs.
    pub fn noted(of: &str, server: Server) -> Called<Option<Self>> {
        let Some(pid) = pid(server) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Asked after the descriptor was had, so it is of this very process.
            Ok(watch) => Ok(runs(server).then(|| Self { of: of.to_owned(), server, watch })),
            Err(Errno::SRCH) => Ok(None),
            Err(e) => Err(Broken::new(PIDFD_OPEN, e)),
        }
    }

    /// It serves this, not the image.
    pub fn serving(self, of: String) -> Self {
        Self { of, ..self }
    }

    /// Whether it has ended. Asks the process, not the file system, which could hang.
    pub fn has_ended(&self) -> bool {
        // A pidfd is readable once its process has ended (pidfd_open(2)).
        let mut ended = [PollFd::new(&self.watch, PollFlags::IN)];
        poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Kills it: the very process, whoever has its number by now (pidfd_send_signal(2)).
    pub fn end(&self) {
        let _ = pidfd_send_signal(&self.watch, Signal::KILL);
    }

    /// Lets it go on if its user has stopped it: it then sees that the mount has gone, and ends.
    pub fn go_on(&self) {
        let _ = pidfd_send_signal(&self.watch, Signal::CONT);
    }
}

/// Kills it, if it still runs.
pub(crate) fn kill(server: Server) {
    if let Ok(Some(served)) = Served::noted("", server) {
        served.end();
    }
}

/// Its process id, as calls take it.
fn pid(server: Server) -> Option<Pid> {
    i32::try_from(server.pid).ok().and_then(Pid::from_raw)
}

const PIDFD_OPEN: &str = "pidfd_open(squashfuse_ll)";

/// Whether it runs.
pub(crate) fn runs(server: Server) -> bool {
    stat(server.pid).is_some_and(|(state, started)| started == server.started && !matches!(state, 'Z' | 'X'))
}

/// Whether it waits for the kernel itself, as for a file system that hangs.
pub(crate) fn waits_in_kernel(server: Server) -> bool {
    stat(server.pid).is_some_and(|(state, started)| started == server.started && state == 'D')
}

/// State and start time of a process (proc_pid_stat(5), fields 3 and 22).
fn stat(pid: u32) -> Option<(char, u64)> {
    let fields = fields(pid)?;
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Processor time of a process in clock ticks, its own and the kernel's for it (proc_pid_stat(5), fields 14 and 15).
pub(crate) fn processor_time(pid: Pid) -> Option<u64> {
    let fields = fields(pid.as_raw_nonzero().get().unsigned_abs())?;
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

/// The fields of proc_pid_stat(5) from the third one on. The name in field 2 may hold anything but ends at the last
/// parenthesis.
fn fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one() {
        let own = Served::started(rustix::process::getpid(), 0).expect("this process");
        assert!(runs(own.server) && !own.has_ended());
        assert!(Served::noted("", own.server).expect("pidfd").is_some());
        let earlier = Server { started: own.server.started - 1, ..own.server };
        assert!(!runs(earlier) && Served::noted("", earlier).expect("pidfd").is_none());
    }
}
