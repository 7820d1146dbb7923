//! Owns single files of web servers and object stores: the address, how large the file is, and its bytes by the same
//! connections, ranges and retries as a layer's.
//!
//! It refuses addresses with a password, plain HTTP as for registries, and a file that might be put together from
//! two versions of it. No stored account is ever sent.

use std::sync::Arc;

use grus_core::digest::Digest;
use grus_core::refusal::printable;
use grus_squash::LayerSource;
use reqwest::header::{HeaderMap, CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Method, StatusCode, Url};

use super::endpoint::{host_of, shown, version_of, Endpoint, FileAt};
use super::error::{Kind, RegistryError};
use super::resolve::first_answer;
use super::transport::{Call, Reply, Transport};
use super::{Blob, Client, Held, Layer, Progress};
use crate::digest::digest_of;

/// A file that was found.
#[derive(Clone, Debug)]
pub struct WebFile {
    /// Its size in bytes.
    pub size: u64,
    at: FileAt,
    digest: Option<Digest>,
}

/// The address in `text`, if it is one of a web server.
pub fn address(text: &str) -> Result<Option<Url>, RegistryError> {
    let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return Ok(None);
    };
    let refuse = |what: String, hint: &str| Err(RegistryError::new(Kind::Usage, what).hint(hint));
    if !["https", "http"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return refuse(
            format!("{}:// is no kind of address that is fetched here", printable(scheme)),
            "give an https address; object stores have one for each of their objects, signed where it is private",
        );
    }
    match Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => refuse(
            format!("{} has a name or a password in it", shown(&url)),
            "others see what is typed ('ps'); use a signed address, or curl with a file: curl ... | grus import - NAME",
        ),
        Ok(url) => Ok(Some(url)),
        Err(error) => refuse(format!("'{}' is no address: {error}", printable(text)), "check how it is written"),
    }
}

/// RFC 3986, 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

impl WebFile {
    /// The file's address, without what may be secret.
    pub fn shown(&self) -> String {
        shown(&self.at.url)
    }
}

impl Client {
    /// Finds the file at `url`, which must have `digest` if one was stated.
    pub fn find_file(&self, url: &Url, digest: Option<&Digest>) -> Result<WebFile, RegistryError> {
        if url.scheme() == "http" && !self.transport.allows_plain(url) {
            return Err(RegistryError::new(Kind::Refused, format!("{} is plain HTTP", shown(url))).hint(
                "use https; the administrator can allow plain HTTP for a host: pull.plain-http in grus.toml",
            ));
        }
        let (transport, url, digest) = (self.transport.clone(), url.clone(), digest.cloned());
        self.run(async move { find(&transport, url, digest).await })
    }

    /// Starts to download `file`, of which the caller may have the beginning. The source ends well only with the
    /// stated digest.
    pub fn download_file(
        &self,
        file: &WebFile,
        held: Option<Held>,
        progress: Arc<dyn Progress>,
    ) -> Result<Arc<dyn LayerSource>, RegistryError> {
        let layer = Layer {
            digest: file.digest.clone().unwrap_or_else(|| digest_of(b"")),
            size: file.size,
            media_type: String::new(),
            kind: if file.digest.is_some() { Blob::File } else { Blob::AnyFile },
        };
        let mut sources =
            self.start(vec![Endpoint::of_file(file.at.clone())], vec![layer], vec![held], progress)?;
        sources.pop().ok_or_else(|| RegistryError::new(Kind::Cancelled, "stopped"))
    }
}

/// Asks for the first byte. Not by HEAD: a signed address is signed for GET.
async fn find(transport: &Transport, url: Url, digest: Option<Digest>) -> Result<WebFile, RegistryError> {
    let endpoint = Endpoint::of_file(FileAt { url: url.clone(), version: None });
    let range = Some("bytes=0-0".to_owned());
    let call = Call { endpoint: &endpoint, method: Method::GET, path: "", accept: None, range, direct: None };
    let Reply { response, .. } = first_answer(transport, &call).await?;
    let refuse = |what: String, hint: &str| Err(RegistryError::new(Kind::Refused, what).hint(hint));
    let (host, file) = (host_of(&url), shown(&url));
    let size = match size(response.status(), response.headers()) {
        Some(0) => {
            return refuse(format!("{file} is empty"), "check the address, and how the file was stored")
        }
        Some(size) => size,
        None => {
            let hint = "fetch it with another program: curl -f ADDRESS | grus import - NAME";
            return refuse(format!("{host} does not say how large {file} is"), hint);
        }
    };
    // With a digest, whatever the server sends is judged at the end.
    let version = version_of(&response).filter(|_| digest.is_none());
    if version.is_none() && digest.is_none() {
        let hint = "state what it must be, --digest sha256:...; the output of sha256sum is meant";
        return refuse(format!("{host} does not tell one version of {file} from another"), hint);
    }
    Ok(WebFile { size, at: FileAt { url, version }, digest })
}

/// How large the whole file is by the answer to the question for its first byte.
fn size(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    match status {
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            text(CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok()
        }
        _ => text(CONTENT_LENGTH)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_files_and_show_no_secrets() {
        for file in ["app.tar", "./http:/x", "-", "dir/a://b", "1s://x"] {
            assert_eq!(address(file), Ok(None), "{file}");
        }
        assert!(address("HTTPS://store.example/a.sqsh?X-Signature=s").is_ok_and(|url| url.is_some()));
        for (bad, why) in [
            ("s3://bucket/key", "s3:// is no kind of address"),
            ("https://", "is no address"),
            ("https://me:secret@store.example/a", "https://store.example/a has a name or a password in it"),
        ] {
            let error = address(bad).expect_err(bad);
            assert!(
                error.what.contains(why) && error.hint.is_some() && !error.what.contains("secret"),
                "{error:?}"
            );
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn the_size_is_in_the_range_or_in_the_length() {
        let headers = |name, value: &str| HeaderMap::from_iter([(name, value.parse().expect("a value"))]);
        for (status, name, value, expected) in [
            (206, CONTENT_RANGE, "bytes 0-0/12", Some(12)),
            (206, CONTENT_RANGE, "bytes 0-0/*", None),
            (416, CONTENT_RANGE, "bytes */0", Some(0)),
            (200, CONTENT_LENGTH, "7", Some(7)),
            (206, CONTENT_LENGTH, "1", None),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(size(status, &headers(name, value)), expected, "{status} {value}");
        }
    }
}
