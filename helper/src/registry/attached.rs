//! Owns the fetching of what is said about an image beside it: cosign's signatures, kept in the image's own repository
//! under the tag `sha256-HEX.sig`, and single small files of web servers. Nothing is believed here but sizes and
//! digests.
//!
//! It refuses more than [`MAX_SIGNATURES`] of them, and passes over larger ones than [`MAX_SIGNATURE`].

use grus_core::digest::Digest;
use reqwest::{Method, Url};
use serde::Deserialize;

use super::endpoint::{shown, Endpoint, FileAt};
use super::error::{Kind, RegistryError};
use super::manifest::MAX_MANIFEST;
use super::resolve::Resolver;
use super::transport::Call;
use super::{Client, Resolved};
use crate::oci::{Descriptor, MANIFEST_TYPES};

/// Most signatures of one image; the reference implementation's bound of a lookaside.
pub const MAX_SIGNATURES: usize = 128;

/// Largest signature that is read, in bytes. Usual ones have less than a thousand.
pub const MAX_SIGNATURE: usize = 128 << 10;

/// What cosign signs, kept as a layer.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Where it keeps the signature.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// A signature of cosign's: what is signed, and the signature as base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// What is signed.
    pub payload: Vec<u8>,
    /// The signature as base64.
    pub signature: String,
}

/// The manifest that holds them.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Client {
    /// The signatures of cosign's for the manifest or index `digest` of a found image; none if there are none. They
    /// are asked for where the image is.
    pub fn attached(&self, resolved: &Resolved, digest: &Digest) -> Result<Vec<Attached>, RegistryError> {
        let resolver = Resolver { transport: self.transport.clone(), reference: resolved.reference.clone() };
        let (endpoints, digest) = (resolved.endpoints.clone(), digest.clone());
        self.run(async move {
            let mut trouble = None;
            for endpoint in &endpoints {
                match attached(&resolver, endpoint, &digest).await {
                    Ok(found) => return Ok(found),
                    Err(error) if error.kind == Kind::NotFound => {}
                    Err(error) if error.kind == Kind::Cancelled => return Err(error),
                    Err(error) => trouble = trouble.or(Some(error)),
                }
            }
            // A mirror often lacks them; but nobody knows what a broken one has.
            trouble.map_or(Ok(vec![]), Err)
        })
    }

    /// The file at `url` if there is one, of at most [`MAX_SIGNATURE`] bytes.
    pub fn small_file(&self, url: &Url) -> Result<Option<Vec<u8>>, RegistryError> {
        if url.scheme() == "http" && !self.transport.allows_plain(url) {
            let what = format!("{} is plain HTTP", shown(url));
            return Err(RegistryError::new(Kind::Refused, what).hint(
                "use https; the administrator can allow plain HTTP for a host: pull.plain-http in grus.toml",
            ));
        }
        let (transport, endpoint) =
            (self.transport.clone(), Endpoint::of_file(FileAt { url: url.clone(), version: None }));
        self.run(async move {
            let call = Call {
                endpoint: &endpoint,
                method: Method::GET,
                path: "",
                accept: None,
                range: None,
                direct: None,
            };
            match super::resolve::whole(&transport, &call, MAX_SIGNATURE).await {
                Err(error) if error.kind == Kind::NotFound => Ok(None),
                answer => answer.map(Some),
            }
        })
    }
}

async fn attached(
    resolver: &Resolver,
    endpoint: &Endpoint,
    digest: &Digest,
) -> Result<Vec<Attached>, RegistryError> {
    let (path, accept) = (format!("manifests/sha256-{}.sig", digest.hex()), MANIFEST_TYPES.join(", "));
    let call = Call { accept: Some(&accept), ..resolver.call(endpoint, &path, Method::GET) };
    let bytes = resolver.document(&call, MAX_MANIFEST, "the list of signatures", None).await?;
    let refuse = |why: String| {
        let what =
            format!("the signatures of {} at {} {why}", resolver.reference.familiar(), endpoint.host());
        RegistryError::new(Kind::Refused, what)
            .hint("tell whoever signs the image, or the registry's operator")
    };
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|e| refuse(format!("are malformed: {e}")))?;
    let signed: Vec<&Descriptor> =
        manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD).collect();
    if signed.len() > MAX_SIGNATURES {
        return Err(refuse(format!("are {}, more than {MAX_SIGNATURES}", signed.len())));
    }
    let mut all = vec![];
    for layer in signed {
        let signature = layer.annotations.get(ANNOTATION).filter(|text| text.len() <= MAX_SIGNATURE);
        let (Some(signature), true) = (signature, layer.size <= MAX_SIGNATURE as u64) else { continue };
        let path = format!("blobs/{}", layer.digest);
        let call = Call { accept: None, ..resolver.call(endpoint, &path, Method::GET) };
        match resolver.document(&call, MAX_SIGNATURE, "a signature", Some(&layer.digest)).await {
            Ok(payload) => all.push(Attached { payload, signature: signature.clone() }),
            // One that was not pushed whole hides none of the others.
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Corrupt) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}
