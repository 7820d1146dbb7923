//! Mounts that users and sites ask for. What they write is read in [`grammar`].

mod grammar;
mod limits;

pub use limits::{check_number, check_scratch, shares, Limit};

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};

/// Most mounts one request may hold.
pub const MAX_MOUNTS: usize = 256;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What is mounted.
    pub what: What,
    /// Where it appears.
    pub destination: AbsPath,
    /// Whether writing through it is denied.
    #[serde(default)]
    pub readonly: bool,
    /// Whether programs in it cannot be run.
    #[serde(default)]
    pub noexec: bool,
    /// Whether it is left out where its source is missing.
    #[serde(default)]
    pub optional: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// A file or directory of the host.
    Bind {
        /// Its path.
        source: AbsPath,
        /// With all that is mounted below it.
        recursive: bool,
    },
    /// An empty directory in memory (tmpfs(5)).
    Tmpfs(Tmpfs),
    /// The tree of a SquashFS file of the host.
    Squashfs {
        /// The file's path.
        source: AbsPath,
    },
    /// An empty directory on the node's disk, for one step.
    Scratch {
        /// How much it may hold.
        size: Size,
    },
    /// Nothing: what a default or the site would mount there is left out.
    Nothing,
}

/// How a tmpfs is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// How much it may hold; the site's limit if not said.
    pub size: Option<Size>,
    /// Permission bits of its root, 0 to 0o7777; it belongs to the user.
    pub mode: u32,
    /// Transparent huge pages (tmpfs(5), `huge`).
    pub huge: Option<Huge>,
}

/// Use of huge pages (Linux, Documentation/admin-guide/mm/transhuge.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Huge {
    /// None.
    Never,
    /// Whenever a page is allocated.
    Always,
    /// Where a huge page lies within the file's size.
    WithinSize,
    /// Where madvise(2) asks for it.
    Advise,
}

/// A number of bytes, written as in tmpfs(5): digits with k, m, g or t.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct Size(u64);

impl Mount {
    /// Parses one mount, in either form. A relative source is taken from `cwd`, the submitting directory.
    pub fn parse(text: &str, cwd: &AbsPath) -> Result<Self, Refusal> {
        grammar::one(text, cwd)
    }

    /// Parses a list of mounts in the short form (`--container-mounts`).
    pub fn parse_list(text: &str, cwd: &AbsPath) -> Result<Vec<Self>, Refusal> {
        grammar::list(text, cwd)
    }

    /// A plain bind of `source` on `destination`, writable and with what is mounted below it.
    pub fn bind(source: AbsPath, destination: AbsPath) -> Self {
        let what = What::Bind { source, recursive: true };
        Self { what, destination, readonly: false, noexec: false, optional: false }
    }

    /// What it shows, for messages.
    pub fn source(&self) -> &str {
        match &self.what {
            What::Bind { source, .. } | What::Squashfs { source } => source.as_str(),
            What::Tmpfs(_) => "a tmpfs",
            What::Scratch { .. } => "a scratch directory",
            What::Nothing => "nothing",
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut flags = vec![if self.readonly { "ro" } else { "rw" }.to_owned()];
        let flag = |on: bool, name: &str| on.then(|| name.to_owned());
        let kind = match &self.what {
            What::Bind { recursive, .. } => {
                flags.extend(flag(!recursive, "norec"));
                ""
            }
            What::Tmpfs(tmpfs) => {
                flags.extend(tmpfs.size.map(|size| format!("size={size}")));
                flags.push(format!("mode={:04o}", tmpfs.mode));
                flags.extend(tmpfs.huge.map(|huge| format!("huge={huge}")));
                ""
            }
            What::Squashfs { .. } => "squashfs ",
            What::Scratch { size } => {
                flags.push(format!("size={size}"));
                ""
            }
            What::Nothing => "",
        };
        flags.extend(flag(self.noexec, "noexec"));
        flags.extend(flag(self.optional, "optional"));
        write!(f, "{kind}{} on {} ({})", self.source(), self.destination, flags.join(","))
    }
}

impl fmt::Display for Huge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Huge::Never => "never",
            Huge::Always => "always",
            Huge::WithinSize => "within_size",
            Huge::Advise => "advise",
        })
    }
}

impl Size {
    /// Reads `64m`, `1G` or `4096`. Zero is refused: to tmpfs(5) it means no limit.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = || {
            Refusal::user(format!("'{}' is not a size", printable(text)))
                .hint("write bytes with k, m, g or t, for example 512m")
        };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(refuse()),
        };
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = digits.parse().ok().filter(|_| plain).ok_or_else(refuse)?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(refuse)?;
        Self::try_from(bytes).map_err(|_| refuse())
    }

    /// In bytes, 1 to 2^60.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Size {
    type Error = &'static str;

    fn try_from(bytes: u64) -> Result<Self, &'static str> {
        match bytes {
            1..=0x1000_0000_0000_0000 => Ok(Self(bytes)),
            _ => Err("a size is out of range"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [(40, "t"), (30, "g"), (20, "m"), (10, "k")];
        match unit.iter().find(|(shift, _)| self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests;
