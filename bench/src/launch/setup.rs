//! The set-up alone: `enter`'s builder in the conditions of slurmstepd, against `floor.c`, which makes the same mounts by
//! the fewest system calls. Both in turns, each on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{anyhow, ensure, Context, Result};
use grus_core::path::AbsPath;
use grus_core::plan::{Job, LaunchPlan, Make, Op};
use grus_core::platform::Platform;
use grus_core::request::{Image, Request};
use grus_core::site::Site;
use grus_core::swap::{Mode, Ruling};
use grus_enter::{Builder, Container, Failure, Inputs, Phase, StepId, TIME_LIMIT};
use grus_tests::Account;

use crate::figures::Samples;

/// Rounds, and builds of each kind in a round.
const ROUNDS: usize = 20;
const EACH: usize = 10;

/// Microseconds.
#[derive(Debug, Default)]
pub struct Setup {
    /// The least that the kernel must do.
    pub floor: Samples,
    /// Grus, image mounted by the kernel.
    pub kernel: Samples,
    /// Grus, image served by squashfuse_ll.
    pub fuse: Samples,
    /// A task's joining.
    pub join: Samples,
    /// Grus by phases, the kernel's mount and the server's.
    phases: Phases,
}

/// What it costs to swap the host's MPI in, microseconds.
#[derive(Debug, Default)]
pub struct Swap {
    /// Without.
    pub plain: Samples,
    /// With, the ruling having been sent.
    pub swapped: Samples,
    /// What the image's loader takes on top, where it is asked.
    pub verify: Samples,
    /// Libraries of the host that come in.
    pub libraries: usize,
    phases: Phases,
}

/// By the name of a phase, microseconds of two kinds of builds.
type Phases = BTreeMap<String, [Samples; 2]>;

fn note(phases: &mut Phases, container: &Container, kind: usize) {
    for (phase, took) in &container.timings.0 {
        let samples = phases.entry(format!("{phase:?}").to_lowercase()).or_default();
        samples[kind].0.push(took.as_secs_f64() * 1e6);
    }
}

fn show(f: &mut fmt::Formatter<'_>, phases: &Phases, kinds: [&str; 2]) -> fmt::Result {
    phases.iter().try_for_each(|(phase, [one, two])| {
        let [first, second] = kinds;
        writeln!(f, "    {phase:12} {first} {:8.1}   {second} {:8.1}", one.median(), two.median())
    })
}

/// Measures the same image with and without a ruling, in turns; `stacks` are the node's profiles.
pub fn swap(account: &Account, image: &Path, stacks: &Path, ruling: &Ruling) -> Result<Swap> {
    let plain = Inputs { stacks: Some(stacks.into()), ..inputs(account, image)? };
    let libraries =
        ruling.swap.links.values().chain(ruling.swap.over.values()).collect::<BTreeSet<_>>().len();
    let mut verified = plain.clone();
    verified.request.ruling = Some(Box::new(ruling.clone()));
    let mut swapped = verified.clone();
    Arc::make_mut(&mut swapped.site).mpi.verify = false;
    let mut plain = plain;
    plain.request.mpi = Some(Mode::Image);
    let mut measured = Swap { libraries, ..Swap::default() };
    for _ in 0..ROUNDS * EACH {
        for (kind, inputs) in [&plain, &swapped].into_iter().enumerate() {
            let (container, took) = build(inputs)?;
            if kind == 0 { &mut measured.plain } else { &mut measured.swapped }.0.push(took);
            note(&mut measured.phases, &container, kind);
        }
        let (container, _) = build(&verified)?;
        let verify = container.timings.0.iter().filter(|(phase, _)| *phase == Phase::Verify);
        measured.verify.0.extend(verify.map(|(_, took)| took.as_secs_f64() * 1e6));
    }
    Ok(measured)
}

impl fmt::Display for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  without        {}", self.plain)?;
        writeln!(f, "  {:2} libraries   {}", self.libraries, self.swapped)?;
        writeln!(f, "  verify         {}", self.verify)?;
        show(f, &self.phases, ["without", "with"])
    }
}

/// Measures all, in turns.
pub fn measure(account: &Account, kernel_image: &Path, users_image: &Path) -> Result<Setup> {
    let (kernel, fuse) = (inputs(account, kernel_image)?, inputs(account, users_image)?);
    let dir = tempfile::tempdir()?;
    let floor = compile(dir.path())?;
    let recipe = recipe(&build(&kernel)?.0.plan);
    let mut setup = Setup::default();
    for _ in 0..ROUNDS {
        setup.floor.0.extend(run_floor(&floor, &recipe)?);
        for _ in 0..EACH {
            let (container, took) = build(&kernel)?;
            setup.kernel.0.push(took);
            note(&mut setup.phases, &container, 0);
        }
        for _ in 0..EACH {
            let (container, took) = build(&fuse)?;
            setup.fuse.0.push(took);
            note(&mut setup.phases, &container, 1);
        }
    }
    setup.join = joins(account, kernel_image)?;
    Ok(setup)
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  floor          {}", self.floor)?;
        writeln!(f, "  grus, kernel   {}", self.kernel)?;
        writeln!(f, "  grus, fuse     {}", self.fuse)?;
        writeln!(f, "  a rank's join  {}", self.join)?;
        show(f, &self.phases, ["kernel", "fuse"])
    }
}

/// One build as slurmstepd has it: the thread is there before the clock starts.
pub(super) fn build(inputs: &Inputs) -> Result<(Container, f64)> {
    let builder = Builder::start()?;
    let inputs = inputs.clone();
    let start = Instant::now();
    let container = builder.build(inputs).map_err(explained)?;
    Ok((container, start.elapsed().as_secs_f64() * 1e6))
}

/// A failure with its way out.
pub fn explained(failure: Failure) -> anyhow::Error {
    anyhow!("{} ({})", failure.what(), failure.hint().unwrap_or_default())
}

/// A plain launch of `image`, by a job of `account`.
pub(super) fn inputs(account: &Account, image: &Path) -> Result<Inputs> {
    let image = AbsPath::parse(image.to_str().context("a path of text")?)?;
    let user = grus_enter::account::user(account.uid, account.gid, &[])?;
    let workdir = AbsPath::parse(account.home.to_str().context("a path of text")?)?;
    Ok(Inputs {
        request: Request { image: Some(Image::File(image.clone())), ..Request::default() },
        site: Arc::new(Site::defaults()),
        stacks: None,
        job: Job { user, workdir, environment: std::env::vars().collect(), slurm_paths: vec![] },
        image,
        step: StepId::default(),
        uid: account.uid,
        gid: account.gid,
        gids: vec![account.gid],
        platform: Platform::here(),
        node: None,
        limit: TIME_LIMIT,
    })
}

/// What `floor.c` reads: the same mounts, by their final paths.
fn recipe(plan: &LaunchPlan) -> String {
    let mut text = format!("repeat\t{EACH}\nimage\t{}\n", plan.image);
    // Formatting into a String cannot fail.
    for made in plan.skeleton.iter().filter(|made| made.path.depth() > 0) {
        let _ = match &made.make {
            Make::Directory => writeln!(text, "dir\t{}", made.path),
            Make::File => writeln!(text, "file\t{}", made.path),
            // Libraries of the host come with links; the plan that is measured here has none.
            Make::Link(_) => Ok(()),
        };
    }
    for op in &plan.mounts {
        let _ = match op {
            Op::Bind { source, destination, readonly, devices, .. } => {
                let (access, devices) =
                    (if *readonly { "ro" } else { "rw" }, if *devices { "dev" } else { "nodev" });
                writeln!(text, "bind\t{source}\t{destination}\t{access}\t{devices}")
            }
            Op::Text { destination, .. } => writeln!(text, "text\t{destination}"),
            // The plan that is measured here has no others.
            _ => Ok(()),
        };
    }
    text
}

fn compile(dir: &Path) -> Result<PathBuf> {
    let (source, program) = (dir.join("floor.c"), dir.join("floor"));
    std::fs::write(&source, include_str!("floor.c"))?;
    let status = Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&program).arg(&source).status();
    ensure!(status.context("cc")?.success(), "floor.c does not compile");
    Ok(program)
}

fn run_floor(program: &Path, recipe: &str) -> Result<Vec<f64>> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(recipe.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the floor failed: {}", output.status);
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(line.parse()?)).collect()
}

/// A rank's first join, each in a process of its own, which is this program again.
fn joins(account: &Account, image: &Path) -> Result<Samples> {
    let me = std::env::current_exe()?;
    let one = |_| {
        let ids = [account.uid.to_string(), account.gid.to_string()];
        let output = Command::new(&me).arg("join").arg(image).args(ids).arg(&account.home).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    };
    (0..50).map(one).collect::<Result<Vec<f64>>>().map(Samples)
}

/// `grus-bench join IMAGE UID GID HOME`: builds, joins, and prints the microseconds of the joining. It must have one
/// thread then, as a task has.
pub fn join_once(image: &str, uid: &str, gid: &str, home: &str) -> Result<()> {
    let account = Account { name: uid.into(), uid: uid.parse()?, gid: gid.parse()?, home: home.into() };
    let (container, _) = build(&inputs(&account, Path::new(image))?)?;
    let start = Instant::now();
    container.join().map_err(explained)?;
    println!("{:.1}", start.elapsed().as_secs_f64() * 1e6);
    Ok(())
}
