//! What an image has of MPI: its libraries in families, and who uses them.

use std::collections::{BTreeMap, BTreeSet};

use super::family::{family_of_name, part, provider_family, standard, OpenMpi, Part};
use super::loader::{File, Linked, World};
use super::Found;
use crate::elf::{is_private, ImageFacts, Object};
use crate::path::AbsPath;
use crate::stack::{Family, Pmi};

/// One MPI of the image: libraries that are swapped together.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub family: Family,
    /// For Open MPI: which.
    pub openmpi: Option<OpenMpi>,
    /// Its libraries: the C library and the bindings upon it.
    pub members: BTreeMap<&'a AbsPath, (Part, &'a Object)>,
    /// Objects that use it.
    pub users: BTreeMap<&'a AbsPath, &'a Object>,
    /// Files that users, and what they load, ask for by name.
    pub used: BTreeSet<&'a AbsPath>,
    /// Names of its libraries that users need and the image lacks.
    pub missing: BTreeSet<String>,
}

/// What there is.
pub(super) struct Survey<'a> {
    pub groups: Vec<Group<'a>>,
    /// Every user's process in the image as it is.
    pub before: BTreeMap<&'a AbsPath, Linked<'a>>,
    /// Programs with an MPI inside.
    pub linked_in: Vec<&'a AbsPath>,
    /// Machine of the users, or of the C library.
    pub machine: String,
    /// The image as its loader sees it.
    pub world: World<'a>,
}

impl Group<'_> {
    /// For people: `Open MPI 5`, `MPICH ABI (MPI 4.1)`.
    pub fn label(&self) -> String {
        let provider = self.providers().next().map(|(_, o)| standard(o));
        match (self.openmpi, provider) {
            (Some(openmpi), Some(_)) => openmpi.label().to_owned(),
            (_, Some(standard)) => format!("{} ({standard})", self.family.label()),
            (_, None) => format!("{} (not in the image)", self.family.label()),
        }
    }

    /// Its C libraries.
    pub fn providers(&self) -> impl Iterator<Item = (&AbsPath, &Object)> {
        self.members.iter().filter(|(_, (p, _))| *p == Part::C).map(|(path, (_, o))| (*path, *o))
    }

    /// Launch methods that the image's own MPI understands, by what it is linked with.
    pub fn pmi(&self) -> Vec<Pmi> {
        let needs = |p: &str| self.members.values().any(|(_, o)| o.needed.iter().any(|n| n.starts_with(p)));
        match self.family {
            Family::OpenMpi if self.openmpi == Some(OpenMpi::Five) => vec![Pmi::Pmix],
            Family::OpenMpi => vec![Pmi::Pmix, Pmi::Pmi2],
            _ if needs("libpmix.") => vec![Pmi::Pmix],
            _ => vec![Pmi::Pmi2],
        }
    }

    pub fn found(&self) -> Found {
        Found {
            label: self.label(),
            providers: self.providers().map(|(p, _)| p.clone()).collect(),
            users: self.users.keys().map(|p| (*p).clone()).collect(),
        }
    }
}

pub(super) fn name_of(path: &AbsPath) -> &str {
    path.components().next_back().unwrap_or_default()
}

/// The family and, for Open MPI, the release of a C library.
fn kind_of(path: &AbsPath, object: &Object) -> Option<(Family, Option<OpenMpi>)> {
    let name = object.soname.as_deref().unwrap_or(name_of(path));
    // Bundlers rename files and sometimes SONAMEs; either may tell.
    let family = provider_family(name, object)?;
    let family = provider_family(name_of(path), object).filter(|f| *f == Family::Abi).unwrap_or(family);
    Some((family, (family == Family::OpenMpi).then(|| OpenMpi::of(name, object))))
}

/// Surveys an image.
pub(super) fn survey<'a>(facts: &'a ImageFacts, library_path: &[String]) -> Survey<'a> {
    let machine = machine(facts);
    let world = World::image(facts, &machine, library_path);
    let mut s = Survey { groups: vec![], before: BTreeMap::new(), linked_in: vec![], machine, world };
    let fitting: Vec<_> = facts.objects.iter().filter(|(_, o)| o.machine == s.machine).collect();
    for (path, object) in fitting.iter().copied() {
        if let Some((family, openmpi)) = kind_of(path, object) {
            group(&mut s.groups, family, openmpi).members.insert(path, (Part::C, object));
        }
    }
    for (path, object) in fitting {
        if object.static_mpi {
            s.linked_in.push(path);
            continue;
        }
        let part = part(object.soname.as_deref().unwrap_or(name_of(path)), object);
        if part == Some(Part::C) || (part.is_none() && (!object.uses_mpi() || own_part(path, object))) {
            continue;
        }
        let root = File { path, object, host: false };
        let linked = s.world.link(path.as_str(), root);
        let kinds: Vec<_> =
            linked.loaded.iter().filter_map(|l| kind_of(l.file.path, l.file.object)).collect();
        match part {
            Some(part) => {
                // Private libraries load no provider; they are known through it.
                for (family, openmpi) in kinds {
                    group(&mut s.groups, family, openmpi).members.insert(path, (part, object));
                }
            }
            None => user(&mut s, path, object, linked, &kinds),
        }
    }
    s
}

/// Programs by which MPICH's family tells what it is: all distributions keep their names. No rank runs them.
const OWN_TOOLS: &[&str] = &["mpichversion", "mpivars", "mpiname", "impi_info"];

/// An MPI's own programs and plugins belong to it and are of no use with another. Open MPI's (ompi_info, orted,
/// mca_*.so) call its private libraries.
fn own_part(path: &AbsPath, object: &Object) -> bool {
    let name = name_of(path);
    name.starts_with("mca_") || OWN_TOOLS.contains(&name) || object.imports.iter().any(is_private)
}

/// Enters a user into the groups whose libraries it loads or looks for in vain.
fn user<'a>(
    s: &mut Survey<'a>,
    path: &'a AbsPath,
    object: &'a Object,
    linked: Linked<'a>,
    kinds: &[(Family, Option<OpenMpi>)],
) {
    let mut kinds: BTreeSet<_> = kinds.iter().copied().collect();
    let absent: Vec<(Family, &String)> =
        linked.missing.iter().filter_map(|(_, n)| Some((family_of_name(n, object)?, n))).collect();
    for (family, name) in &absent {
        let openmpi = (*family == Family::OpenMpi).then_some(OpenMpi::Four);
        group(&mut s.groups, *family, openmpi).missing.insert((*name).clone());
        kinds.insert((*family, openmpi));
    }
    if kinds.is_empty() && s.groups.len() == 1 {
        // It gets its MPI from whoever loads it; there is only one.
        kinds.insert((s.groups[0].family, s.groups[0].openmpi));
    }
    for (family, openmpi) in kinds {
        let group = group(&mut s.groups, family, openmpi);
        group.users.insert(path, object);
        // What an MPI library needs of its own MPI goes with it; what others name must have a counterpart.
        let others = linked.loaded.iter().filter(|l| part(l.file.soname(), l.file.object).is_none());
        for name in others.flat_map(|l| &l.file.object.needed) {
            group.used.extend(linked.named(name).map(|l| l.file.path));
        }
    }
    s.before.insert(path, linked);
}

fn group<'g, 'a>(
    groups: &'g mut Vec<Group<'a>>,
    family: Family,
    openmpi: Option<OpenMpi>,
) -> &'g mut Group<'a> {
    // A user of a missing libmpi.so.40 does not tell 4 from 5; it joins what is there.
    let at = groups.iter().position(|g| g.family == family && g.openmpi == openmpi);
    let at = at.unwrap_or_else(|| {
        groups.push(Group {
            family,
            openmpi,
            members: BTreeMap::new(),
            users: BTreeMap::new(),
            used: BTreeSet::new(),
            missing: BTreeSet::new(),
        });
        groups.len() - 1
    });
    &mut groups[at]
}

/// The machine that MPI runs on in the image; else that of most objects.
fn machine(facts: &ImageFacts) -> String {
    let mut count: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    for object in facts.objects.values() {
        let mpi = object.uses_mpi() || object.static_mpi || object.exports.contains("MPI_Init");
        *count.entry((mpi, &object.machine)).or_default() += 1;
    }
    let best = count.iter().max_by_key(|((mpi, _), n)| (*mpi, **n));
    best.map_or(String::new(), |((_, machine), _)| (*machine).to_owned())
}
