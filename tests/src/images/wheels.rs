//! MPI stacks from Python wheels: real builds of many releases, a few megabytes each, that need no root to install.
//!
//! pip gets them by name and version; what they would put into a prefix is unpacked into a directory of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::account::checked;
use crate::command::Cmd;

/// Python of the images that get modules (Debian 12).
pub const PYTHON: &str = "3.11";

/// What of a wheel nobody here runs, and is large: Intel's benchmarks but IMB-MPI1, and what is for GPUs.
const LEFT_OUT: &[&str] = &["*-GPU", "*/IMB-[NMRP][BTM2]*", "*/libmpcp*", "*/mpitune_fast", "*.fatbin"];

/// The file of a wheel such as `mpich==5.0.2` in `dir`, downloaded at first need.
fn file(wheel: &str, dir: &Path) -> Result<PathBuf> {
    let name = wheel.replace("==", "-").replace("impi-rt", "impi_rt");
    let kept = dir.join(format!("{name}.whl"));
    if !kept.exists() {
        let new = dir.join(format!("{name}.new"));
        fs::create_dir_all(&new)?;
        // Debian's own pip, whatever Python comes first in PATH.
        let pip = Cmd::new("/usr/bin/python3").args(["-m", "pip", "download", "--quiet", "--no-deps"]);
        let pip =
            pip.args(["--disable-pip-version-check", "--only-binary=:all:", "--python-version", PYTHON]);
        checked(pip.arg("--dest").arg(&new).arg(wheel).limit(Duration::from_secs(300)))
            .with_context(|| format!("{wheel}: run ci/packages"))?;
        let entry = fs::read_dir(&new)?.next().with_context(|| format!("pip left no file for {wheel}"))?;
        fs::rename(entry?.path(), &kept)?;
        fs::remove_dir(&new)?;
    }
    Ok(kept)
}

/// Unpacks the prefix that is in a wheel (`bin`, `lib`, `include`) into `prefix`; `dir` keeps the wheels.
pub fn prefix(wheel: &str, dir: &Path, prefix: &Path) -> Result<()> {
    let parent = prefix.parent().context("a prefix below a directory")?;
    fs::create_dir_all(parent)?;
    let whole = parent.join(".wheel");
    unpack(&file(wheel, dir)?, "*.data/data/*", &whole)?;
    let data = fs::read_dir(&whole)?.next().context("an empty wheel")??.path().join("data");
    fs::rename(data, prefix)?;
    Ok(fs::remove_dir_all(whole)?)
}

/// Unpacks a wheel's Python modules into `packages`.
pub fn modules(wheel: &str, dir: &Path, packages: &Path) -> Result<()> {
    let name = wheel.split('=').next().unwrap_or(wheel);
    unpack(&file(wheel, dir)?, &format!("{name}/*"), packages)
}

fn unpack(file: &Path, what: &str, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    checked(
        Cmd::new("unzip").args(["-q", "-o"]).arg(file).arg(what).arg("-d").arg(to).arg("-x").args(LEFT_OUT),
    )
    .map(drop)
}
