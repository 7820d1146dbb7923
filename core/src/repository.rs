//! Where things are in an image repository. Paths only; reading and writing is others' work.
//!
//! ```text
//! images/sha256/<hex>.squashfs                          an image, immutable
//! images/sha256/<hex>.json                              its metadata
//! images/sha256/<hex>.layers                            where its layers are in it, for images that share them
//! images/sha256/<hex>.elf.json                          what its libraries say of themselves
//! rulings/<hex>.<key>.json                              what was decided about an image's MPI, by what it depends on
//! refs/<registry>/<repository>/:<tag>/<platform>.json   a tag, replaced by rename
//! refs/<registry>/<repository>/@<hex>/<platform>.json   a pinned reference, whose digest may be an index's
//! layers/sha256/<hex>                                   a layer as the registry has it, while a slow pull lasts
//! unpacked/<key>/                                       an image's tree, for `grus run` where there is no FUSE
//! tmp/                                                  what is being written, or was when a pull broke off
//! ```
//! A lookup by tag is three opens whatever the number of images. A `:` cannot occur in a repository's
//! path component, nor can a `@`, so tags, digests and nested repositories never clash.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::refusal::{printable, Refusal};
use crate::signature::Signed;

/// Largest tag file that is read, in bytes.
pub const MAX_TAG: usize = 64 << 10;

/// The paths of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// The content of a tag's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The image's name in the repository: digest of the platform's manifest.
    pub digest: Digest,
    /// What the registry answered for the tag: the index's digest where there is an index.
    #[serde(default)]
    pub resolved: Option<Digest>,
    /// The signatures that were found good when it was pulled by this name, one for each that a policy wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signed>,
}

impl Layout {
    /// The repository at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The repository's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of all images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images/sha256")
    }

    /// The SquashFS file of an image.
    pub fn image(&self, digest: &Digest) -> PathBuf {
        self.images().join(format!("{}.squashfs", digest.hex()))
    }

    /// The metadata of an image.
    pub fn meta(&self, digest: &Digest) -> PathBuf {
        self.images().join(format!("{}.json", digest.hex()))
    }

    /// The layer index of an image: not every image has one, and none is needed to run it.
    pub fn layer_index(&self, digest: &Digest) -> PathBuf {
        self.images().join(format!("{}.layers", digest.hex()))
    }

    /// The library facts of an image. One without them is inspected when they are first asked for.
    pub fn facts(&self, digest: &Digest) -> PathBuf {
        Self::facts_beside(&self.image(digest))
    }

    /// The library facts beside an image file of a repository.
    pub fn facts_beside(image: &Path) -> PathBuf {
        image.with_extension("elf.json")
    }

    /// Directory of all rulings.
    pub fn rulings(&self) -> PathBuf {
        self.root.join("rulings")
    }

    /// The ruling on an image that depends on all that `key` was made from. The image need not be of this repository:
    /// it is named by its digest, or by one of whatever else identifies it.
    pub fn ruling(&self, image: &Digest, key: &Digest) -> PathBuf {
        self.rulings().join(format!("{}.{}.json", image.hex(), key.short()))
    }

    /// Directory of all tags.
    pub fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// Directory of one tag or pinned digest, holding a file per platform. Of a reference with both, the digest
    /// decides. None for a reference with neither.
    pub fn tag_dir(&self, reference: &Reference) -> Option<PathBuf> {
        let name = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => format!("@{}", digest.hex()),
            (None, Some(tag)) => format!(":{tag}"),
            (None, None) => return None,
        };
        Some(self.refs().join(&reference.registry).join(&reference.repository).join(name))
    }

    /// The file of one tag or pinned digest, and platform.
    pub fn tag(&self, reference: &Reference, platform: &Platform) -> Option<PathBuf> {
        Some(self.tag_dir(reference)?.join(format!("{}.json", platform.file_name())))
    }

    /// Where files are written before they are published.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The metadata beside an image file, wherever it is: the same name ending in `.json`.
    pub fn meta_beside(image: &Path) -> PathBuf {
        image.with_extension("json")
    }
}

impl Tag {
    /// Parses a tag file; `on` names it.
    pub fn parse(text: &[u8], on: &str) -> Result<Self, Refusal> {
        let bad = |why: String| {
            Refusal::image(format!("the tag file {} is {}", printable(on), printable(&why)))
                .hint("pull the image again")
        };
        if text.len() > MAX_TAG {
            return Err(bad(format!("larger than {MAX_TAG} bytes")));
        }
        serde_json::from_slice(text).map_err(|e| bad(format!("malformed: {e}")))
    }

    /// The text of the tag file.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_and_a_nested_repository_of_its_name_do_not_clash() {
        let at = Layout::new("/r");
        let here = Platform::parse("linux/amd64").expect("static");
        let path = |r: &str| at.tag(&Reference::parse(r).expect(r), &here);
        assert_eq!(path("x.y/a:b"), Some("/r/refs/x.y/a/:b/linux-amd64.json".into()));
        assert_eq!(path("x.y/a/b:c"), Some("/r/refs/x.y/a/b/:c/linux-amd64.json".into()));
        let hex = "00".repeat(32);
        let pinned = format!("/r/refs/x.y/a/@{hex}/linux-amd64.json");
        assert_eq!(path(&format!("x.y/a@sha256:{hex}")), Some(pinned.clone().into()));
        assert_eq!(path(&format!("x.y/a:b@sha256:{hex}")), Some(pinned.into()));
    }

    #[test]
    fn a_hostile_tag_file_cannot_name_a_path() {
        assert!(Tag::parse(br#"{"digest":"sha256:../../etc/passwd"}"#, "t").is_err());
        let good = Tag { digest: Digest::from_bytes(&[1; 32]), resolved: None, signatures: vec![] };
        assert_eq!(Tag::parse(good.to_json().as_bytes(), "t").expect("own text"), good);
    }
}
