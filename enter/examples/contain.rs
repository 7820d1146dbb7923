//! Builds a container from a SquashFS file and runs a command in it as a user, without Slurm: what the tests of this
//! crate and `ci/bench launch` drive. `--repeat N` builds N times and prints the medians of all phases instead.
//!
//!     contain --image FILE [--uid N --gid N] [--mount SPEC] [--volatile DIR] [--site TOML] [--ruling FILE]
//!         [--writable yes] [--gpu WORD] [--device NAME] [--variable NAME=VALUE] -- COMMAND...

use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grus_core::identity::{Group, User};
use grus_core::options::Opt;
use grus_core::path::AbsPath;
use grus_core::plan::Job;
use grus_core::platform::Platform;
use grus_core::request::{Image, Request};
use grus_core::site::Site;
use grus_core::swap::Ruling;
use grus_enter::{Builder, Inputs, Phase, StepId, TIME_LIMIT};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut inputs, mut repeat) = (inputs()?, 0);
    while let Some(option) = arguments.next() {
        if option == "--" {
            break;
        }
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--image" => inputs.image = AbsPath::parse(&value)?,
            "--uid" => inputs.uid = value.parse()?,
            "--gid" => inputs.gid = value.parse()?,
            "--mount" => inputs.request.set(Opt::Mount, &value, &AbsPath::root())?,
            "--volatile" => inputs.request.set(Opt::WritableVolatile, &value, &AbsPath::root())?,
            "--site" => inputs.site = Arc::new(Site::parse(&[("--site".into(), value)])?),
            "--workdir" => inputs.job.workdir = AbsPath::parse(&value)?,
            "--writable" => inputs.request.set(Opt::Writable, "", &AbsPath::root())?,
            "--gpu" => inputs.request.set(Opt::Gpu, &value, &AbsPath::root())?,
            "--device" => inputs.request.set(Opt::Device, &value, &AbsPath::root())?,
            "--variable" => {
                let (name, value) = value.split_once('=').ok_or("no NAME=VALUE")?;
                inputs.job.environment.insert(name.into(), value.into());
            }
            "--limit" => inputs.limit = Duration::from_secs(value.parse()?),
            "--ruling" => {
                inputs.request.ruling = Some(Box::new(Ruling::parse(&std::fs::read(value)?)?));
            }
            "--repeat" => repeat = value.parse()?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    inputs.request.image = Some(Image::File(inputs.image.clone()));
    let (user, uid, gid) = (&mut inputs.job.user, inputs.uid, inputs.gid);
    (user.uid, user.gid, user.groups) = (uid, gid, vec![Group { gid, name: None }]);
    if repeat > 0 {
        return measure(&inputs, repeat).map(|()| 0);
    }
    let command: Vec<String> = arguments.collect();
    let (program, rest) = command.split_first().ok_or("no command")?;
    let mut command = Command::new(program);
    command.args(rest);
    let container = Builder::start()?.build(inputs).map_err(explained)?;
    container.plan.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let edits = &container.plan.environment;
    edits.unset.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.envs(&edits.set);
    container.join().map_err(explained)?;
    let status = command.uid(uid).gid(gid).status()?;
    Ok(status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(255) as u8)
}

fn explained(failure: grus_enter::Failure) -> String {
    match failure.hint() {
        Some(hint) => format!("{}\nhint: {hint}", failure.what()),
        None => failure.what(),
    }
}

fn inputs() -> Result<Inputs, Box<dyn Error>> {
    let user = User {
        name: "tester".into(),
        uid: 0,
        gid: 0,
        gecos: String::new(),
        home: "/".into(),
        shell: "/bin/sh".into(),
        groups: vec![],
    };
    Ok(Inputs {
        request: Request::default(),
        site: Arc::new(Site::defaults()),
        stacks: None,
        job: Job { user, workdir: AbsPath::root(), environment: BTreeMap::new(), slurm_paths: vec![] },
        image: AbsPath::root(),
        step: StepId::default(),
        uid: 0,
        gid: 0,
        gids: vec![],
        platform: Platform::here(),
        node: None,
        limit: TIME_LIMIT,
    })
}

/// Prints medians in microseconds: each phase, the whole call, and a task's join.
fn measure(inputs: &Inputs, repeat: usize) -> Result<(), Box<dyn Error>> {
    let mut phases: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let mut last = None;
    for _ in 0..repeat {
        let builder = Builder::start()?;
        let work = inputs.clone();
        let start = Instant::now();
        let container = builder.build(work).map_err(explained)?;
        phases.entry("total".into()).or_default().push(start.elapsed());
        for (phase, took) in &container.timings.0 {
            phases.entry(format!("{phase:?}")).or_default().push(*took);
        }
        last = Some(container);
    }
    // For good, so at the end; joining once more costs the same. The builders' threads have ended, as a join needs.
    for _ in 0..repeat {
        let start = Instant::now();
        last.as_ref().ok_or("nothing built")?.join().map_err(explained)?;
        phases.entry(format!("{:?}", Phase::Join)).or_default().push(start.elapsed());
    }
    for (phase, mut took) in phases {
        took.sort();
        println!("{phase:12} {:8.1} us", took[took.len() / 2].as_secs_f64() * 1e6);
    }
    Ok(())
}
