//! A launch and the first program in it: what a launch does not look at, the program's loader does. Each in a process
//! of its own, which is this program again, since a task that joins must have one thread.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use grus_core::swap::{Mode, Ruling};
use grus_tests::Account;

use super::setup::{build, explained, inputs};
use crate::figures::Samples;

/// How often each runs.
const ROUNDS: usize = 60;

/// What is run first: something that has nothing of MPI, and all libraries of an MPI program, which are loaded and
/// listed (ld.so(8)). Running that would measure how an MPI starts.
const PROGRAMS: [(&str, &[&str]); 2] =
    [("/bin/true", &[]), ("/usr/local/bin/mpi-hello", &["LD_TRACE_LOADED_OBJECTS=1"])];

/// Microseconds of launch and first program.
#[derive(Debug, Default)]
pub struct First {
    /// Without a swap and with one, of each program.
    samples: [[Samples; 2]; 2],
}

impl First {
    /// What a swap adds for a program without MPI, and for one with.
    pub fn extra(&self) -> [Samples; 2] {
        self.samples.each_ref().map(|[plain, swapped]| swapped.minus(plain))
    }
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((program, _), [plain, swapped]) in PROGRAMS.iter().zip(&self.samples) {
            writeln!(f, "  launch and {program}")?;
            writeln!(f, "    without      {plain}")?;
            writeln!(f, "    with         {swapped}")?;
        }
        Ok(())
    }
}

/// Measures all, in turns.
pub fn measure(account: &Account, image: &Path, stacks: &Path, ruling: &Ruling) -> Result<First> {
    let dir = tempfile::tempdir()?;
    let kept = dir.path().join("ruling.json");
    std::fs::write(&kept, ruling.to_json())?;
    let me = std::env::current_exe()?;
    let mut first = First::default();
    for _ in 0..ROUNDS {
        for (of_program, (program, variables)) in first.samples.iter_mut().zip(PROGRAMS) {
            for (samples, ruling) in of_program.iter_mut().zip([Path::new("-"), &kept]) {
                let ids = [account.uid.to_string(), account.gid.to_string()];
                let mut command = Command::new(&me);
                command.arg("first").args([image, stacks, ruling]).args(ids).arg(&account.home);
                let output = command.arg(program).args(variables).output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                samples.0.push(String::from_utf8(output.stdout)?.trim().parse()?);
            }
        }
    }
    Ok(first)
}

/// `grus-bench first IMAGE STACKS RULING UID GID HOME PROGRAM [NAME=VALUE...]`: prints the microseconds from an image to
/// the end of the program.
pub fn once(words: &[&str]) -> Result<()> {
    let [image, stacks, ruling, uid, gid, home, program, variables @ ..] = words else {
        anyhow::bail!("too few words");
    };
    let account = Account { name: (*uid).into(), uid: uid.parse()?, gid: gid.parse()?, home: home.into() };
    let mut inputs = inputs(&account, Path::new(image))?;
    inputs.stacks = Some(stacks.into());
    match *ruling {
        "-" => inputs.request.mpi = Some(Mode::Image),
        kept => inputs.request.ruling = Some(Box::new(Ruling::parse(&std::fs::read(kept)?)?)),
    }
    // It looks at the same files before the program does.
    std::sync::Arc::make_mut(&mut inputs.site).mpi.verify = false;
    let start = Instant::now();
    let (container, _) = build(&inputs)?;
    container.join().map_err(explained)?;
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(&container.plan.environment.set)
        .envs(variables.iter().filter_map(|v| v.split_once('=')));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context(program.to_string())?;
    ensure!(status.success(), "{program}: {status}");
    println!("{:.1}", start.elapsed().as_secs_f64() * 1e6);
    Ok(())
}
