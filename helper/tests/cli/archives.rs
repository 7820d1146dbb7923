//! Makers of archives: OCI layouts and docker-archives, right ones and, by changing them, wrong ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use serde_json::{json, Value};
use sha2::{Digest, Sha256};

/// `sha256:<hex>` of bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// A tar of regular files; a name that ends in `/` is a directory, content that begins with `->` a symbolic link.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o644 });
        set_name(&mut header, name);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        } else if let Some(target) = content.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name_literal(target).expect("target");
        } else {
            header.set_size(content.len() as u64);
        }
        header.set_cksum();
        let data: &[u8] = if header.entry_type().is_file() { content } else { &[] };
        tar.append(&header, data).expect("append");
    }
    tar.into_inner().expect("tar")
}

/// Writes a name as it is, `..` and all, which the tar crate refuses.
fn set_name(header: &mut tar::Header, name: &str) {
    let field = &mut header.as_old_mut().name;
    assert!(name.len() <= field.len(), "{name} is too long for this maker");
    field[..name.len()].copy_from_slice(name.as_bytes());
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all(bytes).expect("gzip");
    gz.finish().expect("gzip")
}

/// A layer of a small system.
pub fn base_layer() -> Vec<u8> {
    tar_of(&[
        ("bin/", b""),
        ("bin/sh", b"#!"),
        ("etc/", b""),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/os-release", b"NAME=Crane\n"),
        ("srv/", b""),
    ])
}

/// The configuration of an image of these plain layers.
pub fn config(layers: &[Vec<u8>], architecture: &str) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    json!({
        "created": "2023-11-14T22:13:20Z", "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin", "WHO=crane"], "Cmd": ["/bin/sh"], "WorkingDir": "/srv"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// An OCI layout in the making.
pub struct Layout {
    pub dir: PathBuf,
    pub manifests: Vec<Value>,
}

impl Layout {
    pub fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("blobs");
        Self { dir, manifests: vec![] }
    }

    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Stores bytes; gives their descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        fs::write(self.blob_path(&digest(bytes)), bytes).expect("blob");
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    }

    pub fn document(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(value).expect("JSON"))
    }

    /// Stores an image; gives its manifest's descriptor.
    pub fn image(&self, layers: &[Vec<u8>], architecture: &str) -> Value {
        self.configured(layers, &config(layers, architecture))
    }

    /// Stores an image of this configuration; gives its manifest's descriptor.
    pub fn configured(&self, layers: &[Vec<u8>], config: &Value) -> Value {
        let packed: Vec<Value> = layers
            .iter()
            .map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(layer)))
            .collect();
        let config = self.document("application/vnd.oci.image.config.v1+json", config);
        self.document(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({"schemaVersion": 2, "config": config, "layers": packed}),
        )
    }

    /// Stores an index of descriptors; gives its own.
    pub fn index(&self, manifests: &[Value]) -> Value {
        self.document(
            "application/vnd.oci.image.index.v1+json",
            &json!({"schemaVersion": 2, "manifests": manifests}),
        )
    }

    pub fn add(&mut self, mut descriptor: Value, name: Option<&str>, platform: Option<&str>) {
        if let Some(name) = name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        if let Some(architecture) = platform {
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        }
        self.manifests.push(descriptor);
    }

    pub fn finish(&self) -> &Path {
        fs::write(self.dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        fs::write(self.dir.join("index.json"), index.to_string()).expect("index.json");
        &self.dir
    }
}

/// A layout with one image of one layer; its manifest's digest.
pub fn simple_layout(dir: PathBuf) -> (PathBuf, String) {
    let mut layout = Layout::new(dir);
    let image = layout.image(&[base_layer()], arch());
    let digest = image["digest"].as_str().expect("digest").to_owned();
    layout.add(image, Some("latest"), None);
    (layout.finish().to_owned(), digest)
}

/// This machine's architecture in OCI's words.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

/// A docker-archive of images, each with its names and layers.
pub fn docker_archive(images: &[(&[&str], &[Vec<u8>])]) -> Vec<(String, Vec<u8>)> {
    let mut members = vec![];
    let mut manifest = vec![];
    for (tags, layers) in images {
        let config = config(layers, arch()).to_string().into_bytes();
        let hex = |bytes: &[u8]| digest(bytes).trim_start_matches("sha256:").to_owned();
        let config_name = format!("{}.json", hex(&config));
        let names: Vec<String> = layers.iter().map(|l| format!("{}/layer.tar", &hex(l)[..32])).collect();
        members.extend(names.iter().cloned().zip(layers.iter().cloned()));
        members.push((config_name.clone(), config));
        manifest.push(json!({"Config": config_name, "RepoTags": tags, "Layers": names}));
    }
    // Last, as `docker save` of old wrote it: a reader must not rely on the order.
    members.push(("manifest.json".into(), Value::from(manifest).to_string().into_bytes()));
    members
}

/// The members as a tar.
pub fn tar_members(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let borrowed: Vec<(&str, &[u8])> = members.iter().map(|(n, c)| (n.as_str(), c.as_slice())).collect();
    tar_of(&borrowed)
}

/// A directory as a tar, members in the order of their names.
pub fn tar_dir(dir: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    tar.append_dir_all(".", dir).expect("tar");
    tar.into_inner().expect("tar")
}
