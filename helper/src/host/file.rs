//! Files of this host as ELF objects.

use std::fs::File;
use std::path::Path;

use grus_core::elf::Object;
use grus_core::path::AbsPath;
use grus_enter::library::facts;

/// The facts of a regular file; None if it is not ELF or cannot be read.
pub fn object(path: &Path) -> Option<Object> {
    // A pipe or a device would hold up the scan.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    facts(File::open(path).ok()?)
}

/// The path without links, where it is UTF-8.
pub fn real(path: &Path) -> Option<AbsPath> {
    AbsPath::parse(path.canonicalize().ok()?.to_str()?).ok()
}

/// File names in a directory, in order; none if it cannot be read.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Whether others who need the library at `path` get this file: archives without links hold a copy for each name.
pub fn is_meant(path: &Path, object: &Object) -> bool {
    let Some(soname) = &object.soname else { return true };
    let named = path.with_file_name(soname);
    real(&named).is_none_or(|of_name| Some(of_name) == real(path))
}
