//! `grus tag`: another name for an image.

use grus_core::reference::Reference;
use grus_core::refusal::Refusal;
use grus_core::repository::Tag;

use super::name::{meant, Meant};
use super::shared::reference;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  grus tag nvcr.io/nvidia/pytorch:25.09-py3 torch
  grus tag 3f5a7c91d2e4 app:known-good";

/// Arguments of `grus tag`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, by name or digest
    #[arg(value_name = "REF|DIGEST")]
    image: String,
    /// Its new name
    #[arg(value_name = "NAME[:TAG]", value_parser = reference())]
    name: Reference,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let name = self.name.familiar();
        if self.name.digest.is_some() {
            return Err(Refusal::user(format!("{name} cannot be a new name"))
                .hint("a digest belongs to its image; give NAME[:TAG] only")
                .into());
        }
        let repository = context.repository()?;
        let listing = repository.list()?;
        let (Meant::Tag(rows) | Meant::Image(_, rows)) =
            meant(&self.image, &listing, &repository.root().display().to_string())?;
        repository.prepare()?;
        let mut done = 0;
        for row in rows.iter().filter(|row| row.meta.is_some()) {
            // The registry's answer belongs to the old name: asked for the new one, it may say otherwise.
            let tag = Tag { digest: row.digest.clone(), resolved: None, signatures: row.signatures.clone() };
            done += usize::from(repository.set_tag(&self.name, &row.platform, &tag)?);
        }
        match done {
            0 => Err(Refusal::image(format!("there is no sound image behind {}", self.image))
                .hint("pull or import it again")
                .into()),
            _ => output::print(&format!("Tagged: {name}\n")),
        }
    }
}
