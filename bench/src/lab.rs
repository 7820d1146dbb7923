//! The cluster that a bench measures on.

use anyhow::{Context, Result};
use grus_tests::Cluster;

/// A cluster of this name with Grus as it was built beside this program.
pub fn up(name: &str, nodes: usize) -> Result<Cluster> {
    let built = std::env::current_exe()?;
    let built = built.parent().context("the directory of this program")?;
    let cluster = Cluster::builder(name).nodes(nodes).cpus(2).up()?;
    cluster.install_grus(built)?;
    Ok(cluster)
}
