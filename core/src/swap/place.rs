//! Where host libraries go in the container, and everything else a stack brings.
//!
//! A library that stands for one of the image's takes its real file's place, as a link: cache, RPATH, RUNPATH,
//! LD_LIBRARY_PATH and absolute dlopen all lead there. Every name is also in one new directory, which is found
//! twice: by LD_LIBRARY_PATH and by an ld.so.cache of our own. A stack's directories keep their host paths
//! where the image leaves them free; the directories of all other libraries are bound as a whole where no search
//! leads. So a swap costs a few mounts, not one for each library (docs/adr/0009).

use std::collections::{BTreeMap, HashMap};

use super::closure::Closure;
use super::loader::World;
use super::{Extent, ExtraBind, Question, Swap, HOST_DIR, LIBRARY_DIR};
use crate::ldcache::{self, Cache, Entry};
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::stack::{Library, Role, Stack};

/// A swap and the same as the loader's world, for the proof.
pub(super) struct Placed<'a> {
    pub swap: Swap,
    pub world: World<'a>,
}

/// Lays out `closure`; `names` are further names of libraries.
pub(super) fn place<'a>(
    q: &Question<'a>,
    stack: &'a Stack,
    extent: Extent,
    closure: &Closure<'a>,
    names: &[(String, &'a Library)],
    glibc: bool,
) -> Result<Placed<'a>, Refusal> {
    let facts = q.image;
    let dir = AbsPath::parse(LIBRARY_DIR)?;
    let mut swap =
        Swap { extent, stack: stack.name.clone(), machine: stack.machine.clone(), glibc, ..Swap::default() };
    swap.warnings.clone_from(&closure.warnings);
    swap.extras = extras(stack, extent, glibc, q.taken)?;
    let mut placed: HashMap<String, &'a Library> = HashMap::new();
    for library in &stack.library {
        if let Some(at) = at_extra(&swap.extras, &library.path) {
            placed.insert(at.into(), library);
        }
    }
    let host = Homes::of(&swap.extras, closure)?;
    for (destination, library) in &closure.over {
        swap.over.insert((*destination).clone(), host.of_library(library));
    }
    let mut cached = arrange(closure, names, &dir, &host, &mut swap, &mut placed);
    for (name, path) in &closure.shown {
        swap.links.insert((*name).to_owned(), (*path).clone());
        cached.push((*name).to_owned());
    }
    cached.sort();
    cached.dedup();
    let cache = cache(facts.cache.clone().unwrap_or_default(), &stack.machine, &cached);
    if !swap.links.is_empty() {
        swap.library_path = Some(dir);
        swap.cached = cached;
    }
    let mut needs: Vec<_> = closure.libraries.iter().chain(closure.over.values()).collect();
    // A plugin that is not there is not opened.
    needs.retain(|l| l.role != Role::Plugin);
    swap.needs = needs.into_iter().map(|l| l.path.clone()).collect();
    let ucx = closure.libraries.iter().any(|l| l.soname().starts_with("libucs.so"));
    surroundings(stack, extent, ucx, &mut swap);
    swap.extras.extend(host.binds());
    let over = closure.over.iter().map(|(p, l)| (p.as_str(), *l)).collect();
    let library_path = swap.library_path.iter().map(|d| d.to_string());
    let library_path = library_path.chain(q.library_path.iter().cloned()).collect();
    let shown = closure.shown.iter().map(|(name, path)| (format!("{LIBRARY_DIR}/{name}"), path.as_str()));
    let world = World::with(facts, &stack.machine, over, placed, library_path, Some(&cache));
    let world = world.showing(shown.collect());
    Ok(Placed { swap, world })
}

/// Where the container has the host's libraries: in the stack's directories, else below [`HOST_DIR`].
struct Homes {
    /// Of the stack.
    extras: Vec<ExtraBind>,
    /// Directories to bind below [`HOST_DIR`]; none lies in another.
    dirs: Vec<AbsPath>,
    below: AbsPath,
}

impl Homes {
    fn of(extras: &[ExtraBind], closure: &Closure) -> Result<Self, Refusal> {
        let elsewhere = closure.libraries.iter().chain(closure.over.values());
        let elsewhere = elsewhere.filter(|l| at_extra(extras, &l.path).is_none());
        let mut dirs: Vec<AbsPath> = elsewhere.filter_map(|l| l.path.parent()).collect();
        dirs.sort();
        dirs.dedup_by(|dir, outer| dir.is_within(outer));
        Ok(Self { extras: extras.to_vec(), dirs, below: AbsPath::parse(HOST_DIR)? })
    }

    fn of_library(&self, library: &Library) -> AbsPath {
        at_extra(&self.extras, &library.path).unwrap_or_else(|| self.below(&library.path))
    }

    fn below(&self, path: &AbsPath) -> AbsPath {
        path.components().fold(self.below.clone(), |at, name| at.join(name))
    }

    fn binds(&self) -> impl Iterator<Item = ExtraBind> + '_ {
        let bind =
            |dir: &AbsPath| ExtraBind { source: dir.clone(), destination: self.below(dir), optional: false };
        self.dirs.iter().map(bind)
    }
}

/// Gives every library its names in [`LIBRARY_DIR`]; returns the names for the cache.
fn arrange<'a>(
    closure: &Closure<'a>,
    names: &[(String, &'a Library)],
    dir: &AbsPath,
    host: &Homes,
    swap: &mut Swap,
    placed: &mut HashMap<String, &'a Library>,
) -> Vec<String> {
    let mut cached = vec![];
    // glibc's pieces go over the image's and nowhere else.
    for library in closure.libraries.iter().filter(|l| l.role != Role::Glibc) {
        let plugin = library.role == Role::Plugin;
        // A plugin in one of the stack's directories is opened by its path there.
        if plugin && at_extra(&swap.extras, &library.path).is_some() {
            continue;
        }
        let target = host.of_library(library);
        placed.insert(target.clone().into(), library);
        let further = names.iter().filter(|(_, l)| l.path == library.path).map(|(n, _)| n.as_str());
        // A plugin is opened by its file's name, and several share a SONAME.
        let own = if plugin { library.file_name() } else { library.soname() };
        for name in further.chain([own]) {
            let earlier = swap.links.insert(name.to_owned(), target.clone());
            if earlier.is_some_and(|t| t != target) {
                swap.warnings.push(format!("two host libraries are called {name}"));
            }
            placed.insert(dir.join(name).into(), library);
            if !plugin {
                cached.push(name.to_owned());
            }
        }
    }
    cached
}

/// The image's cache with names of [`LIBRARY_DIR`] in it.
pub(super) fn cache(mut image: Cache, machine: &str, names: &[String]) -> Cache {
    let flags = ldcache::flags(machine).unwrap_or_default();
    let entry = |name: &String| Entry {
        path: format!("{LIBRARY_DIR}/{name}"),
        name: name.clone(),
        flags,
        osversion: 0,
        hwcaps: None,
        hwcap: 0,
    };
    image.replace(names.iter().map(entry).collect());
    image
}

fn extras(
    stack: &Stack,
    extent: Extent,
    glibc: bool,
    taken: &dyn Fn(&AbsPath) -> bool,
) -> Result<Vec<ExtraBind>, Refusal> {
    let mut out = vec![];
    for extra in &stack.path {
        let wanted = match extra.with {
            Role::Glibc => glibc,
            Role::Fabric => true,
            _ => extent == Extent::Mpi,
        };
        if !wanted {
            continue;
        }
        let moved = !extra.replace && taken(&extra.path);
        let destination = match moved {
            true => AbsPath::parse(&format!("{HOST_DIR}{}", extra.path))?,
            false => extra.path.clone(),
        };
        out.push(ExtraBind { source: extra.path.clone(), destination, optional: extra.optional });
    }
    Ok(out)
}

/// The container's path of a host file that lies in one of the stack's directories.
fn at_extra(extras: &[ExtraBind], path: &AbsPath) -> Option<AbsPath> {
    // What a node may lack is nothing to link to.
    let extra = extras.iter().find(|e| !e.optional && path.is_within(&e.source))?;
    AbsPath::parse(&format!("{}{}", extra.destination, &path.as_str()[extra.source.as_str().len()..])).ok()
}

/// Devices and variables. In values, paths of the stack's directories become those of the container.
fn surroundings(stack: &Stack, extent: Extent, ucx: bool, swap: &mut Swap) {
    swap.devices.clone_from(&stack.devices);
    let moved: Vec<&ExtraBind> = swap.extras.iter().filter(|e| e.source != e.destination).collect();
    let told = |values: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        // Below an image's MPI only libfabric's own variables make sense, and UCX's where that is the host's.
        let ours = values
            .iter()
            .filter(|(n, _)| extent == Extent::Mpi || n.starts_with("FI_") || ucx && n.starts_with("UCX_"));
        ours.map(|(n, v)| (n.clone(), relocate(v, &moved))).collect()
    };
    let (set, default, prepend) =
        (told(&stack.environment.set), told(&stack.environment.default), told(&stack.environment.prepend));
    (swap.set, swap.default, swap.prepend) = (set, default, prepend);
}

/// A ':'-separated value with moved directories replaced, whole components only.
fn relocate(value: &str, moved: &[&ExtraBind]) -> String {
    let one = |part: &str| {
        // libfabric's '+' and '@' before a path keep their places.
        let at = part.find('/').unwrap_or(part.len());
        let (mark, path) = part.split_at(at);
        let hit = moved.iter().find_map(|e| {
            let rest = path.strip_prefix(e.source.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{mark}{}{rest}", e.destination))
        });
        hit.unwrap_or_else(|| part.to_owned())
    };
    value.split(':').map(one).collect::<Vec<_>>().join(":")
}
