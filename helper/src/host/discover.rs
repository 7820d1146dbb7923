//! Finding the host's MPI libraries, by what they define, or its libfabric alone: in the prefixes given, else where they
//! usually are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use grus_core::elf::{is_library_name, Object};
use grus_core::path::AbsPath;
use grus_core::stack::Family;
use grus_core::swap::provider_family;

use super::closure::Loader;
use super::file;

/// Deepest directory of a prefix that is looked into, and most directories of one.
const MAX_DEPTH: usize = 6;
const MAX_DIRECTORIES: usize = 20_000;

/// Where MPIs are on clusters besides the loader's cache: each a prefix; a `*` stands for one name.
const USUAL: &[&str] = &[
    "/opt/cray/pe/lib64",
    "/opt/intel/oneapi/mpi/*",
    "/opt/mpich*",
    "/opt/openmpi*",
    "/opt/mvapich*",
    "/opt/parastation*",
    "/usr/lib64/mpich*",
    "/usr/lib64/openmpi*",
    "/usr/lib64/mvapich2*",
    "/usr/mpi/gcc/*",
    "/usr/local/lib",
    "/usr/local/mpich*",
    "/usr/local/openmpi*",
];

/// Where libfabric is besides.
const USUAL_FABRIC: &[&str] = &[
    "/opt/cray/libfabric/*",
    "/opt/amazon/efa",
    "/opt/libfabric*",
    "/usr/local/lib",
    "/usr/local/libfabric*",
];

/// The name others need libfabric by.
const FABRIC: &str = "libfabric.so.1";

/// The libraries of one stack: an MPI, or a libfabric alone.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The C libraries by family, by the path they were found at.
    pub providers: BTreeMap<Family, (PathBuf, Object)>,
    /// The libfabric of a stack without MPI.
    pub fabric: Option<(PathBuf, Object)>,
    /// The directory they are in.
    pub dir: AbsPath,
    /// Other MPIs are in the same directory.
    pub shares: bool,
}

impl Seed {
    /// The C library that names the stack: `libmpi` before `libmpi_abi`.
    pub fn main(&self) -> Option<(Family, &PathBuf, &Object)> {
        self.providers.iter().next().map(|(family, (path, object))| (*family, path, object))
    }

    /// The library that everything else is found from.
    pub fn library(&self) -> Option<(&PathBuf, &Object)> {
        let fabric = || self.fabric.as_ref().map(|(path, object)| (path, object));
        self.main().map(|(_, path, object)| (path, object)).or_else(fabric)
    }
}

/// Files that are called like this, below `prefixes`; without any, in the loader's cache and the `usual` places.
fn files(prefixes: &[PathBuf], usual: &[&str], called: fn(&str) -> bool) -> Vec<PathBuf> {
    let mut files = vec![];
    match prefixes {
        [] => {
            files = Loader::new().cached(called);
            usual.iter().flat_map(|place| glob(place)).for_each(|prefix| walk(&prefix, called, &mut files));
        }
        some => some.iter().for_each(|prefix| walk(prefix, called, &mut files)),
    }
    files
}

/// Every libfabric below `prefixes`; without any, in the loader's cache and the usual places.
pub fn discover_fabric(prefixes: &[PathBuf]) -> Vec<Seed> {
    let mut found = BTreeMap::new();
    for path in files(prefixes, USUAL_FABRIC, |name| name == FABRIC) {
        let object = file::object(&path).filter(|object| object.machine == here());
        if let (Some(real), Some(object)) = (file::real(&path), object) {
            found.entry(real).or_insert((path, object));
        }
    }
    let seed = |(real, fabric): (AbsPath, _)| {
        let dir = real.parent()?;
        Some(Seed { providers: BTreeMap::new(), fabric: Some(fabric), dir, shares: false })
    };
    found.into_iter().filter_map(seed).collect()
}

/// Every MPI below `prefixes`; without any, in the loader's cache and the usual places.
pub fn discover(prefixes: &[PathBuf]) -> Vec<Seed> {
    let files = files(prefixes, USUAL, |name| name.starts_with("libmpi"));
    // A file has many names; the one that is its SONAME is the one others need it by.
    let mut found: BTreeMap<AbsPath, (PathBuf, Object)> = BTreeMap::new();
    for path in files {
        let Some(real) = file::real(&path) else { continue };
        if let Some((kept, object)) = found.get_mut(&real) {
            if named(&path) == object.soname.as_deref() {
                *kept = path;
            }
            continue;
        }
        let Some(object) = file::object(&path).filter(|o| file::is_meant(&path, o)) else { continue };
        if family(&path, &object).is_some() && object.machine == here() {
            found.insert(real, (path, object));
        }
    }
    group(found)
}

/// The machine of this host, as `uname -m` has it.
fn here() -> &'static str {
    match std::env::consts::ARCH {
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        other => other,
    }
}

/// The family of an MPI's C library, by the name others need it by.
fn family(path: &Path, object: &Object) -> Option<Family> {
    let name = object.soname.as_deref().or(named(path))?;
    // Intel's 8-byte-integer library defines everything too, and is linked besides libmpi.
    (!name.starts_with("libmpi_ilp64")).then(|| provider_family(name, object)).flatten()
}

fn named(path: &Path) -> Option<&str> {
    path.file_name().and_then(|n| n.to_str())
}

/// MPIs of one directory that belong together: a native ABI with the standard one. Two of the same family are
/// two stacks.
fn group(found: BTreeMap<AbsPath, (PathBuf, Object)>) -> Vec<Seed> {
    let mut seeds: Vec<Seed> = vec![];
    for (real, (path, object)) in found {
        let (Some(family), Some(dir)) = (family(&path, &object), real.parent()) else { continue };
        let joins = |seed: &&mut Seed| {
            let open = seed.providers.contains_key(&Family::OpenMpi) == (family == Family::OpenMpi);
            let abi = family == Family::Abi || seed.providers.contains_key(&Family::Abi);
            seed.dir == dir && abi && open && !seed.providers.contains_key(&family)
        };
        match seeds.iter_mut().find(joins) {
            Some(seed) => {
                seed.providers.insert(family, (path, object));
            }
            None => {
                let providers = BTreeMap::from([(family, (path, object))]);
                seeds.push(Seed { providers, fabric: None, dir, shares: false });
            }
        }
    }
    let dirs: Vec<AbsPath> = seeds.iter().map(|s| s.dir.clone()).collect();
    for seed in &mut seeds {
        seed.shares = dirs.iter().filter(|d| **d == seed.dir).count() > 1;
    }
    seeds
}

/// Libraries below `prefix` that are called like this. Links to directories are not followed.
fn walk(prefix: &Path, called: fn(&str) -> bool, into: &mut Vec<PathBuf>) {
    let mut open = vec![(prefix.to_owned(), 0)];
    let mut seen = 0;
    while let Some((dir, depth)) = open.pop() {
        seen += 1;
        if seen > MAX_DIRECTORIES {
            return;
        }
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            if kind.is_dir() && depth < MAX_DEPTH {
                open.push((path, depth + 1));
            } else if named(&path).is_some_and(|n| called(n) && is_library_name(n)) {
                into.push(path);
            }
        }
    }
}

/// The directories a place with a `*` stands for.
fn glob(place: &str) -> Vec<PathBuf> {
    let path = Path::new(place);
    let Some(start) = named(path).and_then(|n| n.strip_suffix('*')) else { return vec![path.to_owned()] };
    let dir = path.parent().unwrap_or(Path::new("/"));
    file::names(dir).into_iter().filter(|n| n.starts_with(start)).map(|n| dir.join(n)).collect()
}
