//! What `explain`, `plan` and a launch share: an image's libraries and the host's stacks, looked at, and the ruling
//! upon them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use grus_core::digest::Digest;
use grus_core::elf::ImageFacts;
use grus_core::plan::exists;
use grus_core::refusal::{printable, Refusal};
use grus_core::repository::Layout;
use grus_core::stack::{Stack, MAX_STACK};
use grus_core::swap::{Mode, Question, Ruling, Wish};
use grus_enter::rulings::{self, Basis};
use grus_enter::site::{listed, Profiles};

use super::plan::Found;
use crate::context::Context;
use crate::facts;
use crate::failure::{reason, Failure};
use crate::output;
use crate::repository::put;
use crate::tree::Tree;

/// An image, looked at.
pub(super) struct Looked {
    name: String,
    facts: ImageFacts,
    library_path: Vec<String>,
    tree: Tree,
}

impl Looked {
    /// Looks at an image: its facts as they are kept, else read now; `name` is for messages.
    pub fn at(found: &Found, name: &str) -> Result<Self, Failure> {
        let path = found.path.as_path();
        let facts = match in_repository(path) {
            Some((layout, digest)) => facts::known(&layout, &digest, name)?,
            None => facts::read(path, name)?,
        };
        let tree = facts::guarded(name, || Tree::open(path, found.path.as_str()))?;
        Ok(Self { name: name.to_owned(), facts, library_path: found.config.library_path(), tree })
    }

    /// Its tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Asks about it.
    pub fn ask<T>(
        &self,
        context: &Context,
        stacks: &[Stack],
        wish: &Wish,
        ask: impl FnOnce(&Question) -> T,
    ) -> T {
        ask(&Question {
            image: &self.facts,
            library_path: &self.library_path,
            image_name: &self.name,
            stacks,
            first: wish.first.as_ref(),
            mode: &wish.mode,
            glibc: context.site.mpi.glibc,
            taken: &|path| exists(&self.tree, path),
        })
    }
}

/// The ruling on an image's MPI, as a launch finds or makes it; a new one is kept in the user's repository. `None`
/// where there is nothing to rule on.
pub(super) fn ruling(
    context: &Context,
    found: &Found,
    name: &str,
    wish: &Wish,
) -> Result<Option<Ruling>, Failure> {
    let digest = in_repository(found.path.as_path()).map(|(_, digest)| digest);
    let profiles = rulings::profiles(wish, || profiles(&context.stacks_dir()))?;
    let basis = Basis {
        image: &found.path,
        digest: digest.as_ref(),
        wish,
        glibc: context.site.mpi.glibc,
        profiles: &profiles,
    };
    if !basis.matters() {
        return Ok(None);
    }
    let own = context.repository().ok();
    let place = own.as_ref().and_then(|own| Some((own.layout(), basis.place(own.layout())?)));
    if let Some(kept) = place.as_ref().and_then(|(_, place)| rulings::read(place)) {
        return Ok(Some(kept));
    }
    if digest.is_none() {
        output::note(&format!("grus: reading the libraries of {name}, once"));
    }
    let ruling = decide(context, found, name, wish, &profiles)?;
    if let Some((layout, place)) = place {
        // It only spares the next launch the decision; a repository that cannot be written is told elsewhere.
        let _ = keep(layout, &place, &ruling);
    }
    Ok(Some(ruling))
}

/// An image that cannot be looked at keeps its own MPI, unless somebody asks for another.
fn decide(
    context: &Context,
    found: &Found,
    name: &str,
    wish: &Wish,
    profiles: &Profiles,
) -> Result<Ruling, Failure> {
    let stacks = profiles.parse()?;
    match Looked::at(found, name) {
        Ok(looked) => {
            let digest = profiles.digest().clone();
            let mut ruling = looked
                .ask(context, &stacks, wish, |question| Ruling::decide(question, digest))
                .map_err(|why| wish.told(why))?;
            // A file that was not pulled may be another one when nodes open it.
            if in_repository(found.path.as_path()).is_some() {
                ruling.look(&looked.tree);
            }
            Ok(ruling)
        }
        Err(Failure::Refusal(why)) if matches!(wish.mode, Mode::Auto | Mode::Image) => {
            Ok(Ruling::unknown(profiles.digest().clone(), format!("the image's own MPI runs: {why}")))
        }
        Err(failure) => Err(failure),
    }
}

fn keep(layout: &Layout, to: &Path, ruling: &Ruling) -> Result<(), Failure> {
    std::fs::create_dir_all(layout.rulings()).map_err(|e| Failure::io("create", &layout.rulings(), &e))?;
    put(layout, to, &ruling.to_json(), false)
}

/// The repository and digest of a file that lies where an image of a repository does.
fn in_repository(image: &Path) -> Option<(Layout, Digest)> {
    let digest = Digest::parse(&format!("sha256:{}", image.file_stem()?.to_str()?)).ok()?;
    let layout = Layout::new(image.ancestors().nth(3)?);
    (layout.image(&digest) == image).then_some((layout, digest))
}

/// The site's profiles, in the order of their names.
pub(super) fn profiles(dir: &Path) -> Result<Profiles, Failure> {
    let read = |file: PathBuf| profile(&file).map(|text| (file, text));
    Ok(Profiles::of(listed(dir)?.into_iter().map(read).collect::<Result<_, _>>()?))
}

/// The text of one profile.
pub(super) fn profile(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|f| f.take(MAX_STACK as u64 + 1).read_to_string(&mut text));
    read.map(|_| text).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Refusal::site(format!(
        "cannot read the host profile {}: {}",
        printable(&path.display().to_string()),
        reason(error)
    ))
    .hint("'grus host scan' writes profiles; they must be readable by everyone")
    .into()
}
