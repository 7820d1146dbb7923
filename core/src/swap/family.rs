//! Which MPI a file is, by what it defines; file names decide only where symbols cannot.

use crate::elf::Object;
use crate::stack::Family;

/// Releases of Open MPI that cannot stand for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OpenMpi {
    /// 1.x: `libmpi.so.1` or `.12`.
    One,
    /// 2.x: `libmpi.so.20`.
    Two,
    /// 3.x and 4.x: `libmpi.so.40`.
    Four,
    /// 5.x: `libmpi.so.40` too, on another private library.
    Five,
}

impl OpenMpi {
    pub fn of(name: &str, object: &Object) -> Self {
        let needs = |n: &str| object.needed.iter().any(|l| l == n);
        match name.split_once(".so.").map(|(_, v)| v.split('.').next().unwrap_or_default()) {
            Some("0" | "1" | "12") => OpenMpi::One,
            Some("20") => OpenMpi::Two,
            _ if needs("libopen-pal.so.80") || object.exports.contains("MPI_Session_init") => OpenMpi::Five,
            _ => OpenMpi::Four,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            OpenMpi::One => "Open MPI 1",
            OpenMpi::Two => "Open MPI 2",
            OpenMpi::Four => "Open MPI 3 or 4",
            OpenMpi::Five => "Open MPI 5",
        }
    }
}

/// The part that one library of an MPI plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The C interface: the provider itself.
    C,
    /// `mpif.h` and `use mpi`.
    Fortran,
    /// Open MPI's `use mpi` modules.
    UseMpi,
    /// `use mpi_f08`.
    F08,
    /// C++ bindings.
    Cxx,
    /// The profiling interface as a library of its own (MPICH 5.0.1's libpmpi_abi).
    Profiling,
    /// Shipped with its MPI for a purpose of its own: OpenSHMEM, Java.
    Companion,
    /// Private to its MPI: libopen-pal, libopen-rte.
    Private,
}

impl Part {
    pub fn label(self) -> &'static str {
        match self {
            Part::C => "C library",
            Part::Fortran => "Fortran bindings",
            Part::UseMpi => "Fortran 'use mpi' bindings",
            Part::F08 => "Fortran 2008 bindings",
            Part::Cxx => "C++ bindings",
            Part::Profiling => "profiling library",
            Part::Companion => "companion library",
            Part::Private => "private library",
        }
    }
}

/// The family of an MPI's C library; `None` if `object` is none.
///
/// A tool that wraps MPI defines `MPI_Init` too, but calls `PMPI_Init` instead of defining it.
pub fn provider_family(name: &str, object: &Object) -> Option<Family> {
    let has = |s: &str| object.exports.contains(s);
    if object.kind == crate::elf::Kind::Program || !has("MPI_Init") || !has("MPI_Comm_rank") {
        return None;
    }
    if name.starts_with("libmpi_abi.so") {
        return Some(Family::Abi);
    }
    match has("PMPI_Init") {
        false => None,
        true if has("ompi_mpi_comm_world") => Some(Family::OpenMpi),
        true => Some(Family::Mpich),
    }
}

/// The part of a library in an MPI; `None` if it is none of one.
pub(super) fn part(name: &str, object: &Object) -> Option<Part> {
    if provider_family(name, object).is_some() {
        return Some(Part::C);
    }
    let starts = |list: &[&str]| list.iter().any(|p| name.starts_with(p));
    if starts(&["libopen-pal", "libopen-rte", "libprrte", "libmca_common"]) {
        return Some(Part::Private);
    }
    if starts(&["liboshmem", "libompitrace", "libmpi_java", "libmpijava", "libmpi_ilp64"]) {
        return Some(Part::Companion);
    }
    if starts(&["libpmpi"]) {
        return Some(Part::Profiling);
    }
    if !starts(&["libmpi"]) || object.kind == crate::elf::Kind::Program {
        return None;
    }
    let has = |s: &str| object.exports.contains(s);
    let cxx = object.exports.iter().any(|s| s.starts_with("_ZN3MPI"));
    match () {
        () if starts(&["libmpi_usempif08"]) => Some(Part::F08),
        () if starts(&["libmpi_usempi"]) => Some(Part::UseMpi),
        () if cxx => Some(Part::Cxx),
        () if has("mpi_init_") || has("mpi_init") || has("MPI_INIT") || has("mpi_init__") => {
            Some(Part::Fortran)
        }
        () => None,
    }
}

/// The family of a library that an image needs but lacks, by the names that builders agree on. Open MPI 1.10
/// is `libmpi.so.12` too; its users need `ompi_` data.
pub(super) fn family_of_name(name: &str, user: &Object) -> Option<Family> {
    let openmpi = user.imports.iter().chain(user.weak.iter()).any(|s| s.starts_with("ompi_"));
    match name {
        "libmpi.so.40" => Some(Family::OpenMpi),
        "libmpi.so.12" | "libmpich.so.12" if !openmpi => Some(Family::Mpich),
        n if n.starts_with("libmpi_abi.so.") => Some(Family::Abi),
        n if n.starts_with("libmpi_gnu_") || n.starts_with("libmpi_cray.so") => Some(Family::Mpich),
        _ => None,
    }
}

/// The newest standard whose functions a C library has, for people.
pub(super) fn standard(object: &Object) -> &'static str {
    let has = |s: &str| object.exports.contains(s);
    match () {
        () if has("MPI_Abi_get_version") => "MPI 5.0",
        () if has("MPI_Comm_attach_buffer") => "MPI 4.1",
        () if has("MPI_Session_init") => "MPI 4.0",
        () if has("MPI_Ibarrier") => "MPI 3",
        () => "MPI 2",
    }
}
