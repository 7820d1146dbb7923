//! Owns the reading of a docker-archive, as `docker save`, `podman save` and many builders write it: a
//! `manifest.json` that names configurations, tags and layers (moby: image/spec/v1.2.md).
//!
//! Layers may be links, may be named twice, may be compressed. Their content is checked against the diff_ids of
//! the configuration.

use std::io::{self, Read};
use std::sync::Arc;

use grus_core::digest::Digest;
use grus_core::refusal::{printable, Refusal};
use grus_squash::LayerSource;
use serde::Deserialize;

use super::stream::plain_layer;
use super::{Members, Wanted};
use crate::digest::{digest_of, Verified};
use crate::failure::Failure;
use crate::image::{Identity, Image, Layer};
use crate::oci::{json, Config, MAX_LAYERS};

/// One image in `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Whether the archive is a docker-archive, of any age.
pub fn is_archive(members: &Members) -> bool {
    members.has("manifest.json") || members.has("repositories")
}

/// Finds the wanted image and its layers.
pub fn open(members: &Members, wanted: &Wanted) -> Result<Image, Failure> {
    let name = members.name();
    let Some(manifest) = members.document("manifest.json")? else {
        return Err(Refusal::image(format!("{name} was saved by a Docker older than 1.10"))
            .hint("load it into a newer Docker or Podman and save it again")
            .into());
    };
    let entries: Vec<Entry> = json(&manifest, &format!("manifest.json of {name}"))?;
    let tags = |e: &&Entry| e.repo_tags.clone().unwrap_or_default();
    let all: Vec<&Entry> = entries.iter().collect();
    let chosen = super::select(&all, tags, wanted, &name)?;
    let entry = match chosen.as_slice() {
        [entry, rest @ ..] if rest.iter().all(|other| other == entry) => *entry,
        [] => {
            return Err(Refusal::image(format!("manifest.json of {name} names no image"))
                .hint("make the archive again")
                .into())
        }
        _ => return Err(super::ambiguous(&all, tags, wanted, &name)),
    };
    image(members, entry, wanted, &name)
}

fn image(members: &Members, entry: &Entry, wanted: &Wanted, name: &str) -> Result<Image, Failure> {
    let lacks = |what: &str| {
        Refusal::image(format!("{name} lacks {}, which its manifest.json names", printable(what)))
            .hint("make or copy the archive again")
    };
    let config_text = members.document(&entry.config)?.ok_or_else(|| lacks(&entry.config))?;
    let config = Config::parse(&config_text, &format!("the configuration {}", entry.config))?;
    let names = entry.layers.clone().unwrap_or_default();
    let diff_ids = &config.rootfs.diff_ids;
    if names.len() != diff_ids.len() || names.is_empty() || names.len() > MAX_LAYERS {
        return Err(Refusal::image(format!(
            "manifest.json of {name} has {} layers, its configuration {}",
            names.len(),
            diff_ids.len()
        ))
        .hint("make the archive again")
        .into());
    }
    let platform = super::check_platform(&config, None, wanted, name)?;
    let identity = Identity::Known(digest_of(manifest(&config_text, diff_ids).as_bytes()));
    let mut layers = vec![];
    for (member, digest) in names.iter().zip(diff_ids) {
        let size = match members.open(member) {
            Ok(Some((_, size))) => size,
            Ok(None) => return Err(lacks(member).into()),
            Err(e) => {
                let why = crate::failure::reason(&e);
                return Err(lacks(member).hint(format!("the layer cannot be opened: {why}")).into());
            }
        };
        let source = Tarball { members: members.clone(), member: member.clone(), digest: digest.clone() };
        layers.push(Layer { digest: digest.clone(), size, source: Arc::new(source) });
    }
    Ok(Image { identity, platform, config, layers })
}

/// The manifest that gives the image its digest. A docker-archive has none, so one is made from what the image
/// is: its configuration and the plain content of its layers. The same image has the same digest, however the
/// archive was packed.
pub fn manifest(config: &[u8], diff_ids: &[Digest]) -> String {
    let layers: Vec<String> = diff_ids
        .iter()
        .map(|d| format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{d}"}}"#))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
        digest_of(config),
        config.len(),
        layers.join(",")
    )
}

/// A layer's tar in the archive.
#[derive(Debug)]
struct Tarball {
    members: Members,
    member: String,
    digest: Digest,
}

impl LayerSource for Tarball {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        match self.members.open(&self.member)? {
            Some((file, _)) => {
                Ok(Box::new(Verified::new(plain_layer(Box::new(file))?, self.digest.clone(), None)))
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn name(&self) -> String {
        self.digest.to_string()
    }
}
