//! Writes an OCI image layout: tar layers in, gzip blobs, config, manifest and index out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use flate2::{write::GzEncoder, Compression};
use serde_json::{json, Value};
use sha2::{Digest, Sha256};

/// The image format's media types.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An OCI layout under construction, with one image tagged `latest`.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    level: Compression,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

impl Layout {
    /// An empty layout in the new directory `dir`.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        Ok(Self { dir: dir.into(), level: Compression::fast(), layers: Vec::new(), diff_ids: Vec::new() })
    }

    /// Compresses the layers to come at gzip's `level` (1 unless said otherwise).
    pub fn level(mut self, level: u32) -> Self {
        self.level = Compression::new(level);
        self
    }

    /// Adds a layer; `write` writes its tar stream.
    pub fn layer(&mut self, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let new = self.dir.join("layer.new");
        let blob = Hashing::new(File::create(&new)?);
        let mut tar = Hashing::new(GzEncoder::new(blob, self.level));
        write(&mut tar)?;
        let (gzip, diff_id, _) = tar.finish();
        let (file, digest, size) = gzip.finish()?.finish();
        file.sync_all()?;
        fs::rename(new, self.blob(&digest))?;
        self.layers.push(json!({"mediaType": LAYER, "digest": format!("sha256:{digest}"), "size": size}));
        self.diff_ids.push(format!("sha256:{diff_id}"));
        Ok(())
    }

    /// Writes config, manifest and index. `config` is the image's own part (`Env`, `Cmd`, `WorkingDir`...).
    pub fn finish(self, architecture: &str, config: Value) -> Result<()> {
        // Optional by the specification, but Charliecloud asks for it.
        let step = json!({"created": "2023-11-14T22:13:20Z", "created_by": "the recipe"});
        let image = json!({
            "created": "2023-11-14T22:13:20Z",
            "history": vec![step; self.diff_ids.len()],
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        });
        let config = self.put(CONFIG, &image)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": self.layers,
        });
        let mut entry = self.put(MANIFEST, &manifest)?;
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        entry["platform"] = json!({"architecture": architecture, "os": "linux"});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(self.dir.join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(self.dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }

    /// Stores a JSON document and returns its descriptor.
    fn put(&self, media_type: &str, document: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(document)?;
        let digest = format!("{:x}", Sha256::digest(&bytes));
        fs::write(self.blob(&digest), &bytes)?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
    }

    fn blob(&self, hex: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(hex)
    }
}

/// Digest of the image's manifest in the layout `dir`, as `sha256:<hex>`.
pub fn manifest_digest(dir: &Path) -> Result<String> {
    let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json"))?)?;
    Ok(index["manifests"][0]["digest"].as_str().unwrap_or_default().to_owned())
}

/// A writer that hashes and counts what goes through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, format!("{:x}", self.hash.finalize()), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
