//! What the user asks for: options with their meaning, merged, and carried to the nodes as one text (D3).
//!
//! srun, sbatch and salloc build a [`Request`] with [`Request::set`], pin its image, and send
//! [`Request::encode`]. slurmstepd reads it back with [`Request::decode`], which trusts nothing: every type
//! in it checks itself.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::mount::{Mount, MAX_MOUNTS};
use crate::options::{spec, Opt};
use crate::path::AbsPath;
use crate::reference::Reference;
use crate::refusal::{printable, Refusal};
use crate::swap::{Mode, Ruling};

/// Largest encoded request in bytes. One environment string may be 128 KiB (execve(2)).
pub const MAX_ENCODED: usize = 96 << 10;

/// The variable that carries the request; Slurm keeps `SLURM_` names even under `--export=NONE`.
pub const VARIABLE: &str = "SLURM_GRUS_REQUEST";

/// Which image, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Image {
    /// `none`: the step runs on the host.
    None,
    /// A reference, to be found in a repository.
    Reference(Reference),
    /// The path of a SquashFS file.
    File(AbsPath),
}

/// Where the submit side found the image; the nodes open this path as the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// The SquashFS file.
    pub path: AbsPath,
    /// Its manifest digest; None for a file given by path.
    pub digest: Option<Digest>,
}

/// When an image is pulled at submission (D11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// If no repository has it.
    Missing,
    /// Never; a missing image is an error.
    Never,
    /// At every submission; an unchanged image costs one request.
    Always,
}

/// A user's request. `None` and empty mean 'not said': the site's choice holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// `--container-image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Set by the submit side once the image is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// `--mount`, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// `--writable-volatile`, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volatile: Vec<AbsPath>,
    /// `--[no-]container-mount-home`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_home: Option<bool>,
    /// `--[no-]container-mount-workdir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_workdir: Option<bool>,
    /// `--container-pull`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<PullPolicy>,
    /// `--container-batch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<bool>,
    /// `--container-mpi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpi: Option<Mode>,
    /// Set by the submit side: what was decided about the image's MPI. A node without it decides itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ruling: Option<Box<Ruling>>,
}

impl Request {
    /// Whether a container is asked for: an image other than `none`.
    pub fn wants_container(&self) -> bool {
        !matches!(self.image, None | Some(Image::None))
    }

    /// Takes in one occurrence of an option. `value` is empty for flags; `cwd` is the submitting directory.
    pub fn set(&mut self, opt: Opt, value: &str, cwd: &AbsPath) -> Result<(), Refusal> {
        match opt {
            Opt::Image => set_once(&mut self.image, parse_image(value, cwd)?, opt),
            Opt::Mount => push(&mut self.mounts, Mount::parse(value, cwd)?),
            Opt::WritableVolatile => {
                volatile_dirs(value)?.into_iter().try_for_each(|dir| push(&mut self.volatile, dir))
            }
            Opt::MountHome => set_flag(&mut self.mount_home, true, Opt::MountHome, Opt::NoMountHome),
            Opt::NoMountHome => set_flag(&mut self.mount_home, false, Opt::MountHome, Opt::NoMountHome),
            Opt::MountWorkdir => {
                set_flag(&mut self.mount_workdir, true, Opt::MountWorkdir, Opt::NoMountWorkdir)
            }
            Opt::NoMountWorkdir => {
                set_flag(&mut self.mount_workdir, false, Opt::MountWorkdir, Opt::NoMountWorkdir)
            }
            Opt::Pull => set_once(&mut self.pull, parse_pull(value)?, opt),
            Opt::Batch => {
                self.batch = Some(true);
                Ok(())
            }
            Opt::Mpi => set_once(&mut self.mpi, Mode::parse(value)?, opt),
        }
    }

    /// The request of a step: what it says itself, and for all else what its job said.
    ///
    /// A list given by the step replaces the job's list. Another image than the job's loses the job's
    /// resolution; another image or another choice of MPI loses the job's ruling.
    pub fn over(self, job: Request) -> Request {
        let resolved = match self.image.is_some() {
            true => self.resolved,
            false => job.resolved,
        };
        let ruling = match self.image.is_some() || self.mpi.is_some() {
            true => self.ruling,
            false => job.ruling,
        };
        let list = |step: Vec<_>, job: Vec<_>| if step.is_empty() { job } else { step };
        Request {
            image: self.image.or(job.image),
            resolved,
            mounts: list(self.mounts, job.mounts),
            volatile: if self.volatile.is_empty() { job.volatile } else { self.volatile },
            mount_home: self.mount_home.or(job.mount_home),
            mount_workdir: self.mount_workdir.or(job.mount_workdir),
            pull: self.pull.or(job.pull),
            batch: self.batch.or(job.batch),
            mpi: self.mpi.or(job.mpi),
            ruling,
        }
    }

    /// Options that have no effect since no image is asked for; their names, for a warning.
    pub fn pointless(&self) -> Vec<&'static str> {
        if self.image.is_some() {
            return vec![];
        }
        let said = [
            (!self.mounts.is_empty(), Opt::Mount),
            (!self.volatile.is_empty(), Opt::WritableVolatile),
            (self.mount_home == Some(true), Opt::MountHome),
            (self.mount_home == Some(false), Opt::NoMountHome),
            (self.mount_workdir == Some(true), Opt::MountWorkdir),
            (self.mount_workdir == Some(false), Opt::NoMountWorkdir),
            (self.pull.is_some(), Opt::Pull),
            (self.batch.is_some(), Opt::Batch),
            (self.mpi.is_some(), Opt::Mpi),
        ];
        said.iter().filter(|(said, _)| *said).map(|(_, opt)| spec(*opt).name).collect()
    }

    /// The text that travels; refuses what would not fit into one environment string.
    pub fn encode(&self) -> Result<String, Refusal> {
        let text = serde_json::to_string(self)
            .map_err(|e| Refusal::user(format!("the container options cannot be sent: {e}")))?;
        match text.len() <= MAX_ENCODED {
            true => Ok(text),
            false => Err(Refusal::user(format!(
                "the container options are {} bytes long, more than {MAX_ENCODED}",
                text.len()
            ))
            .hint("use fewer or shorter --mount options, for example one directory instead of many files")),
        }
    }

    /// Reads back what travelled, as hostile text.
    pub fn decode(text: &str) -> Result<Self, Refusal> {
        let bad = |why: String| {
            Refusal::user(format!("{VARIABLE} does not hold container options: {}", printable(&why)))
                .hint("do not set this variable by hand; use the options of srun and sbatch")
        };
        if text.len() > MAX_ENCODED {
            return Err(bad(format!("it is longer than {MAX_ENCODED} bytes")));
        }
        let request: Self = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if request.mounts.len() > MAX_MOUNTS || request.volatile.len() > MAX_MOUNTS {
            return Err(bad(format!("more than {MAX_MOUNTS} mounts")));
        }
        request.ruling.as_ref().map_or(Ok(()), |ruling| ruling.check()).map_err(bad)?;
        Ok(request)
    }
}

fn set_once<T: PartialEq>(slot: &mut Option<T>, value: T, opt: Opt) -> Result<(), Refusal> {
    match slot {
        Some(old) if *old != value => {
            Err(Refusal::user(format!("--{} is given twice with different values", spec(opt).name))
                .hint("give it once"))
        }
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn set_flag(slot: &mut Option<bool>, value: bool, yes: Opt, no: Opt) -> Result<(), Refusal> {
    if *slot == Some(!value) {
        let (yes, no) = (spec(yes).name, spec(no).name);
        return Err(
            Refusal::user(format!("--{yes} and --{no} contradict each other")).hint("give one of them")
        );
    }
    *slot = Some(value);
    Ok(())
}

/// Adds to a list; the same entry twice counts once.
fn push<T: PartialEq>(list: &mut Vec<T>, item: T) -> Result<(), Refusal> {
    if list.contains(&item) {
        return Ok(());
    }
    if list.len() >= MAX_MOUNTS {
        return Err(Refusal::user(format!("more than {MAX_MOUNTS} mounts are asked for"))
            .hint("mount a directory that holds them all"));
    }
    list.push(item);
    Ok(())
}

fn parse_image(value: &str, cwd: &AbsPath) -> Result<Image, Refusal> {
    match value {
        "none" => Ok(Image::None),
        _ if value.starts_with('/') => Ok(Image::File(AbsPath::parse(value)?)),
        _ if value.starts_with("./") => Ok(Image::File(AbsPath::parse(&format!("{cwd}/{value}"))?)),
        _ if value.starts_with("../") => parse_image_above(value, cwd),
        _ => Reference::parse(value).map(Image::Reference).map_err(|refusal| {
            match value.ends_with(".squashfs") || value.ends_with(".sqsh") || value.ends_with(".sqfs") {
                true => refusal.hint(format!("for a file, write './{}'", printable(value))),
                false => refusal,
            }
        }),
    }
}

/// `../x` from the submitting directory, resolved by text as the shell's `pwd` shows it.
fn parse_image_above(value: &str, cwd: &AbsPath) -> Result<Image, Refusal> {
    let mut dir = cwd.clone();
    let mut rest = value;
    while let Some(after) = rest.strip_prefix("../") {
        dir = dir.parent().unwrap_or_else(AbsPath::root);
        rest = after.trim_start_matches('/');
    }
    Ok(Image::File(AbsPath::parse(&format!("{dir}/{rest}"))?))
}

fn volatile_dirs(value: &str) -> Result<Vec<AbsPath>, Refusal> {
    value
        .split(',')
        .map(|dir| {
            let refuse = |why: &str| {
                Refusal::user(format!("--writable-volatile={}: {why}", printable(value))).hint(
                    "name directories of the image, for example --writable-volatile=/usr/local,/opt/app",
                )
            };
            let dir = AbsPath::parse(dir).map_err(|e| refuse(&e.what))?;
            match dir == AbsPath::root() {
                true => Err(refuse("'/' as a whole cannot be made writable")),
                false => Ok(dir),
            }
        })
        .collect()
}

fn parse_pull(value: &str) -> Result<PullPolicy, Refusal> {
    match value {
        "missing" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        "always" => Ok(PullPolicy::Always),
        other => Err(Refusal::user(format!("--container-pull={} is not known", printable(other)))
            .hint("use missing, never or always")),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
