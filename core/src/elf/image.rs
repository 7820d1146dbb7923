//! The facts of a whole image, made once at pull and stored beside it.
//!
//! A walker gives everything to a [`Collector`], which keeps what a swap can depend on: libraries, MPI's users,
//! and the symbolic links that lead to them. Programs and plugins without MPI are dropped. Files are keyed by
//! their real path in the image (no links in it).

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::Object;
use crate::ldcache::{self, Cache};
use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};

/// Version of the stored form; a reader refuses what is newer, and inspects again what is older.
pub const FACTS_VERSION: u32 = 1;
/// Largest stored form that is read, in bytes.
pub const MAX_FACTS: usize = 32 << 20;
/// Most objects and links that are kept.
const MAX_KEPT: usize = 50_000;
/// Most links followed in one path, the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;

/// The C library of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Libc {
    /// glibc, with the version of its newest symbols, such as `2.36`.
    Glibc(String),
    /// musl; glibc's libraries do not load.
    Musl,
    /// None was found.
    #[default]
    None,
}

/// What a swap must know about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFacts {
    /// [`FACTS_VERSION`] of the writer.
    pub version: u32,
    /// The C library.
    pub libc: Libc,
    /// Objects by real path.
    pub objects: BTreeMap<AbsPath, Object>,
    /// Symbolic links to kept objects and to directories above them: path and target as stored.
    pub links: BTreeMap<AbsPath, String>,
    /// The image's /etc/ld.so.cache; `None` if it has none that can be read.
    pub cache: Option<Cache>,
    /// Conda-like prefixes (those with a `conda-meta` directory).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conda: Vec<AbsPath>,
    /// The image had more libraries than are kept; nothing can be proved for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl ImageFacts {
    /// Parses the stored form. `on` names the file. Too large, malformed or newer is refused.
    pub fn parse(text: &[u8], on: &str) -> Result<Self, Refusal> {
        let bad = |why: String| {
            Refusal::image(format!("the library facts {} {}", printable(on), printable(&why)))
                .hint("pull or import the image again")
        };
        if text.len() > MAX_FACTS {
            return Err(bad(format!("are larger than {MAX_FACTS} bytes")));
        }
        let facts: Self = serde_json::from_slice(text).map_err(|e| bad(format!("are malformed: {e}")))?;
        if facts.version > FACTS_VERSION {
            return Err(bad(format!("have format {}, newer than this Grus knows", facts.version)));
        }
        if facts.objects.len() > MAX_KEPT || facts.links.len() > MAX_KEPT {
            return Err(bad(format!("list more than {MAX_KEPT} files")));
        }
        Ok(facts)
    }

    /// The stored form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The path without links, as far as the kept links tell. `None` on a loop or a way out of the tree.
    pub fn real_path<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        real_path(&self.links, path)
    }

    /// The object a path leads to.
    pub fn object(&self, path: &str) -> Option<(&AbsPath, &Object)> {
        let real = AbsPath::parse(&self.real_path(path)?).ok()?;
        self.objects.get_key_value(&real)
    }
}

/// Follows links as the kernel does inside the root (path_resolution(7)).
fn real_path<'a>(links: &BTreeMap<AbsPath, String>, path: &'a str) -> Option<Cow<'a, str>> {
    let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at = AbsPath::root();
    let mut followed = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at = at.parent().unwrap_or_else(AbsPath::root);
                continue;
            }
            _ => {}
        }
        let next = at.join(&name);
        match links.get(&next) {
            None => at = next,
            Some(target) => {
                followed += 1;
                if followed > MAX_LINKS || left.len() > 4096 {
                    return None;
                }
                if target.starts_with('/') {
                    at = AbsPath::root();
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
        }
    }
    Some(Cow::Owned(at.into()))
}

/// Gathers an image's facts from a walk over its tree, in any order.
#[derive(Debug, Default)]
pub struct Collector {
    objects: BTreeMap<AbsPath, Object>,
    links: BTreeMap<AbsPath, String>,
    cache: Option<Cache>,
    conda: BTreeSet<AbsPath>,
    truncated: bool,
}

impl Collector {
    /// Whether a regular file of this name is worth opening: libraries and plugins by name, programs by their
    /// execute permission. Debug files and objects of the compiler are not.
    pub fn wants(name: &str, executable: bool) -> bool {
        let data = [".py", ".pyc", ".h", ".a", ".o", ".debug", ".sh", ".txt", ".json", ".la", ".pl", ".pm"];
        is_library_name(name) || (executable && !data.iter().any(|s| name.ends_with(s)))
    }

    /// An ELF file at its real path.
    pub fn object(&mut self, path: AbsPath, object: Object) {
        let name = path.components().next_back().unwrap_or_default();
        let kept = object.uses_mpi()
            || object.static_mpi
            || object.soname.is_some()
            || is_library_name(name) && !object.exports.is_empty()
            || name.starts_with("lib") && is_library_name(name);
        if kept {
            self.truncated |= self.objects.len() >= MAX_KEPT;
            if !self.truncated {
                self.objects.insert(path, object);
            }
        }
    }

    /// A symbolic link: its own path (no links in its directory) and its target as stored.
    pub fn link(&mut self, path: AbsPath, target: &str) {
        if target.len() <= crate::path::MAX_PATH && !target.contains('\0') {
            self.links.insert(path, target.to_owned());
        }
    }

    /// The content of /etc/ld.so.cache. One that cannot be read counts as none, as for the loader.
    pub fn cache(&mut self, file: &[u8]) {
        self.cache = ldcache::parse(file).ok();
    }

    /// A directory named `conda-meta` was met in `prefix`.
    pub fn conda(&mut self, prefix: AbsPath) {
        if self.conda.len() < 1000 {
            self.conda.insert(prefix);
        }
    }

    /// The facts. Links that lead to nothing kept fall away.
    pub fn finish(self) -> ImageFacts {
        let mut links = useful(&self.links, &self.objects);
        let truncated = self.truncated || links.len() > MAX_KEPT;
        if truncated {
            links.clear();
        }
        ImageFacts {
            version: FACTS_VERSION,
            libc: libc(&self.objects),
            links,
            objects: if truncated { BTreeMap::new() } else { self.objects },
            cache: self.cache,
            conda: self.conda.into_iter().collect(),
            truncated,
        }
    }
}

/// The links that lead to an object, or to a directory above one or above such a link (`/lib64` on Debian
/// holds nothing but a link).
fn useful(
    links: &BTreeMap<AbsPath, String>,
    objects: &BTreeMap<AbsPath, Object>,
) -> BTreeMap<AbsPath, String> {
    let mut wanted: BTreeSet<AbsPath> = BTreeSet::new();
    objects.keys().for_each(|path| want(&mut wanted, path.clone()));
    let mut open: Vec<(&AbsPath, AbsPath)> = links
        .keys()
        .filter_map(|path| Some((path, AbsPath::parse(&real_path(links, path.as_str())?).ok()?)))
        .collect();
    let mut kept = BTreeMap::new();
    // Each round follows the links that the last one made useful; links to links are few levels deep.
    loop {
        let (leading, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|(_, real)| wanted.contains(real));
        if leading.is_empty() {
            return kept;
        }
        for (path, _) in leading {
            kept.insert(path.clone(), links[path].clone());
            path.parent().into_iter().for_each(|dir| want(&mut wanted, dir));
        }
        open = rest;
    }
}

/// Adds a path and the directories above it, without the root.
fn want(wanted: &mut BTreeSet<AbsPath>, path: AbsPath) {
    let mut next = Some(path);
    while let Some(path) = next.filter(|p| p.depth() > 0 && wanted.insert(p.clone())) {
        next = path.parent();
    }
}

/// Whether a file name is a library's: `libx.so`, `libx.so.1.2`, `ext.cpython-311.so`, `ld-linux-x86-64.so.2`.
pub fn is_library_name(name: &str) -> bool {
    name.ends_with(".so")
        || name.split_once(".so.").is_some_and(|(_, v)| v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// The C library by its own file: the newest GLIBC_2.N node of a libc.so.6, else musl's loader. Not every release
/// has a node of its own; up to 2.33 the file's name tells.
fn libc(objects: &BTreeMap<AbsPath, Object>) -> Libc {
    let named = |path: &AbsPath| {
        let name = path.components().next_back()?.strip_prefix("libc-")?.strip_suffix(".so")?;
        super::glibc_version(&format!("GLIBC_{name}"))
    };
    let glibc = objects.iter().filter(|(_, o)| o.soname.as_deref() == Some("libc.so.6"));
    let glibc = glibc.filter_map(|(path, o)| newest(o).max(named(path))).max();
    if let Some((major, minor)) = glibc {
        return Libc::Glibc(format!("{major}.{minor}"));
    }
    let musl = objects.iter().any(|(path, o)| {
        path.components()
            .next_back()
            .is_some_and(|n| n.starts_with("ld-musl-") || n.starts_with("libc.musl-"))
            || o.is_musl()
    });
    if musl {
        Libc::Musl
    } else {
        Libc::None
    }
}

fn newest(libc: &Object) -> Option<(u32, u32)> {
    libc.provides.iter().filter_map(|n| super::glibc_version(n)).max()
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
