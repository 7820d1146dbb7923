//! Runs a program to its end and says what it used, with all it started: wall time, CPU, memory, bytes written.
//!
//! CPU and bytes are the kernel's accounts (getrusage(2), by time(1)), memory is sampled. An interrupt ends the
//! program and its children; nothing is left to run.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rustix::process::{kill_process_group, Pid, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Where programs are: those of the distribution's packages.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Between two looks at the memory.
const SAMPLE: Duration = Duration::from_millis(25);
/// For a program to clean up after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// What a program used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of CPU, user and system.
    pub cpu: f64,
    /// The most anonymous memory that its processes had together, bytes (`RssAnon`, proc_pid_status(5)).
    pub anonymous: u64,
    /// The most resident memory of one of its processes, bytes, pages of files included (`ru_maxrss`).
    pub resident: u64,
    /// Bytes it dirtied in files (`ru_oublock`).
    pub written: u64,
}

impl Used {
    /// One program after another.
    pub fn then(self, next: Self) -> Self {
        Self {
            wall: self.wall + next.wall,
            cpu: self.cpu + next.cpu,
            anonymous: self.anonymous.max(next.anonymous),
            resident: self.resident.max(next.resident),
            written: self.written + next.written,
        }
    }
}

/// Set by Ctrl-C or a TERM signal. From then on nothing is started, and whatever runs is ended.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over both signals, so that what the bench made is removed on the way out.
    pub fn catch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Fails if it came.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// Where and how programs run: `dir` for notes and as their home, and nothing of the caller's environment, so that
/// nobody's settings or proxies count.
#[derive(Debug)]
pub struct Runner {
    dir: std::path::PathBuf,
    env: Vec<(OsString, OsString)>,
    interrupt: Interrupt,
    limit: Duration,
}

impl Runner {
    /// Programs that run in `dir`, none for longer than `limit`.
    pub fn new(dir: &Path, interrupt: Interrupt, limit: Duration) -> Self {
        let fixed = [("PATH", PATH), ("USER", "root"), ("LC_ALL", "C.UTF-8")];
        let mut env: Vec<_> = fixed.map(|(name, value)| (name.into(), value.into())).to_vec();
        env.extend(["HOME", "TMPDIR"].map(|name| (name.into(), dir.into())));
        Self { dir: dir.into(), env, interrupt, limit }
    }

    /// Sets an environment variable for all.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.env.push((name.into(), value.into()));
    }

    /// Fails after an interrupt.
    pub fn check(&self) -> Result<()> {
        self.interrupt.check()
    }

    /// Runs `argv`, which must succeed.
    pub fn run(&self, argv: &[&dyn AsRef<OsStr>]) -> Result<Used> {
        self.interrupt.check()?;
        let (usage, said) = (self.dir.join("usage"), self.dir.join("said"));
        let mut command = Command::new("time");
        command.args(["--quiet", "-f", "%U %S %M %O", "-o"]).arg(&usage).arg("--").args(argv);
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.dir);
        let out = File::create(&said)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // A group of its own: the terminal's Ctrl-C reaches the bench alone, which then ends the group.
        let start = Instant::now();
        let mut child = command.process_group(0).spawn().context("time(1): run ci/packages")?;
        let anonymous = self.watch(&mut child)?;
        let wall = start.elapsed().as_secs_f64();
        if !child.wait()?.success() {
            let words: Vec<_> = argv.iter().map(|word| word.as_ref().to_string_lossy()).collect();
            let text = String::from_utf8_lossy(&fs::read(&said)?).into_owned();
            let lines: Vec<&str> = text.trim_end().lines().collect();
            bail!("{}: failed\n{}", words.join(" "), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        Ok(Used { wall, anonymous, ..accounts(&fs::read_to_string(&usage)?)? })
    }

    /// Waits for the end and returns the most memory seen.
    fn watch(&self, child: &mut Child) -> Result<u64> {
        let (mut most, start) = (0, Instant::now());
        while child.try_wait()?.is_none() {
            let in_time = || {
                ensure!(start.elapsed() < self.limit, "ended after {} s (--limit)", self.limit.as_secs());
                Ok(())
            };
            if let Err(error) = self.interrupt.check().and_then(|()| in_time()) {
                end(child)?;
                return Err(error);
            }
            most = most.max(anonymous(child.id()));
            sleep(SAMPLE);
        }
        Ok(most)
    }
}

fn end(child: &mut Child) -> Result<()> {
    let group = Pid::from_raw(child.id().try_into()?).context("a child's pid is not 0")?;
    // It may have ended by itself just now.
    let _ = kill_process_group(group, Signal::TERM);
    let limit = Instant::now() + GRACE;
    while child.try_wait()?.is_none() && Instant::now() < limit {
        sleep(SAMPLE);
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait()?;
    Ok(())
}

/// Reads time(1)'s line: CPU seconds of user and system, KiB, blocks of 512 bytes.
fn accounts(text: &str) -> Result<Used> {
    let fields: Vec<f64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().context(text.to_owned())?;
    let [user, system, resident, blocks] = fields[..] else { bail!("time(1) said: {text}") };
    let (resident, written) = (resident as u64 * 1024, blocks as u64 * 512);
    Ok(Used { cpu: user + system, resident, written, ..Used::default() })
}

/// Anonymous memory of a process and its descendants, bytes. Those that end meanwhile count as nothing.
fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let own = own.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // Children belong to the thread that forked them (proc_pid_task_tid_children(5)).
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|line| line.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    own + children.into_iter().map(anonymous).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let runner = Runner::new(dir.path(), Interrupt(Arc::default()), Duration::from_secs(1));
        let error = runner.run(&[&"sleep", &"600"]).expect_err("too long");
        assert_eq!(error.to_string(), "ended after 1 s (--limit)");
    }

    #[test]
    fn the_accounts_of_a_program() {
        let dir = tempfile::tempdir().expect("a directory");
        let runner = Runner::new(dir.path(), Interrupt(Arc::default()), HOUR);
        let used =
            runner.run(&[&"sh", &"-c", &"head -c 1000000 /dev/zero >file; sleep 0.2"]).expect("it runs");
        assert!(used.written >= 1_000_000 && used.written < 3_000_000, "{used:?}");
        assert!(used.wall >= 0.2 && used.anonymous > 0 && used.resident > used.anonymous, "{used:?}");
        let error = runner.run(&[&"sh", &"-c", &"echo no luck; exit 3"]).expect_err("it fails").to_string();
        assert!(error.contains("no luck"), "{error}");
    }

    #[test]
    fn an_interrupt_ends_what_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let flag = Arc::new(AtomicBool::new(false));
        let runner = Runner::new(dir.path(), Interrupt(Arc::clone(&flag)), HOUR);
        let setter = std::thread::spawn(move || {
            sleep(Duration::from_millis(200));
            flag.store(true, Ordering::Relaxed);
        });
        let pid = dir.path().join("pid");
        let error = runner.run(&[&"sh", &"-c", &"sleep 600 & echo $! >pid; wait"]).expect_err("interrupted");
        assert_eq!(error.to_string(), "interrupted");
        setter.join().expect("it ends");
        let pid = fs::read_to_string(pid).expect("the child wrote it");
        assert!(!Path::new(&format!("/proc/{}/cwd", pid.trim())).exists(), "the grandchild still runs");
    }

    #[test]
    fn one_after_another() {
        let [a, b] = [1, 2].map(|n| Used {
            wall: f64::from(n),
            cpu: 2.0,
            anonymous: 10 / n as u64,
            resident: 7,
            written: 3,
        });
        let both = a.then(b);
        assert_eq!((both.wall, both.cpu, both.anonymous, both.resident, both.written), (3.0, 4.0, 10, 7, 6));
        assert!(accounts("0.10 0.20").is_err());
        assert_eq!(accounts("0.5 0.25 1024 2\n").expect("valid").cpu, 0.75);
    }
}
