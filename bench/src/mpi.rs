//! `mpi`: what two ranks pay for talking, on one node and on two. The host's MPI on the bare host, the same MPI in a
//! container that was built with another, and that container as it is; by Slurm, in turns.

mod cost;
mod report;
mod subject;

use std::fs;

use anyhow::{bail, ensure, Context, Result};
use grus_tests::Cluster;
use serde_json::json;

use crate::figures::print_load;
use crate::lab;
use report::{overall, Measured};
use subject::{Subject, Way, SUBJECTS};

/// For people.
pub const USAGE: &str = "grus-bench mpi [--rounds 15] [--stacks intel,mpich,openmpi]";

/// What to measure.
struct Options {
    rounds: usize,
    subjects: Vec<&'static Subject>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self { rounds: 15, subjects: SUBJECTS.iter().collect() };
        for pair in words.chunks(2) {
            match *pair {
                ["--rounds", number] => options.rounds = number.parse().context("--rounds wants a number")?,
                ["--stacks", names] => {
                    let found = |name: &str| SUBJECTS.iter().find(|s| s.name == name);
                    let found = names.split(',').map(|n| found(n).with_context(|| format!("no stack {n}")));
                    options.subjects = found.collect::<Result<_>>()?;
                }
                _ => bail!("usage: {USAGE}"),
            }
        }
        ensure!(options.rounds > 0, "--rounds wants a number above 0");
        Ok(options)
    }
}

/// Runs the bench and prints its figures.
pub fn run(words: &[&str]) -> Result<()> {
    let options = Options::parse(words)?;
    print_load("before");
    let cluster = lab::up("bench", 2)?;
    let stacks: Vec<&str> = options.subjects.iter().map(|s| s.stack).collect();
    cluster.use_stacks(&stacks)?;
    fs::write(cluster.work_dir().join(subject::LENGTHS), "8\n4194304\n")?;
    let mut measured = Vec::new();
    for subject in &options.subjects {
        measured.push(Measured::new(subject, subject.prepare(&cluster)?));
    }
    let job = allocate(&cluster)?;
    let done = rounds(&cluster, &job, options.rounds, &mut measured);
    let launch = done.and_then(|()| cost::launch(&cluster, &job, &measured[0]));
    let _ = cluster.root("scancel").arg(&job).run();
    let launch = launch?;
    let decision = cost::decision(&cluster, &measured)?;
    for one in &measured {
        println!("{one}");
    }
    println!("{launch}{decision}");
    print_load("after");
    cluster.down()?;
    let (latency, bandwidth) = overall(&measured);
    let stacks: serde_json::Map<_, _> =
        measured.iter().map(|m| (m.subject.name.to_owned(), m.json())).collect();
    println!(
        "{}",
        json!({
            "bench": "mpi",
            "rounds": options.rounds,
            "latency_over_native": latency,
            "bandwidth_over_native": bandwidth,
            "launch_extra_ms": launch.json(),
            "decision_us": decision.json(),
            "stacks": stacks,
        })
    );
    Ok(())
}

/// Both nodes for the whole run.
fn allocate(cluster: &Cluster) -> Result<String> {
    let salloc = cluster
        .user("salloc")
        .args(["--no-shell", "--nodes=2", "--exclusive", "--quiet", "--job-name=bench"])
        .run();
    ensure!(salloc.status.success(), "{salloc}");
    let jobs = cluster.user("squeue").args(["--noheader", "--name=bench", "--format=%i"]).run();
    Ok(jobs.stdout.trim().to_owned())
}

/// Every way of every stack once a round, so that all meet the same disturbances. The first round fills caches.
fn rounds(cluster: &Cluster, job: &str, rounds: usize, measured: &mut [Measured]) -> Result<()> {
    for round in 0..=rounds {
        for one in measured.iter_mut() {
            for nodes in [1, 2] {
                for way in Way::ALL {
                    let run = one.subject.run(cluster, job, &one.prepared, way, nodes);
                    let figures = run
                        .with_context(|| format!("{}, {} on {nodes} nodes", one.subject.name, way.label()))?;
                    if round > 0 {
                        one.add(way, nodes, figures);
                    }
                }
            }
        }
        eprintln!("round {round} of {rounds} done");
    }
    Ok(())
}
