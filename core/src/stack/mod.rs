//! Host profiles: what one MPI stack of the host, or a libfabric alone, is: `/etc/grus/stacks/NAME.toml`.
//!
//! Owns: the format, its checks and its text. `grus host scan` writes one from the host's files; people read
//! and edit it; the decision ([`crate::swap`]) trusts it as it trusts the site's configuration. Refuses:
//! looking at the host. The shipped examples (slurm-conf/stacks) are marked as such and never used.

mod parse;
mod role;
mod write;

pub use parse::MAX_STACK;
pub use role::{is_glibc_loader, role_of, GLIBC_FAMILY};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::elf::{is_mpi, is_private, Object, Symbols};
use crate::path::AbsPath;

/// Version of the profile format; a reader refuses what is newer.
pub const STACK_FORMAT: u32 = 1;

/// MPI families: libraries within one can stand for each other where the proof holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The MPICH ABI initiative: MPICH, Intel MPI, Cray MPICH, MVAPICH, ParaStation.
    Mpich,
    /// Open MPI.
    OpenMpi,
    /// The standard ABI of MPI 5, `libmpi_abi`.
    Abi,
}

impl Family {
    /// As people call it.
    pub fn label(self) -> &'static str {
        match self {
            Family::Mpich => "MPICH ABI",
            Family::OpenMpi => "Open MPI",
            Family::Abi => "MPI 5 standard ABI",
        }
    }
}

/// How a launcher tells ranks of each other (`srun --mpi=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pmi {
    /// PMI-1 and PMI-2 over `PMI_FD`: `--mpi=pmi2`.
    Pmi2,
    /// PMIx: `--mpi=pmix`.
    Pmix,
    /// HPE's PALS: `--mpi=cray_shasta`.
    CrayShasta,
}

impl Pmi {
    /// The word after `--mpi=`.
    pub fn word(self) -> &'static str {
        match self {
            Pmi::Pmi2 => "pmi2",
            Pmi::Pmix => "pmix",
            Pmi::CrayShasta => "cray_shasta",
        }
    }
}

/// Why a library is in a profile; fixes what a swap does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// MPI itself: the C library, language bindings, its private libraries.
    Mpi,
    /// The interconnect: libfabric, UCX, verbs, CXI. Always the host's where MPI is.
    Fabric,
    /// PMI, PMIx, PALS: spoken with the host's Slurm. Always the host's where MPI is.
    Pmi,
    /// Opened at run time: libfabric and verbs providers, UCX modules.
    Plugin,
    /// What others use too: hwloc, zlib, libstdc++. The image's own where it suffices.
    Shared,
    /// A piece of glibc. The image's own, or the whole family where the site allows it.
    Glibc,
}

/// One library of the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Library {
    /// Its real path on the host.
    pub path: AbsPath,
    /// Its role.
    pub role: Role,
    /// What the file says.
    #[serde(flatten)]
    pub object: Object,
}

impl Library {
    /// A library as a profile keeps it: without the MPI symbols it needs, which its own stack provides.
    pub fn new(path: AbsPath, role: Role, mut object: Object) -> Self {
        object.imports = object.imports.iter().filter(|s| !is_mpi(s) && !is_private(s)).collect();
        object.weak = Symbols::default();
        Self { path, role, object }
    }

    /// File name.
    pub fn file_name(&self) -> &str {
        self.path.components().next_back().unwrap_or_default()
    }

    /// The name that others need it by: its SONAME, else its file name.
    pub fn soname(&self) -> &str {
        self.object.soname.as_deref().unwrap_or_else(|| self.file_name())
    }
}

/// An MPI of the stack. One stack may have two: Intel MPI and MPICH 5 ship `libmpi` and `libmpi_abi`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mpi {
    /// Family.
    pub family: Family,
    /// Name and version for people, such as `Intel MPI 2021.18.1`.
    pub version: String,
    /// Launch methods it understands.
    pub pmi: Vec<Pmi>,
}

/// A file or directory that the stack needs at run time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// On the host. In the container it has the same path, unless that is taken and `replace` is false.
    pub path: AbsPath,
    /// Bound even over what the image has there.
    #[serde(default)]
    pub replace: bool,
    /// A node without it still works.
    #[serde(default)]
    pub optional: bool,
    /// Which part needs it: `mpi`, `fabric` or `glibc`.
    #[serde(default = "mpi_role")]
    pub with: Role,
}

fn mpi_role() -> Role {
    Role::Mpi
}

/// Variables of the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variables {
    /// Set, whatever image and job say.
    pub set: BTreeMap<String, String>,
    /// Set where the job has no value: the user may tune it.
    pub default: BTreeMap<String, String>,
    /// Put before the value, with a `:` between.
    pub prepend: BTreeMap<String, String>,
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The name users type: the file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// [`STACK_FORMAT`] of the writer.
    pub format: u32,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// A shipped example: shows the format, proves nothing, is never used.
    #[serde(default)]
    pub example: bool,
    /// Machine of its libraries, as `uname -m` has it.
    pub machine: String,
    /// Its MPIs; none for a stack that only brings a fabric.
    #[serde(default)]
    pub mpi: Vec<Mpi>,
    /// Device nodes; a trailing `*` matches any ending.
    #[serde(default)]
    pub devices: Vec<AbsPath>,
    /// Files and directories.
    #[serde(default)]
    pub path: Vec<Extra>,
    /// Variables.
    #[serde(default)]
    pub environment: Variables,
    /// Libraries.
    #[serde(default)]
    pub library: Vec<Library>,
}

impl Stack {
    /// The library needed by a name.
    pub fn library_named(&self, name: &str) -> Option<&Library> {
        self.library.iter().find(|l| l.soname() == name || l.file_name() == name)
    }

    /// Its MPI of a family.
    pub fn mpi_of(&self, family: Family) -> Option<&Mpi> {
        self.mpi.iter().find(|m| m.family == family)
    }

    /// For people: `'cray' (Cray MPICH 8.1.30)`.
    pub fn label(&self) -> String {
        match self.mpi.first() {
            Some(mpi) => format!("'{}' ({})", self.name, mpi.version),
            None => format!("'{}'", self.name),
        }
    }
}

#[cfg(test)]
mod tests;
