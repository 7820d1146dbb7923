//! Whether a driver's libraries can be loaded in an image: the rules that hold for a host's MPI, asked of the image's own
//! C library.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::Serialize;

use super::resolve::{exists, locate};
use super::seen::CACHE;
use super::{Host, Kind, Opener, Rootfs};
use crate::cdi::Registry;
use crate::elf::{glibc_version, Object};
use crate::ldcache::{self, Cache};
use crate::path::AbsPath;

/// Largest library that is read for its version nodes; libc has some 2 MiB.
const MAX_LIBRARY: usize = 32 << 20;
const LIBC: &str = "libc.so.6";

/// An image's loader and C library.
pub(super) struct Loader<'a> {
    rootfs: &'a dyn Rootfs,
    cache: &'a Cache,
    libc: Libc,
    known: RefCell<BTreeMap<String, Option<Object>>>,
}

enum Libc {
    Glibc(Box<Object>),
    Musl,
    /// None was found: nothing can be said.
    None,
}

impl<'a> Loader<'a> {
    /// Of the image with this cache.
    pub fn of(rootfs: &'a dyn Rootfs, cache: &'a Cache) -> Self {
        let mut loader = Self { rootfs, cache, libc: Libc::None, known: RefCell::default() };
        let musl = AbsPath::parse(&format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH));
        loader.libc = match loader.find(LIBC, machine()) {
            Some(libc) => Libc::Glibc(Box::new(libc)),
            None if musl.is_ok_and(|path| exists(rootfs, &path)) => Libc::Musl,
            None => Libc::None,
        };
        loader
    }

    pub fn is_musl(&self) -> bool {
        matches!(self.libc, Libc::Musl)
    }

    /// What a library needs that the image lacks: the end of a sentence.
    pub fn lacks(&self, library: &Object) -> Option<String> {
        let libc = match &self.libc {
            Libc::Glibc(libc) if libc.machine == library.machine => libc,
            // Another architecture's libraries are for its programs, if the image has some.
            Libc::Glibc(_) | Libc::None => return None,
            Libc::Musl => {
                let glibc = library.needed.iter().find(|name| *name == LIBC)?;
                let nodes = library.requires.get(glibc).into_iter().flatten();
                let newest = nodes.max_by_key(|node| glibc_version(node));
                let node = newest.map_or(String::new(), |node| format!("{node} of "));
                return (library.machine == machine())
                    .then(|| format!("{node}{glibc}, and the image has musl"));
            }
        };
        let newest = libc.provides.iter().filter_map(|node| glibc_version(node)).max();
        for (of, nodes) in
            library.requires.iter().filter(|(_, nodes)| nodes.iter().any(|n| n.starts_with("GLIBC_")))
        {
            // All pieces of a glibc are of one version, so most nodes need no look at the piece itself.
            let mut open = nodes.iter().filter(|node| glibc_version(node).is_none_or(|v| Some(v) > newest));
            let has = |node: &str| {
                self.find(of, &library.machine).is_some_and(|o| o.provides.iter().any(|n| n == node))
            };
            if let Some(node) = open.find(|node| !has(node)) {
                let version =
                    newest.map_or("no version".into(), |(major, minor)| format!("glibc {major}.{minor}"));
                return Some(format!("{node} of {of}, and the image has {version}"));
            }
        }
        None
    }

    /// The image's library of this name, as the loader finds it: by the cache, else in the default directories.
    fn find(&self, name: &str, machine: &str) -> Option<Object> {
        if let Some(known) = self.known.borrow().get(name) {
            return known.clone();
        }
        let flags = ldcache::flags(machine).unwrap_or_default();
        let cached = self.cache.lookup(name, flags).map(|entry| entry.path.clone());
        let dirs = [
            format!("/lib/{machine}-linux-gnu"),
            format!("/usr/lib/{machine}-linux-gnu"),
            "/lib64".into(),
            "/usr/lib64".into(),
            "/lib".into(),
            "/usr/lib".into(),
        ];
        let usual = dirs.into_iter().map(|dir| format!("{dir}/{name}"));
        let found = cached.chain(usual).find_map(|path| self.read(&path).filter(|o| o.machine == machine));
        self.known.borrow_mut().insert(name.into(), found.clone());
        found
    }

    fn read(&self, path: &str) -> Option<Object> {
        read(self.rootfs, &AbsPath::parse(path).ok()?)
    }
}

/// A library of the image; what cannot be read counts as none.
fn read(rootfs: &dyn Rootfs, path: &AbsPath) -> Option<Object> {
    let located = locate(rootfs, path).ok()?;
    located.entry.filter(|entry| entry.kind == Kind::File)?;
    let bytes = rootfs.read(&located.path, MAX_LIBRARY).ok()??;
    Object::read(&bytes).ok()?
}

/// This machine's name, as `uname -m` has it.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// CUDA libraries of an image for drivers newer than its hosts may have.
pub(super) struct Compatibility {
    pub dir: AbsPath,
    pub names: Vec<String>,
    pub machine: String,
}

/// The libraries in `root`, if they are of a newer driver than the host's; `driver` is that one's major version (CUDA
/// Compatibility, 'forward compatibility'; the same rule as NVIDIA's own hook).
pub(super) fn compatibility(rootfs: &dyn Rootfs, root: &AbsPath, driver: u32) -> Option<Compatibility> {
    let cuda = locate(rootfs, &root.join("libcuda.so.1")).ok()?;
    cuda.entry.filter(|entry| entry.kind == Kind::File)?;
    let version = cuda.path.components().next_back()?.strip_prefix("libcuda.so.")?.to_owned();
    let major: u32 = version.split('.').next()?.parse().ok()?;
    if major <= driver {
        return None;
    }
    let dir = locate(rootfs, root).ok()?.path;
    let fixed =
        ["libcuda.so.1", "libcudadebugger.so.1", "libnvidia-nvvm.so.4", "libnvidia-ptxjitcompiler.so.1"];
    let versioned = ["libnvidia-pkcs11", "libnvidia-pkcs11-openssl3", "libnvidia-gpucomp"];
    let all = fixed.into_iter().map(str::to_owned);
    let all = all.chain(versioned.into_iter().map(|name| format!("{name}.so.{version}")));
    let names = all.filter(|name| exists(rootfs, &dir.join(name))).collect();
    Some(Compatibility { dir, names, machine: machine().into() })
}

/// How the driver that a file of devices brings fits an image, for `grus explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// Vendor and class.
    pub kind: String,
    /// The file.
    pub file: AbsPath,
    /// Programs and libraries that fit.
    pub fitting: usize,
    /// Those that do not, with what they need.
    pub lacking: BTreeMap<AbsPath, String>,
    /// Files that this host does not have.
    pub missing: Vec<AbsPath>,
}

/// Compares the drivers of all files of devices with an image.
pub fn fits(registry: &Registry, rootfs: &dyn Rootfs, host: &dyn Host) -> Vec<Fit> {
    let cache = AbsPath::parse(CACHE).ok().and_then(|path| locate(rootfs, &path).ok());
    let cache = cache.and_then(|at| rootfs.read(&at.path, ldcache::MAX_CACHE).ok()?);
    let cache = cache.and_then(|bytes| ldcache::parse(&bytes).ok()).unwrap_or_default();
    let loader = Loader::of(rootfs, &cache);
    let fit = |(file, spec): (&AbsPath, &crate::cdi::Spec)| {
        let mut fit = Fit {
            kind: spec.kind.to_string(),
            file: file.clone(),
            fitting: 0,
            lacking: BTreeMap::new(),
            missing: vec![],
        };
        for mount in &spec.edits.mounts {
            if host.source(&mount.source, Opener::User).is_err() {
                fit.missing.push(mount.source.clone());
            } else if let Some(object) = host.library(&mount.source, Opener::User) {
                match loader.lacks(&object) {
                    Some(why) => drop(fit.lacking.insert(mount.source.clone(), why)),
                    None => fit.fitting += 1,
                }
            }
        }
        fit
    };
    registry.files().map(fit).collect()
}
