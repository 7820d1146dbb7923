//! Owns the look at a machine: will containers run here, and if not, what mends it. `grus doctor` prints it.
//!
//! Each area observes and judges for itself, a [`Check`] per question. Everything is tried rather than looked up
//! where it can be tried without a change; nothing takes longer than a time limit; whoever calls, an ordinary user
//! included, gets an answer to every question. Refuses: mending anything.

mod ask;
mod daemon;
mod images;
mod kernel;
mod plugstack;
mod registries;
mod site;
mod slurm;
mod stacks;
mod user;

pub use ask::ask;

use std::path::{Path, PathBuf};
use std::time::Duration;

use grus_core::refusal::{printable, Refusal};
use grus_core::site::UserImages;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;

/// How one question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Something does not work that many do without.
    Warning,
    /// Containers do not run, or not all of them.
    Fails,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was asked, `area.question`; stable, for scripts.
    pub name: &'static str,
    /// The answer.
    pub state: State,
    /// What was found, in a line.
    pub found: String,
    /// What follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub means: Option<String>,
    /// What mends it: a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, found: &str) -> Self {
        Self { name, state, found: printable(found), means: None, mend: None }
    }

    /// As it should be.
    pub fn ok(name: &'static str, found: impl AsRef<str>) -> Self {
        Self::new(name, State::Ok, found.as_ref())
    }

    /// Something does not work.
    pub fn warning(name: &'static str, found: impl AsRef<str>) -> Self {
        Self::new(name, State::Warning, found.as_ref())
    }

    /// Containers do not run.
    pub fn fails(name: &'static str, found: impl AsRef<str>) -> Self {
        Self::new(name, State::Fails, found.as_ref())
    }

    /// A failure where it is `needed`, else a warning.
    pub fn bad(name: &'static str, needed: bool, found: impl AsRef<str>) -> Self {
        Self::new(name, if needed { State::Fails } else { State::Warning }, found.as_ref())
    }

    /// What a refusal says, as a failure.
    pub fn refused(name: &'static str, refusal: &Refusal) -> Self {
        let check = Self::fails(name, &refusal.what);
        Self { mend: refusal.hint.as_deref().map(printable), ..check }
    }

    /// Adds what follows from it.
    pub fn means(mut self, means: impl AsRef<str>) -> Self {
        self.means = Some(printable(means.as_ref()));
        self
    }

    /// Adds what mends it.
    pub fn mend(mut self, mend: impl AsRef<str>) -> Self {
        self.mend = Some(printable(mend.as_ref()));
        self
    }
}

/// What the checks need to know of the caller and the site.
pub struct Patient<'a> {
    /// The caller's surroundings; the defaults where the site file is at fault.
    pub context: &'a Context,
    /// Why the site file cannot be read, if so.
    pub site_fault: Option<&'a Failure>,
    /// The site file.
    pub site_file: PathBuf,
}

impl Patient<'_> {
    /// Whether root asks.
    fn is_root(&self) -> bool {
        nix::unistd::Uid::effective().is_root()
    }

    /// Whether images are served by squashfuse here: without it, they do not run.
    fn needs_fuse(&self) -> bool {
        self.context.site.security.user_images == UserImages::Fuse
    }

    /// Whether images are mounted by the kernel here.
    fn needs_kernel_mounts(&self) -> bool {
        !self.context.site.repository.system.is_empty()
            || self.context.site.security.user_images == UserImages::Kernel
            || self.context.site.scratch.dir.is_some()
            || self.context.site.volatile.dir.is_some()
            || self.context.site.node_cache.dir.is_some()
    }
}

/// Which registries are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Online {
    /// None.
    No,
    /// Docker Hub, or the registry that the images here are from; no answer is a warning.
    Usual,
    /// These; no answer is a failure.
    These(Vec<String>),
}

/// Asks everything.
pub fn examine(patient: &Patient, online: &Online, limit: Duration) -> Vec<Check> {
    let areas: [&dyn Fn() -> Vec<Check>; 7] = [
        &|| kernel::checks(patient),
        &|| user::checks(patient),
        &|| site::checks(patient),
        &|| stacks::checks(patient),
        &|| images::checks(patient),
        &|| slurm::checks(patient, limit),
        &|| registries::checks(patient, online, limit),
    ];
    areas.iter().flat_map(|area| area()).collect()
}

/// Whether there is a program at `path` that the caller may run; else why not.
fn program(path: &Path) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|e| crate::failure::reason(&e))?;
    if !meta.is_file() {
        return Err("it is not a file".into());
    }
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).map_err(|e| crate::failure::reason(&e.into()))
}
