//! The program that saves a container at the end of its step (`--container-save`): the site's `grus`, as the user.
//!
//! slurmstepd waits for it, on the thread that waits for tasks; and it is the user's process. Another of the user's may
//! stop it, trace it, and take or write to what it has open (pidfd_getfd(2)). So it is its own end that is waited for,
//! by a pidfd, not the end of what it says; no more of that is taken than it ever says; and it is ended where it does
//! nothing for long. How long it may take otherwise depends on the container. It is in the cgroups of the step's task, so
//! that the end of the step's time, or scancel, ends it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use grus_core::path::AbsPath;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{pidfd_open, pidfd_send_signal, waitpid, Pid, PidfdFlags, Signal, WaitOptions};

use crate::call::{open_own, Broken, During};
use crate::failure::{Failed, Failure, Phase};
use crate::mount_namespace::elsewhere;
use crate::program::{cstr, pipe, proc, Identity, Named, Program, MAX_OUTPUT};
use crate::server::processor_time;
use crate::sys::{spawn_child, with_signals_blocked};

/// How long it may go without any processor time: a file system that does not answer for that long is not awaited.
const IDLE: Duration = Duration::from_secs(600);

/// How often its processor time is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// How long the end of a killed process is waited for: one that waits for a file system may outlast that.
const KILLED: Duration = Duration::from_secs(10);

const PHASE: Phase = Phase::Save;

/// What the program needs.
#[derive(Debug)]
pub struct Saver<'a> {
    /// The program, which root alone can have written.
    pub command: &'a AbsPath,
    /// What it is to save, and where.
    pub order: &'a str,
    /// The tree to save, if it is not just the image.
    pub tree: Option<OwnedFd>,
    /// The mount namespace that its paths are of. What the job's mounts hide there, nobody reaches through it.
    pub view: &'a OwnedFd,
    /// `cgroup.procs` of each cgroup that it is to be in.
    pub cgroups: &'a [File],
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub gids: &'a [u32],
}

/// What the program said.
#[derive(Debug)]
pub struct Said {
    /// On its standard output.
    pub output: String,
    /// On its standard error.
    pub errors: String,
    /// Its status as of wait(2); None where a process that traces it keeps that to itself.
    pub status: Option<i32>,
}

impl Saver<'_> {
    /// Runs it to its end. As root, in a process of which it becomes a child.
    pub fn run(self) -> Result<Said, Failure> {
        self.run_for(IDLE)
    }

    fn run_for(self, idle: Duration) -> Result<Said, Failure> {
        elsewhere(self.view, || self.run_with(idle)).during(PHASE)?
    }

    fn run_with(self, idle: Duration) -> Result<Said, Failure> {
        let (key, package) = ("pull.command", "grus");
        let program = Named { path: self.command, key, package, phase: PHASE }.trusted()?;
        let null = open_own("/dev/null", OFlags::RDWR).during(PHASE)?;
        let proc = proc().during(PHASE)?;
        let [(output, to_output), (errors, to_errors)] = [pipe().during(PHASE)?, pipe().during(PHASE)?];
        let cgroups: Vec<BorrowedFd<'_>> = self.cgroups.iter().map(AsFd::as_fd).collect();
        let started = spawn_child_of(&Program {
            path: &program,
            arguments: &["grus", "save-container", self.order].map(cstr),
            environment: &[],
            descriptors: &[self.tree.as_ref().unwrap_or(&null).as_fd(), to_output.as_fd(), to_errors.as_fd()],
            proc: proc.as_fd(),
            cgroups: &cgroups,
            limits: &[],
            identity: Some(Identity { uid: self.uid, gid: self.gid, gids: self.gids }),
        });
        let (pid, end) = started?;
        // Nothing holds the tree once it is written.
        drop((self.tree, to_output, to_errors));
        let mut parts = [Part::of(output), Part::of(errors)];
        let listened = listen(pid, &end, &mut parts, idle);
        if listened.is_err() {
            let _ = pidfd_send_signal(&end, Signal::KILL);
            let _ = ready(&[&end], KILLED);
        }
        // It has ended, so this does not wait; what has not, or is traced, is init's once slurmstepd has gone.
        let status =
            waitpid(Some(pid), WaitOptions::NOHANG).ok().flatten().map(|(_, status)| status.as_raw());
        let [output, errors] = parts.map(|part| String::from_utf8_lossy(&part.bytes).into_owned());
        match listened {
            Ok(()) => Ok(Said { output, errors, status }),
            Err(why) => Err(Failure::Failed(Failed {
                phase: PHASE,
                call: format!("grus save-container: {why}"),
                errno: None,
                advice: Some("nothing was written; run the step again, and leave that program alone".into()),
            })),
        }
    }
}

/// No handler of slurmstepd's runs in the process between clone(2) and execve(2).
fn spawn_child_of(program: &Program<'_>) -> Result<(Pid, OwnedFd), Failure> {
    let pid = with_signals_blocked(|| spawn_child(program)).during(PHASE)?;
    // Nobody has collected it, so the number is its own.
    let end =
        pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Broken::new("pidfd_open(grus)", e).during(PHASE))?;
    Ok((pid, end))
}

/// Takes what it says, until it has ended; or says why that is not waited for.
fn listen(pid: Pid, end: &OwnedFd, parts: &mut [Part; 2], idle: Duration) -> Result<(), String> {
    let (mut used, mut since) = (processor_time(pid), Instant::now());
    loop {
        let open = parts.iter().filter_map(|part| part.file.as_ref().map(AsFd::as_fd));
        let watched: Vec<BorrowedFd<'_>> = [end.as_fd()].into_iter().chain(open).collect();
        let ended = ready(&watched, LOOK.min(idle))?;
        // What it wrote before its end is there by now; what others write to the pipes later is of no interest.
        parts.iter_mut().try_for_each(Part::take)?;
        if ended {
            return Ok(());
        }
        let now = processor_time(pid);
        if now != used {
            (used, since) = (now, Instant::now());
        } else if since.elapsed() >= idle {
            return Err(format!("it has done nothing for {} s", idle.as_secs()));
        }
    }
}

/// Waits until one of these can be read, or for `time`; whether the first can.
fn ready(these: &[impl AsFd], time: Duration) -> Result<bool, String> {
    let mut polled: Vec<_> = these.iter().map(|one| PollFd::new(one, PollFlags::IN)).collect();
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut polled, Some(&time)) {
        Ok(_) | Err(Errno::INTR) => {
            Ok(polled.first().is_some_and(|end| end.revents().contains(PollFlags::IN)))
        }
        Err(e) => Err(format!("poll: {e}")),
    }
}

/// One of the two things that it says.
#[derive(Debug)]
struct Part {
    /// None: it is closed.
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Part {
    fn of(pipe: OwnedFd) -> Self {
        Self { file: Some(pipe.into()), bytes: vec![] }
    }

    /// Takes what is there.
    fn take(&mut self) -> Result<(), String> {
        let mut some = [0; 16 << 10];
        while let Some(file) = &mut self.file {
            match file.read(&mut some) {
                Ok(0) => self.file = None,
                Ok(more) if self.bytes.len() + more > MAX_OUTPUT => {
                    return Err("it says more than 1 MiB".into())
                }
                Ok(more) => self.bytes.extend_from_slice(&some[..more]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::os::unix::fs::PermissionsExt;

    use rustix::mount::{mount, mount_change, MountFlags, MountPropagationFlags};

    use super::*;
    use crate::mount_namespace::here;
    use crate::sys::unshare;

    /// Runs a script in place of the program, as the user nobody. None: this cannot be tested here.
    fn run(script: &str, idle: Duration) -> Option<Result<Said, Failure>> {
        run_in(&here().expect("proc"), script, idle)
    }

    fn run_in(view: &OwnedFd, script: &str, idle: Duration) -> Option<Result<Said, Failure>> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        let dir = tempfile::tempdir_in("/run").expect("a directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let program = dir.path().join("grus");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
        let command = &AbsPath::parse(&program.to_string_lossy()).expect("a path");
        let (order, tree, cgroups) = ("{}", None, &[][..]);
        let saver = Saver { command, order, tree, view, cgroups, uid: 65534, gid: 65534, gids: &[65534] };
        Some(saver.run_for(idle))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn its_end_is_the_end_whoever_has_what_it_writes_to() {
        let start = Instant::now();
        let script =
            "id -u; id -G; echo $*; pwd; env | grep -v -e PWD -e SHLVL -e ^_; ls /proc/self/fd | wc -l
            (exec sleep 30) & echo no >&2; exit 3";
        let Some(said) = run(script, LONG) else { return };
        let said = said.expect("it runs");
        assert!(start.elapsed() < Duration::from_secs(20), "the end of its output was waited for");
        // Three descriptors, and that of the directory.
        assert_eq!(said.output, "65534\n65534\nsave-container {}\n/\n4\n");
        assert_eq!((said.errors.as_str(), said.status), ("no\n", Some(3 << 8)));
    }

    #[test]
    fn it_does_not_say_more_than_there_is_room_for_and_does_not_do_nothing() {
        let nothing = Duration::from_secs(1);
        let scripts = [("yes", LONG, "it says more"), ("yes >&2", LONG, "it says more")];
        let idle = [
            ("kill -STOP $$", nothing, "it has done nothing for 1 s"),
            ("exec sleep 60", nothing, "nothing"),
        ];
        for (script, idle, why) in scripts.into_iter().chain(idle) {
            let start = Instant::now();
            let Some(said) = run(script, idle) else { return };
            let what = said.expect_err(script).what();
            assert!(what.contains(why), "{what}");
            assert!(start.elapsed() < Duration::from_secs(20), "{script}");
        }
    }

    /// As job_container/tmpfs does: a directory of the job's own in place of the host's.
    #[test]
    fn it_has_the_jobs_directories_and_lives_while_it_is_waited_for() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return;
        }
        let dir = tempfile::tempdir_in("/run").expect("a directory");
        std::fs::write(dir.path().join("of-the-host"), "").expect("it is ours");
        let view = std::thread::scope(|scope| {
            let make = || {
                unshare(true).expect("root may");
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                    .expect("private");
                mount("job", dir.path(), "tmpfs", MountFlags::empty(), None::<&CStr>).expect("tmpfs");
                std::fs::write(dir.path().join("of-the-job"), "").expect("tmpfs");
                here().expect("proc")
            };
            scope.spawn(make).join().expect("no panic")
        });
        let script = format!("sleep 1; ls {}; readlink /proc/self/ns/mnt", dir.path().display());
        let said = run_in(&view, &script, LONG).expect("root").expect("it runs");
        let inode = rustix::fs::fstat(&view).expect("a live descriptor").st_ino;
        assert_eq!((said.output, said.status), (format!("of-the-job\nmnt:[{inode}]\n"), Some(0)));
        // The caller has stayed where it was.
        assert!(dir.path().join("of-the-host").exists());
    }

    #[test]
    fn a_program_that_others_can_have_written_is_not_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("grus");
        std::fs::write(&program, "#!/bin/sh\n").expect("a file");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o777)).expect("it is ours");
        let command = &AbsPath::parse(&program.to_string_lossy()).expect("a path");
        let view = &here().expect("proc");
        let saver = Saver { command, order: "", tree: None, view, cgroups: &[], uid: 1, gid: 1, gids: &[] };
        let refused = saver.run().expect_err("it is not root's alone");
        assert!(refused.what().contains("is not trusted"), "{}", refused.what());
    }
}
