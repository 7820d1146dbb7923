//! Images of the size that sites pull, for the benches alone: `slim` (Debian's minbase), `many32` (32 small layers
//! that rewrite and delete) and `hpc` (python, compilers, MPI, LLVM and torch, an application with its data).
//!
//! The same overlays as in [`super::debian`], one upon the other. Layers are compressed as builders do.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::debian::{base, script, sources as debian_sources, LAYER};
use super::layout::Layout;
use super::tree;

const CHANGE: &str = include_str!("change.sh");

/// gzip's own default, and that of most builders.
const LEVEL: u32 = 6;

/// The steps of `many32` that install packages.
const SMALL: &[&[&str]] =
    &[&["python3-minimal"], &["python3", "python3-numpy"], &["mpich"], &["gcc", "libc6-dev"]];
/// Layers of `many32` above the base.
const STEPS: usize = 31;

/// The steps of `hpc` that install packages.
const HPC: &[&[&str]] = &[
    &["python3", "python3-numpy", "python3-scipy", "python3-pandas", "python3-matplotlib", "python3-pip"],
    &["build-essential", "gfortran", "cmake", "git"],
    &[
        "mpich",
        "libmpich-dev",
        "python3-mpi4py",
        "libhdf5-mpich-dev",
        "libopenblas-dev",
        "libfftw3-dev",
        "libboost-all-dev",
    ],
    &["clang-14", "llvm-14-dev", "python3-torch"],
];

/// All the text that decides what these recipes make.
pub(crate) fn sources() -> String {
    [&debian_sources(), include_str!("large.rs"), CHANGE].concat()
}

/// Makes image `name` in the new directory `new`; `work` keeps the base tree and apt's archives for the next.
pub(super) fn make(name: &str, work: &Path, new: &Path) -> Result<()> {
    let mut stack = Stack::new(name, work, new)?;
    let packages = match name {
        "many32" => SMALL,
        "hpc" => HPC,
        _ => &[],
    };
    for packages in packages {
        // layer.sh: its third argument is where apt's archives are kept.
        stack.step(LAYER, &[&["."], *packages].concat())?;
    }
    match name {
        "many32" => {
            for step in packages.len() + 1..=STEPS {
                stack.step(CHANGE, &["small_step", &step.to_string()])?;
            }
        }
        "hpc" => stack.step(CHANGE, &["application"])?,
        _ => {}
    }
    stack.finish()
}

/// Layers upon the base, each an overlay's upper directory.
struct Stack<'a> {
    name: &'a str,
    work: &'a Path,
    layout: Layout,
    /// Relative to `work`, top first: the kernel takes a page of mount options, and 31 absolute paths may be longer.
    lowers: String,
    steps: usize,
}

impl<'a> Stack<'a> {
    fn new(name: &'a str, work: &'a Path, new: &Path) -> Result<Self> {
        let base = base(work)?;
        let mut layout = Layout::create(new)?.level(LEVEL);
        layout.layer(|out| tree::pack(&base, out))?;
        let lowers = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stack = Self { name, work, layout, lowers, steps: 0 };
        if stack.dir().exists() {
            fs::remove_dir_all(stack.dir())?;
        }
        fs::create_dir(stack.dir())?;
        Ok(stack)
    }

    fn dir(&self) -> std::path::PathBuf {
        self.work.join(format!("{}.stack", self.name))
    }

    /// Runs layer.sh or change.sh, both `LOWERS UPPER WORD...`, and packs what it changed as the next layer.
    fn step(&mut self, text: &str, words: &[&str]) -> Result<()> {
        self.steps += 1;
        let upper = format!("{}.stack/{}", self.name, self.steps);
        script(text).cwd(self.work).arg(&self.lowers).arg(&upper).args(words).run_checked()?;
        self.layout.layer(|out| tree::pack(&self.work.join(&upper), out))?;
        self.lowers = format!("{upper}:{}", self.lowers);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        fs::remove_dir_all(self.dir())?;
        let env = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            format!("IMAGE_NAME={}", self.name),
        ];
        self.layout.finish("amd64", json!({"Env": env, "Cmd": ["/bin/bash"], "WorkingDir": "/"}))
    }
}
