//! Owns the saving of a container (`--container-save`): the plugin hands over the tree, this writes it as an image
//! where the user wants it. It runs as the user and trusts neither the tree nor the place.

mod file;
mod judge;
mod part;

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, META_VERSION};
use grus_core::platform::Platform;
use grus_core::refusal::{printable, Refusal};
use grus_core::saving::Order;
use grus_enter::repository::meta_beside;
use grus_enter::saving;
use grus_squash::{convert, DirectorySource, Error, LayerSource, Options};

use crate::archive::{self, rootfs_digest, Hashed};
use crate::build::failed;
use crate::failure::{reason, Failure};
use crate::image::Identity;
pub use file::NewFile;
use judge::Judge;

/// What was saved.
pub struct Saved {
    /// Metadata of the new image.
    pub meta: ImageMeta,
    /// What the user could not read, and is not in it.
    pub left_out: Vec<PathBuf>,
}

/// Saves. `tree` leads to the container's tree, where the order says that there is one.
pub fn save(order: &Order, tree: &Path) -> Result<Saved, Failure> {
    let to = order.file.as_path();
    saving::check(to)?;
    let base = meta_beside(order.image.as_path())?;
    let platform = base.as_ref().map_or_else(Platform::here, |meta| meta.platform.clone());
    let new = NewFile::create(to)?;
    let content = match order.tree {
        true => changed(order, tree, &platform, &new)?,
        false => copied(order, base.as_ref(), &platform, &new)?,
    };
    let meta = ImageMeta {
        version: META_VERSION,
        // It is no longer what it was pulled as; its path names it.
        reference: None,
        digest: content.digest,
        platform,
        created: base.as_ref().and_then(|meta| meta.created.clone()),
        size: new.file().metadata().map_err(|e| not_written(to, &e))?.len(),
        content: None,
        unpacked_size: content.unpacked,
        config: base.map(|meta| meta.config).unwrap_or_default(),
        layers: content.layers,
        history: vec![],
    };
    let beside = saving::beside(to);
    let text = NewFile::create(&beside)?;
    text.file().write_all(meta.to_json().as_bytes()).map_err(|e| not_written(&beside, &e))?;
    new.sync()?;
    text.sync()?;
    // What was there may have changed in the meantime.
    saving::check(to)?;
    text.publish()?;
    new.publish()?;
    Ok(Saved { meta, left_out: content.left_out })
}

/// Copies all of `from` (called `name`) to the file that will be at `path`.
fn copy(from: &mut impl BufRead, mut to: &File, name: &str, path: &Path) -> Result<(), Failure> {
    loop {
        let bytes = from.fill_buf().map_err(|e| Failure::read(name, &e))?;
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len();
        to.write_all(bytes).map_err(|e| not_written(path, &e))?;
        from.consume(length);
    }
}

/// A file could not be written: a full disk, a quota.
fn not_written(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space there, or name a file elsewhere; nothing was left there"
        }
        _ => "check the directory, or name a file elsewhere",
    };
    let what = format!("cannot write {}: {}", printable(&path.display().to_string()), reason(error));
    Failure::System { what, hint: Some(hint.into()) }
}

/// What was written.
struct Content {
    digest: Digest,
    layers: Vec<Digest>,
    unpacked: u64,
    left_out: Vec<PathBuf>,
}

/// The tree as a new image of one layer.
fn changed(order: &Order, tree: &Path, platform: &Platform, new: &NewFile) -> Result<Content, Failure> {
    let name = "the container";
    let judge = Arc::new(Judge::new(order, tree)?);
    let source = DirectorySource { path: tree.to_owned(), judge: judge.clone() };
    let reader = source.open().map_err(|e| Failure::read(name, &e))?;
    let image = archive::rootfs_image(reader, name, platform);
    let layers: Vec<Arc<dyn LayerSource>> = image.layers.into_iter().map(|layer| layer.source).collect();
    let to = order.file.as_path();
    let summary = convert(&layers, new.file(), &Options::default(), &()).map_err(|error| match error {
        Error::Write(error) => not_written(to, &error),
        other => failed(other, to, name),
    })?;
    let content = match &image.identity {
        Identity::AfterReading(content) => content.get().cloned(),
        Identity::Known(digest) => Some(digest.clone()),
    };
    let content = content.ok_or_else(|| Refusal::image("the container was not read to its end"))?;
    Ok(Content {
        digest: rootfs_digest(&content, platform),
        layers: vec![content],
        unpacked: summary.file_bytes,
        left_out: judge.left_out(),
    })
}

/// The image as it is, for nothing in it can have changed.
fn copied(
    order: &Order,
    base: Option<&ImageMeta>,
    platform: &Platform,
    new: &NewFile,
) -> Result<Content, Failure> {
    let (from, name) = (order.image.as_path(), printable(order.image.as_str()));
    let file = File::open(from).map_err(|e| Failure::System {
        what: format!("cannot read {name}: {}", reason(&e)),
        hint: Some("the image must stay where it is while the step runs".into()),
    })?;
    let content = Arc::default();
    let reader = Hashed::new(Box::new(file), Arc::clone(&content));
    let mut reader = io::BufReader::with_capacity(1 << 20, reader);
    copy(&mut reader, new.file(), &name, order.file.as_path())?;
    let (digest, layers, unpacked) = match base {
        Some(meta) => (meta.digest.clone(), meta.layers.clone(), meta.unpacked_size),
        None => {
            let content =
                content.get().cloned().ok_or_else(|| Refusal::image(format!("{name} ended early")))?;
            (rootfs_digest(&content, platform), vec![content], 0)
        }
    };
    Ok(Content { digest, layers, unpacked, left_out: vec![] })
}
