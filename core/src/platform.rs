//! Operating system, architecture and variant, in OCI's (Go's) words (image-spec, image-index.md).

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::refusal::{printable, Refusal};

/// A platform such as `linux/amd64` or `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// Operating system; images are for `linux`.
    pub os: String,
    /// Architecture, e.g. `amd64`, `arm64`.
    pub architecture: String,
    /// CPU variant, e.g. `v8`; empty where there is none.
    pub variant: Option<String>,
}

impl Platform {
    /// Parses `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |w: &&str| {
            !w.is_empty()
                && w.len() <= 32
                && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.')
                && !w.starts_with('.')
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(word) {
            return Err(Refusal::user(format!("'{}' is not a platform", printable(text)))
                .hint("write it as os/architecture[/variant], for example linux/arm64"));
        }
        Ok(Self {
            os: parts[0].into(),
            architecture: parts[1].into(),
            variant: parts.get(2).map(|v| (*v).to_owned()),
        })
    }

    /// The platform this program was built for, i.e. the node it runs on.
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Whether an image of platform `image` runs here: same system and architecture; the variant of an
    /// `arm64` image is `v8` or unset, other variants must be equal when both are known.
    pub fn runs(&self, image: &Platform) -> bool {
        self.os == image.os
            && self.architecture == image.architecture
            && match (&self.variant, &image.variant) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    }

    /// The inverse of [`Platform::file_name`]: no part of a platform holds a `-`.
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::parse(&name.replace('-', "/")).ok()
    }

    /// The name of the platform's file in the repository: `linux-amd64`, `linux-arm-v7`.
    pub fn file_name(&self) -> String {
        self.to_string().replace('/', "-")
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

impl TryFrom<String> for Platform {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text)
    }
}

impl From<Platform> for String {
    fn from(p: Platform) -> String {
        p.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_round_trip_and_hostile_ones_are_refused() {
        for good in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(Platform::parse(good).expect(good).to_string(), good);
        }
        for bad in ["", "linux", "linux/", "linux/a/b/c", "linux/../x", "Linux/amd64", "linux/.x"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variant_decides_only_when_both_name_one() {
        let node = Platform::parse("linux/arm/v7").expect("static");
        assert!(node.runs(&Platform::parse("linux/arm").expect("static")));
        assert!(!node.runs(&Platform::parse("linux/arm/v6").expect("static")));
        assert!(!node.runs(&Platform::parse("linux/amd64").expect("static")));
    }
}
