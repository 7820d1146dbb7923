//! Images of a few layers, and a server that has them and counts what it is asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::archives::{digest, gzip, tar_of};
use crate::server::{Answer, Request, Server};
use crate::support::{files, Lab};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u32, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// A layer with one file of noise and some text.
pub fn layer(name: &str, seed: u32, size: usize) -> Vec<u8> {
    let (noise, text) = (noise(seed, size), format!("this is {name}\n").repeat(seed as usize % 5000));
    gzip(&tar_of(&[
        ("usr/", b""),
        (&format!("usr/{name}.bin"), &noise),
        (&format!("usr/{name}.txt"), text.as_bytes()),
        (&format!("usr/{name}.link"), b"->somewhere"),
    ]))
}

/// What a registry has.
#[derive(Clone, Default)]
pub struct Content {
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// By tag.
    pub manifests: BTreeMap<String, Vec<u8>>,
}

impl Content {
    /// Adds an image of these layers (as they are stored); its digest.
    pub fn add(&mut self, tag: &str, layers: &[Vec<u8>]) -> String {
        let platform = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config =
            json!({"os": "linux", "architecture": platform, "config": {}, "created": null, "tag": tag});
        let config = config.to_string().into_bytes();
        let descriptor = |kind: &str, bytes: &Vec<u8>| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
        };
        let list: Vec<_> = layers.iter().map(|l| descriptor("layer.v1.tar+gzip", l)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("config.v1+json", &config), "layers": list,
        });
        for blob in layers.iter().chain([&config]) {
            self.blobs.insert(digest(blob), blob.clone());
        }
        let manifest = manifest.to_string().into_bytes();
        let name = digest(&manifest);
        self.manifests.insert(tag.to_owned(), manifest);
        name
    }

    /// What a registry answers.
    pub fn answer(&self, request: &Request) -> Answer {
        let Some((kind, name)) = request.path.rsplit_once('/') else { return Answer::status(404) };
        let by_digest = |(_, bytes): &(&String, &Vec<u8>)| digest(bytes) == name;
        if kind.ends_with("/manifests") {
            let found = self.manifests.get(name);
            let found = found.or_else(|| self.manifests.iter().find(by_digest).map(|(_, bytes)| bytes));
            return match found {
                Some(bytes) => Answer::ok(bytes.clone())
                    .header("Content-Type", MANIFEST)
                    .header("Docker-Content-Digest", &digest(bytes)),
                None => Answer::status(404),
            };
        }
        match self.blobs.get(name) {
            Some(bytes) if kind.ends_with("/blobs") => Answer::ok(bytes.clone()),
            _ => Answer::status(404),
        }
    }

    /// A server of it.
    pub fn serve(self) -> Server {
        Server::start(move |request| self.answer(request))
    }
}

/// A server that has lost `blob`, but says so only when the pull into `lab` has finished a layer: one failure
/// ends all downloads.
pub fn breaking(content: Content, blob: &[u8], lab: &Lab) -> Server {
    let (lost, tmp) = (digest(blob), lab.repository().join("tmp"));
    let is_index = |p: &PathBuf| p.extension() == Some("partial-layers".as_ref());
    let finished =
        move || files(&tmp).iter().any(|p| is_index(p) && fs::metadata(p).is_ok_and(|m| m.len() > 16));
    Server::start(move |request| {
        if !request.is_blob(&lost) {
            return content.answer(request);
        }
        for _ in 0..2000 {
            if finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Answer::status(404)
    })
}

/// How often `blob` was asked for.
pub fn asked(server: &Server, blob: &[u8]) -> usize {
    let digest = digest(blob);
    server.log().iter().filter(|request| request.is_blob(&digest)).count()
}

/// The SquashFS file of an image.
pub fn squashfs(lab: &Lab, digest: &str) -> PathBuf {
    lab.repository().join(format!("images/sha256/{}.squashfs", &digest[7..]))
}

/// The image as a lab makes it that has nothing.
pub fn undisturbed(host: &str, tag: &str, digest: &str) -> Vec<u8> {
    let lab = Lab::new();
    assert_eq!(lab.run(["pull", "-q", &format!("{host}/app:{tag}")]).ok().out.trim(), digest);
    fs::read(squashfs(&lab, digest)).expect("the image")
}

/// After `grus prune`, the repository has this one image, its metadata, index and tag, and nothing else.
pub fn assert_no_orphan(lab: &Lab, digest: &str) {
    let _ = lab.run(["prune"]).ok();
    let all = files(&lab.repository());
    let stem = squashfs(lab, digest);
    let expected = ["squashfs", "json", "layers"].map(|ending| stem.with_extension(ending));
    let tags = lab.repository().join("refs");
    let others: Vec<_> = all.iter().filter(|p| !expected.contains(p) && !p.starts_with(&tags)).collect();
    assert_eq!(others, Vec::<&PathBuf>::new());
    // A kill between the two renames leaves an image without an index, which is no harm.
    assert!(all.len() == 4 || !all.contains(&expected[2]) && all.len() == 3, "{all:?}");
}
