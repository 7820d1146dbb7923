//! `grus import`: an image from local bytes, or from a file of a web server.

mod web;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, META_VERSION};
use grus_core::reference::Reference;
use grus_core::refusal::Refusal;
use grus_squash::Depth;
use sha2::{Digest as _, Sha256};

use super::shared::{digest, reference, Made, Making, Status, Target};
use crate::archive::{self, open, rootfs_digest, Opened, Source, Wanted};
use crate::build::build;
use crate::context::Context;
use crate::digest::digest_of_hash;
use crate::failure::Failure;
use crate::image::{Identity, Image};
use crate::progress::{watched, Progress, Style};
use crate::registry::address;
use crate::repository::Repository;
use crate::valid;

const EXAMPLES: &str = "\
Examples:
  grus import app.tar app:1.0             a file of 'docker save' or Podman's
  docker save app:1.0 | grus import - app:1.0
  grus import ./layout app:1.0            an OCI layout of buildah or skopeo
  grus import rootfs.tar.zst debian:mine  a root file system, tar or directory
  grus import --digest sha256:9f86d0... https://s3.example.org/a.squashfs app:1
  grus import --platform linux/arm64 app.tar app:1.0";

/// Arguments of `grus import`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An OCI layout, a docker-archive, a root file system (each a directory or a tar, also gzip or zstd), or a
    /// SquashFS file; '-' reads a pipe, an https address is fetched
    #[arg(value_name = "FILE|DIR|URL|-")]
    from: PathBuf,
    /// What to call the image
    #[arg(value_name = "NAME[:TAG]", value_parser = reference())]
    name: Reference,
    /// The name of the image in an archive that holds several
    #[arg(long, value_name = "NAME")]
    select: Option<String>,
    /// What the file must be, as sha256sum shows it; anything else is refused. An unchanged image is then not
    /// fetched again, and a slow download that was interrupted goes on
    #[arg(long, value_name = "sha256:HEX", value_parser = digest())]
    digest: Option<Digest>,
    #[command(flatten)]
    making: Making,
}

impl Args {
    /// An import that was asked for in other words.
    pub(super) fn new(from: PathBuf, name: Reference, select: Option<String>, making: Making) -> Self {
        Self { from, name, select, digest: None, making }
    }

    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.name.digest.is_some() {
            return Err(Refusal::user(format!("cannot import as {}", self.name.familiar()))
                .hint("the digest comes from the image; give NAME[:TAG] only")
                .into());
        }
        let repository = context.repository()?;
        let target = Target {
            repository: &repository,
            reference: &self.name,
            platform: self.making.platform(),
            resolved: None,
            signatures: vec![],
            start: Instant::now(),
        };
        let made = match self.from.to_str().map(address).transpose()?.flatten() {
            Some(url) => self.fetch(&url, context, target)?,
            None => {
                self.make(open(&self.from, &self.wanted(), &repository)?, &target, self.making.style())?
            }
        };
        self.making.report(&made)
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            reference: self.name.clone(),
            select: self.select.clone(),
            digest: self.digest.clone(),
            platform: self.making.platform(),
        }
    }

    /// The image of an opened source.
    fn make(&self, opened: Opened, target: &Target, style: Style) -> Result<Made, Failure> {
        match opened.source {
            Source::Image(image) => self.convert(*image, target, style),
            Source::Squashfs(reader) => {
                let meta = copy(target.repository, reader, &self.wanted())?;
                target.tag(meta, Status::Made("imported"))
            }
        }
    }

    fn convert(&self, image: Image, target: &Target, style: Style) -> Result<Made, Failure> {
        let known = match &image.identity {
            Identity::Known(digest) => Some(digest.clone()),
            Identity::AfterReading(_) => None,
        };
        let make = || {
            let title = format!("importing {}", self.name.familiar());
            let sizes = image.layers.iter().map(|l| (l.source.name(), l.size));
            let progress = Arc::new(Progress::new(style, &title, sizes));
            let layers = watched(image.layers, &progress);
            let image = Image { layers, ..image };
            let built =
                build(target.repository, image, &self.name, &self.making.options(), progress.as_ref());
            progress.clear();
            built
        };
        match known {
            Some(digest) => target.obtain(&digest, "imported", make),
            None => target.tag(make()?, Status::Made("imported")),
        }
    }
}

/// Takes a finished SquashFS file as it is, once everything in it was found to be as the format has it.
fn copy(
    repository: &Repository,
    mut reader: Box<dyn Read + Send>,
    wanted: &Wanted,
) -> Result<ImageMeta, Failure> {
    repository.prepare()?;
    let out = repository.temp()?;
    let mut to = Hashing { file: out.file(), hash: Sha256::new() };
    archive::copy(&mut reader, &mut to, &wanted.reference.familiar(), out.path())?;
    let content = digest_of_hash(to.hash);
    let report = valid::checked(out.file(), &wanted.reference.familiar(), Depth::Structure)?;
    let mut meta = ImageMeta {
        version: META_VERSION,
        reference: Some(wanted.reference.clone()),
        digest: rootfs_digest(&content, &wanted.platform),
        platform: wanted.platform.clone(),
        created: None,
        size: 0,
        content: Some(content.clone()),
        unpacked_size: report.file_bytes,
        config: Default::default(),
        layers: vec![content],
        history: vec![],
    };
    repository.publish(out, &mut meta)?;
    Ok(meta)
}

struct Hashing<'a> {
    file: &'a std::fs::File,
    hash: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
