//! The name and version of an MPI for people, from its header and from texts in the library. Nothing is run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use grus_core::elf::Object;
use grus_core::stack::Family;

/// Largest part of a library that is searched for texts, in bytes.
const MAX_SEARCHED: u64 = 512 << 20;
/// Largest header that is read, in bytes.
const MAX_HEADER: u64 = 4 << 20;

/// Who made an MPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    Mpich,
    Intel,
    Cray,
    Mvapich,
    OpenMpi,
}

impl Maker {
    /// As people call it.
    pub fn label(self) -> &'static str {
        match self {
            Maker::Mpich => "MPICH",
            Maker::Intel => "Intel MPI",
            Maker::Cray => "Cray MPICH",
            Maker::Mvapich => "MVAPICH",
            Maker::OpenMpi => "Open MPI",
        }
    }

    /// As a profile's name begins.
    pub fn word(self) -> &'static str {
        match self {
            Maker::Mpich => "mpich",
            Maker::Intel => "intel-mpi",
            Maker::Cray => "cray-mpich",
            Maker::Mvapich => "mvapich",
            Maker::OpenMpi => "openmpi",
        }
    }
}

/// The maker of the C library at `path`, and its version where it can be told.
pub fn of(path: &Path, family: Family, object: &Object, prefix: Option<&Path>) -> (Maker, Option<String>) {
    let texts = texts(path);
    let holds = |what: &str| texts.keys().any(|t| t.contains(what));
    let maker = match family {
        Family::OpenMpi => Maker::OpenMpi,
        _ if holds("Intel(R) MPI Library") => Maker::Intel,
        _ if holds("CRAY MPICH version") => Maker::Cray,
        _ if holds("MVAPICH Version") || holds("MVAPICH2 Version") => Maker::Mvapich,
        _ => Maker::Mpich,
    };
    let version = prefix.and_then(|p| header(&p.join("include/mpi.h"), maker));
    (maker, version.or_else(|| likely(&texts, maker, object)))
}

/// Texts of a library that tell its version or its maker, with how often each occurs.
fn texts(path: &Path) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut bytes = vec![];
    let read = File::open(path).and_then(|f| f.take(MAX_SEARCHED).read_to_end(&mut bytes));
    if read.is_err() {
        return found;
    }
    let makers = ["Intel(R) MPI Library", "CRAY MPICH version", "MVAPICH"];
    for text in bytes.split(|b| *b == 0).filter(|t| (3..=200).contains(&t.len())) {
        let Ok(text) = std::str::from_utf8(text) else { continue };
        if is_version(text) || makers.iter().any(|m| text.contains(m)) {
            *found.entry(text.to_owned()).or_insert(0) += 1;
        }
    }
    found
}

/// `5.0.2`, `4.3.0rc1`, `2021.18.1`.
fn is_version(text: &str) -> bool {
    let mut parts = text.split('.');
    let number = |p: Option<&str>| p.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let last =
        |p: &str| p.starts_with(|c: char| c.is_ascii_digit()) && p.bytes().all(|b| b.is_ascii_alphanumeric());
    let known = number(parts.next()) && text.len() <= 16;
    let rest: Vec<&str> = parts.collect();
    known && (1..=2).contains(&rest.len()) && rest.iter().all(|p| last(p))
}

/// The version among a library's texts that agrees with what it defines: other versions in it are those of
/// hwloc, UCX and the like.
fn likely(texts: &BTreeMap<String, usize>, maker: Maker, object: &Object) -> Option<String> {
    let has = |symbol: &str| object.exports.contains(symbol);
    let majors: &[&str] = match maker {
        Maker::Intel => &["2017.", "2018.", "2019.", "202"],
        Maker::Cray => return after(texts, "CRAY MPICH version"),
        Maker::Mvapich => {
            return after(texts, "MVAPICH2 Version").or_else(|| after(texts, "MVAPICH Version"))
        }
        Maker::OpenMpi if object.needed.iter().any(|n| n == "libopen-pal.so.80") => &["5.", "6."],
        Maker::OpenMpi => &["4.", "3.", "2.", "1."],
        Maker::Mpich if has("MPI_Abi_get_version") => &["5.", "6."],
        Maker::Mpich if has("MPI_Session_init") => &["4."],
        Maker::Mpich => &["3."],
    };
    let three = |t: &str| t.matches('.').count() == 2;
    let fits = |t: &&String| majors.iter().any(|m| t.starts_with(m)) && is_version(t);
    let best = texts.keys().filter(fits).max_by_key(|t| (three(t), texts[*t]));
    best.cloned()
}

/// The version that follows a phrase in the same text.
fn after(texts: &BTreeMap<String, usize>, phrase: &str) -> Option<String> {
    let tail = |t: &String| {
        let rest = t.split_once(phrase)?.1;
        rest.split(|c: char| c.is_whitespace() || c == ':').find(|w| is_version(w)).map(str::to_owned)
    };
    texts.keys().find_map(tail)
}

/// The version in a stack's own mpi.h.
fn header(path: &Path, maker: Maker) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_HEADER).read_to_string(&mut text).ok()?;
    let define = |name: &str| {
        let line =
            text.lines().find(|l| l.split_whitespace().nth(1) == Some(name) && l.contains("define"))?;
        Some(line.split_whitespace().nth(2)?.trim_matches('"').to_owned())
    };
    let version = match maker {
        Maker::OpenMpi => {
            let part = |name: &str| define(&format!("OMPI_{name}_VERSION"));
            format!("{}.{}.{}", part("MAJOR")?, part("MINOR")?, part("RELEASE")?)
        }
        Maker::Mpich => define("MPICH_VERSION")?,
        Maker::Mvapich => define("MVAPICH_VERSION").or_else(|| define("MVAPICH2_VERSION"))?,
        // Their headers tell the MPICH they derive from.
        Maker::Intel | Maker::Cray => return None,
    };
    is_version(&version).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_other_texts() {
        for good in ["5.0.2", "4.3.0rc1", "2021.18.1", "4.1"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "5", "1.2.3.4", ".5.0", "5..0", "GLIBC_2.17", "5.0.x", "v5.0.1", "1.2.3-long"] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn the_version_agrees_with_what_the_library_defines() {
        let texts =
            BTreeMap::from([("2.9.0".to_owned(), 9), ("3.4.3".to_owned(), 2), ("5.0.2".to_owned(), 1)]);
        let likely = |maker| likely(&texts, maker, &Object::default());
        assert_eq!(likely(Maker::Mpich).as_deref(), Some("3.4.3"));
        assert_eq!(likely(Maker::Intel), None);
        let cray =
            BTreeMap::from([("MPI VERSION : CRAY MPICH version 8.1.32 (ANL base 3.4a2)".to_owned(), 1)]);
        assert_eq!(super::likely(&cray, Maker::Cray, &Object::default()).as_deref(), Some("8.1.32"));
    }
}
