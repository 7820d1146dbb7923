//! One MPI of an image against one stack: does the host's MPI stand for the image's, whole and with proof?

use std::collections::BTreeSet;

use super::family::{part, provider_family, standard, OpenMpi, Part};
use super::loader::Linked;
use super::survey::{name_of, Group, Survey};
use super::{Reason, Verdict};
use crate::elf::{is_mpi, Object};
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::stack::{Family, Library, Role, Stack};

/// Which host library takes the place of which file, and under which further names.
#[derive(Debug, Default)]
pub(super) struct Match<'a> {
    /// Image file and the host library bound over it.
    pub pairs: Vec<(&'a AbsPath, &'a Library)>,
    /// Host libraries that come in.
    pub roots: Vec<&'a Library>,
    /// Host libraries that the stack opens at run time.
    pub opened: Vec<&'a Library>,
    /// Names that must lead to a host library besides its own.
    pub names: Vec<(String, &'a Library)>,
    pub warnings: Vec<String>,
}

/// The judge of one pair.
pub(super) struct Judge<'q, 'a> {
    pub image_name: &'q str,
    pub survey: &'q Survey<'a>,
    pub stack: &'a Stack,
    /// Both sides have a libfabric: the image's MPI could run on the host's.
    pub fabric: bool,
    pub reasons: &'q mut Vec<Reason>,
}

impl<'a> Judge<'_, 'a> {
    /// Compares `group` with the stack's MPI of its family.
    pub fn judge(&mut self, group: &Group<'a>) -> Result<Match<'a>, Refusal> {
        let host = self.provider(group)?;
        self.releases(group, host)?;
        let mut found = Match::default();
        let mut kept: BTreeSet<&AbsPath> = BTreeSet::new();
        for (path, (part, object)) in &group.members {
            match self.counterpart(*part, object, host) {
                Some(library) => self.pair(path, object, *part, library, &mut found),
                None => {
                    self.without(group, path, *part, object, host)?;
                    kept.insert(path);
                }
            }
        }
        if !found.roots.iter().any(|l| l.path == host.path) {
            found.roots.push(host);
        }
        for name in &group.missing {
            self.reasons.push(Reason::new(
                name,
                Verdict::Add,
                format!("the image needs it and has none; {} of the host serves", host.path),
            ));
            found.names.push((name.clone(), host));
        }
        found.names.extend(usual_name(group.family, host));
        // Fortran bindings come along where the image relies on the host's MPI altogether.
        if group.providers().next().is_none() {
            found.roots.extend(self.bindings(host));
        }
        self.symbols(group, host, &kept, &mut found)?;
        self.data(group, host)?;
        self.compilers(group, &mut found)?;
        Ok(found)
    }

    fn refuse(&self, what: String) -> Refusal {
        Refusal::image(what).hint(self.offers())
    }

    fn offers(&self) -> &'static str {
        match self.fabric {
            true => {
                "--container-mpi=fabric keeps the image's MPI on the host's libfabric, --container-mpi=image keeps it \
                 as it is"
            }
            false => "--container-mpi=image runs the image's own MPI",
        }
    }

    fn provider(&self, group: &Group) -> Result<&'a Library, Refusal> {
        let has = |l: &&Library| provider_family(l.soname(), &l.object) == Some(group.family);
        self.stack.library.iter().find(has).ok_or_else(|| {
            let theirs: Vec<&str> = self.stack.mpi.iter().map(|m| m.family.label()).collect();
            let theirs = if theirs.is_empty() { "no MPI".to_owned() } else { theirs.join(" and ") };
            Refusal::image(format!(
                "image {} uses {}, host stack {} has {theirs}: one cannot stand for the other",
                self.image_name,
                group.label(),
                self.stack.label()
            ))
            .hint(format!("use an image with an MPI of the host's family; or {}", self.offers()))
        })
    }

    /// The rules that no symbol shows.
    fn releases(&mut self, group: &Group, host: &Library) -> Result<(), Refusal> {
        let theirs = OpenMpi::of(host.soname(), &host.object);
        match group.openmpi {
            Some(ours @ (OpenMpi::One | OpenMpi::Two)) if ours != theirs => {
                return Err(self.refuse(format!(
                    "image {} uses {}, which no other release of Open MPI can replace; host stack {} has {}",
                    self.image_name,
                    ours.label(),
                    self.stack.label(),
                    theirs.label()
                )));
            }
            Some(ours) if theirs < OpenMpi::Four => {
                return Err(self.refuse(format!(
                    "image {} uses {}, host stack {} has {}",
                    self.image_name,
                    ours.label(),
                    self.stack.label(),
                    theirs.label()
                )));
            }
            Some(ours) if ours > theirs => self.reasons.push(Reason::new(
                host.soname(),
                Verdict::Note,
                format!("{} of the host is older than the image's {}", theirs.label(), ours.label()),
            )),
            _ => {}
        }
        match group.family {
            Family::Abi => self.abi(group, host),
            Family::Mpich => self.mpich(group, host),
            _ => Ok(()),
        }
    }

    /// Before the ABI that MPICH and its kin agreed on, MPI_Status had another layout, under the same symbols.
    fn mpich(&self, group: &Group, host: &Library) -> Result<(), Refusal> {
        let members = group.members.iter().filter_map(|(path, (_, object))| {
            object.soname.as_deref().or_else(|| path.components().next_back())
        });
        let image = members.chain(group.missing.iter().map(String::as_str)).find(|name| is_before_abi(name));
        let (whose, name) = match (image, is_before_abi(host.soname())) {
            (Some(name), _) => (format!("image {} uses", self.image_name), name),
            (None, true) => (format!("host stack {} has", self.stack.label()), host.soname()),
            (None, false) => return Ok(()),
        };
        let what = format!("{whose} {name}, which is older than MPICH 3.1: its ABI is no other release's");
        Err(self.refuse(what))
    }

    /// MPICH 4.3's libmpi_abi has other constants than the standard's; 5.0.0 and 5.0.1 are named `.so.0` by
    /// mistake. `MPI_Abi_get_version` came with 5.0.
    fn abi(&mut self, group: &Group, host: &Library) -> Result<(), Refusal> {
        let final_abi = |o: &Object| o.exports.contains("MPI_Abi_get_version");
        let major = |name: &str| match name.rsplit_once(".so.").map(|(_, v)| v.split('.').next().unwrap_or(v))
        {
            Some("0" | "12") => "1".to_owned(),
            other => other.unwrap_or_default().to_owned(),
        };
        if !final_abi(&host.object) {
            return Err(self.refuse(format!(
                "host stack {}: {} is from before the MPI 5 standard (it lacks MPI_Abi_get_version) and has other \
                 constants",
                self.stack.label(),
                host.soname()
            )));
        }
        for (path, object) in group.providers() {
            let name = object.soname.as_deref().unwrap_or(name_of(path));
            if !final_abi(object) {
                return Err(self.refuse(format!(
                    "image {}: {path} is from before the MPI 5 standard (it lacks MPI_Abi_get_version) and has other \
                     constants than {} of host stack {}",
                    self.image_name,
                    host.soname(),
                    self.stack.label()
                )));
            }
            if major(name) != major(host.soname()) {
                return Err(self.refuse(format!(
                    "image {} uses {name}, host stack {} has {}: another version of the ABI",
                    self.image_name,
                    self.stack.label(),
                    host.soname()
                )));
            }
        }
        // A name that one of the image's libraries has is that library, found by a path set at run time.
        let known =
            |n: &str| group.providers().any(|(p, o)| name_of(p) == n || o.soname.as_deref() == Some(n));
        let vague = |n: &&String| !known(n) && (major(n) != major(host.soname()) || n.ends_with(".so.0"));
        if let Some(name) = group.missing.iter().find(vague) {
            return Err(self.refuse(format!(
                "image {} needs {name} and has none: whether it means MPI 5's ABI cannot be told",
                self.image_name
            )));
        }
        Ok(())
    }

    /// The host's library for a part of the image's MPI: it plays the same part for the same C library.
    fn counterpart(&self, of: Part, object: &Object, host: &'a Library) -> Option<&'a Library> {
        if of == Part::C {
            return Some(host);
        }
        let mut same = self.stack.library.iter().filter(|l| l.role == Role::Mpi);
        match of {
            Part::Private | Part::Companion => same.find(|l| Some(l.soname()) == object.soname.as_deref()),
            _ => same.find(|l| part(l.soname(), &l.object) == Some(of) && needs(l, host)),
        }
    }

    fn bindings(&self, host: &'a Library) -> impl Iterator<Item = &'a Library> {
        let stack = self.stack;
        stack.library.iter().filter(move |l| {
            let part = part(l.soname(), &l.object);
            matches!(part, Some(Part::Fortran | Part::UseMpi | Part::F08 | Part::Cxx)) && needs(l, host)
        })
    }

    fn pair(
        &mut self,
        path: &'a AbsPath,
        object: &Object,
        part: Part,
        library: &'a Library,
        found: &mut Match<'a>,
    ) {
        let why = format!("{}: {} of the host", part.label(), library.path);
        self.reasons.push(Reason::new(path.as_str(), Verdict::Replace, why));
        found.pairs.push((path, library));
        found.names.push((object.soname.as_deref().unwrap_or(name_of(path)).to_owned(), library));
        if !found.roots.iter().any(|l| l.path == library.path) {
            found.roots.push(library);
        }
    }

    /// A member without counterpart: nobody needs it, or it is C++ over nothing but the public interface, or
    /// the family cannot be swapped whole.
    fn without(
        &mut self,
        group: &Group,
        path: &AbsPath,
        part: Part,
        object: &Object,
        host: &Library,
    ) -> Result<(), Refusal> {
        let user = group.users.keys().find(|u| {
            self.survey.before.get(*u).is_some_and(|l| l.loaded.iter().any(|l| l.file.path == path))
        });
        if !group.used.contains(path) {
            let why = format!("{}: the host has none, and nothing in the image asks for it", part.label());
            self.reasons.push(Reason::new(path.as_str(), Verdict::Note, why));
            return Ok(());
        }
        let private = |n: &&String| n.starts_with("libopen-") || n.starts_with("libmca_");
        let public = |s: &str| host.object.exports.contains(s);
        let gap = object.imports.iter().find(|s| !public(s));
        if part == Part::Cxx && gap.is_none() && !object.needed.iter().any(|n| private(&n)) {
            let why =
                "C++ bindings: the host has none; the image's need only what the host's C library exports";
            self.reasons.push(Reason::new(path.as_str(), Verdict::Keep, why));
            return Ok(());
        }
        let why = gap.map_or(String::new(), |s| format!(", and the image's need {s} of their own C library"));
        self.reasons.push(Reason::new(
            path.as_str(),
            Verdict::Conflict,
            format!("the host has no {}", part.label()),
        ));
        Err(self.refuse(format!(
            "image {}: {} uses {} ({}); host stack {} has no such library{why}",
            self.image_name,
            user.map_or("a program", |u| u.as_str()),
            name_of(path),
            part.label(),
            self.stack.label()
        )))
    }

    /// Every symbol that a user cannot do without must be the host's, or come from elsewhere in the image.
    fn symbols(
        &mut self,
        group: &Group<'a>,
        host: &Library,
        kept: &BTreeSet<&AbsPath>,
        found: &mut Match<'a>,
    ) -> Result<(), Refusal> {
        let ours = |s: &str| {
            found.roots.iter().any(|l| l.object.exports.contains(s))
                || self
                    .stack
                    .library
                    .iter()
                    .any(|l| l.role == Role::Mpi && needs(host, l) && l.object.exports.contains(s))
        };
        let mut weak_gaps = BTreeSet::new();
        for (path, object) in &group.users {
            let Some(linked) = self.survey.before.get(path) else { continue };
            let gap = |s: &&str| is_mpi(s) && !ours(s) && lost(group, kept, linked, s);
            let gaps: Vec<&str> = object.imports.iter().filter(gap).collect();
            weak_gaps.extend(object.weak.iter().filter(gap));
            if gaps.is_empty() {
                continue;
            }
            let shown = gaps.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            let more = if gaps.len() > 3 { format!(" and {} more", gaps.len() - 3) } else { String::new() };
            let why = format!("it uses {shown}{more}, which {} lacks", host.path);
            self.reasons.push(Reason::new(path.as_str(), Verdict::Conflict, why));
            return Err(self.refuse(format!(
                "image {}: {path} uses {shown}{more} of {}; host stack {} has {} and lacks {}",
                self.image_name,
                group.label(),
                self.stack.label(),
                standard(&host.object),
                if gaps.len() == 1 { "it" } else { "them" }
            )));
        }
        if let Some(first) = weak_gaps.first() {
            let why = format!(
                "{} optional symbols ({first} …) are not in the host's MPI; a program that calls one without asking fails",
                weak_gaps.len()
            );
            self.reasons.push(Reason::new(host.soname(), Verdict::Note, why));
        }
        Ok(())
    }

    /// A program's copy of a data object (COPY relocation) holds as much as the library it was linked to had;
    /// a larger object would be written past its end.
    fn data(&mut self, group: &Group<'a>, host: &Library) -> Result<(), Refusal> {
        for (path, object) in &group.users {
            let larger =
                object.data.iter().find(|(n, size)| host.object.data.get(*n).is_some_and(|h| h > *size));
            if let Some((name, size)) = larger {
                let theirs = host.object.data.get(name).copied().unwrap_or_default();
                return Err(self.refuse(format!(
                    "image {}: {path} holds {size} bytes for {name}; that of host stack {} has {theirs}",
                    self.image_name,
                    self.stack.label()
                )));
            }
        }
        Ok(())
    }

    /// Fortran bindings of another gfortran: array descriptors (mpi_f08) changed with its major version.
    fn compilers(&mut self, group: &Group<'a>, found: &mut Match<'a>) -> Result<(), Refusal> {
        let runtime = |o: &Object| o.needed.iter().find(|n| n.starts_with("libgfortran.so.")).cloned();
        let f08 = group.users.iter().find(|(_, o)| o.imports.iter().any(|s| s.contains("_f08")));
        let mut warnings = vec![];
        for (path, library) in &found.pairs {
            let Some((_, object)) = group.members.get(*path).filter(|_| group.used.contains(*path)) else {
                continue;
            };
            let (Some(ours), Some(theirs)) = (runtime(object), runtime(&library.object)) else { continue };
            if ours == theirs {
                continue;
            }
            if let Some((user, _)) = f08 {
                return Err(self.refuse(format!(
                    "image {}: {user} uses mpi_f08 with {ours}; host stack {} was built with {theirs}",
                    self.image_name,
                    self.stack.label()
                )));
            }
            warnings
                .push(format!("Fortran: the image's MPI was built with {ours}, the host's with {theirs}"));
        }
        found.warnings.extend(warnings);
        Ok(())
    }
}

/// Whether a process would lose a symbol with the MPI of `group`: it has it from there and from nowhere else.
fn lost(group: &Group, kept: &BTreeSet<&AbsPath>, linked: &Linked, symbol: &str) -> bool {
    let replaced = |p: &AbsPath| group.members.contains_key(p) && !kept.contains(p);
    let from = |replaced_ones: bool| {
        let mut those = linked.loaded.iter().filter(|l| replaced(l.file.path) == replaced_ones);
        those.any(|l| l.file.object.exports.contains(symbol))
    };
    if from(false) {
        return false;
    }
    // Functions of Open MPI's own are not recorded: who calls one cannot change its MPI.
    if symbol.starts_with("ompi_") {
        return true;
    }
    // A user whose MPI is found at run time alone: what the image's MPI would give it, or everything.
    let alone = !linked.loaded.iter().any(|l| group.members.contains_key(l.file.path));
    let given = || group.members.values().any(|(_, o)| o.exports.contains(symbol));
    match alone {
        true => group.providers().next().is_none() || given(),
        false => from(true),
    }
}

/// The name that programs of the family are linked to everywhere, for a host that chose another (Cray), so
/// that a user's own program finds it.
pub(super) fn usual_name(family: Family, host: &Library) -> Option<(String, &Library)> {
    let name = "libmpi.so.12";
    (family == Family::Mpich && host.soname() != name).then(|| (name.to_owned(), host))
}

fn needs(library: &Library, other: &Library) -> bool {
    library.object.needed.iter().any(|n| n == other.soname() || n == other.file_name())
}

/// Whether a library's name is of MPICH before 3.1, which has 12 (https://www.mpich.org/abi/).
fn is_before_abi(name: &str) -> bool {
    let version = ["libmpich.so.", "libmpi.so."].iter().find_map(|start| name.strip_prefix(start));
    let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major < 12)
}
