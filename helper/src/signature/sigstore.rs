//! Owns the check of cosign's signatures: ECDSA, RSA or Ed25519 over the payload, by the TLS library's code.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;

use crate::digest::digest_of;
use crate::registry::Attached;

/// Public keys, each with its name: the sha256 of its DER form.
pub struct PublicKeys(Vec<(String, SubjectPublicKeyInfoDer<'static>)>);

impl PublicKeys {
    /// Reads PEM texts (RFC 7468, 13), `cosign.pub` for example. Text that holds no key is wrong.
    pub fn parse(texts: &[Vec<u8>]) -> Result<Self, String> {
        let mut all = vec![];
        for text in texts {
            let before = all.len();
            for key in SubjectPublicKeyInfoDer::pem_slice_iter(text) {
                let key = key.map_err(|_| "one is malformed")?;
                RawPublicKeyEntity::try_from(&key).map_err(|_| "one is malformed")?;
                all.push((digest_of(&key).to_string(), key));
            }
            if all.len() == before {
                return Err("one is no public key in PEM form (BEGIN PUBLIC KEY)".into());
            }
        }
        Ok(Self(all))
    }

    /// The key that made the signature.
    pub fn verify(&self, attached: &Attached) -> Result<String, String> {
        let signature = STANDARD.decode(attached.signature.trim()).map_err(|_| "it is not base64")?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let mut known = false;
        for (name, key) in &self.0 {
            let entity = RawPublicKeyEntity::try_from(key).map_err(|_| "its key is malformed")?;
            for algorithm in algorithms.all {
                match entity.verify_signature(*algorithm, &attached.payload, &signature) {
                    Ok(()) => return Ok(name.clone()),
                    Err(webpki::Error::InvalidSignatureForPublicKey) => known = true,
                    // An algorithm that is not this key's.
                    Err(_) => {}
                }
            }
        }
        Err(match known {
            true => "it is by none of the policy's keys, or was tampered with".into(),
            false => "the policy's keys are of a kind that is not supported (ECDSA P-256 and P-384, RSA, Ed25519 are)".into(),
        })
    }
}
