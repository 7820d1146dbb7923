//! Owns the way from an image's layers to an image in the repository: convert, check, publish. Pull and import
//! meet here.

use std::path::Path;
use std::sync::Arc;

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, META_VERSION};
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::{printable, Refusal};
use grus_squash::{convert, convert_reusing, Error, LayerSource, Observer, Options, Reuse, Summary};

use crate::archive::rootfs_digest;
use crate::failure::{reason, Failure};
use crate::history;
use crate::image::{Identity, Image};
use crate::oci::Config;
use crate::registry::RegistryError;
use crate::repository::Repository;
use crate::reuse::{layer_id, Found};

/// Converts and publishes `image`; gives its metadata.
pub fn build(
    repository: &Repository,
    image: Image,
    reference: &Reference,
    options: &Options,
    observer: &dyn Observer,
) -> Result<ImageMeta, Failure> {
    repository.prepare()?;
    let out = repository.temp()?;
    let sources: Vec<Arc<dyn LayerSource>> = image.layers.iter().map(|l| l.source.clone()).collect();
    let history = history::of(&image);
    let summary = convert(&sources, out.file(), options, observer)
        .map_err(|error| failed(error, out.path(), &reference.familiar()))?;
    let (digest, layers) = match image.identity {
        Identity::Known(digest) => (digest, image.layers.into_iter().map(|l| l.digest).collect()),
        Identity::AfterReading(content) => {
            let content = content
                .get()
                .cloned()
                .ok_or_else(|| Refusal::image("the stream was not read to its end").hint("try again"))?;
            (rootfs_digest(&content, &image.platform), vec![content])
        }
    };
    let mut meta = meta(digest, layers, image.platform, image.config, reference, &summary);
    meta.history = history;
    repository.publish(out, &mut meta)?;
    Ok(meta)
}

/// The same for an image from a registry, of `digest`: takes layers from where `found` has them, publishes an index
/// of them with the image, and leaves finished layers to the next pull if this one breaks off.
pub fn build_reusing(
    repository: &Repository,
    (digest, image): (&Digest, Image),
    found: &Found,
    reference: &Reference,
    options: &Options,
    observer: &dyn Observer,
) -> Result<ImageMeta, Failure> {
    repository.prepare()?;
    let sources: Vec<Arc<dyn LayerSource>> = image.layers.iter().map(|l| l.source.clone()).collect();
    let history = history::of(&image);
    let layers: Vec<Digest> = image.layers.into_iter().map(|l| l.digest).collect();
    let mut kept = found.layers(&layers);
    let (out, summary) = loop {
        let out = repository.partial(digest)?;
        let ids = layers.iter().map(layer_id).collect();
        let again = kept.iter().any(|kept| !kept.is_empty());
        let reuse = Reuse { index: Some(out.index().file()), ids, kept };
        let convert = || convert_reusing(&sources, &reuse, out.image().file(), options, observer);
        let (result, synced) = out.image().syncing(convert);
        match synced.map_err(Error::Write).and(result) {
            Ok(summary) => break (out, summary),
            Err(Error::Kept { layer, .. }) if again => {
                // Damaged is what an earlier pull left, not what the registry has: once more without it.
                if let Ok(layer) = Digest::parse(&layer) {
                    found.distrust(&layer);
                }
                kept = vec![];
            }
            Err(error) => {
                let full = matches!(error, Error::Write(_));
                let broke_off = matches!(error, Error::Source { .. } | Error::Cancelled);
                let failure = failed(error, out.image().path(), &reference.familiar());
                if broke_off {
                    out.keep();
                } else if full {
                    drop(out);
                    found.clear();
                }
                return Err(failure);
            }
        }
    };
    let mut meta = meta(digest.clone(), layers, image.platform, image.config, reference, &summary);
    meta.history = history;
    repository.publish_partial(out, &mut meta)?;
    found.clear();
    Ok(meta)
}

fn meta(
    digest: Digest,
    layers: Vec<Digest>,
    platform: Platform,
    config: Config,
    reference: &Reference,
    summary: &Summary,
) -> ImageMeta {
    ImageMeta {
        version: META_VERSION,
        reference: Some(reference.clone()),
        digest,
        platform,
        created: config.created,
        size: 0,
        content: None,
        unpacked_size: summary.file_bytes,
        config: config.config.into(),
        layers,
        history: vec![],
    }
}

/// A failed conversion of `name`, to be written to `out`, in the words of a command.
pub(crate) fn failed(error: Error, out: &Path, name: &str) -> Failure {
    match error {
        Error::Cancelled => Failure::Cancelled,
        Error::Write(error) => Failure::io("write", out, &error),
        Error::Options(what) => Refusal::user(what).into(),
        Error::Source { layer, source } => match RegistryError::from_io(&source) {
            Some(error) => error.clone().into(),
            None => {
                let damaged = source.kind() == std::io::ErrorKind::InvalidData;
                let what = format!(
                    "layer {} of {name} {}: {}",
                    printable(&layer),
                    if damaged { "is damaged" } else { "cannot be read" },
                    reason(&source)
                );
                match source.kind() {
                    _ if damaged => Refusal::image(what).hint("make or copy the archive again").into(),
                    std::io::ErrorKind::PermissionDenied => Refusal::user(what)
                        .hint("make it readable to you, or import a tar that its owner makes")
                        .into(),
                    _ => Failure::System { what, hint: None },
                }
            }
        },
        other => {
            let text = other.to_string();
            let (what, hint) = match text.split_once("\nhint: ") {
                Some((what, hint)) => (what, hint),
                None => {
                    (text.as_str(), "the image is broken or hostile; build it again, or ask whoever made it")
                }
            };
            Refusal::image(format!("cannot convert {name}: {}", printable(what))).hint(printable(hint)).into()
        }
    }
}
