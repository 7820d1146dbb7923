//! From an MPI library to a host profile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use grus_core::elf::Object;
use grus_core::path::AbsPath;
use grus_core::refusal::{printable, Refusal};
use grus_core::stack::{role_of, Family, Library, Mpi, Pmi, Role, Stack, STACK_FORMAT};

use super::closure::{libraries, Closure, Loader};
use super::discover::Seed;
use super::file;
use super::surroundings::{Around, Surroundings};
use super::version::{self, Maker};

/// A profile with what its reader should know.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The profile, not yet named by the caller.
    pub stack: Stack,
    /// What was left out and why, a sentence each.
    pub notes: Vec<String>,
}

impl Scanned {
    /// The profile's file: what it is, then the profile.
    pub fn text(&self) -> String {
        let mut head = String::from(
            "# Written by 'grus host scan' from the files of this host; yours to edit. Scan again when they change.\n\
             # Roles: mpi, fabric, pmi and plugin are always the host's; shared only where the image's is too old;\n\
             # glibc only as a whole, where the site allows it. exports, imports and data are what the files prove.\n",
        );
        for note in &self.notes {
            head.push_str(&format!("# Note: {}\n", printable(note)));
        }
        head + &self.stack.to_toml()
    }
}

/// Scans the stack around an MPI, or around a libfabric.
pub fn profile(seed: &Seed) -> Result<Scanned, Refusal> {
    let Some((_, object)) = seed.library() else {
        return Err(Refusal::site("no library to scan"));
    };
    let dir = seed.dir.as_path();
    let prefix = prefix(dir);
    let machine = object.machine.clone();
    let mut loader = Loader::new();
    loader.beside.push(dir.to_owned());
    let mut closure = Closure::default();
    loader.add(&mut closure, &roots(seed), &machine, true);
    let made = seed.main().map(|(family, main, object)| version::of(main, family, object, prefix));
    let maker = made.as_ref().map(|(maker, _)| *maker);
    let around =
        Around { maker, dir, prefix, machine: &machine, loader: &loader, closure: &mut closure }.look();
    let label = match &made {
        Some((maker, Some(version))) => format!("{} {version}", maker.label()),
        Some((maker, None)) => maker.label().to_owned(),
        None => fabric_label(object),
    };
    let mpi = seed.providers.iter().zip(maker.iter().cycle()).map(|((family, (_, object)), maker)| Mpi {
        family: *family,
        version: label.clone(),
        pmi: pmi(*maker, object, &closure),
    });
    let mpi = mpi.collect();
    let mut notes = around.notes.clone();
    let gone = closure.missing.iter().map(|(name, by)| format!("{by} needs {name}, which this host lacks"));
    notes.extend(gone);
    let library = list(&closure, &around, &seed.dir, &mut notes);
    let stack = Stack {
        name: maker.map_or("libfabric", Maker::word).into(),
        format: STACK_FORMAT,
        description: format!("{label} in {}", prefix.unwrap_or(dir).display()),
        example: false,
        machine,
        mpi,
        devices: around.devices,
        path: around.path,
        environment: around.environment,
        library,
    };
    Ok(Scanned { stack, notes })
}

/// libfabric by its newest version node, which is what programs need of it.
fn fabric_label(object: &Object) -> String {
    let number = |node: &String| Some((node.strip_prefix("FABRIC_1.")?.parse::<u32>().ok()?, node.clone()));
    let newest = object.provides.iter().filter_map(number).max();
    newest.map_or("libfabric".into(), |(_, node)| format!("libfabric with {node}"))
}

/// The directory that is the stack's alone; None if its libraries lie among the system's.
fn prefix(dir: &Path) -> Option<&Path> {
    let dir = if dir.ends_with("release") { dir.parent()? } else { dir };
    let named = dir.file_name().is_some_and(|n| n == "lib" || n == "lib64");
    let prefix = dir.parent().filter(|_| named)?;
    let system = ["/", "/usr", "/usr/local", "/opt"].iter().any(|s| prefix == Path::new(s));
    (!system).then_some(prefix)
}

/// The C libraries and the bindings upon them. Where several MPIs share a directory, a binding belongs to the one
/// it needs.
fn roots(seed: &Seed) -> Vec<PathBuf> {
    if let Some((path, _)) = &seed.fabric {
        return vec![path.clone()];
    }
    let mut roots: Vec<PathBuf> = seed.providers.values().map(|(path, _)| path.clone()).collect();
    let mut names: BTreeSet<String> = BTreeSet::new();
    names.extend(seed.providers.values().filter_map(|(_, object)| object.soname.clone()));
    let chosen: BTreeSet<AbsPath> = roots.iter().filter_map(|p| file::real(p)).collect();
    let like = |n: &str| n.starts_with("libmpi") || n.starts_with("libpmpi");
    let mut others: Vec<(PathBuf, Object)> = libraries(seed.dir.as_path(), like)
        .into_iter()
        .filter(|p| file::real(p).is_some_and(|r| !chosen.contains(&r)))
        .filter_map(|p| {
            Some((p.clone(), file::object(&p).filter(|o| o.soname.is_some() && file::is_meant(&p, o))?))
        })
        .collect();
    // Bindings need each other: 'use mpi' needs mpif.h's.
    loop {
        let needs = |o: &Object| !seed.shares || o.needed.iter().any(|n| names.contains(n));
        let (mine, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|(_, o)| needs(o));
        if mine.is_empty() {
            return roots;
        }
        names.extend(mine.iter().filter_map(|(_, o)| o.soname.clone()));
        // Intel's libraries with 8-byte integers and for Java stand for nothing that images link to.
        let counts = |p: &Path| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            !["libmpi_ilp64", "libmpijava", "libmpi_java"].iter().any(|s| name.starts_with(s))
        };
        roots.extend(mine.into_iter().map(|(p, _)| p).filter(|p| counts(p)));
        others = rest;
    }
}

/// Launch methods of an MPI, best first.
fn pmi(maker: Maker, object: &Object, closure: &Closure) -> Vec<Pmi> {
    let has = |name: &str| {
        let named = |o: &Object| o.soname.as_deref().is_some_and(|n| n.starts_with(name));
        closure.libraries.values().any(named)
    };
    match maker {
        Maker::Intel if has("libpmix.so") => vec![Pmi::Pmi2, Pmi::Pmix],
        Maker::Intel => vec![Pmi::Pmi2],
        Maker::Cray => vec![Pmi::CrayShasta, Pmi::Pmi2],
        Maker::OpenMpi if object.needed.iter().any(|n| n == "libopen-pal.so.80") => vec![Pmi::Pmix],
        Maker::OpenMpi if has("libpmi2.so") => vec![Pmi::Pmix, Pmi::Pmi2],
        Maker::OpenMpi => vec![Pmi::Pmix],
        _ if has("libpmix.so") => vec![Pmi::Pmix],
        _ => vec![Pmi::Pmi2],
    }
}

/// The libraries with their roles: MPI first. Of two with one name, the one in the MPI's own directory counts.
fn list(closure: &Closure, around: &Surroundings, dir: &AbsPath, notes: &mut Vec<String>) -> Vec<Library> {
    let mut all: Vec<Library> = vec![];
    for (path, object) in &closure.libraries {
        let name = path.components().next_back().unwrap_or_default();
        let role = match around.plugins.contains(path) {
            true => Role::Plugin,
            false => role_of(object.soname.as_deref().unwrap_or(name), object),
        };
        all.push(Library::new(path.clone(), role, object.clone()));
    }
    all.sort_by_key(|l| (l.role, !l.path.is_within(dir), l.path.clone()));
    let mut seen: BTreeSet<String> = BTreeSet::new();
    all.retain(|l| {
        let kept = l.role == Role::Plugin || seen.insert(l.soname().to_owned());
        if !kept {
            notes.push(format!("{} is left out: another library is called {}", l.path, l.soname()));
        }
        kept
    });
    all
}

/// Names of families for messages.
pub fn families(stack: &Stack) -> String {
    if stack.mpi.is_empty() {
        return "no MPI".into();
    }
    let names: Vec<&str> = stack.mpi.iter().map(|m| Family::label(m.family)).collect();
    names.join(" and ")
}
