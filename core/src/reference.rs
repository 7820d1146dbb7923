//! Image references by Docker's rules (distribution/reference grammar): `ubuntu` is
//! `docker.io/library/ubuntu:latest`, `host:5000/a/b@sha256:…` is taken as written.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::digest::Digest;
use crate::refusal::{printable, Refusal};

/// Docker Hub, the registry of short names.
pub const DOCKER_HUB: &str = "docker.io";

/// A normalised reference: registry, repository, and a tag or a digest or both.
///
/// With both, the digest decides and the tag is only remembered, as in Docker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    /// `host[:port]`, lower case; `docker.io` for Docker Hub.
    pub registry: String,
    /// Slash-separated path, e.g. `library/ubuntu`.
    pub repository: String,
    /// The tag; `latest` when neither tag nor digest was written.
    pub tag: Option<String>,
    /// The pinned digest.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises what a user typed, with or without a `docker://` prefix.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = |why: &str| {
            Refusal::user(format!("'{}' is not an image reference: {why}", printable(text)))
                .hint("write it as [server[:port]/]name[:tag][@sha256:...], for example ubuntu:24.04")
        };
        let rest = text.strip_prefix("docker://").unwrap_or(text);
        if rest.is_empty() || rest.len() > 512 {
            return Err(bad(if rest.is_empty() {
                "it is empty"
            } else {
                "it is longer than 512 characters"
            }));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest).map_err(|e| bad(&e.what))?)),
            None => (rest, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if is_registry(first) => (first.to_ascii_lowercase(), path),
            _ => (DOCKER_HUB.to_owned(), rest),
        };
        let registry = match registry.as_str() {
            "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DOCKER_HUB.to_owned(),
            _ => registry,
        };
        check_registry(&registry).map_err(bad)?;
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (path, None),
        };
        if let Some(tag) = &tag {
            check_tag(tag).map_err(bad)?;
        }
        let repository = match registry == DOCKER_HUB && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        check_repository(&repository).map_err(bad)?;
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry, repository, tag, digest })
    }

    /// As a user would type it: Docker Hub and `library/` left out.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The same without tag and digest. What is left out is what [`Reference::parse`] adds, and never more.
    pub fn familiar_name(&self) -> String {
        if self.registry != DOCKER_HUB {
            return self.name();
        }
        match (self.repository.strip_prefix("library/"), self.repository.split_once('/')) {
            (Some(rest), _) if !rest.contains('/') => rest.to_owned(),
            (None, Some((first, _))) if !is_registry(first) => self.repository.clone(),
            _ => self.name(),
        }
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same image pinned to `digest`.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name = format!("{name}:{tag}");
        }
        if let Some(digest) = &self.digest {
            name = format!("{name}@{digest}");
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl TryFrom<String> for Reference {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(r: Reference) -> String {
        r.to_string()
    }
}

/// Docker's rule: the first component is a server if it has a dot or a colon, or is `localhost`. Upper case alone, which
/// makes one for Docker, does not here: servers are written in lower case, and this one's name would then be read as a
/// part of the path.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((v6, rest)) => {
            if v6.is_empty() || !v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.') {
                return Err("the server's IPv6 address is malformed");
            }
            ("v6", rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("1")).unwrap_or(""))
        }
        None => registry.split_once(':').unwrap_or((registry, "1")),
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if host.len() > 255 || !host.split('.').all(label) {
        return Err("the server's name is malformed");
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err("the server's port is not a number between 1 and 65535"),
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    match tag.len() {
        1..=128 if tag.bytes().all(ok) && !tag.starts_with(['.', '-']) => Ok(()),
        _ => Err("a tag is 1 to 128 letters, digits, '_', '.' or '-', not beginning with '.' or '-'"),
    }
}

fn check_repository(path: &str) -> Result<(), &'static str> {
    if path.len() > 255 {
        return Err("its name is longer than 255 characters");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("names of images are lower case");
    }
    let word = |w: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = w.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
            && !w.contains("..")
    };
    match path.split('/').all(word) {
        true => Ok(()),
        false => Err("a name is made of lower-case letters, digits and single '.', '_' or '-' between them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised_as_docker_does() {
        let hex = "0f".repeat(32);
        let pinned = format!("x.y/z:1@sha256:{hex}");
        for (typed, full) in [
            ("ubuntu", "docker.io/library/ubuntu:latest"),
            ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
            ("docker://ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
            ("user/app", "docker.io/user/app:latest"),
            ("index.docker.io/user/app:v1", "docker.io/user/app:v1"),
            ("localhost/app", "localhost/app:latest"),
            ("LOCALHOST/app", "localhost/app:latest"),
            ("library/a/b", "docker.io/library/a/b:latest"),
            ("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000/a/b/c:1"),
            ("[::1]:5000/a:1", "[::1]:5000/a:1"),
            ("nvcr.io/nvidia/pytorch:25.09-py3", "nvcr.io/nvidia/pytorch:25.09-py3"),
            ("Registry.Example/app", "registry.example/app:latest"),
            (&pinned, &pinned),
        ] {
            assert_eq!(Reference::parse(typed).expect(typed).to_string(), full);
            assert_eq!(Reference::parse(full).expect(full).to_string(), full);
        }
    }

    #[test]
    fn hostile_and_misspelt_references_are_refused() {
        for bad in [
            "",
            ":",
            "a:",
            "a b",
            "UPPER",
            "Server/app",
            "a//b",
            "/a",
            "a/",
            "a/../b",
            "../a",
            "a:.hidden",
            "a@sha256:12",
            "host:port/a",
            "host:0/a",
            "host:99999/a",
            "-x.y/a",
            "a\n",
            "a/b..c",
            "[zz]:1/a",
            "docker://",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn familiar_names_leave_docker_hub_out() {
        for (typed, shown) in [
            ("ubuntu", "ubuntu:latest"),
            ("u/a:1", "u/a:1"),
            ("q.io/u/a:1", "q.io/u/a:1"),
            // Without 'library/' it would be another image.
            ("library/a/b:1", "docker.io/library/a/b:1"),
        ] {
            let reference = Reference::parse(typed).expect(typed);
            assert_eq!(reference.familiar(), shown);
            assert_eq!(Reference::parse(shown).expect(shown), reference);
        }
    }
}
