//! All tests that need a real Slurm, in one binary: the lab comes up once, tests run one after the other, the lab
//! goes down at the end. A module per area; `cargo test --workspace --test slurm -- AREA` runs one.
//!
//! Where no lab can be had (not root, packages missing), the tests are skipped with the reason; with CI=true that
//! is a failure.

mod audit;
mod batch;
mod client;
mod cluster;
mod devices;
mod doctor;
mod documents;
mod entrypoint;
mod environment;
mod failures;
mod hetero;
mod hostile;
mod identity;
mod kinds;
mod lab;
mod leaks;
mod modules;
mod mount_types;
mod mounts;
mod mpi;
mod named;
mod namespaces;
mod options;
mod plugin;
mod pull;
mod remapped;
mod remote;
mod run;
mod run_ranks;
mod save;
mod steps;
mod swap;
mod tasks;
mod torture;
mod variables;
mod ways;

use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Trial};

use lab::Lab;

/// A test: its name within its area, and what it does.
pub type Test = (&'static str, fn(&Lab));

/// Names functions of a module as its tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this area.
        pub const TESTS: &[$crate::Test] = &[$((stringify!($name), $name)),*];
    };
}

/// Every area, in the order it runs.
const AREAS: &[(&str, &[Test])] = &[
    ("cluster", cluster::TESTS),
    ("kinds", kinds::TESTS),
    ("mounts", mounts::TESTS),
    ("mount_types", mount_types::TESTS),
    ("named", named::TESTS),
    ("identity", identity::TESTS),
    ("remapped", remapped::TESTS),
    ("namespaces", namespaces::TESTS),
    ("environment", environment::TESTS),
    ("variables", variables::TESTS),
    ("entrypoint", entrypoint::TESTS),
    ("hetero", hetero::TESTS),
    ("tasks", tasks::TESTS),
    ("batch", batch::TESTS),
    ("options", options::TESTS),
    ("ways", ways::TESTS),
    ("remote", remote::TESTS),
    ("plugin", plugin::TESTS),
    ("pull", pull::TESTS),
    ("run", run::TESTS),
    ("run_ranks", run_ranks::TESTS),
    ("save", save::TESTS),
    ("client", client::TESTS),
    ("steps", steps::TESTS),
    ("doctor", doctor::TESTS),
    ("documents", documents::TESTS),
    ("mpi", mpi::TESTS),
    ("swap", swap::TESTS),
    ("modules", modules::TESTS),
    ("devices", devices::TESTS),
    ("torture", torture::TESTS),
    ("audit", audit::TESTS),
    ("hostile", hostile::TESTS),
    ("failures", failures::TESTS),
    ("leaks", leaks::TESTS),
];

static LAB: OnceLock<Lab> = OnceLock::new();

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // They share nodes, and leak checks must not see each other's steps.
    args.test_threads = Some(1);
    if !args.list {
        if let Err(why) = Lab::possible() {
            if std::env::var("CI").is_ok_and(|ci| ci == "true") {
                eprintln!("the tests on a real Slurm cannot run: {why}");
                return ExitCode::FAILURE;
            }
            println!("skipped: the tests on a real Slurm cannot run: {why}");
            return ExitCode::SUCCESS;
        }
    }
    let trials = AREAS.iter().flat_map(|(area, tests)| {
        tests.iter().map(move |&(name, run)| {
            Trial::test(format!("{area}::{name}"), move || {
                run(LAB.get_or_init(Lab::up));
                Ok(())
            })
        })
    });
    let conclusion = libtest_mimic::run(&args, trials.collect());
    // Statics are never dropped: the end of the lab has to be said.
    if let Some(lab) = LAB.get() {
        if let Err(error) = lab.down() {
            eprintln!("the lab did not come down: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    conclusion.exit_code()
}
