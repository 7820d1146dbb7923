//! What ELF files say about themselves, as far as a library swap depends on it (ADR 9).
//!
//! Owns: [`Object`], the facts of one file, read from any [`ReadAt`]; [`ImageFacts`], those of a whole image.
//! Images are strangers' bytes: every size, count and string is bounded, and a file that lies yields an error
//! or "not ELF", never a panic or a large allocation. Refuses: opening files, walking trees (the reader's job).
//!
//! Formats: elf(5), the System V gABI, and the LSB's symbol versioning chapter.

mod image;
mod read;
mod relevant;
mod sizes;
mod symbols;
mod tables;

pub use image::{is_library_name, Collector, ImageFacts, Libc, FACTS_VERSION, MAX_FACTS};
pub use read::{Malformed, ReadAt};
pub use relevant::{is_mpi, is_private, relevant};
pub use sizes::Sizes;
pub use symbols::Symbols;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What kind of object a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A shared object.
    #[default]
    Library,
    /// A program: ET_EXEC, or ET_DYN with an interpreter and no SONAME.
    Program,
}

impl Kind {
    fn is_library(&self) -> bool {
        *self == Kind::Library
    }
}

fn sizes_empty(sizes: &Sizes) -> bool {
    sizes.is_empty()
}

/// The facts of one ELF file. Lists are in the file's order; symbol sets hold only [`relevant`] names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Object {
    /// `x86_64`, `aarch64`, …; see [`machine_name`].
    pub machine: String,
    /// Program or library.
    #[serde(skip_serializing_if = "Kind::is_library")]
    pub kind: Kind,
    /// PT_INTERP: the loader it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<String>,
    /// DT_SONAME.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soname: Option<String>,
    /// DT_NEEDED.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needed: Vec<String>,
    /// DT_RPATH, split at ':'. The loader ignores it where there is a RUNPATH (ld.so(8)).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rpath: Vec<String>,
    /// DT_RUNPATH, split at ':'.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runpath: Vec<String>,
    /// DF_1_NODEFLIB: neither the cache's standard directories nor the default ones are searched.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_default_dirs: bool,
    /// Version nodes it defines (VERDEF without the base).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
    /// Version nodes it cannot load without (VERNEED without weak ones), by library.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, Vec<String>>,
    /// Relevant symbols it defines.
    #[serde(skip_serializing_if = "Symbols::is_empty")]
    pub exports: Symbols,
    /// Relevant symbols it needs.
    #[serde(skip_serializing_if = "Symbols::is_empty")]
    pub imports: Symbols,
    /// Relevant symbols it can do without (weak and undefined).
    #[serde(skip_serializing_if = "Symbols::is_empty")]
    pub weak: Symbols,
    /// Sizes of MPI data objects in bytes. In a library: what it defines. In a program: its copies
    /// (COPY relocations), which must be as large as the library's own.
    #[serde(skip_serializing_if = "sizes_empty")]
    pub data: Sizes,
    /// A program that holds an MPI library itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub static_mpi: bool,
}

impl Object {
    /// Reads the facts of an ELF file; `None` if it is not ELF, or ELF that no loader takes (object files,
    /// cores).
    pub fn read(file: &dyn ReadAt) -> Result<Option<Object>, Malformed> {
        read::object(file, true)
    }

    /// The same without symbols, of which a library may have thousands: names, versions and what it needs.
    pub fn linkage(file: &dyn ReadAt) -> Result<Option<Object>, Malformed> {
        read::object(file, false)
    }

    /// Whether it needs or may use MPI symbols.
    pub fn uses_mpi(&self) -> bool {
        self.imports.iter().chain(self.weak.iter()).any(is_mpi)
    }

    /// Whether its loader is musl's.
    pub fn is_musl(&self) -> bool {
        let named = |n: &str| n.rsplit('/').next().is_some_and(|n| n.starts_with("ld-musl-"));
        self.interpreter.as_deref().is_some_and(named)
            || self.needed.iter().any(|n| n.starts_with("libc.musl-"))
    }
}

/// The name of an ELF machine with its class and byte order: the common ones as `uname -m` has them.
pub fn machine_name(machine: u16, wide: bool, little: bool) -> String {
    match (machine, wide, little) {
        (62, true, true) => "x86_64".into(),
        (62, false, true) => "x32".into(),
        (3, false, true) => "i386".into(),
        (183, true, true) => "aarch64".into(),
        (40, false, true) => "arm".into(),
        (21, true, true) => "ppc64le".into(),
        (21, true, false) => "ppc64".into(),
        (22, true, false) => "s390x".into(),
        (243, true, true) => "riscv64".into(),
        (258, true, true) => "loongarch64".into(),
        (n, wide, little) => {
            format!("elf{}-{n}-{}", if wide { 64 } else { 32 }, if little { "le" } else { "be" })
        }
    }
}

/// The version in a node such as `GLIBC_2.34`; a third part, as in `GLIBC_2.2.5`, does not count.
pub fn glibc_version(node: &str) -> Option<(u32, u32)> {
    let mut parts = node.strip_prefix("GLIBC_")?.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests;
