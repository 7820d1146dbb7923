//! Whether the name in a signature is the name of the image: `signedIdentity` of containers-policy.json(5).

use serde::Deserialize;

use crate::digest::Digest;
use crate::reference::Reference;

/// Which names a signature may carry for an image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Identity {
    /// The very same, digest included.
    MatchExact {},
    /// The same name and tag; the same repository where the image is asked for by its digest.
    MatchRepoDigestOrExact {},
    /// The same repository.
    MatchRepository {},
    /// This one, whatever the image is called.
    ExactReference {
        /// A name with a tag or digest.
        docker_reference: String,
    },
    /// Any of this repository.
    ExactRepository {
        /// A name without tag and digest.
        docker_repository: String,
    },
    /// As `MatchRepoDigestOrExact`, once the beginning of the image's name is replaced.
    RemapIdentity {
        /// The beginning of images' names.
        prefix: String,
        /// What stands for it in signatures.
        signed_prefix: String,
    },
}

impl Default for Identity {
    fn default() -> Self {
        Self::MatchRepoDigestOrExact {}
    }
}

/// A normalised name with what was written after it. Unlike a [`Reference`], it gets no tag of its own.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Named {
    fn parse(text: &str) -> Option<Self> {
        if text.contains("://") {
            return None;
        }
        let reference = Reference::parse(text).ok()?;
        let before = text.split('@').next().unwrap_or(text);
        let tagged = before.rsplit('/').next().is_some_and(|last| last.contains(':'));
        Some(Self { name: reference.name(), tag: reference.tag.filter(|_| tagged), digest: reference.digest })
    }

    /// An image as it is asked for; the tag beside a digest has no meaning.
    fn of(image: &Reference) -> Self {
        let tag = image.tag.clone().filter(|_| image.digest.is_none());
        Self { name: image.name(), tag, digest: image.digest.clone() }
    }

    fn bare(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }
}

impl Identity {
    /// Refuses what could never be meant.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |what: &str, text: &str| Err(format!("'{text}' is not {what}"));
        match self {
            Self::ExactReference { docker_reference: text } => match Named::parse(text) {
                Some(named) if !named.bare() => Ok(()),
                _ => wrong("a name with a tag or digest", text),
            },
            Self::ExactRepository { docker_repository: text } => match Named::parse(text) {
                Some(named) if named.bare() => Ok(()),
                _ => wrong("a name without tag and digest", text),
            },
            Self::RemapIdentity { prefix, signed_prefix } => {
                let bad = [prefix, signed_prefix].into_iter().find(|prefix| !is_prefix(prefix));
                bad.map_or(Ok(()), |prefix| wrong("a registry, namespace or repository", prefix))
            }
            _ => Ok(()),
        }
    }

    /// Whether a signature for `signed` is one for `image`.
    pub fn accepts(&self, signed: &str, image: &Reference) -> bool {
        let (Some(signed), image) = (Named::parse(signed), Named::of(image)) else { return false };
        match self {
            Self::MatchExact {} => signed == image,
            Self::MatchRepoDigestOrExact {} => repo_digest_or_exact(&signed, &image),
            Self::MatchRepository {} => signed.name == image.name,
            Self::ExactReference { docker_reference } => Named::parse(docker_reference) == Some(signed),
            Self::ExactRepository { docker_repository } => {
                Named::parse(docker_repository).is_some_and(|wanted| wanted.name == signed.name)
            }
            Self::RemapIdentity { prefix, signed_prefix } => {
                let rest = image.name.strip_prefix(prefix.as_str());
                let name = match rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                    Some(rest) => format!("{signed_prefix}{rest}"),
                    None => image.name.clone(),
                };
                repo_digest_or_exact(&signed, &Named { name, ..image })
            }
        }
    }
}

fn repo_digest_or_exact(signed: &Named, image: &Named) -> bool {
    match image.digest {
        Some(_) => signed.name == image.name,
        None => signed == image,
    }
}

/// `host[:port]`, a namespace or a repository.
fn is_prefix(text: &str) -> bool {
    let path = text.split_once('/').map_or("", |(_, path)| path);
    !path.contains(':')
        && !text.contains(['@', ' '])
        && Reference::parse(&format!("{text}/x")).is_ok_and(|r| r.name() == format!("{text}/x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "@sha256:0000000000000000000000000000000000000000000000000000000000000000";

    fn identity(json: &str) -> Identity {
        let parsed: Identity = serde_json::from_str(json).expect(json);
        parsed.check().expect(json);
        parsed
    }

    #[test]
    fn each_kind_accepts_what_the_man_page_says() {
        let pinned = format!("x.y/ns/app{HEX}");
        let both = format!("x.y/ns/app:1{HEX}");
        let exact = r#"{"type":"matchExact"}"#;
        let default = r#"{"type":"matchRepoDigestOrExact"}"#;
        let repository = r#"{"type":"matchRepository"}"#;
        let reference = r#"{"type":"exactReference","dockerReference":"up.str/app:1"}"#;
        let named = r#"{"type":"exactRepository","dockerRepository":"up.str/app"}"#;
        let remap = r#"{"type":"remapIdentity","prefix":"x.y/ns","signedPrefix":"up.str"}"#;
        for (rule, signed, image, good) in [
            (exact, "x.y/ns/app:1", "x.y/ns/app:1", true),
            (exact, "x.y/ns/app:2", "x.y/ns/app:1", false),
            (exact, "x.y/ns/app", "x.y/ns/app", false),
            (exact, "x.y/ns/app:1", &pinned, false),
            (exact, &pinned, &pinned, true),
            (default, "x.y/ns/app:1", "x.y/ns/app:1", true),
            (default, "x.y/ns/app:latest", "x.y/ns/app", true),
            (default, "x.y/ns/app", "x.y/ns/app:1", false),
            (default, "x.y/ns/app:2", "x.y/ns/app:1", false),
            (default, "x.y/ns/app:2", &pinned, true),
            (default, "x.y/ns/app:2", &both, true),
            (default, "x.y/ns/other:2", &pinned, false),
            (default, &pinned, "x.y/ns/app:1", false),
            (default, "busybox:1", "docker.io/library/busybox:1", true),
            (default, "docker://x.y/ns/app:1", "x.y/ns/app:1", false),
            (default, "", "x.y/ns/app:1", false),
            (repository, "x.y/ns/app", "x.y/ns/app:1", true),
            (repository, "x.y/ns/app:2", "x.y/ns/app:1", true),
            (repository, "x.y/ns/app2:1", "x.y/ns/app:1", false),
            (reference, "up.str/app:1", "x.y/ns/app:7", true),
            (reference, "up.str/app:2", "x.y/ns/app:7", false),
            (reference, "up.str/app", "x.y/ns/app:7", false),
            (named, "up.str/app:2", "x.y/ns/app:7", true),
            (named, "x.y/ns/app:7", "x.y/ns/app:7", false),
            (remap, "up.str/app:1", "x.y/ns/app:1", true),
            (remap, "up.str/app:2", "x.y/ns/app:1", false),
            (remap, "x.y/ns/app:1", "x.y/ns/app:1", false),
            (remap, "x.y/nsapp:1", "x.y/nsapp:1", true),
            (remap, "up.strapp:1", "x.y/nsapp:1", false),
        ] {
            let image = Reference::parse(image).expect(image);
            assert_eq!(identity(rule).accepts(signed, &image), good, "{rule}: {signed} for {image}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for bad in [
            r#"{"type":"matchAnything"}"#,
            r#"{"type":"matchExact","dockerReference":"x.y/a:1"}"#,
            r#"{"type":"matchRepoDigestOrExact","prefix":"x"}"#,
            r#"{"type":"exactReference"}"#,
            r#"{"type":"exactReference","dockerReference":"x.y/a:1","more":1}"#,
            r#"{"type":"exactReference","dockerReference":"x.y/a:1","dockerReference":"x.y/a:1"}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<Identity>(bad).is_err(), "{bad}");
        }
        for bad in [
            r#"{"type":"exactReference","dockerReference":"x.y/a"}"#,
            r#"{"type":"exactRepository","dockerRepository":"x.y/a:1"}"#,
            r#"{"type":"remapIdentity","prefix":"","signedPrefix":"x.y"}"#,
            r#"{"type":"remapIdentity","prefix":"x.y/a:1","signedPrefix":"x.y"}"#,
            r#"{"type":"remapIdentity","prefix":"x.y","signedPrefix":"x.y/"}"#,
        ] {
            assert!(serde_json::from_str::<Identity>(bad).expect(bad).check().is_err(), "{bad}");
        }
    }
}
