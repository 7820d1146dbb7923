//! What the user asks for: options with their meaning, merged, and carried to the nodes as one text.
//!
//! srun, sbatch and salloc build a [`Request`] with [`Request::set`], pin its image, and send
//! [`Request::encode`]. slurmstepd reads it back with [`Request::decode`], which trusts nothing: every type
//! in it checks itself.

mod components;
mod parse;
mod variables;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::cdi::{Asked, Gpus};
use crate::digest::Digest;
use crate::module;
use crate::mount::{check_number, Mount, MAX_MOUNTS};
use crate::name::Name;
use crate::options::{spec, Opt};
use crate::path::AbsPath;
use crate::reference::Reference;
use crate::refusal::{printable, Refusal};
use crate::swap::{Mode, ModuleRuling, Ruling};

pub use components::Components;

/// Largest encoded request in bytes. One environment string may be 128 KiB (execve(2)).
pub const MAX_ENCODED: usize = 96 << 10;

/// The variable that carries the request; Slurm keeps `SLURM_` names even under `--export=NONE`.
pub const VARIABLE: &str = "SLURM_GRUS_REQUEST";

/// The variable of tasks in a container that names their image, for people and for `grus ps`.
pub const IMAGE_VARIABLE: &str = "GRUS_IMAGE";

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

impl Image {
    /// The name for messages.
    pub fn shown(&self) -> String {
        match self {
            Image::None => "none".into(),
            Image::Reference(reference) => reference.familiar(),
            Image::File(path) => printable(path.as_str()),
        }
    }
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

/// Namespaces of a container's own, beyond the mount namespace (namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unshare {
    /// A network with nothing but loopback.
    pub net: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
}

impl Unshare {
    /// The words for them, as `--container-unshare` has them.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.net, "net"), (self.ipc, "ipc"), (self.uts, "uts")];
        all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
    }
}

/// When an image is pulled at submission.
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
    /// `--mount` and `--container-mounts`, in order.
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
    /// `--container-workdir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<AbsPath>,
    /// `--container-env`: a name alone keeps the job's value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Option<String>>,
    /// `--container-writable`, `--container-readonly`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
    /// `--container-name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// `--container-save`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save: Option<AbsPath>,
    /// `--[no-]container-remap-root`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remap_root: Option<bool>,
    /// `--[no-]container-entrypoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<bool>,
    /// `--container-unshare`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Unshare>,
    /// `--[no-]container-slurm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slurm: Option<bool>,
    /// `--container-gpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpus>,
    /// `--container-device`, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Asked>,
    /// `--container-pull`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<PullPolicy>,
    /// `--container-batch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<bool>,
    /// `--container-mpi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpi: Option<Mode>,
    /// `--container-module`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<module::Asked>,
    /// Set by the submit side: what was decided about the image's MPI. A node without it decides itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ruling: Option<Box<Ruling>>,
    /// The same for nodes on which a module of the site brings other libraries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_ruling: Option<Box<ModuleRuling>>,
}

impl Request {
    /// Whether a container is asked for: an image other than `none`, or one by name.
    pub fn wants_container(&self) -> bool {
        match self.image {
            Some(Image::None) => false,
            Some(_) => true,
            None => self.name.is_some(),
        }
    }

    /// Takes in one occurrence of an option. `value` is empty for flags; `cwd` is the submitting directory.
    pub fn set(&mut self, opt: Opt, value: &str, cwd: &AbsPath) -> Result<(), Refusal> {
        match opt {
            Opt::Image => set_once(&mut self.image, parse::image(value, cwd)?, opt),
            Opt::Mount => self.add_mounts([Mount::parse(value, cwd)?]),
            Opt::Mounts => self.add_mounts(Mount::parse_list(value, cwd)?),
            Opt::WritableVolatile => {
                parse::volatile_dirs(value)?.into_iter().try_for_each(|dir| push(&mut self.volatile, dir))
            }
            Opt::MountHome => set_flag(&mut self.mount_home, true, [Opt::MountHome, Opt::NoMountHome]),
            Opt::NoMountHome => set_flag(&mut self.mount_home, false, [Opt::MountHome, Opt::NoMountHome]),
            Opt::MountWorkdir => set_flag(&mut self.mount_workdir, true, WORKDIR_FLAGS),
            Opt::NoMountWorkdir => set_flag(&mut self.mount_workdir, false, WORKDIR_FLAGS),
            Opt::Workdir => set_once(&mut self.workdir, parse::workdir(value)?, opt),
            Opt::Env => parse::variables(value)?.into_iter().try_for_each(|(name, value)| {
                match self.env.insert(name, value.clone()) {
                    Some(old) if old != value => Err(twice(opt)),
                    _ => Ok(()),
                }
            }),
            Opt::Writable => set_flag(&mut self.writable, true, [Opt::Writable, Opt::Readonly]),
            Opt::Readonly => set_flag(&mut self.writable, false, [Opt::Writable, Opt::Readonly]),
            Opt::Name => set_once(&mut self.name, Name::parse(value)?, opt),
            Opt::Save => set_once(&mut self.save, parse::file(value, cwd)?, opt),
            Opt::RemapRoot => set_flag(&mut self.remap_root, true, [Opt::RemapRoot, Opt::NoRemapRoot]),
            Opt::NoRemapRoot => set_flag(&mut self.remap_root, false, [Opt::RemapRoot, Opt::NoRemapRoot]),
            Opt::Entrypoint => set_flag(&mut self.entrypoint, true, [Opt::Entrypoint, Opt::NoEntrypoint]),
            Opt::NoEntrypoint => set_flag(&mut self.entrypoint, false, [Opt::Entrypoint, Opt::NoEntrypoint]),
            Opt::EntrypointLog => Ok(()),
            Opt::Unshare => set_once(&mut self.namespaces, parse::namespaces(value)?, opt),
            Opt::Slurm => set_flag(&mut self.slurm, true, [Opt::Slurm, Opt::NoSlurm]),
            Opt::NoSlurm => set_flag(&mut self.slurm, false, [Opt::Slurm, Opt::NoSlurm]),
            Opt::Gpu => set_once(&mut self.gpu, Gpus::parse(value)?, opt),
            Opt::Device => {
                Asked::parse_list(value)?.into_iter().try_for_each(|device| push(&mut self.devices, device))
            }
            Opt::Pull => set_once(&mut self.pull, parse::pull(value)?, opt),
            Opt::Batch => {
                self.batch = Some(true);
                Ok(())
            }
            Opt::Mpi => set_once(&mut self.mpi, Mode::parse(value)?, opt),
            Opt::Module => set_once(&mut self.modules, module::Asked::parse(value)?, opt),
        }
    }

    fn add_mounts(&mut self, mounts: impl IntoIterator<Item = Mount>) -> Result<(), Refusal> {
        mounts.into_iter().try_for_each(|mount| push(&mut self.mounts, mount))?;
        check_number(&self.mounts)
    }

    /// The request of a step: what it says itself, and for all else what its job said.
    ///
    /// A list given by the step replaces the job's list. Another image than the job's loses the job's
    /// resolution; another image, choice of MPI or modules lose the job's rulings.
    pub fn over(self, job: Request) -> Request {
        let resolved = match self.image.is_some() {
            true => self.resolved,
            false => job.resolved,
        };
        let other = self.image.is_some() || self.mpi.is_some() || self.modules.is_some();
        let (ruling, module_ruling) = match other {
            true => (self.ruling, self.module_ruling),
            false => (job.ruling, job.module_ruling),
        };
        Request {
            image: self.image.or(job.image),
            resolved,
            mounts: list(self.mounts, job.mounts),
            volatile: list(self.volatile, job.volatile),
            mount_home: self.mount_home.or(job.mount_home),
            mount_workdir: self.mount_workdir.or(job.mount_workdir),
            workdir: self.workdir.or(job.workdir),
            env: if self.env.is_empty() { job.env } else { self.env },
            writable: self.writable.or(job.writable),
            name: self.name.or(job.name),
            save: self.save.or(job.save),
            remap_root: self.remap_root.or(job.remap_root),
            entrypoint: self.entrypoint.or(job.entrypoint),
            namespaces: self.namespaces.or(job.namespaces),
            slurm: self.slurm.or(job.slurm),
            gpu: self.gpu.or(job.gpu),
            devices: list(self.devices, job.devices),
            pull: self.pull.or(job.pull),
            batch: self.batch.or(job.batch),
            mpi: self.mpi.or(job.mpi),
            modules: self.modules.or(job.modules),
            ruling,
            module_ruling,
        }
    }

    /// Whether a running step's container is to be joined.
    pub fn joins(&self) -> bool {
        matches!(self.name, Some(Name::OfStep { .. }))
    }

    /// Options that have no effect, for a warning: no container is asked for, or one that is joined as it is. Their names.
    pub fn pointless(&self) -> Vec<&'static str> {
        if !self.joins() && (self.image.is_some() || self.name.is_some()) {
            return vec![];
        }
        let said = [
            (self.image.is_some(), Opt::Image),
            (!self.mounts.is_empty(), Opt::Mount),
            (!self.volatile.is_empty(), Opt::WritableVolatile),
            (self.mount_home == Some(true), Opt::MountHome),
            (self.mount_home == Some(false), Opt::NoMountHome),
            (self.mount_workdir == Some(true), Opt::MountWorkdir),
            (self.mount_workdir == Some(false), Opt::NoMountWorkdir),
            (!self.joins() && self.workdir.is_some(), Opt::Workdir),
            (!self.joins() && !self.env.is_empty(), Opt::Env),
            (self.writable == Some(true), Opt::Writable),
            (self.joins() && self.writable == Some(false), Opt::Readonly),
            (self.save.is_some(), Opt::Save),
            (self.remap_root == Some(true), Opt::RemapRoot),
            (self.entrypoint == Some(true), Opt::Entrypoint),
            (self.namespaces.is_some(), Opt::Unshare),
            (self.slurm == Some(true), Opt::Slurm),
            (self.gpu.is_some(), Opt::Gpu),
            (!self.devices.is_empty(), Opt::Device),
            (self.pull.is_some(), Opt::Pull),
            (self.batch.is_some(), Opt::Batch),
            (self.mpi.is_some(), Opt::Mpi),
            (self.modules.is_some(), Opt::Module),
        ];
        said.iter().filter(|(said, _)| *said).map(|(_, opt)| spec(*opt).name).collect()
    }

    /// Refuses options that contradict each other, once all are known.
    pub fn check(&self) -> Result<(), Refusal> {
        match (&self.name, self.writable) {
            (Some(Name::Kept { .. }), Some(false)) => {
                let [name, readonly] = [Opt::Name, Opt::Readonly].map(|opt| spec(opt).name);
                Err(Refusal::user(format!("--{readonly} and --{name} contradict each other"))
                    .hint("a named container is writable; leave one of them out"))
            }
            _ => Ok(()),
        }
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
        if text.len() > MAX_ENCODED {
            return Err(malformed(&format!("it is longer than {MAX_ENCODED} bytes")));
        }
        let request: Self = serde_json::from_str(text).map_err(|e| not_read(&e))?;
        request.checked()
    }

    /// What the types do not check by themselves.
    fn checked(self) -> Result<Self, Refusal> {
        if self.mounts.len() > MAX_MOUNTS
            || self.volatile.len() > MAX_MOUNTS
            || self.devices.len() > MAX_MOUNTS
        {
            return Err(malformed(&format!("more than {MAX_MOUNTS} mounts")));
        }
        check_number(&self.mounts)?;
        let mut places = self.mounts.iter().map(|mount| &mount.destination).chain(&self.volatile);
        if places.any(|place| place.depth() == 0) {
            return Err(malformed("nothing can be mounted on '/'"));
        }
        if self.modules.as_ref().is_some_and(|asked| asked.names.len() > module::MAX_MODULES) {
            return Err(malformed("too many modules"));
        }
        let of_module = self.module_ruling.iter().map(|of| &of.ruling);
        let mut rulings = self.ruling.iter().map(Box::as_ref).chain(of_module);
        rulings.try_for_each(Ruling::check).map_err(|why| malformed(&why))?;
        Ok(self)
    }
}

/// Where reading stopped, and nothing of what is there: a request holds values of variables, and refusals are recorded.
fn not_read(error: &serde_json::Error) -> Refusal {
    let why = match error.classify() {
        serde_json::error::Category::Data => "what is there is not what is expected",
        _ => "it is not JSON",
    };
    malformed(&format!("line {}, column {}: {why}", error.line(), error.column()))
}

fn malformed(why: &str) -> Refusal {
    Refusal::user(format!("{VARIABLE} does not hold container options: {}", printable(why)))
        .hint("install one release of Grus on all machines, and do not set this variable by hand")
}

const WORKDIR_FLAGS: [Opt; 2] = [Opt::MountWorkdir, Opt::NoMountWorkdir];

/// A list given by the step replaces the job's.
fn list<T>(step: Vec<T>, job: Vec<T>) -> Vec<T> {
    if step.is_empty() {
        job
    } else {
        step
    }
}

fn set_once<T: PartialEq>(slot: &mut Option<T>, value: T, opt: Opt) -> Result<(), Refusal> {
    match slot {
        Some(old) if *old != value => Err(twice(opt)),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn twice(opt: Opt) -> Refusal {
    Refusal::user(format!("--{} is given twice with different values", spec(opt).name)).hint("give it once")
}

/// `pair` are the options that mean true and false.
fn set_flag(slot: &mut Option<bool>, value: bool, pair: [Opt; 2]) -> Result<(), Refusal> {
    if *slot == Some(!value) {
        let [yes, no] = pair.map(|opt| spec(opt).name);
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

#[cfg(test)]
mod tests;
