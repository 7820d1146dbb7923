//! Owns what Grus takes for an image's manifest: pure, over the reader of documents in [`crate::oci`]. It
//! refuses artefacts that are no images, and layers nobody could unpack: encrypted, foreign, unknown.

use grus_core::refusal::Refusal;

use super::error::{Kind, RegistryError};
use super::{Blob, Layer};
use crate::oci::{Descriptor, Document, Manifest};

/// Largest manifest or index that is read, in bytes; registries allow no more.
pub const MAX_MANIFEST: usize = 4 << 20;
/// Largest image configuration that is read, in bytes.
pub const MAX_CONFIG: usize = 4 << 20;
/// Largest layer that is believed, in bytes (1 TiB).
const MAX_LAYER: u64 = 1 << 40;

/// What to ask a registry for, the most specific first.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1, */*;q=0.1";

/// Parses a manifest or index as a registry sent it; `on` names the image. Never panics, whatever the bytes.
pub fn parse(bytes: &[u8], on: &str) -> Result<Document, RegistryError> {
    if bytes.len() > MAX_MANIFEST {
        return Err(RegistryError::new(
            Kind::Refused,
            format!("the manifest of {on} is larger than {MAX_MANIFEST} bytes"),
        ));
    }
    let document = Document::parse(bytes, &format!("the manifest of {on}")).map_err(from_refusal)?;
    if let Document::Manifest(manifest) = &document {
        layers(manifest, on)?;
    }
    Ok(document)
}

/// The layers of an image, bottom first.
pub fn layers(manifest: &Manifest, on: &str) -> Result<Vec<Layer>, RegistryError> {
    manifest.layers.iter().map(|d| layer(d, on)).collect()
}

fn layer(descriptor: &Descriptor, on: &str) -> Result<Layer, RegistryError> {
    let kind = descriptor.media_type.as_str();
    let refuse = |why: String| RegistryError::new(Kind::Refused, format!("{on} {why}"));
    if descriptor.size > MAX_LAYER {
        return Err(refuse(format!("has a layer of {} bytes", descriptor.size)));
    }
    if kind.ends_with("+encrypted") {
        return Err(refuse("has encrypted layers".into())
            .hint("Grus has no keys; ask for an image that is not encrypted"));
    }
    if kind.contains("foreign") || (kind.contains("nondistributable") && !descriptor.urls.is_empty()) {
        return Err(refuse("has layers that are not in the registry (foreign layers)".into())
            .hint("such images are made for Windows; ask for a Linux image"));
    }
    // The compression is told from the bytes; what counts here is that it is a layer at all.
    let known = kind.is_empty()
        || kind.starts_with("application/vnd.oci.image.layer.")
        || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar")
        || kind == "application/vnd.docker.container.image.rootfs.diff+x-gtar";
    match known {
        true => Ok(Layer {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: kind.to_owned(),
            kind: Blob::Layer,
        }),
        false => Err(refuse(format!("is an artefact with content of type {kind}, not a container image"))
            .hint("name a container image")),
    }
}

/// A refusal of a document as the registry's failure.
pub fn from_refusal(refusal: Refusal) -> RegistryError {
    let error = RegistryError::new(Kind::Refused, refusal.what);
    match refusal.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn manifest(layer_type: &str, more: &str) -> String {
        format!(
            "{{\"schemaVersion\":2,\"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
             \"digest\":\"sha256:{HEX}\",\"size\":2}},\"layers\":[{{\"mediaType\":\"{layer_type}\",\
             \"digest\":\"sha256:{HEX}\",\"size\":2{more}}}]}}"
        )
    }

    #[test]
    fn layers_of_both_families_are_taken() {
        for kind in [
            "",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            assert!(parse(manifest(kind, "").as_bytes(), "x").is_ok(), "{kind}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused_in_one_line() {
        let foreign =
            manifest("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ",\"urls\":[\"http://x\"]");
        let encrypted = manifest("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "");
        let huge = manifest("", "").replace("\"size\":2", "\"size\":18446744073709551615");
        let schema1 = "{\"schemaVersion\":1,\"name\":\"a\",\"fsLayers\":[],\"history\":[]}";
        for (text, word) in [
            (foreign.as_str(), "foreign"),
            (&encrypted, "encrypted"),
            (&manifest("application/vnd.cncf.helm.chart.content.v1.tar+gzip", ""), "artefact"),
            (
                &manifest("application/vnd.oci.image.layer.v1.tar", "")
                    .replace("image.config", "thing.config"),
                "artefact",
            ),
            (&huge, "bytes"),
            (schema1, "schema 1"),
            ("", "malformed"),
            ("{}", "neither"),
            ("[]", "malformed"),
            ("null", "malformed"),
            ("{\"manifests\":5}", "malformed"),
            ("{\"layers\":[],\"config\":{}}", "malformed"),
            ("{\"manifests\":[],\"layers\":[]}", "neither"),
            (&"[".repeat(100_000), "malformed"),
            (&" ".repeat(MAX_MANIFEST + 1), "larger"),
        ] {
            let error = parse(text.as_bytes(), "app:1").expect_err(word);
            assert!(error.what.contains(word) && !error.what.contains('\n'), "{}", error.what);
        }
    }
}
