//! containers-registries.d(5): where simple signatures lie, and whether cosign's are looked for. It says nothing of
//! trust: a wrong place has no good signature.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::scope::scopes;
use crate::digest::Digest;
use crate::reference::Reference;

/// What one file says, and all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Lookaside {
    default_docker: Option<Place>,
    docker: BTreeMap<String, Place>,
}

/// What is said of a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Place {
    lookaside: Option<String>,
    /// The name of `lookaside` before 2022.
    sigstore: Option<String>,
    use_sigstore_attachments: Option<bool>,
}

impl Place {
    fn address(&self) -> Option<&str> {
        self.lookaside.as_deref().or(self.sigstore.as_deref()).filter(|address| !address.is_empty())
    }
}

impl Lookaside {
    /// Adds a further file. What two files say of one scope contradicts itself.
    pub fn add(&mut self, file: Self) -> Result<(), String> {
        if file.default_docker.is_some() && self.default_docker.is_some() {
            return Err("default-docker is in an earlier file, too".into());
        }
        self.default_docker = file.default_docker.or(self.default_docker.take());
        for (scope, place) in file.docker {
            if self.docker.contains_key(&scope) {
                return Err(format!("docker.'{scope}' is in an earlier file, too"));
            }
            self.docker.insert(scope, place);
        }
        Ok(())
    }

    /// What is said of `image`, the most specific first.
    fn places(&self, image: &Reference) -> impl Iterator<Item = &Place> {
        let scopes = scopes(image);
        scopes.into_iter().filter_map(|scope| self.docker.get(&scope)).chain(&self.default_docker)
    }

    /// The directory of the simple signatures of `image`, whose manifest or index is `digest`: an address.
    pub fn directory(&self, image: &Reference, digest: &Digest) -> Option<String> {
        let base = self.places(image).find_map(Place::address)?;
        let (base, path) = (base.trim_end_matches('/'), &image.repository);
        Some(format!("{base}/{path}@sha256={}", digest.hex()))
    }

    /// Whether cosign's signatures are looked for in the registry: they are, where a policy wants them, unless they
    /// were switched off.
    pub fn attachments(&self, image: &Reference) -> bool {
        self.places(image).find_map(|place| place.use_sigstore_attachments).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lookaside: &str, attachments: Option<bool>) -> Place {
        Place { lookaside: Some(lookaside.into()), sigstore: None, use_sigstore_attachments: attachments }
    }

    #[test]
    fn the_most_specific_place_with_an_address_counts() {
        let old = Place { sigstore: Some("https://old.example/".into()), ..Place::default() };
        let docker = [
            ("x.y/ns".to_owned(), place("file:///ns/", Some(false))),
            ("x.y/ns/app".to_owned(), Place::default()),
            ("*.example.org".to_owned(), old),
        ];
        let all = Lookaside { default_docker: Some(place("https://d.example", None)), docker: docker.into() };
        let hex = "01".repeat(32);
        for (image, expected) in [
            ("x.y/ns/app:1", format!("file:///ns/ns/app@sha256={hex}")),
            ("a.example.org/b", format!("https://old.example/b@sha256={hex}")),
            ("busybox", format!("https://d.example/library/busybox@sha256={hex}")),
        ] {
            let image = Reference::parse(image).expect(image);
            assert_eq!(all.directory(&image, &Digest::from_bytes(&[1; 32])), Some(expected));
            assert_eq!(all.attachments(&image), image.registry != "x.y");
        }
        let image = Reference::parse("busybox").expect("static");
        assert_eq!(Lookaside::default().directory(&image, &Digest::from_bytes(&[1; 32])), None);
    }

    #[test]
    fn two_files_may_not_speak_of_one_scope() {
        let file = |scope: &str| Lookaside {
            docker: [(scope.to_owned(), place("https://a.example", None))].into(),
            ..Lookaside::default()
        };
        let default = Lookaside { default_docker: Some(Place::default()), ..Lookaside::default() };
        let mut all = file("x.y");
        assert_eq!(all.add(file("z.y")), Ok(()));
        assert!(all.add(file("x.y")).expect_err("twice").contains("x.y"));
        assert_eq!(all.add(default.clone()), Ok(()));
        assert!(all.add(default).expect_err("twice").contains("default-docker"));
    }
}
