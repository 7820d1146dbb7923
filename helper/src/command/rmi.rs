//! `grus rmi`: tags and images out of a repository.

use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::Refusal;

use super::name::{meant, Meant};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::repository::{Removed, Repository, Row};

const EXAMPLES: &str = "\
Examples:
  grus rmi ubuntu:24.04
  grus rmi 3f5a7c91d2e4               by digest, or the beginning of one
  grus rmi --force sha256:3f5a...     with all its tags

The image itself is removed with its last tag. Steps that run in it are not
disturbed, but on NFS, where those on other nodes can fail.";

/// Arguments of `grus rmi`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names or digests
    #[arg(value_name = "REF|DIGEST", required = true)]
    names: Vec<String>,
    /// Remove an image named by its digest even if it has several tags
    #[arg(long, short)]
    force: bool,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let repository = context.repository()?;
        let listing = repository.list()?;
        let place = repository.root().display().to_string();
        // All names are understood before anything is removed: a misspelt one leaves everything as it was.
        let all: Vec<Meant> =
            self.names.iter().map(|name| meant(name, &listing, &place)).collect::<Result<_, _>>()?;
        for one in &all {
            if let Meant::Image(digest, rows) = one {
                let tags: Vec<String> = tags(rows).iter().map(|(r, _)| r.familiar()).collect();
                if tags.len() > 1 && !self.force {
                    return Err(Refusal::user(format!(
                        "image {} has several tags: {}",
                        digest.short(),
                        tags.join(", ")
                    ))
                    .hint("remove them by name, or add --force")
                    .into());
                }
            }
        }
        for one in all {
            remove(&repository, one)?;
        }
        Ok(())
    }
}

fn remove(repository: &Repository, what: Meant) -> Result<(), Failure> {
    let (rows, image) = match what {
        Meant::Tag(rows) => (rows, None),
        Meant::Image(digest, rows) => (rows, Some(digest)),
    };
    let mut removed = Removed::default();
    for row in &rows {
        if let Some(reference) = &row.reference {
            // One that leads to another image by now is as good as set after it was removed.
            repository.drop_tag(reference, &row.platform, (&row.digest, None), &mut removed)?;
        }
    }
    let mut digests: Vec<_> = rows.iter().map(|row| row.digest.clone()).chain(image).collect();
    digests.sort();
    digests.dedup();
    let done = digests.iter().try_for_each(|digest| repository.remove_image(digest, &mut removed));
    // Also where a tag that cannot be read keeps the image: the names are gone.
    output::print(&said(&removed))?;
    done
}

/// What was removed, a line each.
pub(super) fn said(removed: &Removed) -> String {
    let mut text = String::new();
    for (reference, platform) in &removed.tags {
        let foreign = if Platform::here().runs(platform) { String::new() } else { format!(" ({platform})") };
        text += &format!("Untagged: {}{foreign}\n", reference.familiar());
    }
    for (digest, bytes) in &removed.images {
        text += &format!("Deleted: {digest} ({})\n", output::bytes(*bytes));
    }
    text
}

fn tags<'a>(rows: &[&'a Row]) -> Vec<(&'a Reference, &'a Platform)> {
    rows.iter().filter_map(|row| row.reference.as_ref().map(|r| (r, &row.platform))).collect()
}
