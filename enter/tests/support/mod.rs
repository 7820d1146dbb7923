//! A place for images, and `contain` (this crate's example) run on them. Everything is under one directory of /run,
//! which root alone can write, so that images there are mounted by the kernel; it goes with the [`Lab`].
#![allow(dead_code)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{chown, symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The user of all tests; needs no account.
pub const UID: u32 = 54321;

/// Returns from the test, saying why, where the machine lacks something.
#[macro_export]
macro_rules! lab {
    () => {
        match support::Lab::new() {
            Ok(lab) => lab,
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        }
    };
}

/// What is made for one test.
pub struct Lab {
    dir: tempfile::TempDir,
    mounts: Vec<PathBuf>,
}

/// How a command ended.
#[must_use]
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its output; it must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "out: {}\nerr: {}", self.out, self.err);
        self.out
    }

    /// Its error output; it must have been refused before any command ran.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_eq!(self.code, Some(1), "out: {}\nerr: {}", self.out, self.err);
        assert_eq!(self.out, "", "a command ran");
        assert!(self.err.lines().count() <= 2, "more than what and hint: {}", self.err);
        self.err
    }
}

impl Lab {
    pub fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root: mounts cannot be tried".into());
        }
        for need in ["/dev/loop-control", "/dev/fuse", "/usr/bin/mksquashfs", "/usr/bin/squashfuse_ll"] {
            if !Path::new(need).exists() {
                return Err(format!("{need} is missing"));
            }
        }
        let dir =
            tempfile::Builder::new().prefix("grus-enter-").tempdir_in("/run").map_err(|e| e.to_string())?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
        Ok(Self { dir, mounts: vec![] })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory in the lab.
    pub fn dir(&self, name: &str, mode: u32) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(&dir).expect("lab");
        fs::set_permissions(&dir, Permissions::from_mode(mode)).expect("lab");
        dir
    }

    /// A file in the lab.
    pub fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let file = self.path(name);
        fs::write(&file, content).expect("lab");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("lab");
        file
    }

    /// A tmpfs on `at`, on the host; taken off with the lab.
    pub fn tmpfs(&mut self, at: &Path) {
        run("mount", &["-t", "tmpfs", "lab", &at.to_string_lossy()]);
        self.mounts.push(at.into());
    }

    /// Makes `at` a shared mount of its own, on the host; taken off with the lab.
    pub fn shared(&mut self, at: &Path) {
        let text = at.to_string_lossy();
        run("mount", &["--bind", &text, &text]);
        self.mounts.push(at.into());
        run("mount", &["--make-shared", &text]);
    }

    /// An image that root owns: a small system without programs (see [`Contain::new`]), changed by `change`.
    pub fn image(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let tree = self.dir(&format!("{name}.tree"), 0o755);
        for dir in ["usr", "etc", "tmp", "proc", "sys", "dev", "data", "opt/app/sub"] {
            fs::create_dir_all(tree.join(dir)).expect("tree");
        }
        for link in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{link}"), tree.join(link)).expect("tree");
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("tree");
        fs::write(tree.join("etc/os-release"), "NAME=tiny\n").expect("tree");
        fs::write(tree.join("opt/app/file"), "first\n").expect("tree");
        fs::write(tree.join("opt/app/sub/deep"), "deep\n").expect("tree");
        change(&tree);
        let image = self.path(&format!("{name}.squashfs"));
        let (from, to) = (tree.to_string_lossy().into_owned(), image.to_string_lossy().into_owned());
        run("mksquashfs", &[&from, &to, "-quiet", "-no-progress", "-noappend"]);
        image
    }

    /// The same, owned by the user.
    pub fn users_image(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let image = self.image(name, change);
        chown(&image, Some(UID), Some(UID)).expect("chown");
        image
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let _ = Command::new("umount").args(["-R", "-l"]).arg(mount).status();
        }
    }
}

/// Runs a program that must succeed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `contain`, about to run. The host's /usr is bound read-only, so that the image's commands are the host's.
pub struct Contain {
    arguments: Vec<String>,
    site: String,
    uid: u32,
}

impl Contain {
    pub fn new(image: &Path) -> Self {
        let site = "mounts.site=['/usr:/usr:ro']\nmounts.tmp=false\n".into();
        Self { arguments: vec!["--image".into(), image.to_string_lossy().into()], site, uid: UID }
    }

    pub fn root(mut self) -> Self {
        self.uid = 0;
        self
    }

    pub fn site(mut self, toml: &str) -> Self {
        self.site.push_str(toml);
        self.site.push('\n');
        self
    }

    /// The image's own commands, not the host's.
    pub fn bare(mut self) -> Self {
        self.site = "mounts.tmp=false\n".into();
        self
    }

    pub fn mount(self, spec: &str) -> Self {
        self.option("--mount", spec)
    }

    pub fn volatile(self, dir: &str) -> Self {
        self.option("--volatile", dir)
    }

    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// As a command that runs `script` in the container.
    pub fn command(&self, script: &str) -> Command {
        self.program(&["/bin/sh", "-c", script])
    }

    /// As a command that runs a program of the container.
    pub fn program(&self, words: &[&str]) -> Command {
        let mut program = std::env::current_exe().expect("test program");
        program.pop();
        program.pop();
        program.push("examples/contain");
        assert!(
            program.exists(),
            "{} is missing: run 'cargo build -p grus-enter --examples'",
            program.display()
        );
        let mut command = Command::new(program);
        let uid = self.uid.to_string();
        command.args(&self.arguments).args(["--site", &self.site, "--uid", &uid, "--gid", &uid]);
        command.arg("--").args(words);
        command
    }

    /// Runs `script` in the container.
    pub fn sh(&self, script: &str) -> Ran {
        ran(self.command(script))
    }

    /// Starts `script` and waits for the line that says it is running.
    pub fn start(&self, script: &str) -> Running {
        let mut command = self.command(&format!("echo started $$; {script}"));
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().expect("contain");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("contain's output");
        let pid = line.trim().strip_prefix("started ").and_then(|p| p.parse().ok()).expect("a pid");
        Running { child, pid }
    }
}

pub fn ran(mut command: Command) -> Ran {
    let output = command.output().expect("contain");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A container with a command in it.
pub struct Running {
    pub child: Child,
    pub pid: u32,
}

impl Running {
    /// Runs a command in the same container, as root.
    pub fn also(&self, script: &str) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "/bin/sh", "-c", script]);
        ran(command)
    }

    /// Ends it the hard way.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        let _ = self.child.wait();
    }
}

/// Loop devices of images in the lab.
pub fn loops(lab: &Lab) -> Vec<String> {
    let dir = lab.path("").to_string_lossy().into_owned();
    fs::read_dir("/sys/block")
        .expect("sysfs")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("loop/backing_file")).ok())
        .filter(|file| file.starts_with(&dir))
        .collect()
}

/// Process ids of image servers of the tests' user.
pub fn servers() -> Vec<u32> {
    fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let served = status.starts_with("Name:\tsquashfuse_ll")
                && status.contains(&format!("Uid:\t{UID}\t"))
                && !status.contains("State:\tZ");
            served.then_some(pid)
        })
        .collect()
}

/// The host's mounts, without those in other directories for temporary files: other tests come and go there.
pub fn mounts(lab: &Lab) -> Vec<String> {
    let own = lab.path("").to_string_lossy().into_owned();
    let all = fs::read_to_string("/proc/self/mountinfo").expect("proc");
    let at = |line: &str| line.split(' ').nth(4).unwrap_or_default().to_owned() + "/";
    let counts = |line: &&str| {
        at(line).starts_with(&own) || !["/tmp/", "/run/", "/var/"].iter().any(|dir| at(line).starts_with(dir))
    };
    all.lines().filter(counts).map(str::to_owned).collect()
}

/// Waits until something holds; kernel and servers clean up a little later than the last close returns.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
