//! Which symbols are worth keeping: MPI's, and those of unversioned libraries that MPI stacks share.
//!
//! A library with version nodes is judged by them. These here have none, so their symbols are the only
//! proof that one copy can stand for another.

/// Beginnings of MPI symbols: the interface and its profiling twin, Fortran's manglings, C++'s, Open MPI's
/// data, and the private entries that language bindings use of their own C library.
const MPI: &[&str] = &[
    "MPI_",
    "PMPI_",
    "MPIX_",
    "PMPIX_",
    "mpi_",
    "pmpi_",
    "mpix_",
    "pmpix_",
    "ompi_",
    "OMPI_",
    "MPIR_",
    "MPII_",
    "impi_",
    "__mpi",
    "mpifcmb",
    "mpipriv",
    "MPIFCMB",
    "MPIPRIV",
    "mpi_fortran_",
    "MPI_FORTRAN_",
    "_ZN3MPI",
    "_ZNK3MPI",
    "_ZTVN3MPI",
    "_ZTIN3MPI",
    "_ZTSN3MPI",
];

/// Beginnings of the symbols of unversioned libraries that MPI stacks share with others: hwloc, libevent,
/// libpciaccess, older json-c.
const SHARED: &[&str] = &["hwloc_", "event_", "evutil_", "evthread_", "pci_", "json_"];

/// Beginnings of Open MPI's private functions. That something calls them shows that it belongs to its MPI.
const PRIVATE: &[&str] = &["opal_", "orte_"];

/// Longest symbol name that is kept, in bytes.
const LONGEST: usize = 256;

/// The interface between debuggers and launchers, which launchers define themselves: no MPI symbols.
const DEBUGGERS: &[&str] = &[
    "MPIR_Breakpoint",
    "MPIR_being_debugged",
    "MPIR_debug_",
    "MPIR_proctable",
    "MPIR_i_am_starter",
    "MPIR_partial_attach_ok",
    "MPIR_acquired_pre_main",
    "MPIR_executable_path",
    "MPIR_server_arguments",
    "MPIR_forward_",
    "MPIR_dll_name",
    "MPIR_ignore_queues",
];

/// Whether `name` is a symbol of MPI.
pub fn is_mpi(name: &str) -> bool {
    let starts = |list: &[&str]| list.iter().any(|p| name.starts_with(p));
    starts(MPI) && !starts(DEBUGGERS)
}

/// Whether `name` is private to Open MPI: what a program of its own calls.
pub fn is_private(name: &str) -> bool {
    PRIVATE.iter().any(|p| name.starts_with(p))
}

/// Whether a symbol that is needed is kept. Names that the text form cannot hold are not: no compiler makes
/// them.
pub fn relevant(name: &str) -> bool {
    let known = is_mpi(name) || is_private(name) || SHARED.iter().any(|p| name.starts_with(p));
    known && name.len() <= LONGEST && name.bytes().all(|b| b.is_ascii_graphic() && b != b'[' && b != b']')
}

/// Whether a symbol that is defined is kept: Open MPI's functions with an `ompi_` are its own affair, its data
/// is in every program.
pub(super) fn offered(name: &str, data: bool) -> bool {
    relevant(name) && !is_private(name) && (data || !name.starts_with("ompi_"))
}
