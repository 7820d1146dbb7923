//! Reads grus.toml, grus.d/*.toml and stacks/*.toml, and trusts them only if root alone can have written them.

use std::fs;
use std::path::{Path, PathBuf};

use grus_core::digest::Digest;
use grus_core::site::Site;
use grus_core::stack::{Stack, MAX_STACK};
use grus_core::Refusal;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::Digest as _;

use crate::call::{open, shown, Broken};
use crate::read::{contents, Small};
use crate::trust::why_not_roots;

/// Longest site file, in bytes.
const MAX_FILE: usize = 1 << 20;

/// Most files in grus.d.
const MAX_FILES: usize = 256;

/// Reads the site file at `path` and `grus.d/*.toml` beside it, in the order of their names.
///
/// Each file is checked after it was opened: regular, owned by root, not writable by group or others, of
/// reasonable size; likewise every directory above it. Anything else is refused, so that the plugin fails closed.
pub fn load(path: &Path) -> Result<Site, Refusal> {
    with_parts(path, vec![(path.display().to_string(), trusted(path, MAX_FILE)?)])
}

/// As [`load`], of a site file that may be missing: then the defaults and `grus.d/*.toml` hold.
pub fn load_if_there(path: &Path) -> Result<Site, Refusal> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => with_parts(path, vec![]),
        _ => load(path),
    }
}

fn with_parts(path: &Path, mut files: Vec<(String, String)>) -> Result<Site, Refusal> {
    for part in listed(&path.with_file_name("grus.d"))? {
        files.push((part.display().to_string(), trusted(&part, MAX_FILE)?));
    }
    Site::parse(&files)
}

/// The host's MPI stacks as their files have them, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles {
    files: Vec<(PathBuf, String)>,
    digest: Digest,
}

impl Profiles {
    /// Reads `*.toml` of a directory, checked as [`load`] checks site files. A missing directory has none.
    pub fn load(dir: &Path) -> Result<Self, Refusal> {
        let mut files = vec![];
        for path in listed(dir)? {
            let text = trusted(&path, MAX_STACK)?;
            files.push((path, text));
        }
        Ok(Self::of(files))
    }

    /// Of texts that were read elsewhere.
    pub fn of(files: Vec<(PathBuf, String)>) -> Self {
        let mut hash = sha2::Sha256::new();
        for (path, text) in &files {
            let name = path.file_stem().unwrap_or_default().as_encoded_bytes();
            for part in [name, text.as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        Self { files, digest: Digest::from_bytes(&hash.finalize().into()) }
    }

    /// Of their names and contents, wherever they are.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads and checks each.
    pub fn parse(&self) -> Result<Vec<Stack>, Refusal> {
        let stack = |(path, text): &(PathBuf, String)| {
            Stack::parse(&path.file_stem().unwrap_or_default().to_string_lossy(), text)
        };
        self.files.iter().map(stack).collect()
    }
}

/// The `*.toml` of a directory but hidden ones, sorted; a missing directory has none.
pub fn listed(dir: &Path) -> Result<Vec<PathBuf>, Refusal> {
    let unreadable = |e: std::io::Error| {
        let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
        unusable(dir, &format!("cannot be read: {}", crate::failure::reason(errno)))
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(unreadable(e)),
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|e| e == "toml") && !hidden {
            found.push(path);
        }
    }
    if found.len() > MAX_FILES {
        return Err(unusable(dir, &format!("holds more than {MAX_FILES} files")));
    }
    found.sort();
    Ok(found)
}

fn trusted(path: &Path, limit: usize) -> Result<String, Refusal> {
    let broken = |b: Broken| unusable(path, &format!("cannot be read: {}", crate::failure::reason(b.errno)));
    let fd = open(path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|b| match b.errno {
        Errno::NOENT => unusable(path, "is missing"),
        _ => broken(b),
    })?;
    if let Some(why) = why_not_roots(&fd, path).map_err(broken)? {
        return Err(Refusal::site(format!("the site file {} is not trusted: {why}", shown(path)))
            .hint("the administrator must make it, and every directory above it, writable by root only"));
    }
    match contents(fd, path, limit).map_err(broken)? {
        Small::Bytes(bytes) => String::from_utf8(bytes).map_err(|_| unusable(path, "is not UTF-8 text")),
        Small::TooLong => Err(unusable(path, &format!("is larger than {limit} bytes"))),
        Small::Missing | Small::NotAFile => Err(unusable(path, "is not a regular file")),
    }
}

fn unusable(path: &Path, why: &str) -> Refusal {
    Refusal::site(format!("the site file {} {why}", shown(path)))
        .hint("the administrator must mend it; see grus.toml(5)")
}
