//! `launch`: what a container costs a step. The plugin's set-up against the kernel's floor, a rank's joining, and
//! whole steps by real Slurm with and without Grus.

mod setup;
mod steps;

use anyhow::{Context, Result};
use grus_tests::Cluster;
use serde_json::json;

use crate::figures::{print_load, rounded};

pub use setup::join_once;

/// The image: small, so that the launch is measured and not its pages.
const IMAGE: &str = "busybox";

/// Runs the bench and prints its figures.
pub fn run() -> Result<()> {
    print_load("before");
    let built = std::env::current_exe()?;
    let built = built.parent().context("the directory of this program")?;
    let cluster = Cluster::builder("bench").nodes(1).cpus(2).up()?;
    cluster.install_grus(built)?;
    cluster.system_image(IMAGE)?;
    let kernel = cluster.system_file(IMAGE)?;
    let users = cluster.work_dir().join("image.squashfs");
    std::fs::copy(&kernel, &users)?;
    std::fs::copy(kernel.with_extension("json"), users.with_extension("json"))?;
    cluster.give(&users);

    let setup = setup::measure(cluster.account(), &kernel, &users)?;
    println!("set-up on a node, us\n{setup}");
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
        "fuse_extra_ms": rounded((setup.fuse.median() - setup.kernel.median()) / 1e3, 2),
        "no_option_overhead_ms": rounded(steps.idle.minus(&steps.bare).median(), 2),
        "pyxis_over_grus": pyxis,
    });
    cluster.down()?;
    println!("{line}");
    Ok(())
}
