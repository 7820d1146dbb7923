//! The proof: every MPI user of the image is linked again, simulated, with the swap in place.
//!
//! For each: every library it had is still found, the host's MPI is the one and only, every strong MPI symbol
//! has a definition, and every version node is there. What was already wrong without the swap is not ours.

use std::collections::BTreeSet;

use super::family::provider_family;
use super::loader::{File, Linked};
use super::place::Placed;
use super::survey::Survey;
use super::Check;
use crate::elf::{is_mpi, ImageFacts, Kind, Object};
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::stack::{is_glibc_loader, Library, Role, Stack};

pub(super) struct Proof<'q, 'a> {
    pub image_name: &'q str,
    pub facts: &'a ImageFacts,
    pub stack: &'a Stack,
    pub survey: &'q Survey<'a>,
    pub placed: &'q Placed<'a>,
    /// Users of an MPI that is swapped.
    pub users: BTreeSet<&'a AbsPath>,
}

impl<'a> Proof<'_, 'a> {
    /// Links every user, and every host library by itself as a plugin would be. The first program among the
    /// users, or the first user, is what a node checks again with the real loader.
    pub fn prove(&self, libraries: &[&'a Library]) -> Result<Option<Check>, Refusal> {
        let mut check: Option<(Kind, Check)> = None;
        for (path, before) in &self.survey.before {
            let Some(root) = before.loaded.first() else { continue };
            let after = self.placed.world.link(path.as_str(), root.file);
            self.found(path, before, &after)?;
            self.versions(path, before, &after)?;
            if self.users.contains(path) {
                self.one_mpi(path, &after)?;
                self.symbols(path, before, &after)?;
                let kind = root.file.object.kind;
                if check.is_none()
                    || (kind == Kind::Program && check.as_ref().is_some_and(|(k, _)| *k != kind))
                {
                    if let Some(loader) = self.loader(root.file.object) {
                        // The loader does not list itself as found.
                        let itself = |n: &str| n.starts_with("ld-") || n.starts_with("ld64.");
                        let host =
                            after.loaded.iter().filter(|l| l.file.host && !l.asked.is_some_and(itself));
                        let expect = host.filter_map(|l| Some((l.asked?.to_owned(), l.at.clone()))).collect();
                        check = Some((kind, Check { loader, object: (*path).clone(), expect }));
                    }
                }
            }
        }
        for library in libraries.iter().filter(|l| l.role != Role::Glibc) {
            let at = format!("{}/{}", super::LIBRARY_DIR, library.file_name());
            let root = File { path: &library.path, object: &library.object, host: true };
            let after = self.placed.world.link(&at, root);
            let none = Linked::default();
            // A plugin that lacks something is not opened; everything else must load.
            if library.role != Role::Plugin {
                self.found(&library.path, &none, &after)?;
                self.versions(&library.path, &none, &after)?;
            }
        }
        Ok(check.map(|(_, check)| check))
    }

    /// The loader of a user: the one it asks for; a library is loaded by the image's glibc.
    fn loader(&self, user: &Object) -> Option<AbsPath> {
        let of_glibc = |(_, o): &(&AbsPath, &Object)| {
            o.machine == user.machine && o.soname.as_deref().is_some_and(is_glibc_loader)
        };
        match &user.interpreter {
            Some(asked) => AbsPath::parse(asked).ok(),
            None => self.facts.objects.iter().find(of_glibc).map(|(path, _)| path.clone()),
        }
    }

    fn refuse(&self, what: String) -> Refusal {
        Refusal::image(format!("image {} with host stack {}: {what}", self.image_name, self.stack.label()))
            .hint("--container-mpi=image runs the image's own MPI; 'grus explain' shows each library")
    }

    fn found(&self, path: &AbsPath, before: &Linked, after: &Linked) -> Result<(), Refusal> {
        let lost = after.missing.iter().find(|(_, n)| !before.missing.iter().any(|(_, m)| m == n));
        match lost {
            None => Ok(()),
            Some((by, name)) => {
                let by = loaded_by(after.loaded[*by].file.path, path);
                Err(self.refuse(format!("{by} needs {name}, which neither side has")))
            }
        }
    }

    fn versions(&self, path: &AbsPath, before: &Linked, after: &Linked) -> Result<(), Refusal> {
        let old: BTreeSet<_> = missing_nodes(before).collect();
        match missing_nodes(after).find(|node| !old.contains(node)) {
            Some((by, library, node)) => {
                let by = loaded_by(by, path);
                Err(self.refuse(format!("{by} needs {node} of {library}, which lacks it")))
            }
            None => Ok(()),
        }
    }

    /// Exactly one C library of each family, and the host's wherever the swap is about that family.
    fn one_mpi(&self, path: &AbsPath, after: &Linked) -> Result<(), Refusal> {
        let kind = |f: &File| provider_family(f.soname(), f.object);
        let providers: Vec<File> =
            after.loaded.iter().map(|l| l.file).filter(|f| kind(f).is_some()).collect();
        let ours = |f: &&File| kind(f).is_some_and(|k| self.stack.mpi_of(k).is_some());
        if let Some(image) = providers.iter().filter(ours).find(|f| !f.host) {
            return Err(self.refuse(format!("{path} would still load {} of the image", image.path)));
        }
        let mut families: Vec<_> = providers.iter().filter_map(kind).collect();
        families.sort();
        families.dedup();
        if families.len() < providers.len() || families.len() > 1 {
            let both: Vec<&str> = providers.iter().map(|f| f.path.as_str()).collect();
            return Err(self.refuse(format!("{path} would load two MPIs: {}", both.join(" and "))));
        }
        Ok(())
    }

    fn symbols(&self, path: &AbsPath, before: &Linked, after: &Linked) -> Result<(), Refusal> {
        let defined = |l: &Linked, s: &str| l.loaded.iter().any(|o| o.file.object.exports.contains(s));
        for loaded in &after.loaded {
            let object = loaded.file.object;
            let undefined =
                object.imports.iter().find(|s| is_mpi(s) && !defined(after, s) && defined(before, s));
            if let Some(symbol) = undefined {
                return Err(self.refuse(format!(
                    "{} needs {symbol}, which nothing defines any more",
                    loaded_by(loaded.file.path, path)
                )));
            }
        }
        Ok(())
    }
}

fn loaded_by(path: &AbsPath, root: &AbsPath) -> String {
    if path == root {
        path.to_string()
    } else {
        format!("{path} (loaded by {root})")
    }
}

/// The version nodes that objects need and the objects that they name lack. Where one has no nodes at all, the loader
/// only warns.
fn missing_nodes<'l>(linked: &'l Linked) -> impl Iterator<Item = (&'l AbsPath, &'l str, &'l str)> {
    let needs =
        linked.loaded.iter().flat_map(|by| by.file.object.requires.iter().map(move |need| (by, need)));
    needs.flat_map(|(by, (name, nodes))| {
        let provides = linked.named(name).map_or(&[][..], |named| &named.file.object.provides);
        let lacks = |node: &&String| !provides.is_empty() && !provides.contains(node);
        nodes.iter().filter(lacks).map(|node| (by.file.path, name.as_str(), node.as_str()))
    })
}
