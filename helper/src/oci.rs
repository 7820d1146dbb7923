//! Owns the reading of OCI and Docker image documents (image-spec: image-index.md, manifest.md, config.md;
//! Docker's manifest v2 schema 2 has the same members): only the members that Grus uses, as hostile text.
//!
//! It is lenient where registries and builders are (missing media types, `null` for empty lists) and strict
//! where bytes are named (digests). It refuses documents larger than [`MAX_DOCUMENT`].

use grus_core::digest::Digest;
use grus_core::image::ImageConfig;
use grus_core::platform::Platform;
use grus_core::refusal::{printable, Refusal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Largest index, manifest or configuration that is read, in bytes. Registries refuse larger ones as well.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Most layers of one image. Docker makes at most 127.
pub const MAX_LAYERS: usize = 1024;

/// Media types of an index of manifests.
pub const INDEX_TYPES: &[&str] =
    &["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// Media types of a manifest.
pub const MANIFEST_TYPES: &[&str] =
    &["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// What points to a blob (descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type; empty where none was written.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<RawPlatform>,
    /// Annotations.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where a foreign layer is; such layers are refused.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

/// A platform as written; it may be none we can name (`unknown/unknown` of attestations).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RawPlatform {
    /// Operating system.
    pub os: String,
    /// Architecture.
    pub architecture: String,
    /// Variant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl RawPlatform {
    /// As a platform; None if it is malformed or unknown.
    pub fn known(&self) -> Option<Platform> {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if let Some(variant) = self.variant.as_deref().filter(|v| !v.is_empty()) {
            text = format!("{text}/{variant}");
        }
        Platform::parse(&text).ok().filter(|p| p.os != "unknown")
    }
}

/// An image index or a manifest: the two are told apart by their members, as media types may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An index: manifests by platform.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// An image index.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// Manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// The configuration's blob.
    pub config: Descriptor,
    /// Layers, bottom first.
    #[serde(deserialize_with = "or_default")]
    pub layers: Vec<Descriptor>,
}

/// An image configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What it runs on.
    #[serde(flatten)]
    pub platform: RawPlatform,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// What matters at run time.
    #[serde(deserialize_with = "or_default")]
    pub config: RunConfig,
    /// The layers' content.
    #[serde(deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// How it was made. Nothing rests on it: what is malformed is as good as none.
    #[serde(deserialize_with = "history")]
    pub history: Vec<Made>,
}

/// An entry of `history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the members of config.md
pub struct Made {
    pub created: Option<String>,
    pub created_by: Option<String>,
    pub comment: Option<String>,
    pub empty_layer: bool,
}

/// `rootfs` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the uncompressed layers, bottom first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// `config` of the configuration, in its own spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)] // the members of config.md
pub struct RunConfig {
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: Option<String>,
}

impl From<RunConfig> for ImageConfig {
    fn from(c: RunConfig) -> Self {
        ImageConfig {
            env: c.env,
            working_dir: c.working_dir,
            entrypoint: c.entrypoint,
            cmd: c.cmd,
            user: c.user,
            labels: c.labels,
            stop_signal: c.stop_signal,
        }
    }
}

impl Document {
    /// Parses an index or a manifest; `on` names it in messages.
    pub fn parse(bytes: &[u8], on: &str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(rename = "schemaVersion", default)]
            version: u32,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = json(bytes, on)?;
        match (shape.version, shape.manifests, shape.layers) {
            (1, _, None) => {
                Err(Refusal::image(format!("{} is a manifest of Docker's schema 1", printable(on)))
                    .hint("ask for an image that was pushed by Docker 1.10 (2016) or newer"))
            }
            (_, Some(_), None) => Ok(Document::Index(json(bytes, on)?)),
            (_, None, Some(_)) => Manifest::parse(bytes, on).map(Document::Manifest),
            _ => Err(malformed(on, "neither an image index nor an image manifest")),
        }
    }
}

impl Manifest {
    /// Parses a manifest; `on` names it in messages.
    pub fn parse(bytes: &[u8], on: &str) -> Result<Self, Refusal> {
        let manifest: Self = json(bytes, on)?;
        if manifest.layers.is_empty() || manifest.layers.len() > MAX_LAYERS {
            return Err(malformed(
                on,
                &format!("{} layers; 1 to {MAX_LAYERS} can be read", manifest.layers.len()),
            ));
        }
        let image = |d: &Descriptor| {
            d.media_type.is_empty() || d.media_type.contains(".image.") || d.media_type.contains("docker")
        };
        if !image(&manifest.config) {
            return Err(Refusal::image(format!(
                "{} is an artefact of type {}, not a container image",
                printable(on),
                printable(&manifest.config.media_type)
            ))
            .hint("name a container image"));
        }
        Ok(manifest)
    }
}

impl Index {
    /// The entry for `platform`: an exact match first, then one whose variant does not contradict.
    pub fn choose(&self, platform: &Platform, on: &str) -> Result<&Descriptor, Refusal> {
        let known = |d: &Descriptor| d.platform.as_ref().and_then(RawPlatform::known);
        let exact = self.manifests.iter().find(|d| known(d).as_ref() == Some(platform));
        let fits = || self.manifests.iter().find(|d| known(d).is_some_and(|p| platform.runs(&p)));
        // A single manifest without a platform (OCI layouts of many builders) says it in its configuration.
        let only = || match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        exact.or_else(fits).or_else(only).ok_or_else(|| {
            let mut has: Vec<String> =
                self.manifests.iter().filter_map(known).map(|p| p.to_string()).collect();
            has.sort();
            has.dedup();
            let list = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            Refusal::image(format!("{} has no image for {platform}", printable(on)))
                .hint(format!("platforms it has: {}; choose one with --platform", printable(&list)))
        })
    }
}

impl Config {
    /// Parses a configuration; `on` names it in messages.
    pub fn parse(bytes: &[u8], on: &str) -> Result<Self, Refusal> {
        json(bytes, on)
    }
}

/// Parses a document of at most [`MAX_DOCUMENT`] bytes.
pub fn json<T: DeserializeOwned>(bytes: &[u8], on: &str) -> Result<T, Refusal> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(malformed(on, &format!("larger than {MAX_DOCUMENT} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|e| malformed(on, &format!("malformed: {e}")))
}

fn malformed(on: &str, why: &str) -> Refusal {
    Refusal::image(format!("{} is {}", printable(on), printable(why)))
        .hint("it was not made by an image builder, or it is damaged; fetch it again")
}

/// `null` as the default: Go writes empty slices and maps so.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// What is no list of entries is an empty one.
fn history<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Made>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests;
