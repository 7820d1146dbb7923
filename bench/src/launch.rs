//! `launch`: what a container costs a step. The plugin's set-up against the kernel's floor, a rank's joining, and
//! whole steps by real Slurm with and without Grus.

mod extras;
mod first;
mod gpu;
mod pagein;
mod setup;
mod steps;

use anyhow::{bail, Result};
use grus_core::swap::Answer;
use grus_tests::{Cluster, Cmd};
use serde_json::json;

use crate::figures::{print_load, rounded};
use crate::lab;

pub use first::once as first_once;
pub use pagein::{read_once, run as run_pagein};
pub use setup::join_once;

/// The image: small, so that the launch is measured and not its pages.
const IMAGE: &str = "busybox";

/// For the swap of the host's MPI.
const MPI_IMAGE: &str = "mpich";

/// Runs the bench and prints its figures.
pub fn run() -> Result<()> {
    print_load("before");
    let cluster = lab::up("bench", 1)?;
    cluster.system_image(IMAGE)?;
    let kernel = cluster.system_file(IMAGE)?;
    let users = cluster.work_dir().join("image.squashfs");
    std::fs::copy(&kernel, &users)?;
    std::fs::copy(kernel.with_extension("json"), users.with_extension("json"))?;
    cluster.give(&users);

    let setup = setup::measure(cluster.account(), &kernel, &users)?;
    println!("set-up on a node, us\n{setup}");
    let (swap, first) = swap(&cluster)?;
    println!("the same with a host's MPI swapped in, us\n{swap}\n{first}");
    cluster.use_stacks(&[])?;
    let extras = extras::measure(&cluster, &kernel, &users)?;
    println!("the same with each option, us\n{extras}");
    let steps = steps::measure(&cluster, &kernel, &users)?;
    println!("whole steps (srun -n1 /bin/true in one allocation), ms\n{steps}");
    print_load("after");

    let pyxis = steps.pyxis.as_ref().map(|pyxis| {
        rounded(pyxis.minus(&steps.bare).median() / steps.kernel.minus(&steps.bare).median(), 2)
    });
    let line = json!({
        "bench": "launch",
        "setup_over_floor": rounded(setup.kernel.median() / setup.floor.median(), 3),
        "rank_us": rounded(setup.join.median(), 1),
        "step_overhead_ms": rounded(steps.kernel.minus(&steps.bare).median(), 2),
        "fuse_launch_extra_ms": rounded((setup.fuse.median() - setup.kernel.median()) / 1e3, 2),
        "no_option_overhead_ms": rounded(steps.idle.minus(&steps.bare).median(), 2),
        "pyxis_over_grus": pyxis,
        "swap_libraries": swap.libraries,
        "swap_extra_ms": rounded(swap.swapped.minus(&swap.plain).median() / 1e3, 2),
        "swap_first_program_extra_ms": rounded(first.extra()[0].median() / 1e3, 2),
        "swap_first_mpi_program_extra_ms": rounded(first.extra()[1].median() / 1e3, 2),
        "swap_verify_ms": rounded(swap.verify.median() / 1e3, 2),
        "options_extra_ms": extras.json(),
    });
    cluster.down()?;
    println!("{line}");
    Ok(())
}

/// An image with Debian's MPICH on Intel MPI: the largest stack at hand.
fn swap(cluster: &Cluster) -> Result<(setup::Swap, first::First)> {
    cluster.use_stacks(&["intel"])?;
    cluster.system_image(MPI_IMAGE)?;
    let image = cluster.system_file(MPI_IMAGE)?;
    let asked = Cmd::new(cluster.grus_program())
        .env("GRUS_CONFIG", cluster.site_file())
        .arg("explain")
        .arg(&image)
        .args(["--for-launch", "host"])
        .run();
    let Some(Answer::Ruling(ruling)) = Answer::parse(asked.stdout.as_bytes()) else { bail!("{asked}") };
    println!("the ruling: {} bytes", ruling.to_json().len());
    let stacks = cluster.site_file().with_file_name("stacks");
    let swap = setup::swap(cluster.account(), &image, &stacks, &ruling)?;
    Ok((swap, first::measure(cluster.account(), &image, &stacks, &ruling)?))
}
