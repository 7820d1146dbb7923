//! Owns the reading of an OCI image layout (image-spec, image-layout.md), in a directory or a tar.

use std::io::{self, Read};
use std::sync::Arc;

use grus_core::digest::Digest;
use grus_core::refusal::{printable, Refusal};
use grus_squash::LayerSource;

use super::{Members, Wanted};
use crate::digest::{digest_of, Verified};
use crate::failure::Failure;
use crate::image::{Identity, Image, Layer};
use crate::oci::{json, Config, Descriptor, Document, Index, RawPlatform};

/// Deepest nesting of indexes. Digests make a circle impossible, so this bounds only a hostile chain.
const MAX_NESTING: usize = 8;

/// Annotations that name an image: OCI's own (a tag or a whole name), and containerd's (always a whole name).
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// Whether the archive is an image layout.
pub fn is_layout(members: &Members) -> bool {
    members.has("oci-layout") && members.has("index.json")
}

/// Finds the wanted image and its layers; every document is checked against its digest.
pub fn open(members: &Members, wanted: &Wanted) -> Result<Image, Failure> {
    let name = members.name();
    let index = members.document("index.json")?.unwrap_or_default();
    let index: Index = json(&index, &format!("index.json of {name}"))?;
    let mut descriptor = choose(&index, wanted, &name)?.clone();
    for _ in 0..MAX_NESTING {
        let on = format!("the manifest {} in {name}", descriptor.digest);
        let bytes = blob(members, &descriptor)?;
        match Document::parse(&bytes, &on)? {
            Document::Index(index) => descriptor = index.choose(&wanted.platform, &name)?.clone(),
            Document::Manifest(manifest) => {
                let config = blob(members, &manifest.config)?;
                let config =
                    Config::parse(&config, &format!("the configuration {}", manifest.config.digest))?;
                let platform = super::check_platform(&config, descriptor.platform.as_ref(), wanted, &name)?;
                let layers = manifest.layers.iter().map(|layer| self::layer(members, layer, &name));
                let layers = layers.collect::<Result<_, _>>()?;
                return Ok(Image { identity: Identity::Known(descriptor.digest), platform, config, layers });
            }
        }
    }
    Err(Refusal::image(format!("{name} nests more than {MAX_NESTING} indexes"))
        .hint("no builder makes such; make the archive again")
        .into())
}

/// The descriptor of the wanted image: by name where one is asked for or needed, then by platform.
fn choose<'a>(index: &'a Index, wanted: &Wanted, on: &str) -> Result<&'a Descriptor, Failure> {
    let known = |d: &&Descriptor| d.platform.as_ref().is_none_or(|p: &RawPlatform| p.known().is_some());
    let mut all: Vec<&Descriptor> = index.manifests.iter().filter(known).collect();
    // One image under several names: which of them is meant does not matter.
    if wanted.select.is_none() && all.iter().all(|d| d.digest == all[0].digest) {
        all.truncate(1);
    }
    let names = |d: &Descriptor| -> Vec<String> {
        NAMES.iter().filter_map(|key| d.annotations.get(*key)).cloned().collect()
    };
    let images = super::select(&all, |d| names(d), wanted, on)?;
    let index = Index { manifests: images.iter().map(|d| (*d).clone()).collect() };
    let chosen = index.choose(&wanted.platform, on)?.clone();
    Ok(images.into_iter().find(|d| **d == chosen).unwrap_or(all[0]))
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Reads a document by its descriptor, and checks it.
fn blob(members: &Members, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
    let bytes = members.document(&path(&descriptor.digest))?;
    let bytes = bytes.ok_or_else(|| missing(&descriptor.digest, &members.name()))?;
    if digest_of(&bytes) != descriptor.digest {
        return Err(Refusal::image(format!(
            "blob {} in {} is damaged: its content is {}",
            descriptor.digest,
            members.name(),
            digest_of(&bytes)
        ))
        .hint("make or copy the archive again")
        .into());
    }
    Ok(bytes)
}

fn layer(members: &Members, descriptor: &Descriptor, name: &str) -> Result<Layer, Failure> {
    let digest = descriptor.digest.clone();
    if !members.has(&path(&digest)) {
        let foreign = !descriptor.urls.is_empty();
        let refusal = missing(&digest, name);
        return Err(match foreign {
            true => refusal.hint(format!(
                "it is a foreign layer, to be fetched from {}; make the archive with it",
                printable(&descriptor.urls.join(", "))
            )),
            false => refusal,
        }
        .into());
    }
    let source = Blob { members: members.clone(), digest: digest.clone(), size: descriptor.size };
    Ok(Layer { digest, size: descriptor.size, source: Arc::new(source) })
}

fn missing(digest: &Digest, name: &str) -> Refusal {
    Refusal::image(format!("{name} lacks the blob {digest}")).hint("make or copy the archive again")
}

/// A layer's blob.
#[derive(Debug)]
struct Blob {
    members: Members,
    digest: Digest,
    size: u64,
}

impl LayerSource for Blob {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        match self.members.open(&path(&self.digest))? {
            Some((file, _)) => Ok(Box::new(Verified::new(file, self.digest.clone(), Some(self.size)))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn name(&self) -> String {
        self.digest.to_string()
    }
}
