//! The ways from a registry's image to one that can run: Grus, and its peers as their users have them.
//!
//! Every run starts from nothing (storage of its own, removed after) and ends with what a job can start from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use super::measured::{Runner, Used, PATH};

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// `grus pull`: one SquashFS file.
    Grus,
    /// `podman pull` as root: a directory of overlays. No file is made.
    Podman,
    /// skopeo, umoci, mksquashfs with its defaults: the steps of Sarus.
    Umoci,
    /// `ch-image pull`, `ch-convert`: Charliecloud's way to one SquashFS file.
    Charliecloud,
}

/// The peers, by the names of the option `--peers`.
pub const PEERS: [(&str, Tool); 3] =
    [("podman", Tool::Podman), ("umoci", Tool::Umoci), ("charliecloud", Tool::Charliecloud)];

/// An image in the registries.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    /// Its reference over plain HTTP.
    pub plain: String,
    /// Its reference over TLS, for those that know nothing else.
    pub tls: Option<String>,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it used.
    pub used: Used,
    /// The one file, if that is what the tool makes; it lies in the run's directory.
    pub file: Option<PathBuf>,
}

impl Tool {
    /// As tables and figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grus => "grus pull",
            Self::Podman => "podman pull",
            Self::Umoci => "skopeo + umoci + mksquashfs",
            Self::Charliecloud => "ch-image + ch-convert",
        }
    }

    /// Its programs that are not installed.
    pub fn missing(self) -> Vec<&'static str> {
        let programs: &[&str] = match self {
            Self::Grus => &[],
            Self::Podman => &["podman"],
            Self::Umoci => &["skopeo", "umoci", "mksquashfs"],
            Self::Charliecloud => &["ch-image", "ch-convert", "mksquashfs"],
        };
        let installed = |program: &&str| PATH.split(':').any(|dir| Path::new(dir).join(program).exists());
        programs.iter().filter(|program| !installed(program)).copied().collect()
    }

    /// Pulls `image` into the empty directory `dir`.
    pub fn run(self, runner: &Runner, image: &Pushed, dir: &Path) -> Result<Run> {
        match self {
            Self::Grus => grus(runner, &image.plain, dir),
            Self::Podman => podman(runner, &image.plain, dir),
            Self::Umoci => umoci(runner, &image.plain, dir),
            Self::Charliecloud => {
                charliecloud(runner, image.tls.as_deref().context("a registry with TLS")?, dir)
            }
        }
    }
}

fn grus(runner: &Runner, image: &str, dir: &Path) -> Result<Run> {
    // The program that was built with this one.
    let program = std::env::current_exe()?.with_file_name("grus");
    let repository = dir.join("repository");
    let used = runner.run(&[&program, &"--repository", &repository, &"pull", &"--quiet", &image])?;
    let images = fs::read_dir(repository.join("images/sha256"))?.map(|entry| Ok(entry?.path()));
    let images: Vec<PathBuf> = images.collect::<Result<_>>()?;
    let file = images.into_iter().find(|path| path.extension().is_some_and(|end| end == "squashfs"));
    ensure!(file.is_some(), "grus pull left no image in {}", repository.display());
    Ok(Run { used, file })
}

fn podman(runner: &Runner, image: &str, dir: &Path) -> Result<Run> {
    let flag = |name: &str, sub: &str| format!("--{name}={}", dir.join(sub).display());
    // Podman bind mounts its storage on itself and leaves that behind: here it ends with the namespace.
    let used = runner.run(&[
        &"unshare",
        &"--mount",
        &"--propagation=private",
        &"podman",
        &flag("root", "root"),
        &flag("runroot", "run"),
        &flag("tmpdir", "tmp"),
        &"--storage-driver=overlay",
        &"--cgroup-manager=cgroupfs",
        &"--events-backend=none",
        &"pull",
        &"--quiet",
        &"--tls-verify=false",
        &image,
    ])?;
    Ok(Run { used, file: None })
}

fn umoci(runner: &Runner, image: &str, dir: &Path) -> Result<Run> {
    let (layout, rootfs, file) = (dir.join("layout"), dir.join("rootfs"), dir.join("image.squashfs"));
    let (from, to) = (format!("docker://{image}"), format!("oci:{}:latest", layout.display()));
    let copied = runner.run(&[&"skopeo", &"copy", &"--quiet", &"--src-tls-verify=false", &from, &to])?;
    let tag = format!("{}:latest", layout.display());
    let unpacked = runner.run(&[&"umoci", &"raw", &"unpack", &"--image", &tag, &rootfs])?;
    let packed = runner.run(&[&"mksquashfs", &rootfs, &file, &"-noappend", &"-no-progress"])?;
    Ok(Run { used: copied.then(unpacked).then(packed), file: Some(file) })
}

fn charliecloud(runner: &Runner, image: &str, dir: &Path) -> Result<Run> {
    let file = dir.join("image.sqfs");
    // ch-convert has no option for it.
    let storage = format!("CH_IMAGE_STORAGE={}", dir.join("storage").display());
    // Its cache of builds, a git repository, serves builds and would only cost here.
    let pulled = runner.run(&[&"env", &storage, &"ch-image", &"--no-cache", &"pull", &image])?;
    let packed = runner.run(&[
        &"env",
        &storage,
        &"ch-convert",
        &"-i",
        &"ch-image",
        &"-o",
        &"squash",
        &image,
        &file,
    ])?;
    Ok(Run { used: pulled.then(packed), file: Some(file) })
}
