//! Owns the way from a reference to verified documents: mirrors in their order, index, manifest,
//! configuration. Every byte it returns has the digest it was asked by; headers are only advice.

use std::sync::Arc;

use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use reqwest::Method;

use super::endpoint::Endpoint;
use super::error::{Kind, RegistryError};
use super::manifest::{self, ACCEPT, MAX_CONFIG, MAX_MANIFEST};
use super::platform_choice;
use super::retry::Backoff;
use super::transport::{pause, Call, Reply, Transport};
use super::Resolved;
use crate::digest::digest_of;
use crate::oci::{Config, Document, Manifest, RawPlatform};

/// One image name at one endpoint.
pub struct Resolver {
    /// The connections.
    pub transport: Arc<Transport>,
    /// What was asked for.
    pub reference: Reference,
}

impl Resolver {
    /// The image of `platform` at `endpoint`, all documents verified.
    pub async fn resolve(&self, endpoint: &Endpoint, platform: &Platform) -> Result<Resolved, RegistryError> {
        let on = self.reference.familiar();
        let mut bytes = self.manifest(endpoint, &self.target(), self.reference.digest.as_ref()).await?;
        let mut digest = digest_of(&bytes);
        let mut index_digest = None;
        let mut said: Option<RawPlatform> = None;
        let mut depth = 0;
        let manifest = loop {
            match platform_choice::nested(manifest::parse(&bytes, &on)?, depth, &on)? {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) => {
                    index_digest.get_or_insert(digest);
                    let chosen = platform_choice::choose(&index, platform, &on)?;
                    said = chosen.platform.clone().filter(|p| p.known().is_some());
                    digest = chosen.digest.clone();
                    bytes = self.manifest(endpoint, &digest.to_string(), Some(&digest)).await?;
                    depth += 1;
                }
            }
        };
        let config = self.config(endpoint, &manifest).await?;
        let parsed =
            Config::parse(&config, &format!("the configuration of {on}")).map_err(manifest::from_refusal)?;
        let platform = match said.and_then(|p| p.known()) {
            Some(platform) => platform,
            None => platform_choice::check(&parsed.platform, platform, &on)?,
        };
        Ok(Resolved {
            reference: self.reference.clone(),
            digest,
            index_digest,
            layers: manifest::layers(&manifest, &on)?,
            manifest: bytes,
            config,
            platform,
            endpoints: vec![endpoint.clone()],
            notes: Vec::new(),
        })
    }

    /// The digest the registry has for the reference now.
    pub async fn head(&self, endpoint: &Endpoint) -> Result<Digest, RegistryError> {
        let target = self.target();
        let path = format!("manifests/{target}");
        let call = self.call(endpoint, &path, Method::HEAD);
        let mut backoff = self.backoff();
        loop {
            match self.transport.send(&call).await {
                Ok(reply) => {
                    let header = reply.response.headers().get("docker-content-digest");
                    let digest = header.and_then(|h| h.to_str().ok()).and_then(|h| Digest::parse(h).ok());
                    return match digest {
                        Some(digest) => Ok(digest),
                        // Not all registries send it.
                        None => Ok(digest_of(&self.manifest(endpoint, &target, None).await?)),
                    };
                }
                Err(failure) => pause(backoff.pause(failure)?).await,
            }
        }
    }

    /// The tag, or the digest if there is one.
    fn target(&self) -> String {
        match (&self.reference.digest, &self.reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    async fn manifest(
        &self,
        endpoint: &Endpoint,
        target: &str,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, RegistryError> {
        let path = format!("manifests/{target}");
        self.document(&self.call(endpoint, &path, Method::GET), MAX_MANIFEST, "the manifest", digest).await
    }

    async fn config(&self, endpoint: &Endpoint, manifest: &Manifest) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{}", manifest.config.digest);
        let call = Call { accept: None, ..self.call(endpoint, &path, Method::GET) };
        self.document(&call, MAX_CONFIG, "the configuration", Some(&manifest.config.digest)).await
    }

    /// A whole small document that must have `digest`, if one is given.
    pub(super) async fn document(
        &self,
        call: &Call<'_>,
        most: usize,
        what: &str,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, RegistryError> {
        self.verified(whole(&self.transport, call, most).await?, what, digest)
    }

    fn verified(
        &self,
        bytes: Vec<u8>,
        what: &str,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, RegistryError> {
        let found = digest_of(&bytes);
        match digest.filter(|d| **d != found) {
            None => Ok(bytes),
            Some(wanted) => {
                let on = self.reference.familiar();
                let text = format!("{what} of {on} is not what its digest {wanted} says: it has {found}");
                Err(RegistryError::new(Kind::Corrupt, text).hint(
                    "the registry or a proxy on the way gives wrong bytes; try again, or tell its operator",
                ))
            }
        }
    }

    pub(super) fn call<'a>(&self, endpoint: &'a Endpoint, path: &'a str, method: Method) -> Call<'a> {
        Call { endpoint, method, path, accept: Some(ACCEPT), range: None, direct: None }
    }

    fn backoff(&self) -> Backoff {
        first_contact(&self.transport)
    }
}

/// Whether another endpoint may do better after `error`: not after the user stopped it.
pub fn worth_another(error: &RegistryError) -> bool {
    error.kind != Kind::Cancelled
}

/// Asks the registry's root whether the account is welcome.
pub async fn knock(transport: &Transport, endpoint: &Endpoint) -> Result<(), RegistryError> {
    let call = Call { endpoint, method: Method::GET, path: "", accept: None, range: None, direct: None };
    first_answer(transport, &call).await.map(drop)
}

/// The whole of a small answer, fetched again where the connection breaks.
pub async fn whole(transport: &Transport, call: &Call<'_>, most: usize) -> Result<Vec<u8>, RegistryError> {
    let mut backoff = first_contact(transport);
    loop {
        let failure = match transport.send(call).await {
            Ok(mut reply) => match transport.body(&mut reply.response, most).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        pause(backoff.pause(failure)?).await;
    }
}

fn first_contact(transport: &Transport) -> Backoff {
    Backoff::new(transport.settings.retries, transport.settings.retry_pause).first_contact()
}

/// Sends a first question until it is answered.
pub async fn first_answer(transport: &Transport, call: &Call<'_>) -> Result<Reply, RegistryError> {
    let mut backoff = first_contact(transport);
    loop {
        match transport.send(call).await {
            Ok(reply) => return Ok(reply),
            Err(failure) => pause(backoff.pause(failure)?).await,
        }
    }
}
