//! Images of Debian 12: minbase by mmdebstrap, and with MPICH or Open MPI and a program whose ranks really talk.
//!
//! The base tree is made once; each further layer is what apt-get changed in an overlay over it. Mounts are made
//! in a mount namespace of their own and vanish with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::layout::Layout;
use super::{tree, EPOCH};
use crate::account::checked;
use crate::command::Cmd;

const SUITE: &str = "bookworm";
const BASE: &str = include_str!("base.sh");
pub(super) const LAYER: &str = include_str!("layer.sh");
const HELLO_C: &str = include_str!("mpi-hello.c");
const HELLO_PY: &str = include_str!("mpi-hello.py");
const MAPPED_H: &str = include_str!("mpi-mapped.h");

/// All the text that decides what these recipes make.
pub(crate) fn sources() -> String {
    [include_str!("debian.rs"), include_str!("tree.rs"), SUITE, BASE, LAYER, HELLO_C, HELLO_PY, MAPPED_H]
        .concat()
}

/// Makes image `name` in the new directory `new`; `work` keeps the base tree and apt's archives for the next.
pub(super) fn make(name: &str, work: &Path, new: &Path) -> Result<()> {
    let base = base(work)?;
    let mut layout = Layout::create(new)?;
    layout.layer(|out| tree::pack(&base, out))?;
    let packages: &[&str] = match name {
        "mpich" => &["libmpich12", "python3-minimal"],
        "openmpi" => &["libopenmpi3", "openmpi-bin", "python3-mpi4py"],
        _ => &[],
    };
    if !packages.is_empty() {
        let upper = work.join(format!("{name}.upper"));
        installed(&base, &upper, work, packages)?;
        layout.layer(|out| tree::pack(&upper, out))?;
        fs::remove_dir_all(&upper)?;

        let programs = programs(name, work)?;
        layout.layer(|out| tree::pack(&programs, out))?;
        fs::remove_dir_all(&programs)?;
    }
    let env = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("IMAGE_NAME={name}"),
    ];
    layout.finish("amd64", json!({"Env": env, "Cmd": ["/bin/bash"], "WorkingDir": "/"}))
}

/// The minbase tree, made at first need.
pub(super) fn base(work: &Path) -> Result<PathBuf> {
    let key = format!("{:x}", Sha256::digest([SUITE, BASE].concat()));
    let base = work.join(format!("base-{}", &key[..12]));
    if !base.exists() {
        let new = work.join("base.new");
        script(BASE).arg(SUITE).arg(&new).run_checked()?;
        fs::rename(&new, &base)?;
    }
    Ok(base)
}

/// Installs packages over `base`; what that changes is in `upper` afterwards.
fn installed(base: &Path, upper: &Path, work: &Path, packages: &[&str]) -> Result<()> {
    script(LAYER).arg(base).arg(upper).arg(work).args(packages).run_checked()
}

/// A tree with the MPI programs, compiled here against the stack the image has.
fn programs(name: &str, work: &Path) -> Result<PathBuf> {
    let dir = work.join(format!("{name}.programs"));
    let bin = dir.join("usr/local/bin");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&bin)?;
    let source = work.join("mpi-hello.c");
    fs::write(&source, HELLO_C)?;
    fs::write(work.join("mpi-mapped.h"), MAPPED_H)?;
    let compiler = format!("mpicc.{name}");
    let hello = bin.join("mpi-hello");
    checked(Cmd::new(&compiler).args(["-O2", "-Wall", "-o"]).arg(&hello).arg(&source))
        .with_context(|| format!("{compiler}: run ci/packages"))?;
    if name == "openmpi" {
        fs::write(bin.join("mpi-hello.py"), HELLO_PY)?;
        checked(Cmd::new("chmod").arg("0755").arg(bin.join("mpi-hello.py")))?;
    }
    Ok(dir)
}

/// A bash script in a mount namespace of its own: what it mounts ends with it.
pub(super) fn script(text: &str) -> Script {
    let cmd =
        Cmd::new("unshare").args(["--mount", "--propagation=private", "bash", "-euo", "pipefail", "-c"]);
    let cmd = cmd.arg(text).arg("bash").env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    Script { cmd: cmd.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8") }
}

pub(super) struct Script {
    cmd: Cmd,
}

impl Script {
    pub(super) fn arg(self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        Self { cmd: self.cmd.arg(arg) }
    }

    pub(super) fn args(self, args: &[&str]) -> Self {
        Self { cmd: self.cmd.args(args) }
    }

    pub(super) fn cwd(self, dir: &Path) -> Self {
        Self { cmd: self.cmd.cwd(dir) }
    }

    pub(super) fn run_checked(self) -> Result<()> {
        checked(self.cmd.limit(Duration::from_secs(900))).map(drop)
    }
}
