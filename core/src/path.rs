//! Paths inside a container: absolute, without `.`, `..`, empty components or NUL.
//!
//! This is lexical only. Symbolic links are followed inside the rootfs by `enter`, with
//! `openat2(RESOLVE_IN_ROOT)` (openat2(2)).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

use crate::refusal::{printable, Refusal};

/// Longest path taken, in bytes: PATH_MAX without its NUL (path_resolution(7)).
pub const MAX_PATH: usize = 4095;

/// A normalised absolute path. `/` is its shortest form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsPath(String);

impl AbsPath {
    /// The root.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Parses an absolute path; doubled slashes, `.` and a trailing slash fall away, `..` is refused.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = |why: &str| Err(Refusal::user(format!("'{}' {why}", printable(text))));
        if !text.starts_with('/') {
            return bad("is not an absolute path").map_err(|e: Refusal| e.hint("begin it with '/'"));
        }
        if text.len() > MAX_PATH || text.split('/').any(|c| c.len() > 255) {
            return bad("is too long for a path");
        }
        if text.contains('\0') {
            return bad("has a NUL in it");
        }
        if text.split('/').any(|c| c == "..") {
            return bad("has '..' in it").map_err(|e: Refusal| e.hint("write the path without '..'"));
        }
        let kept: Vec<&str> = text.split('/').filter(|c| !c.is_empty() && *c != ".").collect();
        Ok(Self(format!("/{}", kept.join("/"))))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The components, none for `/`.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|c| !c.is_empty())
    }

    /// Number of components: 0 for `/`.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Whether this is `other` or below it.
    pub fn is_within(&self, other: &AbsPath) -> bool {
        // Both have single slashes and none at their end.
        match self.0.strip_prefix(other.0.as_str()) {
            Some(rest) => rest.is_empty() || rest.starts_with('/') || other.0 == "/",
            None => false,
        }
    }

    /// The path one component further down. `name` must be one component.
    pub fn join(&self, name: &str) -> Self {
        match self.0.as_str() {
            "/" => Self(format!("/{name}")),
            dir => Self(format!("{dir}/{name}")),
        }
    }

    /// The directory it is in; None for `/`.
    pub fn parent(&self) -> Option<Self> {
        let (dir, name) = self.0.rsplit_once('/')?;
        match (dir, name) {
            (_, "") => None,
            ("", _) => Some(Self::root()),
            (dir, _) => Some(Self(dir.to_owned())),
        }
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for AbsPath {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text)
    }
}

impl From<AbsPath> for String {
    fn from(p: AbsPath) -> String {
        p.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        for (typed, kept) in [("/", "/"), ("//a///b/./c/", "/a/b/c"), ("/.", "/"), ("/a/..b", "/a/..b")] {
            assert_eq!(AbsPath::parse(typed).expect(typed).as_str(), kept);
        }
    }

    #[test]
    fn what_could_leave_or_confuse_is_refused() {
        for bad in ["", "a", "./a", "/a/../b", "/..", "/a\0b", &format!("/{}", "x".repeat(256))] {
            assert!(AbsPath::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parents_end_at_the_root() {
        let p = AbsPath::parse("/a/b").expect("static");
        assert_eq!(p.parent().and_then(|p| p.parent()), Some(AbsPath::root()));
        assert_eq!(AbsPath::root().parent(), None);
        assert!(p.is_within(&AbsPath::root()) && !AbsPath::parse("/ab").expect("static").is_within(&p));
    }
}
