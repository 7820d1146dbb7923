//! What must come along with host libraries: their closure, and the rule for libraries that the image has too.
//!
//! One SONAME, one copy in a process. MPI's own, fabric and PMI libraries are always the host's. Of a shared
//! library the image's copy stays if it has every version node and symbol that the host's libraries need;
//! else the host's takes its place if it has everything the image's has; else the stack does not fit.

use std::collections::{BTreeMap, BTreeSet};

use super::loader::Loaded;
use super::survey::{name_of, Survey};
use super::{Extent, Reason, Verdict};
use crate::elf::{ImageFacts, Object};
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::stack::{role_of, Library, Role, Stack};

/// The host libraries that come in, and where they go over the image's.
#[derive(Debug, Default)]
pub(super) struct Closure<'a> {
    /// In the order they were met.
    pub libraries: Vec<&'a Library>,
    /// Image files that a library is bound over.
    pub over: BTreeMap<&'a AbsPath, &'a Library>,
    /// Libraries of the image that get a name in our directory.
    pub shown: BTreeMap<&'a str, &'a AbsPath>,
    /// Libraries that are the image's for want of proof.
    unproved: BTreeSet<&'a str>,
    pub warnings: Vec<String>,
}

pub(super) struct Collect<'q, 'a> {
    pub image_name: &'q str,
    pub facts: &'a ImageFacts,
    pub survey: &'q Survey<'a>,
    pub stack: &'a Stack,
    /// Libraries of the image's MPI that the host's stand for.
    pub replaced: BTreeSet<&'a AbsPath>,
    /// MPI with everything below it, or libfabric below an MPI that stays.
    pub extent: Extent,
    pub reasons: &'q mut Vec<Reason>,
}

impl<'a> Collect<'_, 'a> {
    /// The closure of `roots`, with what the stack opens at run time.
    pub fn closure(&mut self, roots: &[&'a Library], opened: &[&'a Library]) -> Result<Closure<'a>, Refusal> {
        let mut closure = Closure::default();
        let mut settled: BTreeSet<&str> = BTreeSet::new();
        for root in roots {
            self.bring(root, &mut closure);
        }
        self.always_host(&mut closure);
        for library in opened {
            if !has(&closure, library) && !self.unproved(library, &mut closure) {
                let why = format!("{} of the host, opened by the stack at run time", library.path);
                self.reasons.push(Reason::new(library.soname(), Verdict::Add, why));
                self.bring(library, &mut closure);
            }
        }
        // Each round may bring libraries whose needs decide on further ones.
        loop {
            self.always_host(&mut closure);
            let asked = |l: &Library| closure.libraries.iter().any(|by| named(by, l)) || self.of_directory(l);
            let wanted = |l: &&Library| asked(l) && !has(&closure, l);
            let open: Vec<&'a Library> =
                self.stack.library.iter().filter(|l| l.role == Role::Shared).filter(wanted).collect();
            let before = closure.libraries.len();
            for library in &open {
                if self.shared(library, &mut closure, settled.contains(library.soname()))? {
                    continue;
                }
                settled.insert(library.soname());
            }
            if closure.libraries.len() == before {
                break;
            }
        }
        self.absent(&mut closure);
        Ok(closure)
    }

    /// Whether nothing in the profile asks for a library: then it is there for the components in a directory of the
    /// stack, which are not listed themselves (Open MPI's and PMIx's).
    fn of_directory(&self, library: &Library) -> bool {
        self.extent == Extent::Mpi && !self.stack.library.iter().any(|by| named(by, library))
    }

    /// Everything reachable that is always the host's.
    fn always_host(&mut self, closure: &mut Closure<'a>) {
        let mut next = 0;
        while next < closure.libraries.len() {
            let by = closure.libraries[next];
            let stack = self.stack;
            for library in stack.library.iter().filter(|l| named(by, l)) {
                let always = matches!(library.role, Role::Mpi | Role::Fabric | Role::Pmi | Role::Plugin);
                if always && !has(closure, library) && !self.unproved(library, closure) {
                    self.reasons.push(Reason::new(
                        library.soname(),
                        Verdict::Add,
                        format!("{} of the host, needed by {}", library.path, by.soname()),
                    ));
                    self.bring(library, closure);
                }
            }
            next += 1;
        }
    }

    /// Below an MPI that stays, a library without version nodes (UCX) is the image's own if it has one: nothing
    /// would prove that the host's has what that MPI calls.
    fn unproved(&mut self, library: &'a Library, closure: &mut Closure<'a>) -> bool {
        let bare = self.extent == Extent::Fabric
            && library.role == Role::Fabric
            && library.object.provides.is_empty();
        if !bare || copies(self.facts, library, &self.stack.machine).is_empty() {
            return false;
        }
        if closure.unproved.insert(library.soname()) {
            let why = "the image's own, which its MPI was built with; no version nodes tell whether the host's serves";
            self.reasons.push(Reason::new(library.soname(), Verdict::Keep, why));
        }
        true
    }

    fn bring(&mut self, library: &'a Library, closure: &mut Closure<'a>) {
        if has(closure, library) {
            return;
        }
        closure.libraries.push(library);
        // MPI libraries go over their counterparts only: other families use the same names.
        let own = matches!(library.role, Role::Fabric | Role::Pmi)
            || library.role == Role::Mpi && library.soname().starts_with("libopen-");
        if own {
            let copies = copies(self.facts, library, &self.stack.machine);
            closure.over.extend(copies.iter().map(|(path, _)| (*path, library)));
        }
    }

    /// Decides on one shared library. True if it comes in.
    fn shared(
        &mut self,
        library: &'a Library,
        closure: &mut Closure<'a>,
        again: bool,
    ) -> Result<bool, Refusal> {
        let seen = self.seen(library, closure);
        if seen.is_empty() {
            let why = match copies(self.facts, library, &self.stack.machine).is_empty() {
                true => format!("{} of the host; the image has none", library.path),
                false => format!("{} of the host; the image's is out of reach", library.path),
            };
            self.reasons.push(Reason::new(library.soname(), Verdict::Add, why));
            closure.libraries.push(library);
            return Ok(true);
        }
        let lack = |object: &Object| {
            closure.libraries.iter().find_map(|by| {
                missing(by, library, object).map(|what| (by.soname().to_owned(), what.to_owned()))
            })
        };
        let lacking: Vec<_> = seen.iter().filter_map(|(p, o)| Some((*p, lack(o)?))).collect();
        let Some((path, (by, what))) = lacking.first().cloned() else {
            if !again {
                let why = "the image's own has everything that the host's libraries need";
                self.reasons.push(Reason::new(library.soname(), Verdict::Keep, why));
            }
            // One that its users find by a RUNPATH of their own must be found by the host's libraries, too.
            if self.survey.world.plain(library.soname(), &self.stack.machine).is_none() {
                closure.shown.extend(seen.keys().next().map(|path| (library.soname(), *path)));
            }
            return Ok(false);
        };
        let lost = seen.iter().find_map(|(p, o)| Some((*p, beyond(o, &library.object)?.to_owned())));
        if let Some((theirs, lost)) = lost {
            let why = format!(
                "the host's {by} needs {what}, which {path} lacks; the host's copy lacks {lost} of {theirs}"
            );
            self.reasons.push(Reason::new(library.soname(), Verdict::Conflict, why));
            return Err(Refusal::image(format!(
                "image {}: {path} lacks {what}, which {by} of host stack {} needs, and the host's {} lacks {lost}",
                self.image_name,
                self.stack.label(),
                library.soname()
            ))
            .hint("use an image with a newer copy of this library, or --container-mpi=image"));
        }
        let why = format!(
            "the host's {by} needs {what}, which {path} lacks; {} has that and all the image's has",
            library.path
        );
        self.reasons.push(Reason::new(library.soname(), Verdict::Replace, why));
        closure.libraries.push(library);
        closure.shown.remove(library.soname());
        closure.over.extend(seen.keys().map(|p| (*p, library)));
        Ok(true)
    }

    /// The image's copies that a process with MPI could meet: those its users load, and what the cache and the
    /// default directories lead to. One that only replaced libraries ask for is nobody's any more.
    fn seen(&self, library: &Library, closure: &Closure<'a>) -> BTreeMap<&'a AbsPath, &'a Object> {
        let name = library.soname();
        let stays = |p: &AbsPath| !self.replaced.contains(p) && !closure.over.contains_key(p);
        let asks = |l: &Loaded| stays(l.file.path) && l.file.object.needed.iter().any(|n| n == name);
        let asked = self.survey.before.values().filter(|l| l.loaded.iter().any(asks));
        let loaded = asked.filter_map(|l| l.named(name)).map(|l| l.file);
        let plain = self.survey.world.plain(name, &self.stack.machine);
        loaded.chain(plain).map(|f| (f.path, f.object)).collect()
    }

    /// Names that neither the stack nor the image has: only plugins may lack something.
    fn absent(&mut self, closure: &mut Closure<'a>) {
        let world = &self.survey.world;
        let mut gone: Vec<(String, &Library)> = vec![];
        for by in &closure.libraries {
            for name in &by.object.needed {
                if self.stack.library_named(name).is_none()
                    && world.plain(name, &self.stack.machine).is_none()
                {
                    gone.push((name.clone(), by));
                }
            }
        }
        for (name, by) in gone {
            let why = format!("{} needs it; neither the image nor the profile has it", by.path);
            self.reasons.push(Reason::new(name, Verdict::Note, why));
        }
    }
}

impl Closure<'_> {
    /// Warns of libraries that need more of a replaced one than the host's has, and stay themselves. Users of
    /// MPI are verified one by one; for the rest it may never matter.
    pub fn outgrown(&mut self, facts: &ImageFacts) {
        for (path, library) in &self.over {
            let provides = &library.object.provides;
            let replaced = facts.objects.get(*path);
            let Some(lost) = replaced.and_then(|o| o.provides.iter().find(|n| !provides.contains(n))) else {
                continue;
            };
            let needs = |o: &Object| o.requires.get(library.soname()).is_some_and(|n| n.contains(lost));
            // The image's own providers are no longer opened: the stack's are.
            let fabric =
                |p: &AbsPath, o: &Object| matches!(role_of(name_of(p), o), Role::Plugin | Role::Fabric);
            let stays = |p: &AbsPath, o: &Object| !self.over.contains_key(p) && !fabric(p, o);
            let mut others = facts.objects.iter().filter(|(p, o)| stays(p, o));
            if let Some((user, _)) = others.find(|(_, o)| needs(o)) {
                let older = format!("{user} needs {lost} of {path}; the host's {} is older", library.path);
                self.warnings.push(older);
            }
        }
    }
}

fn has(closure: &Closure, library: &Library) -> bool {
    closure.libraries.iter().any(|l| l.path == library.path)
}

fn named(by: &Library, library: &Library) -> bool {
    by.object.needed.iter().any(|n| n == library.soname() || n == library.file_name())
}

/// Every object of the image with a library's SONAME.
pub(super) fn copies<'a>(
    facts: &'a ImageFacts,
    library: &Library,
    machine: &str,
) -> Vec<(&'a AbsPath, &'a Object)> {
    let same = |p: &AbsPath, o: &Object| {
        o.machine == machine && o.soname.as_deref().unwrap_or(name_of(p)) == library.soname()
    };
    facts.objects.iter().filter(|(p, o)| same(p, o)).collect()
}

/// What `by` needs of `library` that `copy` lacks: a version node, or a symbol where there are no nodes.
fn missing<'l>(by: &'l Library, library: &'l Library, copy: &Object) -> Option<&'l str> {
    let nodes = by.object.requires.get(library.soname());
    if let Some(nodes) = nodes {
        return nodes.iter().map(String::as_str).find(|n| !copy.provides.iter().any(|p| p == n));
    }
    if !named(by, library) {
        return None;
    }
    by.object.imports.iter().find(|s| library.object.exports.contains(s) && !copy.exports.contains(s))
}

/// What `copy` has beyond `other`.
fn beyond<'l>(copy: &'l Object, other: &Object) -> Option<&'l str> {
    let node = copy.provides.iter().map(String::as_str).find(|n| !other.provides.iter().any(|p| p == n));
    node.or_else(|| copy.exports.iter().find(|s| !other.exports.contains(s)))
}
