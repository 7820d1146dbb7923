//! Names of the Container Device Interface: `VENDOR/CLASS=DEVICE`.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};

/// Longest vendor, class or device name, in bytes.
const MAX_NAME: usize = 253;

/// Vendor and class, such as `nvidia.com/gpu`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    vendor: String,
    class: String,
}

impl Kind {
    /// Parses `vendor.com/class`; the reason why not.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (vendor, class) =
            text.split_once('/').ok_or_else(|| format!("'{}' is no VENDOR/CLASS", printable(text)))?;
        let alphanumeric = |c: char| c.is_ascii_alphanumeric();
        let alphabetic = |c: char| c.is_ascii_alphabetic();
        if !well_formed(vendor, alphabetic, alphanumeric, "-_.") {
            return Err(format!("'{}' is no vendor's name", printable(vendor)));
        }
        if !well_formed(class, alphabetic, alphanumeric, "-_.") {
            return Err(format!("'{}' is no name of a class", printable(class)));
        }
        Ok(Self { vendor: vendor.into(), class: class.into() })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vendor, self.class)
    }
}

/// A device by its whole name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Qualified {
    /// Vendor and class.
    pub kind: Kind,
    /// Its own name.
    pub name: String,
}

impl fmt::Display for Qualified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.name)
    }
}

/// Whether a device may be called so; a digit may come first from version 0.5 on.
pub(super) fn is_device_name(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    well_formed(name, alphanumeric, alphanumeric, "-_.:")
}

/// The specification's rule for names: certain characters first and last, and between them alphanumerics or `between`.
fn well_formed(name: &str, first: fn(char) -> bool, last: fn(char) -> bool, between: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(first)
        && name.ends_with(last)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || between.contains(c))
}

/// One device that a user asks for: `--container-device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Asked {
    /// A device of a specification.
    Named(Qualified),
    /// A device node of the host.
    Node(AbsPath),
}

impl Asked {
    /// Parses `VENDOR/CLASS=NAME` or the path of a device node.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |why: String| {
            Refusal::user(format!("--container-device={}: {why}", printable(text)))
                .hint("write VENDOR/CLASS=NAME, such as nvidia.com/gpu=0, or the path of a device node")
        };
        if text.starts_with('/') {
            return AbsPath::parse(text).map(Asked::Node).map_err(|e| refuse(e.what));
        }
        let (kind, name) = text.split_once('=').ok_or_else(|| refuse("no device is named".into()))?;
        let kind = Kind::parse(kind).map_err(&refuse)?;
        match is_device_name(name) {
            true => Ok(Asked::Named(Qualified { kind, name: name.into() })),
            false => Err(refuse(format!("'{}' is no name of a device", printable(name)))),
        }
    }

    /// Several, with commas between.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Refusal> {
        text.split(',').map(Self::parse).collect()
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Named(device) => device.fmt(f),
            Asked::Node(path) => path.fmt(f),
        }
    }
}

impl From<Asked> for String {
    fn from(asked: Asked) -> Self {
        asked.to_string()
    }
}

impl TryFrom<String> for Asked {
    type Error = Refusal;

    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text)
    }
}

/// Which GPUs a container gets: `--container-gpu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gpus {
    /// Those that Slurm gave the step, as far as the image wants them.
    #[default]
    Auto,
    /// Those that Slurm gave the step, or where it keeps no account of GPUs all of the node; or no launch.
    All,
    /// None.
    None,
}

impl Gpus {
    /// Parses the word after `--container-gpu=`.
    pub fn parse(word: &str) -> Result<Self, Refusal> {
        match word {
            "auto" => Ok(Gpus::Auto),
            "all" => Ok(Gpus::All),
            "none" => Ok(Gpus::None),
            other => Err(Refusal::user(format!("--container-gpu={} is not known", printable(other)))
                .hint("use auto, all or none; single devices are named by --container-device")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_specification() {
        for kind in ["nvidia.com/gpu", "vendor.com/foo", "foo.bar.baz/foo-bar123.B_az", "a/b"] {
            assert_eq!(Kind::parse(kind).expect(kind).to_string(), kind);
        }
        for kind in
            ["foo", "vendor.com/foo/", "vendor.com/foo/bar", "/gpu", "1a/b", "a/1b", "a-/b", "a/b c", "a/"]
        {
            assert!(Kind::parse(kind).is_err(), "{kind}");
        }
        for name in ["0", "0:1", "all", "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c", "0000-00-02-0-0x56a0"] {
            assert!(is_device_name(name), "{name}");
        }
        for name in ["", "-0", "0-", "a/b", "a=b", "..", "a b", "\u{e9}"] {
            assert!(!is_device_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_comes_back_as_it_was_written() {
        let list = "nvidia.com/gpu=0:1,/dev/fuse,amd.com/gpu=all";
        let asked = Asked::parse_list(list).expect("a list");
        assert_eq!(asked.iter().map(Asked::to_string).collect::<Vec<_>>().join(","), list);
        for bad in ["", "0", "nvidia.com/gpu", "nvidia.com/gpu=", "=0", "/dev/../etc", "dev/null"] {
            let refusal = Asked::parse(bad).expect_err(bad);
            assert!(refusal.what.starts_with("--container-device=") && refusal.hint.is_some(), "{refusal}");
        }
        assert!(Gpus::parse("some").is_err());
    }
}
