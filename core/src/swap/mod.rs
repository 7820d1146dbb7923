//! The decision which libraries of the host replace an image's own (ADR 9), and the proof that they fit.
//!
//! Pure: [`ImageFacts`] and [`Stack`]s in, a [`Decision`] out: a [`Swap`] (what to bind, link and set), or a
//! refusal that names both sides, with every reason along the way. Owns the rules: an MPI is swapped whole or
//! not at all; symbols and version nodes decide, names do not; glibc is never mixed. Refuses: guessing. What
//! cannot be proved is not swapped.
//!
//! `survey` finds the image's MPIs and their users; `judge` compares one with a stack; `closure` collects what
//! must come along; `glibc` and `place` lay it out; `proof` links every user again, simulated; `decide` goes
//! through stacks and modes; `ruling` is a decision that is kept and sent; `trace` reads what the image's own
//! loader says on the node; `launcher` checks `srun --mpi=`; `wish` is whose libraries are wanted.

mod closure;
mod decide;
mod explain;
mod family;
mod glibc;
mod judge;
mod launcher;
mod loader;
mod place;
mod proof;
mod ruling;
mod survey;
mod trace;
mod wish;

pub use decide::decide;
pub use family::provider_family;
pub use launcher::{check_launcher, Launcher, LauncherNote};
pub use ruling::{Answer, ModuleRuling, Ruling, MAX_RULING};
pub use trace::{judge as judge_trace, ENVIRONMENT as TRACE_ENVIRONMENT};
pub use wish::{Brought, Wish};

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::elf::ImageFacts;
use crate::ldcache::Cache;
use crate::path::AbsPath;
use crate::plan::Seen;
use crate::refusal::{printable, Refusal};
use crate::stack::{Pmi, Stack};

/// The one directory of new library names in the container.
pub const LIBRARY_DIR: &str = "/run/grus/lib";
/// Where host directories go whose own path the image has taken, or that nothing asks for by their own path.
pub const HOST_DIR: &str = "/run/grus/host";

/// Whose MPI runs: `--container-mpi`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Mode {
    /// The host's where it is proved to fit; else the image's MPI with the host's fabric; else the image's.
    #[default]
    Auto,
    /// The host's, or no launch.
    Host,
    /// The image's.
    Image,
    /// The image's MPI with the host's libfabric, or no launch.
    Fabric,
    /// The host's stack of this name, or no launch.
    Stack(String),
}

impl Mode {
    /// Parses the word after `--container-mpi=`.
    pub fn parse(word: &str) -> Result<Self, Refusal> {
        Ok(match word {
            "auto" => Mode::Auto,
            "host" => Mode::Host,
            "image" => Mode::Image,
            "fabric" => Mode::Fabric,
            "" => {
                return Err(Refusal::user("--container-mpi has no value")
                    .hint("give auto, host, image, fabric or the name of a host stack"))
            }
            name => Mode::Stack(name.to_owned()),
        })
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        mode.to_string()
    }
}

impl TryFrom<String> for Mode {
    type Error = Refusal;

    fn try_from(word: String) -> Result<Self, Refusal> {
        Self::parse(&word)
    }
}

/// The word after `--container-mpi=`.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Auto => "auto",
            Mode::Host => "host",
            Mode::Image => "image",
            Mode::Fabric => "fabric",
            Mode::Stack(name) => name,
        })
    }
}

/// Whether glibc may come from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlibcRule {
    /// Never: a host library that needs a newer one is refused.
    #[default]
    Never,
    /// The whole family, where a version node is missing and the host's is newer.
    Auto,
}

/// Everything a decision depends on.
pub struct Question<'a> {
    /// The image's facts.
    pub image: &'a ImageFacts,
    /// LD_LIBRARY_PATH of the image's own environment, split at ':'.
    pub library_path: &'a [String],
    /// The image's name, for messages.
    pub image_name: &'a str,
    /// The host's stacks, in the site's order.
    pub stacks: &'a [Stack],
    /// A stack that comes before what was asked for, where it fits and the image has what it would replace.
    pub first: Option<&'a Brought>,
    /// What was asked for.
    pub mode: &'a Mode,
    /// The site's rule for glibc.
    pub glibc: GlibcRule,
    /// Whether the image has something at a path.
    pub taken: &'a dyn Fn(&AbsPath) -> bool,
}

/// How much of the host a container gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// Nothing: the image's MPI, or none.
    #[default]
    Nothing,
    /// The host's libfabric below the image's MPI.
    Fabric,
    /// The host's MPI and everything below it.
    Mpi,
}

/// A file or directory of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraBind {
    /// On the host.
    pub source: AbsPath,
    /// In the container.
    pub destination: AbsPath,
    /// A node without the source still starts.
    pub optional: bool,
}

/// A user of MPI, and where its host libraries must come from: to be compared with what the image's loader
/// says of it in the container (ld.so(8): LD_TRACE_LOADED_OBJECTS, LD_BIND_NOW, LD_WARN).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The image's loader that is asked: the PT_INTERP of its programs.
    pub loader: AbsPath,
    /// The program, or library where no program uses MPI itself.
    pub object: AbsPath,
    /// By the name it is needed by, the path that the loader finds first.
    pub expect: BTreeMap<String, String>,
}

/// What a launch does for a swap. All paths are the container's unless named a source.
///
/// It depends on the image, the stacks, the site's rules and the mode alone, so it can be kept and used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// How much is swapped.
    pub extent: Extent,
    /// Name of the stack; empty for [`Extent::Nothing`].
    pub stack: String,
    /// Files of the image, without links in their paths, in whose place come links to host libraries.
    pub over: BTreeMap<AbsPath, AbsPath>,
    /// Symbolic links in [`LIBRARY_DIR`]: name and absolute target.
    pub links: BTreeMap<String, AbsPath>,
    /// Libraries of the host, by their paths there, that must be on the node.
    pub needs: BTreeSet<AbsPath>,
    /// Machine of the stack, as `uname -m` has it.
    pub machine: String,
    /// Names of [`LIBRARY_DIR`] that /etc/ld.so.cache leads to; none: the image's own serves.
    pub cached: Vec<String>,
    /// Put before LD_LIBRARY_PATH.
    pub library_path: Option<AbsPath>,
    /// Files and directories of the host that are bound, read-only.
    pub extras: Vec<ExtraBind>,
    /// Device nodes; a trailing `*` matches any ending.
    pub devices: Vec<AbsPath>,
    /// Variables to set.
    pub set: BTreeMap<String, String>,
    /// Variables to set where the job has none.
    pub default: BTreeMap<String, String>,
    /// Text to put before a variable's value, with a ':' between.
    pub prepend: BTreeMap<String, String>,
    /// glibc comes from the host as a whole.
    pub glibc: bool,
    /// What the image's own loader must show on the node; `None` where nothing in the image uses MPI.
    pub check: Option<Check>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What the image has where this goes; empty: nobody has looked.
    #[serde(default, skip_serializing_if = "Seen::is_empty")]
    pub seen: Seen,
}

impl Swap {
    /// The /etc/ld.so.cache of the container, made from the image's own; `None`: that one serves.
    pub fn cache(&self, image: Option<Cache>) -> Option<Vec<u8>> {
        let wanted = !self.cached.is_empty();
        wanted.then(|| place::cache(image.unwrap_or_default(), &self.machine, &self.cached).write())
    }
}

/// What happened to one library, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The host's over the image's.
    Replace,
    /// New in the container.
    Add,
    /// The image's own stays.
    Keep,
    /// It prevents the swap.
    Conflict,
    /// Worth knowing.
    Note,
}

/// One reason, for `grus explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// A library, a path, an MPI.
    pub about: String,
    /// The verdict on it.
    pub verdict: Verdict,
    /// Why, as the end of a sentence about it.
    pub why: String,
}

impl Reason {
    fn new(about: impl Into<String>, verdict: Verdict, why: impl Into<String>) -> Self {
        Self { about: printable(&about.into()), verdict, why: printable(&why.into()) }
    }
}

/// How one stack was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// The stack.
    pub stack: String,
    /// MPI or libfabric alone.
    pub extent: Extent,
    /// Whether it fits; the refusal's sentence if not.
    pub refused: Option<String>,
    /// Library by library.
    pub reasons: Vec<Reason>,
}

/// An MPI found in the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// For people, such as `MPICH ABI (MPI 4.1)`.
    pub label: String,
    /// Its C libraries; none where the image relies on the host's.
    pub providers: Vec<AbsPath>,
    /// Objects that use it.
    pub users: Vec<AbsPath>,
}

/// The MPI that ranks will run on, as far as launching them goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InUse {
    /// For people.
    pub label: String,
    /// Launch methods it understands.
    pub pmi: Vec<Pmi>,
}

/// A decision with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is done, or why nothing can be.
    pub result: Result<Swap, Refusal>,
    /// The image's MPIs.
    pub found: Vec<Found>,
    /// The MPIs in use after the decision.
    pub in_use: Vec<InUse>,
    /// Each stack that was tried.
    pub trials: Vec<Trial>,
}

/// What the loader would load for an object of the image as it is: the names that are needed, each with the
/// real path it leads to, if any. In the loader's order, the object itself left out.
pub fn loads(
    image: &ImageFacts,
    library_path: &[String],
    object: &AbsPath,
) -> Vec<(String, Option<AbsPath>)> {
    let Some((path, facts)) = image.objects.get_key_value(object) else { return vec![] };
    let world = loader::World::image(image, &facts.machine, library_path);
    let linked = world.link(object.as_str(), loader::File { path, object: facts, host: false });
    let found =
        linked.loaded.iter().skip(1).filter_map(|l| Some((l.asked?.to_owned(), Some(l.file.path.clone()))));
    let missing = linked.missing.iter().map(|(_, name)| (name.clone(), None));
    found.chain(missing).collect()
}
