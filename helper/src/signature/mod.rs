//! Owns the check that an image of a registry is signed as the policies want it, before any layer of it is fetched:
//! it reads policies and keys, gets signatures, and has the cryptography done. What a policy means is decided in
//! [`grus_core::signature`].
//!
//! It refuses an image in every case of doubt: a policy or key that cannot be read, a requirement it cannot check, a
//! place of signatures that does not answer.

mod evidence;
mod openpgp;
mod policies;
mod sigstore;

use grus_core::digest::Digest;
use grus_core::reference::Reference;
use grus_core::refusal::{printable, Refusal};
use grus_core::signature::{judge, Identity, Key, Policy, Requirement, Scheme, Signed};
use grus_core::site::Site;

use self::evidence::Evidence;
use self::openpgp::Keyring;
use self::sigstore::PublicKeys;
use crate::failure::Failure;
use crate::registry::{Client, Paths, Resolved};

/// Reasons that are told; one signature is the usual.
const MAX_REASONS: usize = 3;

/// All policies that a pull obeys.
#[derive(Debug)]
pub struct Judge {
    policies: Vec<(String, Policy)>,
    paths: Paths,
}

/// One requirement, for one image.
struct Case<'a> {
    /// Policy file.
    file: &'a str,
    scope: &'a str,
    image: &'a Reference,
    /// Of the manifest and of the index it was chosen from.
    digests: &'a [Digest],
    identity: &'a Identity,
}

impl Judge {
    /// Reads the site's policy and the user's.
    pub fn new(site: &Site, paths: &Paths) -> Result<Self, Failure> {
        let policies = policies::load(site.signatures.policy.as_ref().map(|path| path.as_path()), paths)?;
        Ok(Self { policies, paths: paths.clone() })
    }

    /// Refuses an image that no signature could help. Tells whether this one needs any.
    pub fn admits(&self, image: &Reference) -> Result<bool, Failure> {
        let mut wanted = false;
        for (file, policy) in &self.policies {
            let found = policy.of(image);
            for requirement in found.requirements {
                match requirement {
                    Requirement::Accept => {}
                    Requirement::Openpgp(..) | Requirement::Sigstore(..) => wanted = true,
                    Requirement::Reject => return Err(rejected(image, file, &found.scope)),
                    Requirement::Unsupported(what) => {
                        return Err(unsupported(image, file, &found.scope, what))
                    }
                }
            }
        }
        Ok(wanted)
    }

    /// The signatures that every policy wants of a found image, or why it must not be taken.
    pub fn verify(&self, client: &Client, resolved: &Resolved) -> Result<Vec<Signed>, Failure> {
        let image = &resolved.reference;
        let mut all = vec![];
        if !self.admits(image)? {
            return Ok(all);
        }
        let digests: Vec<Digest> =
            std::iter::once(&resolved.digest).chain(&resolved.index_digest).cloned().collect();
        let evidence = Evidence::new(client, resolved, &digests, policies::lookaside(&self.paths)?);
        for (file, policy) in &self.policies {
            let found = policy.of(image);
            for requirement in found.requirements {
                let (keys, identity) = match requirement {
                    Requirement::Openpgp(keys, identity) | Requirement::Sigstore(keys, identity) => {
                        (keys, identity)
                    }
                    // Judged by `admits`.
                    Requirement::Accept | Requirement::Reject | Requirement::Unsupported(_) => continue,
                };
                let case = Case { file, scope: &found.scope, image, digests: &digests, identity };
                let signed = match requirement {
                    Requirement::Openpgp(..) => case.openpgp(keys, &evidence)?,
                    _ => case.sigstore(keys, &evidence)?,
                };
                if !all.contains(&signed) {
                    all.push(signed);
                }
            }
        }
        Ok(all)
    }
}

impl Case<'_> {
    fn openpgp(&self, keys: &[Key], evidence: &Evidence) -> Result<Signed, Failure> {
        let keyring = Keyring::new(&policies::keys(keys, self.file)?)
            .map_err(|why| self.bad_keys(why))?
            .map_err(|e| Failure::io("write the keys to", &std::env::temp_dir(), &e))?;
        let mut reasons = vec![];
        for signature in evidence.simple()? {
            match keyring.verify(signature)? {
                Ok((key, payload)) => match self.about(Scheme::Openpgp, &key, &payload) {
                    Ok(signed) => return Ok(signed),
                    Err(why) => reasons.push(why),
                },
                Err(why) => reasons.push(why),
            }
        }
        let nowhere = "where its signatures are must be said (lookaside), see containers-registries.d(5)";
        let hint = if evidence.has_lookaside() { UNSIGNED } else { nowhere };
        Err(self.unsigned("OpenPGP signature", &reasons, hint))
    }

    fn sigstore(&self, keys: &[Key], evidence: &Evidence) -> Result<Signed, Failure> {
        let keys = PublicKeys::parse(&policies::keys(keys, self.file)?).map_err(|why| self.bad_keys(why))?;
        let mut reasons = vec![];
        for attached in evidence.attached()? {
            let checked =
                keys.verify(attached).and_then(|key| self.about(Scheme::Sigstore, &key, &attached.payload));
            match checked {
                Ok(signed) => return Ok(signed),
                Err(why) => reasons.push(why),
            }
        }
        let hint = match (evidence.looks_for_attached(), reasons.iter().any(|why| why.contains("for the name"))) {
            (false, _) => "cosign's signatures are switched off by use-sigstore-attachments, see containers-registries.d(5)",
            (true, true) => "cosign signs repositories, not tags: the policy's signedIdentity is to be matchRepository",
            (true, false) => UNSIGNED,
        };
        Err(self.unsigned("sigstore signature", &reasons, hint))
    }

    /// Whether a text with a good signature is about the image.
    fn about(&self, scheme: Scheme, key: &str, payload: &[u8]) -> Result<Signed, String> {
        let (identity, digest) = judge(payload, scheme, (self.image, self.digests), self.identity)?;
        Ok(Signed { scheme, key: key.to_owned(), identity, digest, policy: self.file.to_owned() })
    }

    fn unsigned(&self, kind: &str, reasons: &[String], hint: &str) -> Failure {
        let mut told: Vec<&str> = vec![];
        reasons.iter().for_each(|why| {
            if !told.contains(&why.as_str()) && told.len() < MAX_REASONS {
                told.push(why);
            }
        });
        let why = match told.is_empty() {
            true => format!("it has no {kind}"),
            false => format!("of {} {kind}(s) none is good: {}", reasons.len(), told.join("; ")),
        };
        let what = format!(
            "{} is not signed as {} wants it for '{}': {why}",
            self.image.familiar(),
            printable(self.file),
            printable(self.scope)
        );
        Refusal::image(what).hint(hint).into()
    }

    fn bad_keys(&self, why: String) -> Failure {
        Refusal::site(format!("the keys for '{}' in {}: {why}", printable(self.scope), printable(self.file)))
            .hint("whoever keeps the policy must mend it; see containers-policy.json(5)")
            .into()
    }
}

const UNSIGNED: &str = "take an image that is signed so, or ask whoever publishes it, or keeps the policy";

fn rejected(image: &Reference, file: &str, scope: &str) -> Failure {
    Refusal::image(format!(
        "{} is rejected by the signature policy {} (for '{}')",
        image.familiar(),
        printable(file),
        printable(scope)
    ))
    .hint("take an image from elsewhere, or ask whoever keeps the policy")
    .into()
}

fn unsupported(image: &Reference, file: &str, scope: &str, what: &str) -> Failure {
    Refusal::site(format!(
        "{} cannot be checked: {} wants {what} for '{}', which Grus does not support",
        image.familiar(),
        printable(file),
        printable(scope)
    ))
    .hint("the policy must name a key (signedBy, or sigstoreSigned with keyPath) for it")
    .into()
}
