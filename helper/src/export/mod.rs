//! Owns the way of an image out of Grus: from its SquashFS file to an archive that Podman, Docker and Skopeo load.
//!
//! The archive is both an OCI layout and a docker-archive, as Docker itself writes it since release 25: one layer, not
//! compressed, and the two sets of names for it. Nothing is unpacked, so no root is needed, and files keep their
//! owners. The image is read twice: a tar names its members by their digests before their content. The same image
//! gives the same bytes.
//!
//! Known limits, of the reader (backhand): it gives no extended attributes of directories and links, and it cannot
//! read images with symbolic links of 256 bytes and more.

mod tree;
mod xattrs;

use std::io::{self, Write};
use std::path::Path;

use grus_core::digest::Digest;
use grus_core::image::ImageMeta;
use grus_core::reference::Reference;
use serde_json::{json, Value};
use sha2::{Digest as _, Sha256};

use crate::digest::{digest_of, digest_of_hash};
use crate::facts::guarded;
use crate::failure::Failure;

pub use tree::Tree;

/// Bytes of a member's header, and what members are padded to (tar(5)).
const BLOCK: u64 = 512;

/// Writes the archive of an image to `out`; `names` are the tags in it.
pub fn archive(
    image: &Path,
    meta: &ImageMeta,
    names: &[Reference],
    out: &mut (impl Write + Send),
) -> Result<Digest, Failure> {
    let shown = meta.digest.to_string();
    guarded(&shown, || {
        let tree = Tree::open(image, &shown)?;
        let mut measured = Counted::new(io::sink());
        tree.write(&mut measured)?;
        let (layer, size) = measured.finish();
        let config = config(meta, &layer).to_string().into_bytes();
        let manifest = manifest(&config, &layer, size).to_string().into_bytes();
        let digest = digest_of(&manifest);
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let mut out = Counted::new(out);
        // Skopeo makes directories that are not named itself, and then as root's, which only root can.
        directory(&mut out, "blobs/")?;
        directory(&mut out, "blobs/sha256/")?;
        member(&mut out, &blob(&layer), size)?;
        let mut written = Counted::new(&mut out);
        tree.write(&mut written)?;
        if written.finish().0 != layer {
            return Err(Failure::System {
                what: format!("image {shown} changed while it was read"),
                hint: Some("try again".into()),
            });
        }
        pad(&mut out, size)?;
        let index = index(&manifest, names).to_string().into_bytes();
        let docker = docker(&digest_of(&config), &layer, names).to_string().into_bytes();
        for (name, content) in [
            (blob(&digest_of(&config)), &config),
            (blob(&digest), &manifest),
            ("index.json".to_owned(), &index),
            ("manifest.json".to_owned(), &docker),
            ("oci-layout".to_owned(), &br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ] {
            member(&mut out, &name, content.len() as u64)?;
            out.write_all(content).map_err(|e| cannot_write(&e))?;
            pad(&mut out, content.len() as u64)?;
        }
        out.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| out.flush()).map_err(|e| cannot_write(&e))?;
        Ok(digest)
    })
}

/// Writes the image's files alone, as a plain tar.
pub fn files(image: &Path, meta: &ImageMeta, out: &mut (impl Write + Send)) -> Result<(), Failure> {
    let shown = meta.digest.to_string();
    guarded(&shown, || {
        Tree::open(image, &shown)?.write(out)?;
        out.flush().map_err(|e| cannot_write(&e))
    })
}

/// What went to the archive or the pipe went wrong.
fn cannot_write(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Pipe,
        kind => Failure::System {
            what: format!("cannot write the archive: {}", crate::failure::reason(error)),
            hint: matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded).then(|| {
                "free space there, or name another place with --output; nothing was left there".into()
            }),
        },
    }
}

/// The image's configuration (image-spec, config.md).
fn config(meta: &ImageMeta, layer: &Digest) -> Value {
    let run = &meta.config;
    let mut config = json!({});
    let mut put = |name: &str, value: Value, empty: bool| {
        if !empty {
            config[name] = value;
        }
    };
    put("User", json!(run.user), run.user.is_empty());
    put("Env", json!(run.env), run.env.is_empty());
    put("Entrypoint", json!(run.entrypoint), run.entrypoint.is_empty());
    put("Cmd", json!(run.cmd), run.cmd.is_empty());
    put("WorkingDir", json!(run.working_dir), run.working_dir.is_empty());
    put("Labels", json!(run.labels), run.labels.is_empty());
    put("StopSignal", json!(run.stop_signal), run.stop_signal.is_none());
    let mut whole = json!({
        "architecture": meta.platform.architecture,
        "os": meta.platform.os,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.to_string()]},
        "history": [{"created_by": "grus export", "comment": format!("from {}", meta.digest)}],
    });
    if let Some(variant) = &meta.platform.variant {
        whole["variant"] = json!(variant);
    }
    // Docker's own reader takes nothing that is no time (RFC 3339).
    if let Some(created) = meta.created.as_ref().filter(|at| crate::output::seconds(at).is_some()) {
        whole["created"] = json!(created);
        whole["history"][0]["created"] = json!(created);
    }
    whole
}

fn manifest(config: &[u8], layer: &Digest, size: u64) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config).to_string(),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.to_string(),
            "size": size,
        }],
    })
}

/// The layout's index: an entry for each name (image-spec, annotations.md), or one without.
fn index(manifest: &[u8], names: &[Reference]) -> Value {
    let entry = |annotations: Option<Value>| {
        let mut entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest_of(manifest).to_string(),
            "size": manifest.len(),
        });
        if let Some(annotations) = annotations {
            entry["annotations"] = annotations;
        }
        entry
    };
    let named = |name: &Reference| {
        entry(Some(json!({
            // The one is containerd's and Docker's, the whole name; the other is what tools of layouts look for.
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag.clone().unwrap_or_default(),
        })))
    };
    let entries: Vec<Value> = match names.is_empty() {
        true => vec![entry(None)],
        false => names.iter().map(named).collect(),
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    })
}

/// manifest.json of a docker-archive (moby: image/spec/v1.2.md).
fn docker(config: &Digest, layer: &Digest, names: &[Reference]) -> Value {
    json!([{
        "Config": format!("blobs/sha256/{}", config.hex()),
        "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "Layers": [format!("blobs/sha256/{}", layer.hex())],
    }])
}

fn member(out: &mut impl Write, name: &str, size: u64) -> Result<(), Failure> {
    entry(out, name, tar::EntryType::Regular, 0o644, size)
}

fn directory(out: &mut impl Write, name: &str) -> Result<(), Failure> {
    entry(out, name, tar::EntryType::Directory, 0o755, 0)
}

fn entry(
    out: &mut impl Write,
    name: &str,
    kind: tar::EntryType,
    mode: u32,
    size: u64,
) -> Result<(), Failure> {
    let mut header = tar::Header::new_ustar();
    // 14 characters and 64 digits at most, so it fits.
    header.set_path(name).map_err(|e| cannot_write(&e))?;
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(kind);
    header.set_cksum();
    out.write_all(header.as_bytes()).map_err(|e| cannot_write(&e))
}

fn pad(out: &mut impl Write, size: u64) -> Result<(), Failure> {
    let rest = (BLOCK - size % BLOCK) % BLOCK;
    out.write_all(&[0; BLOCK as usize][..rest as usize]).map_err(|e| cannot_write(&e))
}

/// What goes through is counted and hashed.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Counted<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn finish(self) -> (Digest, u64) {
        (digest_of_hash(self.hash), self.size)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
