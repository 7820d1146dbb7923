//! glibc's dynamic loader, simulated: which file each NEEDED name leads to (ld.so(8); glibc, elf/dl-load.c).
//!
//! Order: names already loaded; DT_RPATH of the object and its loaders, where they have no RUNPATH;
//! LD_LIBRARY_PATH; DT_RUNPATH of the object; the cache; the default directories. In each directory
//! `glibc-hwcaps` subdirectories come first. Files of another machine are passed over.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::elf::{ImageFacts, Object};
use crate::ldcache::{self, Cache};
use crate::path::AbsPath;
use crate::stack::Library;

/// Most objects in one process; more is a hostile image.
const MAX_LOADED: usize = 4096;
/// Most NEEDED names looked at for one image. The largest real ones take some ten thousand.
const MAX_WORK: usize = 2_000_000;

/// A file that the loader can find.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'a> {
    /// Real path: on the host if `host`, else in the image.
    pub path: &'a AbsPath,
    /// Its facts.
    pub object: &'a Object,
    /// It is the host's.
    pub host: bool,
}

impl File<'_> {
    /// SONAME, else file name.
    pub fn soname(&self) -> &str {
        let file = || self.path.components().next_back().unwrap_or_default();
        self.object.soname.as_deref().unwrap_or_else(file)
    }

    fn is(&self, other: &File) -> bool {
        self.host == other.host && self.path == other.path
    }
}

/// A file system as the loader sees it: an image, with what a swap lays over it.
pub(super) struct World<'a> {
    facts: &'a ImageFacts,
    /// Host libraries bound over image files (real paths).
    over: HashMap<&'a str, &'a Library>,
    /// Host libraries at new paths, links included.
    placed: HashMap<String, &'a Library>,
    /// New links to files of the image.
    shown: HashMap<String, &'a str>,
    library_path: Vec<String>,
    cache: HashMap<String, Vec<String>>,
    hwcaps: bool,
    default_dirs: Vec<String>,
    found: RefCell<HashMap<String, Option<File<'a>>>>,
    work: Cell<usize>,
}

/// One object of a simulated process.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    /// Which file.
    pub file: File<'a>,
    /// Path it was found by.
    pub at: String,
    /// The name it was first needed by; none for the root.
    pub asked: Option<&'a str>,
    /// Who asked for it first.
    by: Option<usize>,
}

/// A simulated process.
#[derive(Debug, Default)]
pub(super) struct Linked<'a> {
    /// Objects, breadth first; the root is the first.
    pub loaded: Vec<Loaded<'a>>,
    /// NEEDED names that lead nowhere: by which object, which name.
    pub missing: Vec<(usize, String)>,
    /// Which object a name stands for.
    names: HashMap<&'a str, usize>,
}

impl<'a> Linked<'a> {
    /// The object that a name stands for in this process.
    pub fn named(&self, name: &str) -> Option<&Loaded<'a>> {
        self.names.get(name).map(|i| &self.loaded[*i])
    }

    /// Adds a file found for a name; the same file may have been found for another.
    fn add(&mut self, name: &'a str, at: String, file: File<'a>, by: usize) {
        let same = self.loaded.iter().position(|l| l.file.is(&file));
        let index = same.unwrap_or(self.loaded.len());
        if same.is_none() {
            if self.loaded.len() >= MAX_LOADED {
                return;
            }
            self.loaded.push(Loaded { file, at, asked: Some(name), by: Some(by) });
            // The first of a SONAME answers to it, as in the loader's list.
            file.object.soname.iter().for_each(|n| {
                self.names.entry(n).or_insert(index);
            });
        }
        self.names.insert(name, index);
    }
}

impl<'a> World<'a> {
    /// The image alone.
    pub fn image(facts: &'a ImageFacts, machine: &str, library_path: &[String]) -> Self {
        let path = library_path.to_vec();
        Self::with(facts, machine, HashMap::new(), HashMap::new(), path, facts.cache.as_ref())
    }

    /// The image with a swap.
    pub fn with(
        facts: &'a ImageFacts,
        machine: &str,
        over: HashMap<&'a str, &'a Library>,
        placed: HashMap<String, &'a Library>,
        library_path: Vec<String>,
        cache: Option<&Cache>,
    ) -> Self {
        let flags = ldcache::flags(machine);
        let mut by_name: HashMap<String, Vec<String>> = HashMap::new();
        for entry in cache.iter().flat_map(|c| &c.entries).filter(|e| Some(e.flags) == flags) {
            let paths = by_name.entry(entry.name.clone()).or_default();
            // Named hwcaps first, as in the file; the best of them is the machine's choice, any may be it.
            match entry.hwcaps {
                Some(_) => paths.insert(0, entry.path.clone()),
                None => paths.push(entry.path.clone()),
            }
        }
        Self {
            facts,
            over,
            placed,
            shown: HashMap::new(),
            library_path,
            cache: by_name,
            hwcaps: facts.objects.keys().any(|p| p.as_str().contains("/glibc-hwcaps/")),
            default_dirs: default_dirs(machine),
            found: RefCell::default(),
            work: Cell::new(0),
        }
    }

    /// The same with links of these paths to files of the image.
    pub fn showing(mut self, shown: HashMap<String, &'a str>) -> Self {
        self.shown = shown;
        self
    }

    /// The file a path leads to.
    pub fn file(&self, path: &str) -> Option<File<'a>> {
        if let Some(known) = self.found.borrow().get(path) {
            return *known;
        }
        let found = self.look(path);
        self.found.borrow_mut().insert(path.to_owned(), found);
        found
    }

    fn look(&self, path: &str) -> Option<File<'a>> {
        let host = |l: &'a Library| File { path: &l.path, object: &l.object, host: true };
        if let Some(library) = self.placed.get(path) {
            return Some(host(library));
        }
        let path = self.shown.get(path).copied().unwrap_or(path);
        let real = self.facts.real_path(path)?;
        if let Some(library) = self.over.get(real.as_ref()).or_else(|| self.placed.get(real.as_ref())) {
            return Some(host(library));
        }
        let (path, object) = self.facts.objects.get_key_value(&AbsPath::parse(&real).ok()?)?;
        Some(File { path, object, host: false })
    }

    /// Loads `root`, found at `at`, with everything it needs.
    pub fn link(&self, at: &str, root: File<'a>) -> Linked<'a> {
        let first = Loaded { file: root, at: at.to_owned(), asked: None, by: None };
        let mut linked = Linked { loaded: vec![first], missing: vec![], names: HashMap::new() };
        linked.names.extend(root.object.soname.as_deref().map(|n| (n, 0)));
        let mut next = 0;
        while next < linked.loaded.len() {
            let object = linked.loaded[next].file.object;
            for name in &object.needed {
                self.work.set(self.work.get() + 1);
                if linked.names.contains_key(name.as_str()) || self.exhausted() {
                    continue;
                }
                match self.search(name, next, &linked) {
                    None => linked.missing.push((next, name.clone())),
                    Some((at, file)) => linked.add(name, at, file, next),
                }
            }
            next += 1;
        }
        linked
    }

    /// The image takes more work than any real one: nothing that was found out is complete.
    pub fn exhausted(&self) -> bool {
        self.work.get() > MAX_WORK
    }

    /// Where a name leads without any RPATH: the cache, then the default directories.
    pub fn plain(&self, name: &str, machine: &str) -> Option<File<'a>> {
        let cached = self.cache.get(name).into_iter().flatten().map(String::as_str);
        let default = self.default_dirs.iter().map(|d| format!("{d}/{name}"));
        let paths = cached.map(str::to_owned).chain(default);
        paths.filter_map(|p| self.file(&p)).find(|f| f.object.machine == machine)
    }

    fn search(&self, name: &str, by: usize, linked: &Linked<'a>) -> Option<(String, File<'a>)> {
        let asker = &linked.loaded[by];
        let machine = linked.loaded[0].file.object.machine.as_str();
        let fits = |path: String| {
            let file = self.file(&path)?;
            (file.object.machine == machine).then_some((path, file))
        };
        if name.contains('/') {
            return fits(expand(name, &asker.at));
        }
        let in_dir = |dir: &str| {
            let levels = ["x86-64-v4", "x86-64-v3", "x86-64-v2"].iter().filter(|_| self.hwcaps);
            levels
                .map(|l| format!("{dir}/glibc-hwcaps/{l}/{name}"))
                .chain([format!("{dir}/{name}")])
                .find_map(fits)
        };
        let in_dirs = |dirs: &[String], at: &str| dirs.iter().find_map(|d| in_dir(&expand(d, at)));

        let mut chain = Some(by).filter(|_| asker.file.object.runpath.is_empty());
        while let Some(i) = chain {
            let loader = &linked.loaded[i];
            if loader.file.object.runpath.is_empty() {
                if let Some(found) = in_dirs(&loader.file.object.rpath, &loader.at) {
                    return Some(found);
                }
            }
            chain = loader.by;
        }
        let object = asker.file.object;
        in_dirs(&self.library_path, "/").or_else(|| in_dirs(&object.runpath, &asker.at)).or_else(|| {
            match object.no_default_dirs {
                true => None,
                false => {
                    let cached = self.cache.get(name).into_iter().flatten();
                    cached.cloned().find_map(fits).or_else(|| in_dirs(&self.default_dirs, "/"))
                }
            }
        })
    }
}

/// Fills in `$ORIGIN`: the directory of the path that the object was found by.
fn expand(text: &str, at: &str) -> String {
    if !text.contains('$') {
        return text.to_owned();
    }
    let origin = at.rsplit_once('/').map_or("/", |(dir, _)| dir);
    text.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
}

/// The directories built into loaders: Debian's, then everyone else's.
fn default_dirs(machine: &str) -> Vec<String> {
    let triplet = match machine {
        "ppc64le" => "powerpc64le-linux-gnu".to_owned(),
        "i386" => "i386-linux-gnu".to_owned(),
        "arm" => "arm-linux-gnueabihf".to_owned(),
        other => format!("{other}-linux-gnu"),
    };
    let dirs =
        [&format!("lib/{triplet}"), &format!("usr/lib/{triplet}"), "lib64", "usr/lib64", "lib", "usr/lib"];
    dirs.iter().map(|d| format!("/{d}")).collect()
}
