//! `grus verify`: whether images are what they should be, by their structure and by what was recorded beside them.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use grus_core::digest::Digest;
use grus_core::image::ImageMeta;
use grus_core::refusal::{printable, Refusal};
use grus_enter::repository::meta_beside;
use grus_squash::{Broken, Depth, Report};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::name::{meant, Meant};
use crate::context::Context;
use crate::digest::digest_of_hash;
use crate::failure::{reason, Failure};
use crate::output;
use crate::repository::{Listing, Repository, Row};
use crate::valid;

const EXAMPLES: &str = "\
Examples:
  grus verify ubuntu:24.04
  grus verify ./app.squashfs       any SquashFS file, however it was made
  grus verify --data --all         every block of every image of the repository
  grus verify --json --all | jq '.[] | select(.valid | not)'

Everything is checked that a kernel would parse: superblock, tables, every inode
and every name, and that they agree. Then the file's size, and its SHA-256 where
that was recorded (of imported SquashFS files). Nothing is mounted and no
privilege is needed. The exit status is 65 if an image is broken, or its file
is gone from the repository.";

/// Arguments of `grus verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names, digests, or SquashFS files as paths that begin with '/', './' or '../'; '-' is a file on standard input
    #[arg(value_name = "IMAGE|FILE", required_unless_present = "all")]
    images: Vec<String>,
    /// All images of the repository
    #[arg(long, conflicts_with = "images")]
    all: bool,
    /// Unpack every data block too: as long as reading all files takes
    #[arg(long)]
    data: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// An image to be looked at.
struct Subject {
    name: String,
    path: PathBuf,
    recorded: Recorded,
    /// Whether a repository has it, rather than somebody a path.
    kept: bool,
}

/// What is recorded beside an image.
enum Recorded {
    /// Nothing, as for files of other tools.
    Nothing,
    /// Its metadata.
    Meta(Box<ImageMeta>),
    /// Something that does not fit the image, or is no metadata.
    Wrong,
}

/// What was found; its JSON form is printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Verdict {
    image: String,
    path: String,
    valid: bool,
    /// Whether the bytes are those that were recorded; None where nothing was.
    as_recorded: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inodes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unpacked_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<Fault>,
}

/// The rule that is broken.
#[derive(Debug, Serialize)]
struct Fault {
    rule: &'static str,
    message: String,
    at: Option<u64>,
    inode: Option<u32>,
    path: Option<String>,
}

impl Args {
    pub(super) fn run(self, context: impl FnOnce() -> Result<Context, Failure>) -> Result<(), Failure> {
        let depth = if self.data { Depth::Data } else { Depth::Structure };
        if self.images == ["-"] {
            return standard_input(depth);
        }
        let (subjects, all_read) = self.subjects(&context()?)?;
        let mut verdicts = vec![];
        for subject in &subjects {
            let verdict = match subject.look(depth) {
                // One that cannot be read keeps nobody from knowing of the others.
                Err(failure) if self.all => subject.unknown("unreadable", failure.to_string()),
                looked => looked?,
            };
            if !self.json {
                output::print(&line(&verdict))?;
            }
            verdicts.push(verdict);
        }
        if self.json {
            output::json(&verdicts)?;
        }
        match verdicts.iter().filter(|verdict| !verdict.valid).count() {
            0 => all_read,
            bad => {
                let what = format!("{bad} of {} images broken", verdicts.len());
                Err(Refusal::image(what).hint("pull, import or copy what is broken again").into())
            }
        }
    }

    /// What is to be looked at, and whether that is all there is.
    fn subjects(&self, context: &Context) -> Result<(Vec<Subject>, Result<(), Failure>), Failure> {
        if self.all {
            let repository = context.repository()?;
            let listing = repository.list()?;
            let all_read = listing.all_read();
            let mut subjects = of_rows(&listing.rows.iter().collect::<Vec<_>>(), &repository);
            subjects.extend(listing.broken.into_iter().map(|digest| of_digest(&digest, &repository)));
            return Ok((subjects, all_read));
        }
        let repositories = context.lookup()?;
        let listings = repositories.iter().map(Repository::list).collect::<Result<Vec<Listing>, _>>()?;
        let mut subjects = vec![];
        for image in &self.images {
            if ["/", "./", "../"].iter().any(|begin| image.starts_with(begin)) {
                subjects.push(of_file(image));
                continue;
            }
            let mut found: Vec<_> = repositories
                .iter()
                .zip(&listings)
                .map(|(repository, listing)| {
                    let place = repository.root().display().to_string();
                    meant(image, listing, &place).map(|what| in_repository(what, repository))
                })
                .collect();
            // The first repository that has it, else what the user's own says.
            let first = found.iter().position(Result::is_ok).unwrap_or(0);
            subjects.extend(found.swap_remove(first)?);
        }
        Ok((subjects, Ok(())))
    }
}

/// The plugin's question, about a file that it opened. One sentence, or none.
fn standard_input(depth: Depth) -> Result<(), Failure> {
    let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let file = file.map_err(|e| Failure::io("read", Path::new("-"), &e))?;
    let regular = file.metadata().is_ok_and(|meta| meta.is_file());
    if !regular {
        return Err(Refusal::user("standard input is no file that can be read anywhere")
            .hint("name the file, or write 'grus verify - < FILE'")
            .into());
    }
    valid::checked(&file, "standard input", depth).map(drop)
}

fn of_file(path: &str) -> Subject {
    let recorded = match meta_beside(Path::new(path)) {
        Ok(None) => Recorded::Nothing,
        Ok(Some(meta)) => Recorded::Meta(Box::new(meta)),
        Err(_) => Recorded::Wrong,
    };
    Subject { name: path.to_owned(), path: path.into(), recorded, kept: false }
}

fn in_repository(what: Meant<'_>, repository: &Repository) -> Vec<Subject> {
    match what {
        Meant::Tag(rows) => of_rows(&rows, repository),
        Meant::Image(digest, rows) if rows.is_empty() => vec![of_digest(&digest, repository)],
        Meant::Image(_, rows) => of_rows(&rows, repository),
    }
}

/// One without a tag, and without metadata that fit it.
fn of_digest(digest: &Digest, repository: &Repository) -> Subject {
    let path = repository.layout().image(digest);
    Subject { name: digest.to_string(), path, recorded: Recorded::Wrong, kept: true }
}

/// The images of some rows, each once.
fn of_rows(rows: &[&Row], repository: &Repository) -> Vec<Subject> {
    let mut seen: Vec<&Digest> = vec![];
    let mut subjects = vec![];
    for row in rows {
        if seen.contains(&&row.digest) {
            continue;
        }
        seen.push(&row.digest);
        let name = row.reference.as_ref().map_or_else(|| row.digest.to_string(), |name| name.familiar());
        let recorded = row.meta.clone().map_or(Recorded::Wrong, |meta| Recorded::Meta(Box::new(meta)));
        subjects.push(Subject { name, path: repository.layout().image(&row.digest), recorded, kept: true });
    }
    subjects
}

impl Subject {
    fn look(&self, depth: Depth) -> Result<Verdict, Failure> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            // As on scratch file systems, where what is old is removed.
            Err(e) if self.kept && e.kind() == io::ErrorKind::NotFound => {
                return Ok(self.unknown("missing", "its file is gone".into()));
            }
            Err(e) => return Err(self.unreadable(&e)),
        };
        let found = valid::found(&file, &self.name, depth)?;
        let as_recorded = match &self.recorded {
            Recorded::Nothing => None,
            Recorded::Wrong => Some(false),
            Recorded::Meta(meta) => Some(self.is_as_recorded(&file, meta)?),
        };
        Ok(self.verdict(found.map_err(Fault::from), as_recorded))
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        let what = format!("cannot read {}: {}", printable(&self.path.display().to_string()), reason(error));
        Refusal::user(what).hint("check the path, and the permissions of it and of those above").into()
    }

    /// Whether the file is as long as was recorded, and has the digest, where one was.
    fn is_as_recorded(&self, file: &File, meta: &ImageMeta) -> Result<bool, Failure> {
        let failed = |e: &io::Error| Failure::io("read", &self.path, e);
        if file.metadata().map_err(|e| failed(&e))?.len() != meta.size {
            return Ok(false);
        }
        let Some(content) = &meta.content else { return Ok(true) };
        let mut hash = Sha256::new();
        io::copy(&mut BufReader::with_capacity(1 << 20, file), &mut hash).map_err(|e| failed(&e))?;
        Ok(digest_of_hash(hash) == *content)
    }

    /// Of an image of which nothing is known but that it cannot be had.
    fn unknown(&self, rule: &'static str, why: String) -> Verdict {
        self.verdict(Err(Fault::whole(rule, why)), None)
    }

    fn verdict(&self, found: Result<Report, Fault>, as_recorded: Option<bool>) -> Verdict {
        let (report, broken) = match found {
            Ok(report) => (Some(report), None),
            Err(fault) => (None, Some(fault)),
        };
        let other =
            || Fault::whole("recorded", "it is not the file that its metadata were written for".into());
        let broken = broken.or_else(|| (as_recorded == Some(false)).then(other));
        Verdict {
            image: self.name.clone(),
            path: self.path.display().to_string(),
            valid: broken.is_none(),
            as_recorded,
            compression: report.as_ref().map(|report| report.compression),
            inodes: report.as_ref().map(|report| report.inodes),
            files: report.as_ref().map(|report| report.files),
            unpacked_size: report.as_ref().map(|report| report.file_bytes),
            broken,
        }
    }
}

impl Fault {
    /// Of the image, at no place of it.
    fn whole(rule: &'static str, message: String) -> Self {
        Self { rule, message, at: None, inode: None, path: None }
    }
}

impl From<Box<Broken>> for Fault {
    fn from(broken: Box<Broken>) -> Self {
        let message = broken.to_string();
        Self { rule: broken.rule.id(), message, at: broken.at, inode: broken.inode, path: broken.path }
    }
}

/// One result for people.
fn line(verdict: &Verdict) -> String {
    let name = printable(&verdict.image);
    match &verdict.broken {
        Some(fault) => format!("{name}: broken: {}\n", printable(&fault.message)),
        None => format!(
            "{name}: valid: {} inodes, {} files of {}, {}\n",
            verdict.inodes.unwrap_or_default(),
            verdict.files.unwrap_or_default(),
            output::bytes(verdict.unpacked_size.unwrap_or_default()),
            verdict.compression.unwrap_or_default(),
        ),
    }
}
