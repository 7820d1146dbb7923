//! What host libraries need, found as the loader finds it (ld.so(8)): RPATH, RUNPATH, the cache, the default
//! directories. LD_LIBRARY_PATH has no say: it is the caller's, not the stack's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use grus_core::elf::{is_library_name, Object};
use grus_core::ldcache::{self, Cache};
use grus_core::path::AbsPath;

use super::file;

/// Most libraries of one stack; a real one has some hundred.
const MAX_LIBRARIES: usize = 1000;

/// The loader's view of the host.
#[derive(Debug)]
pub struct Loader {
    cache: Cache,
    /// Looked in where nothing else leads: libraries that MPI opens itself, or needs by its environment.
    pub beside: Vec<PathBuf>,
}

/// Libraries by real path, with everything they need.
#[derive(Debug, Default)]
pub struct Closure {
    /// In order of path.
    pub libraries: BTreeMap<AbsPath, Object>,
    /// Names that lead nowhere, with who needs them.
    pub missing: BTreeSet<(String, AbsPath)>,
    /// Names that are loaded: the loader looks for no second library of one name.
    pub names: BTreeSet<String>,
}

struct Asked {
    path: PathBuf,
    /// RPATHs of those above, which count for objects without a RUNPATH.
    rpath: Vec<String>,
    listed: bool,
}

impl Loader {
    /// With the host's cache; a host without one has only the other ways.
    pub fn new() -> Self {
        let cache = std::fs::read("/etc/ld.so.cache").ok().and_then(|file| ldcache::parse(&file).ok());
        Self { cache: cache.unwrap_or_default(), beside: vec![] }
    }

    /// Paths in the cache whose name passes `wanted`.
    pub fn cached(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        self.cache.entries.iter().filter(|e| wanted(&e.name)).map(|e| PathBuf::from(&e.path)).collect()
    }

    /// Adds `roots` and all they need. With `listed` false, the roots themselves stay out: they are found by
    /// their directory, only their needs are not.
    pub fn add(&self, closure: &mut Closure, roots: &[PathBuf], machine: &str, listed: bool) {
        let asked = |path: &PathBuf| Asked { path: path.clone(), rpath: vec![], listed };
        let mut open: VecDeque<Asked> = roots.iter().map(asked).collect();
        while let Some(next) = open.pop_front() {
            let Some(real) = file::real(&next.path) else { continue };
            if closure.libraries.contains_key(&real) || closure.libraries.len() >= MAX_LIBRARIES {
                continue;
            }
            let Some(object) = file::object(real.as_path()).filter(|o| o.machine == machine) else {
                continue;
            };
            let origin = next.path.parent().unwrap_or(Path::new("/")).to_owned();
            let expand =
                |dirs: &[String]| -> Vec<String> { dirs.iter().map(|d| expand(d, &origin)).collect() };
            let (runpath, mut rpath) = (expand(&object.runpath), expand(&object.rpath));
            rpath.extend(next.rpath.iter().cloned());
            let search = if runpath.is_empty() { &rpath } else { &runpath };
            closure.names.extend(object.soname.clone());
            for name in &object.needed {
                if closure.names.contains(name) {
                    continue;
                }
                match self.find(name, search, machine) {
                    Some(path) => {
                        closure.names.insert(name.clone());
                        open.push_back(Asked { path, rpath: rpath.clone(), listed: true });
                    }
                    None => {
                        closure.missing.insert((name.clone(), real.clone()));
                    }
                }
            }
            if next.listed {
                closure.libraries.insert(real, object);
            }
        }
    }

    /// The file that a name leads to.
    pub fn find(&self, name: &str, dirs: &[String], machine: &str) -> Option<PathBuf> {
        let fits = |path: &PathBuf| file::object(path).is_some_and(|o| o.machine == machine);
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(fits);
        }
        let flags = ldcache::flags(machine).unwrap_or_default();
        let cached = self.cache.lookup(name, flags).map(|e| PathBuf::from(&e.path));
        let triplet = format!("/usr/lib/{machine}-linux-gnu");
        let defaults = [triplet.as_str(), "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
        let named = dirs.iter().map(|d| Path::new(d).join(name));
        let default = defaults.iter().map(|d| Path::new(d).join(name));
        let beside = self.beside.iter().map(|d| d.join(name));
        named.chain(cached).chain(default).chain(beside).find(fits)
    }
}

fn expand(dir: &str, origin: &Path) -> String {
    let origin = origin.to_string_lossy();
    dir.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)
}

/// Libraries in a directory whose names pass `wanted`; links to one file count once.
pub fn libraries(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let names = file::names(dir).into_iter().filter(|n| is_library_name(n) && wanted(n));
    names.map(|n| dir.join(n)).filter(|p| file::real(p).is_some_and(|r| seen.insert(r))).collect()
}
