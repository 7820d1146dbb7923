//! Which role a host library has, by its name and symbols. Used by the scan; people may correct the result.

use super::Role;
use crate::elf::Object;

/// The pieces of glibc, without version: they fit only each other (GLIBC_PRIVATE).
pub const GLIBC_FAMILY: &[&str] = &[
    "ld-linux",
    "ld64",
    "libc",
    "libm",
    "libmvec",
    "libpthread",
    "libdl",
    "librt",
    "libutil",
    "libanl",
    "libresolv",
    "libthread_db",
    "libBrokenLocale",
    "libnsl",
    "libc_malloc_debug",
    "libmemusage",
    "libpcprofile",
];

/// Whether a SONAME is that of glibc's loader.
pub fn is_glibc_loader(soname: &str) -> bool {
    soname.starts_with("ld-linux") || soname.starts_with("ld64.so")
}

const MPI: &[&str] =
    &["libmpi", "libpmpi", "libopen-pal", "libopen-rte", "liboshmem", "libmca_", "libprrte", "libompi"];

const FABRIC: &[&str] = &[
    "libfabric",
    "libucp",
    "libuct",
    "libucs",
    "libucm",
    "libibverbs",
    "librdmacm",
    "libibumad",
    "libibmad",
    "libcxi",
    "libefa",
    "libmlx",
    "libpsm",
    "libxpmem",
    "libgdrapi",
    "libopamgt",
    "libtcmalloc_shm",
    "librxe",
    "libhns",
    "libbnxt",
];

const PMI: &[&str] =
    &["libpmi.", "libpmi2.", "libpmix.", "libpals.", "libcray_pmi", "libpmi_cray", "libslurm_pmi"];

/// The role of a library, by its file name or SONAME and what it defines.
pub fn role_of(name: &str, object: &Object) -> Role {
    let starts = |list: &[&str]| list.iter().any(|p| name.starts_with(p));
    let stem = name.split(".so").next().unwrap_or(name);
    let private = |nodes: &Vec<String>| nodes.iter().any(|n| n == "GLIBC_PRIVATE");
    // nscd's modules and the like need glibc's private node: they move with it.
    let glibc = GLIBC_FAMILY.contains(&stem)
        || stem.starts_with("ld-linux")
        || stem.starts_with("libnss_") && object.requires.values().any(private);
    if glibc {
        Role::Glibc
    } else if name.ends_with("-fi.so") || name.contains("-rdmav") || stem.starts_with("libuct_") {
        Role::Plugin
    } else if starts(PMI) {
        Role::Pmi
    } else if starts(MPI) || object.exports.contains("MPI_Init") {
        Role::Mpi
    } else if starts(FABRIC) {
        Role::Fabric
    } else {
        Role::Shared
    }
}
