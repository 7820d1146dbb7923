//! Real files for tests of the swap: facts of image trees and profiles of host prefixes, read from this
//! machine. Reading only; what Grus itself uses for it is in the other crates.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use grus_core::elf::{Collector, Object, ReadAt};
use grus_core::path::AbsPath;
use grus_core::stack::{role_of, Extra, Library, Mpi, Role, Stack, Variables, STACK_FORMAT};

/// A file on disk.
pub struct OnDisk(std::fs::File, u64);

impl ReadAt for OnDisk {
    fn read_at(&self, offset: u64, len: usize) -> Option<Cow<'_, [u8]>> {
        if offset.checked_add(len as u64)? > self.1 {
            return None;
        }
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, offset).ok()?;
        Some(Cow::Owned(bytes))
    }
}

/// The facts of a file; `None` if it is not ELF.
pub fn object(path: &Path) -> Option<Object> {
    let file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    Object::read(&OnDisk(file, size)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn abs(path: impl AsRef<Path>) -> AbsPath {
    AbsPath::parse(path.as_ref().to_str().expect("test paths are UTF-8")).expect("an absolute path")
}

/// Walks `dir` of this machine as `at` of an image; `skip` leaves out names.
pub fn walk(c: &mut Collector, dir: &Path, at: &str, skip: &dyn Fn(&str) -> bool) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, kind) = (format!("{at}/{name}"), entry.file_type().expect("a file type"));
        if skip(&name) {
            continue;
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).expect("a link");
            c.link(abs(&path), target.to_str().unwrap_or_default());
        } else if kind.is_dir() {
            walk(c, &entry.path(), &path, skip);
        } else if Collector::wants(&name, true) {
            if let Some(object) = object(&entry.path()) {
                c.object(abs(&path), object);
            }
        }
    }
}

/// The base of an image like this machine: its system libraries without any MPI, and its cache.
pub fn base(c: &mut Collector, without: &dyn Fn(&str) -> bool) {
    let mpi = ["libmpi", "libmpich", "libopen-", "libmca_", "openmpi", "libompi", "mpich"];
    let skip = |n: &str| mpi.iter().any(|p| n.starts_with(p)) || n == "gcc" || n == "debug" || without(n);
    walk(c, Path::new("/usr/lib/x86_64-linux-gnu"), "/usr/lib/x86_64-linux-gnu", &skip);
    c.link(abs("/lib"), "usr/lib");
    c.link(abs("/lib64"), "usr/lib64");
    c.link(abs("/usr/lib64/ld-linux-x86-64.so.2"), "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    c.cache(&std::fs::read("/etc/ld.so.cache").expect("a cache"));
}

/// A file of this machine at a path of an image, with its usual links.
pub fn add(c: &mut Collector, file: &Path, at: &str) {
    let real = file.canonicalize().expect("it is there");
    let object = object(&real).expect("ELF");
    let soname = object.soname.clone();
    let dir = at.rsplit_once('/').expect("absolute").0;
    c.object(abs(at), object);
    if let Some(soname) = soname.filter(|s| !at.ends_with(&format!("/{s}"))) {
        c.link(abs(format!("{dir}/{soname}")), at.rsplit('/').next().expect("a name"));
    }
}

/// Compiles `source` with arguments; the program's path.
pub fn compile(dir: &Path, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let (c, out) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&c, source).expect("writable");
    let run = Command::new("cc").arg(&c).arg("-o").arg(&out).args(arguments).output().expect("cc runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    out
}

/// A profile of real files: `roots` and everything they need, found as the loader finds it.
pub fn stack(name: &str, mpi: Vec<Mpi>, roots: &[PathBuf], extra: &[&Path]) -> Stack {
    let cache =
        grus_core::ldcache::parse(&std::fs::read("/etc/ld.so.cache").expect("a cache")).expect("good");
    let mut seen = BTreeSet::new();
    let mut library = vec![];
    let mut queue: Vec<(PathBuf, bool)> = roots.iter().map(|r| (r.clone(), true)).collect();
    while let Some((found, root)) = queue.pop() {
        let real = found.canonicalize().expect("it is there");
        let Some(object) = object(&real).filter(|_| seen.insert(real.clone())) else { continue };
        let file_name = real.file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
        let origin = found.parent().expect("a directory").to_str().expect("UTF-8").to_owned();
        for needed in &object.needed {
            let dirs = object.rpath.iter().chain(&object.runpath).map(|d| d.replace("$ORIGIN", &origin));
            let dirs: Vec<String> = dirs.chain([origin.clone()]).collect();
            let near = dirs.iter().map(|d| PathBuf::from(d).join(needed)).find(|p| p.exists());
            let cached = || cache.lookup(needed, 0x303).next().map(|e| PathBuf::from(&e.path));
            queue.extend(near.or_else(cached).map(|p| (p, false)));
        }
        let role = role_of(object.soname.as_deref().unwrap_or(&file_name), &object);
        let role = if root && role == Role::Shared { Role::Plugin } else { role };
        library.push(Library::new(abs(real), role, object));
    }
    let path = extra
        .iter()
        .map(|p| Extra { path: abs(p), replace: false, optional: false, with: Role::Fabric })
        .collect();
    Stack {
        name: name.into(),
        format: STACK_FORMAT,
        description: String::new(),
        example: false,
        machine: "x86_64".into(),
        mpi,
        devices: vec![],
        path,
        environment: Variables::default(),
        library,
    }
}
