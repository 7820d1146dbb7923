//! The lab the tests share: a cluster of two nodes.

use std::ops::Deref;
use std::path::Path;

use anyhow::Result;
use grus_tests::Cluster;

/// What all tests stand on.
pub struct Lab {
    cluster: Cluster,
}

impl Lab {
    /// Why there can be no lab here, if so.
    pub fn possible() -> Result<(), String> {
        if !rustix::process::getuid().is_root() {
            return Err("it needs root".into());
        }
        for program in
            ["/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/sbin/munged", "/usr/bin/docker-registry"]
        {
            if !Path::new(program).exists() {
                return Err(format!("there is no {program}; run ci/packages"));
            }
        }
        Ok(())
    }

    /// Brings it up; a test that needs it fails if it does not come up.
    pub fn up() -> Self {
        let cluster = Cluster::builder("test").up().expect("the lab comes up");
        Self { cluster }
    }

    /// Takes it down.
    pub fn down(&self) -> Result<()> {
        self.cluster.down_by_reference()
    }
}

impl Deref for Lab {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
