//! `grus export`: an image as an archive for Podman, Docker and Skopeo.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use grus_core::reference::Reference;
use grus_core::refusal::Refusal;

use super::name::{one, Found};
use crate::context::Context;
use crate::export;
use crate::failure::Failure;
use crate::output;
use crate::save::NewFile;

const EXAMPLES: &str = "\
Examples:
  grus export app:1 -o app.tar
  grus export app:1 | podman load
  skopeo copy oci-archive:app.tar docker://registry.example.org/me/app:1
  grus export --tree app:1 | tar -x -C rootfs     the files alone

The archive is an OCI archive and a docker-archive in one, with a single layer
that is not compressed. The same image gives the same bytes. No root is needed;
owners of files are kept.";

/// Arguments of `grus export`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, by name or digest
    #[arg(value_name = "REF|DIGEST")]
    image: String,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the image's files as a plain tar, without names and configuration
    #[arg(long)]
    tree: bool,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let found = one(context, &self.image)?;
        match self.output.as_deref() {
            None => {
                let mut out = io::stdout();
                if out.is_terminal() {
                    return Err(Refusal::user("an archive is not for a terminal")
                        .hint("name a file with --output, or pipe it: grus export IMAGE | podman load")
                        .into());
                }
                self.write(&found, &mut out)
            }
            // A device or a pipe is written as it is.
            Some(path) if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) => {
                let file = fs::OpenOptions::new().write(true).open(path);
                self.write(&found, &mut file.map_err(|e| Failure::io("write", path, &e))?)
            }
            Some(path) => {
                let path = std::path::absolute(path).map_err(|e| Failure::io("write", path, &e))?;
                self.file(&found, &path)
            }
        }
    }

    /// Appears when it is whole.
    fn file(&self, found: &Found, path: &Path) -> Result<(), Failure> {
        let new = NewFile::create(path)?;
        let mut out = new.file();
        self.write(found, &mut out)?;
        new.sync()?;
        let size = new.file().metadata().map_or(0, |meta| meta.len());
        new.publish()?;
        output::note(&format!(
            "exported {} ({})",
            grus_core::refusal::printable(&path.display().to_string()),
            output::bytes(size)
        ));
        Ok(())
    }

    fn write(&self, found: &Found, out: &mut (impl Write + Send)) -> Result<(), Failure> {
        // Small pieces of a tar are gathered.
        let mut out = io::BufWriter::with_capacity(1 << 20, out);
        match self.tree {
            true => export::files(&found.path, &found.meta, &mut out),
            false => export::archive(&found.path, &found.meta, &self.names(found), &mut out).map(drop),
        }
    }

    /// The name that was typed, if it is one; else all that the image has.
    fn names(&self, found: &Found) -> Vec<Reference> {
        let tags = || found.tags.iter().filter(|tag| tag.tag.is_some() && tag.digest.is_none()).cloned();
        let typed = Reference::parse(&self.image).ok();
        match typed.filter(|typed| tags().any(|tag| tag == *typed)) {
            Some(typed) => vec![typed],
            None => tags().collect(),
        }
    }
}
