//! All files of devices that a node has, and which of two descriptions holds.
//!
//! A device in a later directory wins over one of the same name in an earlier one; two in the same directory contradict
//! each other, and then nobody gets either (SPEC.md, and the reference implementation's pkg/cdi/cache.go).

use std::collections::BTreeSet;

use super::name::{Kind, Qualified};
use super::spec::{parse, Device, Spec};
use crate::path::AbsPath;
use crate::refusal::printable;

/// A file that was read, or why it was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path.
    pub path: AbsPath,
    /// Its bytes, or the reason why it is not used.
    pub content: Result<Vec<u8>, String>,
}

/// A file that describes devices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    path: AbsPath,
    /// Its directory's place in their order.
    directory: usize,
    spec: Spec,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    files: Vec<File>,
    problems: Vec<String>,
}

/// A device with what describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub path: &'a AbsPath,
    pub spec: &'a Spec,
    pub device: &'a Device,
}

impl Registry {
    /// Of the files of each directory, the directories in the order of their precedence, lowest first.
    pub fn of(directories: Vec<Vec<Source>>) -> Self {
        let mut registry = Self::default();
        for (directory, sources) in directories.into_iter().enumerate() {
            for Source { path, content } in sources {
                match content.and_then(|bytes| parse(&bytes)) {
                    Ok(spec) => registry.files.push(File { path, directory, spec }),
                    Err(why) => registry.problems.push(format!("{path} is not used: {}", printable(&why))),
                }
            }
        }
        registry
    }

    /// Files that are not used, each with its reason.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The files that are used, with what they describe.
    pub fn files(&self) -> impl Iterator<Item = (&AbsPath, &Spec)> {
        self.files.iter().map(|file| (&file.path, &file.spec))
    }

    /// The kinds that are described.
    pub fn kinds(&self) -> BTreeSet<&Kind> {
        self.files.iter().map(|file| &file.spec.kind).collect()
    }

    /// The device of this name; the reason why there is none.
    pub(super) fn find(&self, kind: &Kind, name: &str) -> Result<Found<'_>, String> {
        let named = |file: &File| -> Option<usize> {
            (file.spec.kind == *kind).then(|| file.spec.devices.iter().position(|d| d.name == name))?
        };
        let all: Vec<_> = self.files.iter().filter_map(|file| Some((file, named(file)?))).collect();
        let Some(highest) = all.iter().map(|(file, _)| file.directory).max() else {
            return Err(self.none(kind));
        };
        let mut those = all.iter().filter(|(file, _)| file.directory == highest);
        match (those.next(), those.next()) {
            (Some((one, _)), Some((other, _))) => {
                Err(format!("{} and {} both describe it", one.path, other.path))
            }
            (Some((file, at)), None) => {
                Ok(Found { path: &file.path, spec: &file.spec, device: &file.spec.devices[*at] })
            }
            (None, _) => Err(self.none(kind)),
        }
    }

    /// The devices of a kind but for `all`, each once, in the order of files. One that two files contradict each other
    /// about is left out.
    pub(super) fn devices(&self, kind: &Kind) -> Vec<Found<'_>> {
        let mut seen = BTreeSet::new();
        let files = self.files.iter().filter(|file| file.spec.kind == *kind);
        let names = files.flat_map(|file| file.spec.devices.iter().map(|d| d.name.as_str()));
        names.filter(|n| *n != "all" && seen.insert(*n)).filter_map(|n| self.find(kind, n).ok()).collect()
    }

    /// What there is instead of a device.
    fn none(&self, kind: &Kind) -> String {
        let names: Vec<&str> = self.devices(kind).iter().map(|found| found.device.name.as_str()).collect();
        match (names.is_empty(), self.files.is_empty()) {
            (false, _) => format!("this node has {} {}", kind, names.join(", ")),
            (true, false) => {
                let kinds: Vec<String> = self.kinds().iter().map(|kind| kind.to_string()).collect();
                format!("this node's files describe {} and no {kind}", kinds.join(", "))
            }
            (true, true) => "no file of this node describes a device".into(),
        }
    }

    /// The whole name of a device.
    pub(super) fn name(found: &Found) -> Qualified {
        Qualified { kind: found.spec.kind.clone(), name: found.device.name.clone() }
    }
}
