//! Sources that `grus pull` names as Podman and Skopeo do (containers-transports(5)): `docker://REF`, and local
//! ones, which are imports under another spelling.

use std::path::PathBuf;

/// What is behind a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A registry.
    Registry(String),
    /// `oci:`, `oci-archive:`, `docker-archive:`: a path, and which of its images.
    Local(PathBuf, Option<String>),
}

/// Reads a source. A name without a transport is a registry's.
pub fn parse(text: &str) -> From {
    for transport in ["oci-archive:", "docker-archive:", "oci:"] {
        if let Some(rest) = text.strip_prefix(transport) {
            // A path may hold a ':', but the first one ends it, as in containers-transports(5).
            let (path, image) = match rest.split_once(':') {
                Some((path, image)) => (path, Some(image.to_owned()).filter(|i| !i.is_empty())),
                None => (rest, None),
            };
            return From::Local(path.into(), image);
        }
    }
    From::Registry(text.strip_prefix("docker://").unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_told_from_names_with_ports_and_tags() {
        let local = |path: &str, image: Option<&str>| From::Local(path.into(), image.map(str::to_owned));
        for (text, from) in [
            ("ubuntu:24.04", From::Registry("ubuntu:24.04".into())),
            ("oci:5000/a:1", local("5000/a", Some("1"))),
            ("oci.example:5000/a", From::Registry("oci.example:5000/a".into())),
            ("docker://host:5/a", From::Registry("host:5/a".into())),
            ("oci:/tmp/layout", local("/tmp/layout", None)),
            ("docker-archive:a.tar:x.y/app:1", local("a.tar", Some("x.y/app:1"))),
            ("oci-archive:./b.tar:", local("./b.tar", None)),
        ] {
            assert_eq!(parse(text), from, "{text}");
        }
    }
}
