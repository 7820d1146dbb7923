//! `run`: what `grus run IMAGE true` takes as an ordinary user, in turns with its peers on the same image, and with the
//! least that a container without root can be. Each has been made ready as its manual says, and is started directly,
//! with nothing between it and the clock but fork(2) and execve(2).

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use grus_tests::{Account, Cluster, Cmd, Fuse, ImageStore};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::json;

use crate::figures::{print_load, rounded, Samples};
use crate::lab;

/// A distribution's image, and a program in it that is linked as most are.
const IMAGE: &str = "debian";
const PROGRAM: &str = "/bin/true";
const ROUNDS: usize = 40;

const GRUS: &str = "grus run";
const GRUS_UNPACKED: &str = "grus run, no FUSE";
const FLOOR: &str = "bwrap";
const FLOOR_FUSE: &str = "squashfuse_ll + bwrap";
const CHRUN: &str = "ch-run";
const CHRUN_SQUASHFS: &str = "ch-run, SquashFS";
const PODMAN: &str = "podman run";

/// A way to run the program in the image.
struct Way {
    name: &'static str,
    /// What it does, as far as that differs.
    does: &'static str,
    /// Whether /dev/fuse may be opened.
    fuse: bool,
    words: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    took: Samples,
}

const NAME: &str = "bench";

/// Set in the mount namespace that [`run`] makes.
const INSIDE: &str = "GRUS_BENCH_RUN";

/// Where both versions of cgroups are mounted, crun refuses to start: in a mount namespace of the bench's own only the
/// second is. Nothing else differs there.
const ONE_CGROUP: &str =
    "umount --recursive /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" run";

/// Runs the bench and prints its figures.
pub fn run() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return measure(&Cluster::open(NAME)?);
    }
    print_load("before");
    let cluster = lab::up(NAME, 1)?;
    let measured = match installed("podman") {
        false => measure(&cluster),
        true => {
            let mut inside = Command::new("unshare");
            inside.args(["--mount", "--propagation", "private", "sh", "-c", ONE_CGROUP]);
            inside.arg(std::env::current_exe()?).env(INSIDE, "1");
            inside.status().map_err(Into::into).and_then(|status| {
                ensure!(status.success(), "in a mount namespace of its own: {status}");
                Ok(())
            })
        }
    };
    cluster.down()?;
    measured
}

fn measure(cluster: &Cluster) -> Result<()> {
    let podman = Podman::new(cluster)?;
    let mut ways = ways(cluster, podman.as_ref())?;
    for round in 0..=ROUNDS {
        for way in &mut ways {
            let took = way.once(cluster)?;
            // The first one warms caches.
            if round > 0 {
                way.took.0.push(took);
            }
        }
    }
    drop(podman);
    println!("whole commands that run {PROGRAM} of the image '{IMAGE}' as an ordinary user, ms");
    for way in &ways {
        println!("  {:22} {}   {}", way.name, way.took, way.does);
    }
    print_load("after");
    println!("{}", figures(&ways)?);
    Ok(())
}

fn figures(ways: &[Way]) -> Result<serde_json::Value> {
    let of = |name: &str| ways.iter().find(|way| way.name == name).map(|way| way.took.median());
    let (grus, unpacked) = (of(GRUS), of(GRUS_UNPACKED));
    let ratio = |a: Option<f64>, b: Option<f64>| Some(rounded(a? / b?, 2));
    let known = grus.context("grus run was measured")?;
    Ok(json!({
        "bench": "run",
        "grus_ms": rounded(known, 2),
        "unpacked_ms": unpacked.map(|ms| rounded(ms, 2)),
        "podman_over_grus": ratio(of(PODMAN), grus),
        "chrun_over_grus": ratio(of(CHRUN), grus),
        "chrun_squashfs_over_grus": ratio(of(CHRUN_SQUASHFS), grus),
        "squashfuse_bwrap_over_grus": ratio(of(FLOOR_FUSE), grus),
        "over_floor": ratio(grus, of(FLOOR)),
        "unpacked_over_floor": ratio(unpacked, of(FLOOR)),
    }))
}

impl Way {
    fn new(name: &'static str, does: &'static str, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { name, does, fuse: true, words, environment: vec![], took: Samples::default() }
    }

    fn env(mut self, name: &'static str, value: impl Into<PathBuf>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Milliseconds of one run.
    fn once(&self, cluster: &Cluster) -> Result<f64> {
        let _fuse = Fuse::for_everyone(self.fuse);
        let account = cluster.account();
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).env_clear().envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
            .env("HOME", &account.home)
            .env("USER", &account.name)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.uid(account.uid).gid(account.gid).current_dir(cluster.work_dir());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let start = Instant::now();
        let status = command.status().with_context(|| self.words.join(" "))?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        ensure!(status.success(), "{}: {status}: {}", self.name, self.words.join(" "));
        Ok(took)
    }
}

fn installed(program: &str) -> bool {
    let there = Path::new("/usr/bin").join(program).exists();
    if !there {
        eprintln!("{program} is not installed; ci/bench --install-peers run installs it");
    }
    there
}

fn ways(cluster: &Cluster, podman: Option<&Podman>) -> Result<Vec<Way>> {
    let image = cluster.system_image(IMAGE)?;
    let file = cluster.system_file(IMAGE)?.display().to_string();
    let program = cluster.grus_program().display().to_string();
    let tree = cluster.fresh_dir("tree").join("rootfs").display().to_string();
    // As the user, whose files they are then, as when the user had unpacked them with any tool.
    let unpacked = Cmd::as_user(cluster.account(), "unsquashfs").args([
        "-quiet",
        "-no-progress",
        "-no-xattrs",
        "-d",
        &tree,
        &file,
    ]);
    ensure!(unpacked.run().status.success(), "unsquashfs");
    let grus = |name, does| {
        Way::new(name, does, &[&program, "run", &image, PROGRAM]).env("GRUS_CONFIG", cluster.site_file())
    };
    let mut ways = vec![
        grus(GRUS, "starts squashfuse_ll, binds home, /tmp, /dev, /proc, /sys, accounts"),
        Way { fuse: false, ..grus(GRUS_UNPACKED, "the same on a directory that was unpacked before") },
    ];
    if installed("bwrap") {
        let binds = "--dev-bind /dev /dev --bind /proc /proc";
        let mut words = vec!["bwrap", "--bind", &tree, "/"];
        words.extend(binds.split(' ').chain([PROGRAM]));
        ways.push(Way::new(FLOOR, "a directory; binds /dev and /proc", &words));
        let mount = cluster.fresh_dir("mount").display().to_string();
        let script = format!(
            "squashfuse_ll \"$0\" \"$1\" && bwrap --bind \"$1\" / {binds} {PROGRAM} && fusermount3 -u \"$1\""
        );
        let words = ["sh", "-c", &script, &file, &mount];
        ways.push(Way::new(FLOOR_FUSE, "the file, served by FUSE; binds /dev and /proc; unmounts", &words));
    }
    if installed("ch-run") {
        let does = "a directory; binds home, /tmp, /dev, /proc, /sys, accounts";
        ways.push(Way::new(CHRUN, does, &["ch-run", &tree, "--", PROGRAM]));
        let mount = cluster.fresh_dir("ch-mount").display().to_string();
        let words = ["ch-run", "--mount", &mount, &file, "--", PROGRAM];
        ways.push(Way::new(CHRUN_SQUASHFS, "the file, served by FUSE; the same binds; unmounts", &words));
    }
    ways.extend(podman.map(Podman::way));
    Ok(ways)
}

/// Podman of the user's: storage, ranges of subordinate ids as podman(1) asks for them, and the image in it.
struct Podman {
    storage: PathBuf,
    runtime: PathBuf,
    image: String,
    _ids: [SubordinateIds; 2],
}

impl Podman {
    /// None where it is not installed.
    fn new(cluster: &Cluster) -> Result<Option<Self>> {
        if !installed("podman") {
            return Ok(None);
        }
        let account = cluster.account();
        let _ids =
            [SubordinateIds::new("/etc/subuid", account)?, SubordinateIds::new("/etc/subgid", account)?];
        let (storage, runtime) = (cluster.fresh_dir("podman"), cluster.fresh_dir("podman-run"));
        let _ = Cmd::new("chmod").arg("700").arg(&runtime).run().success();
        let mut podman = Self { storage, runtime, image: String::new(), _ids };
        let layout = format!("oci:{}", ImageStore::default().layout(IMAGE)?.display());
        let mut words = podman.words();
        words.extend(["pull", "--quiet", &layout].map(str::to_owned));
        let pull = Cmd::as_user(account, &words[0]).args(&words[1..]).env("XDG_RUNTIME_DIR", &podman.runtime);
        let pulled = pull.cwd(cluster.work_dir()).run();
        ensure!(pulled.status.success(), "{pulled}");
        podman.image = pulled.trimmed().to_owned();
        Ok(Some(podman))
    }

    fn words(&self) -> Vec<String> {
        let flag = |name: &str, dir: &Path| format!("--{name}={}", dir.display());
        let own = [flag("root", &self.storage), flag("runroot", &self.runtime.join("containers"))];
        // There may be no systemd, and no journal.
        let fixed = ["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=none"];
        ["podman".to_owned()].into_iter().chain(own).chain(fixed.map(str::to_owned)).collect()
    }

    fn way(&self) -> Way {
        let mut words = self.words();
        words.extend(
            ["run", "--rm", "--network=host", "--cgroups=disabled", &self.image, PROGRAM].map(str::to_owned),
        );
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let does = "overlay of unpacked layers; starts conmon and crun; no cgroup; own PIDs, IPC, host name, capabilities, seccomp";
        Way::new(PODMAN, does, &words).env("XDG_RUNTIME_DIR", &self.runtime)
    }
}

impl Drop for Podman {
    /// The process that keeps its user namespace.
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.runtime.join("libpod/tmp/pause.pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A range of ids of an account's own (subuid(5)), for a while.
struct SubordinateIds {
    file: &'static str,
    line: String,
}

impl SubordinateIds {
    fn new(file: &'static str, account: &Account) -> Result<Self> {
        let line = format!("{}:1000000000:65536\n", account.name);
        let text = fs::read_to_string(file).unwrap_or_default();
        ensure!(!text.contains(&line), "{file} has ids of another run");
        fs::write(file, text + &line).with_context(|| file)?;
        Ok(Self { file, line })
    }
}

impl Drop for SubordinateIds {
    fn drop(&mut self) {
        let text = fs::read_to_string(self.file).unwrap_or_default();
        let _ = fs::write(self.file, text.replace(&self.line, ""));
    }
}
