//! Owns where a repository is to be had: a registry or one of its mirrors, as a host and a path there; or a single
//! file of a web server.

use grus_core::reference::{Reference, DOCKER_HUB};
use reqwest::header::{ETAG, LAST_MODIFIED};
use reqwest::{Response, Url};

use super::error::{Kind, RegistryError};

/// Docker Hub's API is not at the name its references carry.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// One place that has a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The registry as a reference names it: the key of accounts and certificates.
    pub registry: String,
    /// The repository's path there.
    pub repository: String,
    /// registries.conf says that unverified TLS and plain HTTP are good enough.
    pub insecure: bool,
    /// Not the registry that the reference names.
    pub mirror: bool,
    /// Not a repository at all: a file of a web server.
    pub file: Option<FileAt>,
}

/// A file of a web server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileAt {
    /// Its address.
    pub url: Url,
    /// Which version of it is wanted, where only that keeps two of them apart; see [`version_of`].
    pub version: Option<String>,
}

impl Endpoint {
    /// The registry that `reference` names.
    pub fn of(reference: &Reference) -> Self {
        Self {
            registry: reference.registry.clone(),
            repository: reference.repository.clone(),
            insecure: false,
            mirror: false,
            file: None,
        }
    }

    /// A file of a web server.
    pub fn of_file(file: FileAt) -> Self {
        Self { file: Some(file.clone()), ..Self::api(&host_of(&file.url)) }
    }

    /// The root of a registry's API, no repository of it.
    pub fn api(registry: &str) -> Self {
        Self {
            registry: registry.to_owned(),
            repository: String::new(),
            insecure: false,
            mirror: false,
            file: None,
        }
    }

    /// The server to connect to, `host[:port]`.
    pub fn host(&self) -> &str {
        match self.registry.as_str() {
            DOCKER_HUB => DOCKER_HUB_HOST,
            other => other,
        }
    }

    /// `https://host/v2/repository/rest`; a file's own address.
    pub fn url(&self, scheme: &str, rest: &str) -> Result<Url, RegistryError> {
        if let Some(file) = &self.file {
            return Ok(file.url.clone());
        }
        let text = match self.repository.is_empty() {
            true => format!("{scheme}://{}/v2/", self.host()),
            false => format!("{scheme}://{}/v2/{}/{rest}", self.host(), self.repository),
        };
        Url::parse(&text).map_err(|e| RegistryError::new(Kind::Refused, format!("{text} is not a URL: {e}")))
    }

    /// Whether `url` is on that server, however it is written: with the scheme's own port, or in capitals.
    pub fn is_at(&self, url: &Url) -> bool {
        self.url(url.scheme(), "").is_ok_and(|own| own.origin() == url.origin())
    }

    /// Refuses an answer that is of another version of the file than was found at first.
    pub fn check_version(&self, response: &Response) -> Result<(), RegistryError> {
        let Some(FileAt { version: Some(version), url }) = &self.file else { return Ok(()) };
        match version_of(response).as_ref() == Some(version) {
            true => Ok(()),
            false => Err(RegistryError::new(
                Kind::Corrupt,
                format!("{} was replaced while it was fetched", shown(url)),
            )
            .hint("run the command again; a stated digest (--digest) tells which one is meant")),
        }
    }

    /// What a token must allow, where the registry does not say.
    pub fn scope(&self) -> Option<String> {
        (!self.repository.is_empty()).then(|| format!("repository:{}:pull", self.repository))
    }
}

/// Which version of a file an answer is of, as far as its server tells them apart: the ETag, else the date. A weak
/// ETag stands for files that differ in their bytes (RFC 9110, 8.8.1).
pub fn version_of(response: &Response) -> Option<String> {
    let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    header(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| header(LAST_MODIFIED))
}

/// `scheme://host[:port]/path` without user, query and fragment: those may hold secrets (signed URLs).
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Cannot fail for http and https.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// `host[:port]` of a URL, the port only where it is not the scheme's own.
pub fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_is_at_its_own_host() {
        let reference = Reference::parse("ubuntu").expect("static");
        let url = Endpoint::of(&reference).url("https", "manifests/latest").expect("static");
        assert_eq!(url.as_str(), "https://registry-1.docker.io/v2/library/ubuntu/manifests/latest");
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let url = Url::parse("https://u:p@s3.example:444/a/b?X-Signature=secret#f").expect("static");
        assert_eq!(shown(&url), "https://s3.example:444/a/b");
        assert_eq!(host_of(&url), "s3.example:444");
    }

    #[test]
    fn a_server_is_known_however_it_is_written() {
        for (registry, url, same) in [
            ("a.example", "https://a.example/v2/", true),
            ("a.example:443", "https://a.example/v2/", true),
            ("a.example", "https://a.example:443/token", true),
            ("a.example:80", "http://a.example/v2/", true),
            ("A.Example:5000", "https://a.example:5000/v2/", true),
            ("docker.io", "https://registry-1.docker.io/v2/", true),
            ("a.example:443", "http://a.example/v2/", false),
            ("a.example:5000", "https://a.example/v2/", false),
            ("a.example", "https://b.example/v2/", false),
        ] {
            let url = Url::parse(url).expect("static");
            assert_eq!(Endpoint::api(registry).is_at(&url), same, "{registry} {url}");
        }
    }
}
