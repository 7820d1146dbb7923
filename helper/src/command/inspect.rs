//! `grus inspect`: all that is known of an image.

use grus_core::image::ImageMeta;
use grus_core::reference::Reference;
use grus_core::refusal::{printable, Refusal};
use grus_core::signature::Signed;
use serde::Serialize;

use super::name::{meant, Meant};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::repository::{Listing, Repository};

const EXAMPLES: &str = "\
Examples:
  grus inspect ubuntu:24.04
  grus inspect ubuntu:24.04 | jq -r '.[0].config.env[]'";

/// Arguments of `grus inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names or digests
    #[arg(value_name = "REF|DIGEST", required = true)]
    names: Vec<String>,
}

/// One image.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    tags: Vec<String>,
    path: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signatures: Vec<&'a Signed>,
    #[serde(flatten)]
    meta: &'a ImageMeta,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let repositories = context.lookup()?;
        let listings = repositories.iter().map(|r| r.list()).collect::<Result<Vec<Listing>, _>>()?;
        let mut all: Vec<Shown> = vec![];
        for name in &self.names {
            let found = repositories.iter().zip(&listings).map(|(repository, listing)| {
                let place = repository.root().display().to_string();
                meant(name, listing, &place).and_then(|what| shown(name, what, repository, listing))
            });
            // The first repository that has it, else what the user's own says.
            let mut found: Vec<_> = found.collect();
            let first = found.iter().position(Result::is_ok).unwrap_or(0);
            all.extend(found.swap_remove(first)?);
        }
        output::json(&all)
    }
}

/// The images a name stands for, each once.
fn shown<'a>(
    name: &str,
    what: Meant<'a>,
    repository: &Repository,
    listing: &'a Listing,
) -> Result<Vec<Shown<'a>>, Failure> {
    let (Meant::Tag(rows) | Meant::Image(_, rows)) = what;
    let mut all: Vec<Shown> = vec![];
    for meta in rows.iter().filter_map(|row| row.meta.as_ref()) {
        if !all.iter().any(|s| s.meta.digest == meta.digest) {
            let path = repository.layout().image(&meta.digest).display().to_string();
            all.push(Shown { tags: tags(listing, meta), path, signatures: signatures(listing, meta), meta });
        }
    }
    match all.is_empty() {
        true => Err(damaged(name)),
        false => Ok(all),
    }
}

fn tags(listing: &Listing, meta: &ImageMeta) -> Vec<String> {
    let of = listing.rows.iter().filter(|row| row.digest == meta.digest);
    of.filter_map(|row| row.reference.as_ref()).map(Reference::to_string).collect()
}

/// The signatures that any of its names was taken for, each once.
fn signatures<'a>(listing: &'a Listing, meta: &ImageMeta) -> Vec<&'a Signed> {
    let mut all: Vec<&Signed> = vec![];
    for signed in listing.rows.iter().filter(|row| row.digest == meta.digest).flat_map(|row| &row.signatures)
    {
        if !all.contains(&signed) {
            all.push(signed);
        }
    }
    all
}

fn damaged(name: &str) -> Failure {
    Refusal::image(format!("there is no sound image behind {}", printable(name)))
        .hint("pull or import it again")
        .into()
}
