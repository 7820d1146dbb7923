//! `grus explain`: which of the host's MPI libraries an image would get, which not, and why.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use grus_core::digest::Digest;
use grus_core::elf::ImageFacts;
use grus_core::path::AbsPath;
use grus_core::plan::{Kind, Rootfs};
use grus_core::refusal::{printable, Refusal};
use grus_core::repository::Layout;
use grus_core::request::Image;
use grus_core::stack::{Stack, MAX_STACK};
use grus_core::swap::{decide, Decision, GlibcRule, InUse, Mode, Question};

use super::launch_options::{image_option, LaunchOptions};
use super::plan::{file, in_repository, Found};
use crate::context::{working_directory, Context};
use crate::failure::{reason, Failure};
use crate::inspect;
use crate::output;
use crate::tree::Tree;

const EXAMPLES: &str = "\
Examples:
  grus explain app:1
  grus explain ./app.squashfs --stack intel-mpi
  grus explain app:1 --stack ./draft.toml --json | jq .outcome

An image with MPI is compared with the host's stacks, symbol by symbol and version by version. The
administrator describes them with 'grus host scan'. Nothing is mounted and nothing is run.
A stack that was asked for and does not fit is a failure; with 'auto' the image's own MPI stays.";

/// Most symbolic links followed in one path, the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;

/// Arguments of `grus explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, as for srun's --container-image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Judge this host stack only: its name, or the file of a profile
    #[arg(long, value_name = "NAME|FILE")]
    stack: Option<String>,
    /// Whose MPI is wanted: the host's where it fits (auto), the host's (host), the image's (image), or the
    /// image's on the host's libfabric (fabric) [default: auto; with --stack: that stack's]
    #[arg(long, value_name = "auto|host|image|fabric")]
    mpi: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let found = self.find(context)?;
        let stacks = self.stacks(context)?;
        let mode = self.mode(&stacks)?;
        let name = printable(&self.image);
        let facts = facts(&found, &name)?;
        let library_path: Vec<String> =
            found.config.env.iter().find_map(|e| e.strip_prefix("LD_LIBRARY_PATH=")).map_or(vec![], |dirs| {
                dirs.split(':').filter(|d| !d.is_empty()).map(str::to_owned).collect()
            });
        let path = found.path.as_path();
        let tree = inspect::guarded(&name, || Tree::open(path, found.path.as_str()))?;
        let decision = decide(&Question {
            image: &facts,
            library_path: &library_path,
            image_name: &name,
            stacks: &stacks,
            mode: &mode,
            glibc: GlibcRule::default(),
            taken: &|path| taken(&tree, path),
        });
        self.tell(&decision, &stacks, &context.stacks_dir())
    }

    fn find(&self, context: &Context) -> Result<Found, Failure> {
        let request = LaunchOptions::default().request(Some(&self.image), &working_directory()?)?;
        match &request.image {
            Some(Image::Reference(reference)) => in_repository(context, reference),
            Some(Image::File(path)) => file(path),
            Some(Image::None) | None => Err(Refusal::user("no image is named")
                .hint(format!("write a name or a path, as for --{}", image_option()))
                .into()),
        }
    }

    /// The stack that was named, else all of the site's.
    fn stacks(&self, context: &Context) -> Result<Vec<Stack>, Failure> {
        let dir = context.stacks_dir();
        match &self.stack {
            Some(file) if file.contains('/') || file.ends_with(".toml") => Ok(vec![read(Path::new(file))?]),
            _ => all(&dir),
        }
    }

    fn mode(&self, stacks: &[Stack]) -> Result<Mode, Failure> {
        let word = match (&self.mpi, &self.stack) {
            (Some(word), _) => match word.as_str() {
                "auto" | "host" | "image" | "fabric" => word.as_str(),
                other => {
                    return Err(Refusal::user(format!("there is no --mpi={}", printable(other)))
                        .hint("give auto, host, image or fabric; a stack is named by --stack")
                        .into())
                }
            },
            (None, None) => "auto",
            (None, Some(stack)) => match stacks {
                // A file is a stack by itself, under whatever name.
                [one] if stack.contains('/') || stack.ends_with(".toml") => one.name.as_str(),
                _ => stack.as_str(),
            },
        };
        Ok(Mode::parse(word)?)
    }

    fn tell(&self, decision: &Decision, stacks: &[Stack], dir: &Path) -> Result<(), Failure> {
        if self.json {
            output::json(&decision.to_json())?;
        } else {
            // A refusal is told at the end, as of every command.
            let text = decision.to_string();
            let shown = match &decision.result {
                Ok(_) => text,
                Err(refusal) => {
                    text.split(&format!("\nRefused: {refusal}")).next().unwrap_or_default().to_owned()
                }
            };
            let mut text = shown;
            if !decision.found.is_empty() && decision.result.is_ok() {
                let lines: BTreeSet<String> = decision.in_use.iter().map(launched).collect();
                text.extend(lines);
            }
            if stacks.is_empty() {
                text.push_str(&format!(
                    "\nThis site has no host stacks in {}; the administrator makes them with 'grus host scan'.\n",
                    printable(&dir.display().to_string())
                ));
            }
            output::print(&text)?;
        }
        match &decision.result {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.clone().into()),
        }
    }
}

fn launched(mpi: &InUse) -> String {
    let words: Vec<String> = mpi.pmi.iter().map(|p| format!("--mpi={}", p.word())).collect();
    format!("launch    {} with srun {}\n", printable(&mpi.label), words.join(" or "))
}

/// The facts kept beside an image of a repository; of any other file, read now.
fn facts(found: &Found, name: &str) -> Result<ImageFacts, Failure> {
    let path = found.path.as_path();
    match found.repository.as_ref().zip(digest(path)) {
        Some((root, digest)) => inspect::known(&Layout::new(root), &digest, name),
        None => inspect::read(path, name),
    }
}

fn digest(image: &Path) -> Option<Digest> {
    Digest::parse(&format!("sha256:{}", image.file_stem()?.to_str()?)).ok()
}

/// The site's profiles, by name.
fn all(dir: &Path) -> Result<Vec<Stack>, Failure> {
    let listed = match std::fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(unreadable(dir, &e)),
    };
    let mut files: Vec<PathBuf> = listed.flatten().map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    files.iter().map(|f| read(f)).collect()
}

fn read(path: &Path) -> Result<Stack, Failure> {
    let mut text = String::new();
    File::open(path)
        .and_then(|f| f.take(MAX_STACK as u64 + 1).read_to_string(&mut text))
        .map_err(|e| unreadable(path, &e))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Stack::parse(&name, &text)?)
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

/// Whether the image has something at `path`, links in it followed.
fn taken(tree: &Tree, path: &AbsPath) -> bool {
    let mut left: Vec<String> = path.components().rev().map(str::to_owned).collect();
    let mut at = AbsPath::root();
    let mut followed = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            at = at.parent().unwrap_or_else(AbsPath::root);
            continue;
        }
        at = at.join(&name);
        let Ok(Some(entry)) = tree.entry(&at) else { return false };
        if let (Kind::Symlink, Some(target)) = (entry.kind, entry.target) {
            followed += 1;
            if followed > MAX_LINKS {
                return true;
            }
            at = if target.starts_with('/') {
                AbsPath::root()
            } else {
                at.parent().unwrap_or_else(AbsPath::root)
            };
            left.extend(target.split('/').filter(|c| !c.is_empty() && *c != ".").rev().map(str::to_owned));
        }
    }
    true
}
