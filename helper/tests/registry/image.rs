//! Images in memory, and the answers of a registry that has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use grus_core::digest::Digest;
use grus_helper::digest::digest_of;

use super::server::{Answer, Request};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Bytes that look random but are the same each time.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    (0..size)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

/// A registry's content: one repository.
#[derive(Clone, Default)]
pub struct Content {
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// By tag and by digest: media type and bytes.
    pub manifests: BTreeMap<String, (&'static str, Vec<u8>)>,
    pub layers: Vec<Vec<u8>>,
}

impl Content {
    /// An image `1` for linux/amd64 with layers of these sizes, bottom first.
    pub fn image(sizes: &[usize]) -> Self {
        let layers = sizes.iter().enumerate().map(|(n, size)| noise(n as u64 + 1, *size)).collect();
        let mut content = Self { layers, ..Self::default() };
        let manifest = content.add_image("linux", "amd64");
        content.tag("1", MANIFEST, manifest);
        content
    }

    /// The manifest of an image of the layers, for a platform.
    pub fn add_image(&mut self, os: &str, architecture: &str) -> Vec<u8> {
        let config =
            format!("{{\"os\":\"{os}\",\"architecture\":\"{architecture}\",\"config\":{{}}}}").into_bytes();
        let descriptor = |kind: &str, bytes: &[u8]| {
            format!(
                "{{\"mediaType\":\"{kind}\",\"digest\":\"{}\",\"size\":{}}}",
                digest_of(bytes),
                bytes.len()
            )
        };
        let layer = |l: &Vec<u8>| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", l);
        let layers: Vec<String> = self.layers.iter().map(layer).collect();
        let text = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{},\"layers\":[{}]}}",
            descriptor("application/vnd.oci.image.config.v1+json", &config),
            layers.join(",")
        );
        for blob in self.layers.iter().chain([&config]) {
            self.blobs.insert(digest_of(blob).to_string(), blob.clone());
        }
        text.into_bytes()
    }

    /// Stores a manifest under `tag` and its digest.
    pub fn tag(&mut self, tag: &str, kind: &'static str, bytes: Vec<u8>) -> Digest {
        let digest = digest_of(&bytes);
        self.manifests.insert(digest.to_string(), (kind, bytes.clone()));
        self.manifests.insert(tag.to_owned(), (kind, bytes));
        digest
    }

    /// The digest of the layer at `index`.
    pub fn layer_digest(&self, index: usize) -> String {
        digest_of(&self.layers[index]).to_string()
    }

    /// What a good registry answers.
    pub fn answer(&self, request: &Request) -> Answer {
        let Some((kind, name)) = request.path.rsplit_once('/') else { return Answer::status(404) };
        if kind.ends_with("/manifests") {
            return match self.manifests.get(name) {
                Some((kind, bytes)) => Answer::ok(bytes.clone())
                    .header("Content-Type", kind)
                    .header("Docker-Content-Digest", &digest_of(bytes).to_string()),
                None => Answer::status(404).body(
                    br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec(),
                ),
            };
        }
        match self.blobs.get(name) {
            Some(bytes) if kind.ends_with("/blobs") => ranged(bytes, request),
            _ => Answer::status(404),
        }
    }
}

/// `bytes`, or the range of them that was asked for.
pub fn ranged(bytes: &[u8], request: &Request) -> Answer {
    let range = request.header("range").and_then(|r| r.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|r| r.split_once('-')) else {
        return Answer::ok(bytes.to_vec());
    };
    let first: usize = first.parse().expect("the client's own number");
    let last = last.parse().unwrap_or(usize::MAX).min(bytes.len() - 1);
    if first >= bytes.len() {
        return Answer::status(416);
    }
    Answer { status: 206, ..Answer::ok(bytes[first..=last].to_vec()) }
        .header("Content-Range", &format!("bytes {first}-{last}/{}", bytes.len()))
}

impl Content {
    /// Writes all of it where a docker-registry keeps `repository`, with every manifest that has a tag.
    pub fn store(&self, storage: &Path, repository: &str) {
        let root = storage.join("docker/registry/v2");
        let repository = root.join("repositories").join(repository);
        let write = |path: std::path::PathBuf, bytes: &[u8]| {
            fs::create_dir_all(path.parent().expect("below the root")).expect("directory");
            fs::write(path, bytes).expect("write");
        };
        let blob = |digest: &str, bytes: &[u8]| {
            let hex = digest.trim_start_matches("sha256:");
            write(root.join("blobs/sha256").join(&hex[..2]).join(hex).join("data"), bytes);
            hex.to_owned()
        };
        for (digest, bytes) in &self.blobs {
            let hex = blob(digest, bytes);
            write(repository.join("_layers/sha256").join(hex).join("link"), digest.as_bytes());
        }
        for (name, (_, bytes)) in &self.manifests {
            let digest = digest_of(bytes).to_string();
            let hex = blob(&digest, bytes);
            write(repository.join("_manifests/revisions/sha256").join(&hex).join("link"), digest.as_bytes());
            if !name.starts_with("sha256:") {
                let tag = repository.join("_manifests/tags").join(name);
                write(tag.join("current/link"), digest.as_bytes());
                write(tag.join("index/sha256").join(hex).join("link"), digest.as_bytes());
            }
        }
    }
}
