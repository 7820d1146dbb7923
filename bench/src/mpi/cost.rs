//! What the swap itself costs: a step's launch with it and without, and the decision by itself.

use std::fmt;
use std::time::Instant;

use anyhow::{anyhow, ensure, Context, Result};
use grus_core::elf::ImageFacts;
use grus_core::stack::Stack;
use grus_core::swap::{decide, GlibcRule, Mode, Question};
use grus_tests::{Cluster, Cmd};
use serde_json::{json, Value};

use super::report::Measured;
use crate::figures::{rounded, Samples};

/// How often each is done.
const ROUNDS: usize = 40;

/// Milliseconds of `srun -n1 /bin/true` in a container.
pub struct Launch {
    plain: Samples,
    swapped: Samples,
}

/// Measures the launch, both ways in turns.
pub fn launch(cluster: &Cluster, job: &str, of: &Measured) -> Result<Launch> {
    let step = |mpi: &str| -> Result<f64> {
        let srun = cluster.user("srun").arg(format!("--jobid={job}")).args(["-N1", "-n1", "--overlap"]);
        let srun = srun.arg(format!("--container-image={}", of.prepared.image));
        let srun = srun.arg(format!("--container-mpi={mpi}")).arg("/bin/true");
        let start = Instant::now();
        let output = srun.run();
        let took = start.elapsed().as_secs_f64() * 1e3;
        ensure!(output.status.success(), "{output}");
        Ok(took)
    };
    let mut launch = Launch { plain: Samples::default(), swapped: Samples::default() };
    for round in 0..=ROUNDS {
        let (plain, swapped) = (step("image")?, step(of.subject.stack)?);
        if round > 0 {
            launch.plain.0.push(plain);
            launch.swapped.0.push(swapped);
        }
    }
    Ok(launch)
}

impl Launch {
    /// The difference.
    pub fn json(&self) -> Value {
        json!(rounded(self.swapped.minus(&self.plain).median(), 2))
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "whole steps (srun -n1 /bin/true in a container), ms")?;
        writeln!(f, "  the image's MPI   {}", self.plain)?;
        writeln!(
            f,
            "  the host's MPI    {}   more {:+.2}",
            self.swapped,
            self.swapped.minus(&self.plain).median()
        )
    }
}

/// Microseconds of the decision's parts, where nothing of it is kept.
pub struct Decision(Vec<(String, [Samples; 3])>);

/// What each sample of a decision is.
const PARTS: [&str; 3] = ["read_facts", "read_profile", "decide"];

/// Measures the decision for each subject.
pub fn decision(cluster: &Cluster, measured: &[Measured]) -> Result<Decision> {
    let one = |m: &Measured| {
        // The first question has the image inspected and its facts kept.
        let grus = Cmd::new(cluster.grus_program()).env("GRUS_CONFIG", cluster.site_file());
        let explain = grus.args(["explain", &m.prepared.image, "--stack", m.subject.stack]).run();
        ensure!(explain.status.success(), "{explain}");
        let facts = m.facts(cluster)?;
        let profile = std::fs::read_to_string(cluster.stack_profile(m.subject.stack)?)?;
        Ok((m.subject.name.to_owned(), parts(&facts, &profile, m.subject.stack)?))
    };
    measured.iter().map(one).collect::<Result<_>>().map(Decision)
}

fn parts(facts: &[u8], profile: &str, name: &str) -> Result<[Samples; 3]> {
    let mut samples = [const { Samples(vec![]) }; 3];
    for _ in 0..ROUNDS {
        let mut lap = Instant::now();
        let mut note = |part: usize| {
            samples[part].0.push(lap.elapsed().as_secs_f64() * 1e6);
            lap = Instant::now();
        };
        let image = ImageFacts::parse(facts, name).map_err(|e| anyhow!("{e}"))?;
        note(0);
        let stacks = [Stack::parse(name, profile).map_err(|e| anyhow!("{e}"))?];
        note(1);
        let decision = decide(&Question {
            image: &image,
            library_path: &[],
            image_name: name,
            stacks: &stacks,
            first: None,
            mode: &Mode::Host,
            glibc: GlibcRule::Never,
            taken: &|_| false,
        });
        note(2);
        decision.result.map_err(|e| anyhow!("{e}")).context("the pair fits, as its steps have shown")?;
    }
    Ok(samples)
}

impl Decision {
    /// By stack and part.
    pub fn json(&self) -> Value {
        let one = |(name, samples): &(String, [Samples; 3])| {
            let parts =
                PARTS.iter().zip(samples).map(|(p, s)| ((*p).to_owned(), json!(rounded(s.median(), 1))));
            (name.clone(), Value::Object(parts.collect()))
        };
        Value::Object(self.0.iter().map(one).collect())
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the decision without anything kept, us")?;
        for (name, samples) in &self.0 {
            for (part, samples) in PARTS.iter().zip(samples) {
                writeln!(f, "  {name:8} {part:12} {samples}")?;
            }
        }
        Ok(())
    }
}
