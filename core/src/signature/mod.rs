//! Who must have signed an image: containers-policy.json(5) and containers-registries.d(5) as values, and the judgement
//! on what a signature says. Files, keys and registries are read by others; no cryptography happens here.
//!
//! Everything fails closed: a policy that cannot be understood as a whole refuses all images, and a requirement that
//! Grus cannot check refuses those it is for.

mod identity;
mod lookaside;
mod payload;
mod policy;
mod scope;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

pub use identity::Identity;
pub use lookaside::{Lookaside, Place};
pub use payload::judge;
pub use policy::{Found, Key, Policy, Requirement, MAX_POLICY};

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Simple signing: an OpenPGP message (containers-signature(5)).
    Openpgp,
    /// A detached signature of cosign's.
    Sigstore,
}

/// A signature that was found good when the image was pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// How it is made.
    pub scheme: Scheme,
    /// The key: an OpenPGP fingerprint, or the sha256 of the public key's DER form.
    pub key: String,
    /// What the signer called the image.
    pub identity: String,
    /// The manifest or index that is signed.
    pub digest: Digest,
    /// The policy file that wanted it.
    pub policy: String,
}
