//! What is stored beside an image: the facts a launch needs, written at pull, read with one open.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::refusal::{printable, Refusal};

/// Largest metadata text that is read, in bytes. An image configuration is a few KiB.
pub const MAX_META: usize = 4 << 20;

/// Version of the metadata format; a reader refuses what is newer.
pub const META_VERSION: u32 = 1;

/// `<image>.json` beside `<image>.squashfs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMeta {
    /// [`META_VERSION`] of the writer.
    pub version: u32,
    /// What it was pulled or imported as, for people; the tags are in the repository.
    pub reference: Option<Reference>,
    /// Digest of the platform's manifest; for an import, of the manifest Grus made.
    pub digest: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// Creation time as the image states it, RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// Size of the SquashFS file in bytes.
    pub size: u64,
    /// Digest of the SquashFS file, where it was known for nothing: an imported one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// Size of the tree's files in bytes.
    #[serde(default)]
    pub unpacked_size: u64,
    /// The OCI configuration that matters at run time.
    pub config: ImageConfig,
    /// Digests of the layers, bottom first.
    #[serde(default)]
    pub layers: Vec<Digest>,
    /// How it was made, first step first; empty where nobody said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Step>,
}

/// One step of an image's making (image-spec, config.md, `history`). Shown, never obeyed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// When, RFC 3339.
    pub created: Option<String>,
    /// The command, as the builder words it.
    pub created_by: String,
    /// The builder's remark.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The layer it made; None where it only changed the configuration.
    pub layer: Option<Digest>,
    /// The layer's size in bytes as the registry or archive has it; 0 if unknown.
    pub size: u64,
}

/// The `config` object of the OCI image configuration (image-spec, config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `NAME=value` in the image's order.
    pub env: Vec<String>,
    /// Working directory, absolute, or empty.
    pub working_dir: String,
    /// Entry point, run only where asked for.
    pub entrypoint: Vec<String>,
    /// Default command of `grus run`.
    pub cmd: Vec<String>,
    /// User the image asks for. Shown, never obeyed: ranks run as the job's user.
    pub user: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the image's program to stop.
    pub stop_signal: Option<String>,
}

impl ImageMeta {
    /// Parses metadata, refusing what is too large, malformed or of a newer format. `on` names the file.
    pub fn parse(text: &[u8], on: &str) -> Result<Self, Refusal> {
        let bad = |why: String| {
            Refusal::image(format!("the image metadata {} {}", printable(on), printable(&why)))
                .hint("pull or import the image again")
        };
        if text.len() > MAX_META {
            return Err(bad(format!("is larger than {MAX_META} bytes")));
        }
        let meta: Self = serde_json::from_slice(text).map_err(|e| bad(format!("is malformed: {e}")))?;
        if meta.version > META_VERSION {
            return Err(bad(format!("has format {}, newer than this Grus knows", meta.version))
                .hint("update the Grus plugin on this node"));
        }
        Ok(meta)
    }

    /// The text of the metadata file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Refuses an image of another platform than `node`'s.
    pub fn check_platform(&self, node: &Platform, name: &str) -> Result<(), Refusal> {
        match node.runs(&self.platform) {
            true => Ok(()),
            false => Err(Refusal::image(format!(
                "image {} is for {}, this node is {node}",
                printable(name),
                self.platform
            ))
            .hint(format!("run 'grus pull --platform {node} {}'", printable(name)))),
        }
    }
}

impl ImageConfig {
    /// The environment as pairs; entries without `=` or with a NUL are dropped.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env
            .iter()
            .filter(|e| !e.contains('\0'))
            .filter_map(|e| e.split_once('='))
            .filter(|(name, _)| !name.is_empty())
    }

    /// The directories of its LD_LIBRARY_PATH (ld.so(8)).
    pub fn library_path(&self) -> Vec<String> {
        let dirs = self.environment().filter(|(name, _)| *name == "LD_LIBRARY_PATH").last();
        let all = dirs.map_or("", |(_, dirs)| dirs).split(':');
        all.filter(|dir| !dir.is_empty()).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> ImageMeta {
        ImageMeta {
            version: META_VERSION,
            reference: None,
            digest: Digest::from_bytes(&[7; 32]),
            platform: Platform::parse("linux/arm64").expect("static"),
            created: None,
            size: 1,
            content: None,
            unpacked_size: 2,
            config: ImageConfig { env: vec!["A=b=c".into(), "X".into(), "=y".into()], ..Default::default() },
            layers: vec![],
            history: vec![Step { created_by: "RUN x".into(), ..Step::default() }],
        }
    }

    #[test]
    fn metadata_round_trips() {
        assert_eq!(ImageMeta::parse(meta().to_json().as_bytes(), "x").expect("own text"), meta());
    }

    #[test]
    fn hostile_metadata_is_refused_in_one_line() {
        for bad in [&b"{"[..], b"[]", b"{\"version\":1}", &vec![b' '; MAX_META + 1]] {
            let e = ImageMeta::parse(bad, "m\n.json").expect_err("must be refused");
            assert!(!e.what.contains('\n') && e.hint.is_some(), "{e}");
        }
        let newer = meta().to_json().replace("\"version\": 1", "\"version\": 9");
        assert!(ImageMeta::parse(newer.as_bytes(), "m").expect_err("newer").what.contains("format 9"));
    }

    #[test]
    fn only_well_formed_variables_count() {
        assert_eq!(meta().config.environment().collect::<Vec<_>>(), [("A", "b=c")]);
    }

    #[test]
    fn another_architecture_is_named_with_the_remedy() {
        let node = Platform::parse("linux/amd64").expect("static");
        let e = meta().check_platform(&node, "app:1").expect_err("another architecture");
        assert_eq!(e.what, "image app:1 is for linux/arm64, this node is linux/amd64");
        assert_eq!(e.hint.as_deref(), Some("run 'grus pull --platform linux/amd64 app:1'"));
    }
}
