//! Runs a command as root or as an ordinary user, always with a time limit, and keeps all it said.
//!
//! The result must be looked at (`must_use`), and each check that fails prints the command, its status and both
//! streams, so a red test tells its story without a second run.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{kill_process_group, Pid, Signal};

use crate::account::Account;

/// A command to run.
#[derive(Debug)]
pub struct Cmd {
    command: Command,
    shown: String,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Cmd {
    /// A command run as the caller (root), with the caller's environment.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        Self::from_command(Command::new(program), program)
    }

    /// A command run as `account`: its ids and groups, a login's environment and nothing of the caller's.
    pub fn as_user(account: &Account, program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        // setpriv(1) sets the supplementary groups too, which std's Command cannot.
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", account.uid))
            .arg(format!("--regid={}", account.gid))
            .args(["--init-groups", "--inh-caps=-all", "--"])
            .arg(program)
            .env_clear()
            .env("HOME", &account.home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name)
            .env("SHELL", "/bin/bash")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(&account.home);
        Self::from_command(command, program)
    }

    fn from_command(mut command: Command, program: &OsStr) -> Self {
        // A group of its own, so that a time limit reaches what the command started too.
        command.process_group(0);
        let shown = program.to_string_lossy().into_owned();
        Self { command, shown, stdin: Vec::new(), limit: Duration::from_secs(60) }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let arg = arg.as_ref();
        self.shown.push(' ');
        self.shown.push_str(&quoted(&arg.to_string_lossy()));
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, |cmd, arg| cmd.arg(arg))
    }

    /// Sets one environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Feeds these bytes to standard input; without this it is empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Changes the time limit (60 s).
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command as a person would type it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Starts it without waiting, for tests that act while it runs.
    pub fn spawn(mut self) -> Running {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("cannot run {}: {e}", self.shown));
        let mut to_child = child.stdin.take().expect("stdin is piped");
        let bytes = std::mem::take(&mut self.stdin);
        // A command that does not read its input closes it: not the caller's concern.
        thread::spawn(move || to_child.write_all(&bytes));
        let stdout = reader(child.stdout.take().expect("stdout is piped"));
        let stderr = reader(child.stderr.take().expect("stderr is piped"));
        Running { child, shown: self.shown, limit: self.limit, stdout, stderr }
    }

    /// Runs it to its end.
    pub fn run(self) -> Output {
        self.spawn().wait()
    }
}

/// A started command.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    limit: Duration,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
}

impl Running {
    /// Process id of the command (also its process group).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the command alone, not to its children.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child's pid is not 0");
        rustix::process::kill_process(pid, signal).expect("the child is not reaped yet");
    }

    /// Waits for its end; past the time limit the whole group is killed and the caller panics.
    pub fn wait(mut self) -> Output {
        let end = Instant::now() + self.limit;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match self.child.try_wait().expect("waiting for one's own child") {
                Some(status) => break status,
                None if Instant::now() < end => thread::sleep(pause),
                None => self.overdue("it did not end"),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_secs(2));
        let (Ok(stdout), Ok(stderr)) = (self.stdout.recv_timeout(left), self.stderr.recv_timeout(left))
        else {
            self.overdue("it ended, but something it started still holds its output open")
        };
        Output { shown: self.shown, status, stdout: text(stdout), stderr: text(stderr) }
    }

    fn overdue(&mut self, what: &str) -> ! {
        let group = Pid::from_raw(self.child.id() as i32).expect("a child's pid is not 0");
        // TERM first: srun and sbatch -W then cancel what they started.
        let _ = kill_process_group(group, Signal::TERM);
        thread::sleep(Duration::from_secs(2));
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        let second = Duration::from_secs(1);
        let stdout = text(self.stdout.recv_timeout(second).unwrap_or_default());
        let stderr = text(self.stderr.recv_timeout(second).unwrap_or_default());
        panic!("{what} within {:?}: {}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.limit, self.shown)
    }
}

fn reader(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    receive
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// `arg` as a shell would need it.
pub fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        arg.to_owned()
    } else {
        format!("'{}'", arg.replace('\'', r"'\''"))
    }
}

/// What a command left behind when it ended.
#[derive(Debug, Clone)]
#[must_use = "a result nobody checks proves nothing"]
pub struct Output {
    shown: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n{}", self.shown, self.status)?;
        write!(f, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

impl Output {
    /// Panics with the whole story unless `holds`.
    #[track_caller]
    pub fn check(self, holds: bool, wanted: impl fmt::Display) -> Self {
        assert!(holds, "wanted: {wanted}\n{self}");
        self
    }

    /// It must have exited 0.
    #[track_caller]
    pub fn success(self) -> Self {
        let holds = self.status.success();
        self.check(holds, "success")
    }

    /// It must have failed: an exit code that is not 0, or a signal.
    #[track_caller]
    pub fn failure(self) -> Self {
        let holds = !self.status.success();
        self.check(holds, "failure")
    }

    /// It must have exited with `code`.
    #[track_caller]
    pub fn exit_code(self, code: i32) -> Self {
        let holds = self.status.code() == Some(code);
        self.check(holds, format_args!("exit code {code}"))
    }

    /// It must have died of signal number `signal`.
    #[track_caller]
    pub fn killed_by(self, signal: i32) -> Self {
        let holds = self.status.signal() == Some(signal);
        self.check(holds, format_args!("death by signal {signal}"))
    }

    /// Standard output must be exactly `wanted`, but for white space at its end.
    #[track_caller]
    pub fn stdout_is(self, wanted: &str) -> Self {
        let holds = self.stdout.trim_end() == wanted.trim_end();
        self.check(holds, format_args!("stdout {wanted:?}"))
    }

    /// Standard output must contain `wanted`.
    #[track_caller]
    pub fn stdout_has(self, wanted: &str) -> Self {
        let holds = self.stdout.contains(wanted);
        self.check(holds, format_args!("stdout with {wanted:?}"))
    }

    /// Standard output must not contain `unwanted`.
    #[track_caller]
    pub fn stdout_lacks(self, unwanted: &str) -> Self {
        let holds = !self.stdout.contains(unwanted);
        self.check(holds, format_args!("stdout without {unwanted:?}"))
    }

    /// Standard error must contain `wanted`.
    #[track_caller]
    pub fn stderr_has(self, wanted: &str) -> Self {
        let holds = self.stderr.contains(wanted);
        self.check(holds, format_args!("stderr with {wanted:?}"))
    }

    /// Standard error must not contain `unwanted`.
    #[track_caller]
    pub fn stderr_lacks(self, unwanted: &str) -> Self {
        let holds = !self.stderr.contains(unwanted);
        self.check(holds, format_args!("stderr without {unwanted:?}"))
    }

    /// Lines of standard output, sorted: ranks answer in any order.
    pub fn sorted_lines(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines
    }

    /// Standard output without white space at its ends.
    pub fn trimmed(&self) -> &str {
        self.stdout.trim()
    }

    /// The command as typed.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

/// A list of arguments from a line of words; no quoting.
pub fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}
