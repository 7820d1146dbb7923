//! Owns one HTTP request to a registry: the scheme, the account, redirects, and what an answer means.
//!
//! It refuses plain HTTP but to loopback and where the site allows it; to follow a redirect from HTTPS to
//! HTTP; and to send credentials to any origin (scheme, host, port) but the registry's own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderValue, ACCEPT, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};

use super::answer;
use super::challenge;
use super::endpoint::{host_of, shown, Endpoint};
use super::error::{Kind, RegistryError};
use super::retry::{retry_after, Again, Failure};
use super::settings::{is_loopback, Settings};
use super::tls::{Tls, Trust};
use super::token::Tokens;

/// Redirects that are followed in one request.
const MAX_REDIRECTS: usize = 6;
/// How many times the patience with silence a small answer may take as a whole.
const SMALL_ANSWER: u32 = 10;

/// Renewals of a token in one request: another connection may use up what this one renewed.
const MAX_RENEWALS: usize = 3;

/// All connections of a client.
#[derive(Debug)]
pub struct Transport {
    /// How to speak.
    pub settings: Settings,
    tls: Tls,
    tokens: Tokens,
    clients: Mutex<HashMap<(String, Trust), reqwest::Client>>,
    /// Scheme each host was found to speak.
    schemes: Mutex<HashMap<String, &'static str>>,
}

/// A request to a registry.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Where.
    pub endpoint: &'a Endpoint,
    /// GET or HEAD.
    pub method: Method,
    /// What, below the repository: `manifests/latest`, `blobs/sha256:…`.
    pub path: &'a str,
    /// Media types.
    pub accept: Option<&'a str>,
    /// `bytes=0-99`.
    pub range: Option<String>,
    /// Where the registry redirected this very request to before.
    pub direct: Option<Url>,
}

/// An answer with status 2xx, or 416 to a range.
#[derive(Debug)]
pub struct Reply {
    /// The answer, its body unread.
    pub response: Response,
    /// Where it came from, if not from the registry itself.
    pub redirected: Option<Url>,
}

impl Transport {
    /// Nothing is connected yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            tls: Tls::new(settings.paths.certs_dirs.clone()),
            tokens: Tokens::default(),
            clients: Mutex::default(),
            schemes: Mutex::default(),
            settings,
        }
    }

    /// One request, with the renewal of its token and its redirects. Not retried: see [`Failure::again`].
    pub async fn send(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let endpoint = call.endpoint;
        let host = endpoint.host();
        let scheme = self.scheme(endpoint);
        let first = endpoint.url(scheme, call.path)?;
        let mut url = call.direct.clone().unwrap_or_else(|| first.clone());
        let mut renewals = 0;
        for _ in 0..=MAX_REDIRECTS {
            let own = url.origin() == first.origin();
            // Files are for everyone, or their address is signed: no stored account is theirs.
            let account = match own && endpoint.file.is_none() {
                true => self.tokens.current(self, endpoint).await?,
                false => None,
            };
            let response = match self.request(call, &url, account.clone()).await {
                Err(e)
                    if own && scheme == "https" && self.may_be_plain(endpoint) && answer::is_not_tls(&e) =>
                {
                    return self.send_plain(call).await;
                }
                other => other.map_err(|e| answer::unreachable(&url, &e))?,
            };
            if own {
                lock(&self.schemes).insert(host.to_owned(), scheme);
            }
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && own && endpoint.file.is_none() && renewals < MAX_RENEWALS
            {
                let values = response.headers().get_all(WWW_AUTHENTICATE);
                let challenges = challenge::parse(values.iter().filter_map(|v| v.to_str().ok()));
                self.tokens.renew(self, endpoint, &challenges, account.clone()).await?;
                // The same account again would be refused again.
                if account.is_some() && self.tokens.current(self, endpoint).await? == account {
                    return Err(self.refused(call, &url, response, false).await);
                }
                renewals += 1;
            } else if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                url = self.redirect(&url, &response)?;
            } else if status.is_success()
                || (status == StatusCode::RANGE_NOT_SATISFIABLE && call.range.is_some())
            {
                return Ok(Reply { response, redirected: (!own).then_some(url) });
            } else {
                return Err(self.refused(call, &url, response, !own).await);
            }
        }
        let what = format!("{host} redirects in circles");
        Err(RegistryError::new(Kind::Refused, what).into())
    }

    /// Docker's rule for loopback: HTTPS first, plain HTTP if that is not spoken there.
    async fn send_plain(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        lock(&self.schemes).insert(call.endpoint.host().to_owned(), "http");
        let answer = Box::pin(self.send(call)).await;
        if answer.as_ref().is_err_and(|f| f.again == Again::Unreached) {
            lock(&self.schemes).remove(call.endpoint.host());
        }
        answer
    }

    /// A plain request by the client for its host, answered in time.
    pub async fn request(
        &self,
        call: &Call<'_>,
        url: &Url,
        account: Option<HeaderValue>,
    ) -> Result<Response, answer::SendError> {
        let mut request = self.client(url, call.endpoint)?.request(call.method.clone(), url.clone());
        if let Some(accept) = call.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(range) = &call.range {
            request = request.header(RANGE, range);
        }
        if let Some(account) = account {
            request = request.header(AUTHORIZATION, account);
        }
        self.in_time(request).await
    }

    /// Sends; no answer within the idle time-out is an error.
    pub async fn in_time(&self, request: reqwest::RequestBuilder) -> Result<Response, answer::SendError> {
        match tokio::time::timeout(self.settings.idle_timeout, request.send()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(answer::SendError::Silent(self.settings.idle_timeout)),
        }
    }

    /// The HTTP client for the host of `url`: its certificates are its own, the others' connections too.
    pub fn client(&self, url: &Url, endpoint: &Endpoint) -> Result<reqwest::Client, RegistryError> {
        let host = host_of(url);
        let (name, trust) = self.trust(url, endpoint);
        // Hosts without anything of their own share a client, but loopback never goes through a proxy.
        let special = is_loopback(&host) || trust == Trust::Anything || self.tls.dir(&name).is_some();
        let key = (if special { name.clone() } else { String::new() }, trust);
        if let Some(client) = lock(&self.clients).get(&key) {
            return Ok(client.clone());
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.config(&name, trust)?)
            .user_agent(concat!("grus/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(self.settings.connect_timeout)
            .tcp_nodelay(true);
        if is_loopback(&host) {
            builder = builder.no_proxy();
        }
        let failed = |e: reqwest::Error| {
            RegistryError::new(
                Kind::Site,
                format!("cannot set up connections to {host}: {}", answer::cause(&e)),
            )
            .hint("check the proxy settings in the environment (https_proxy, http_proxy, no_proxy)")
        };
        let client = builder.build().map_err(failed)?;
        lock(&self.clients).insert(key, client.clone());
        Ok(client)
    }

    /// The name in certs.d of the host of `url`, and how far to trust it.
    fn trust(&self, url: &Url, endpoint: &Endpoint) -> (String, Trust) {
        let (host, own) = (host_of(url), endpoint.is_at(url));
        // Certificates are kept under the registry's name as it is written, which may say more than the host's, and
        // for Docker Hub is another.
        let named = own && (self.tls.dir(&endpoint.registry).is_some() || self.tls.dir(&host).is_none());
        let name = if named { endpoint.registry.clone() } else { host };
        match (url.scheme(), own && endpoint.insecure) {
            ("http", _) => (name, Trust::Plain),
            (_, true) => (name, Trust::Anything),
            (_, false) => (name, Trust::Verify),
        }
    }

    /// The scheme to begin with.
    pub fn scheme(&self, endpoint: &Endpoint) -> &'static str {
        if let Some(file) = &endpoint.file {
            return if file.url.scheme() == "http" { "http" } else { "https" };
        }
        let known = lock(&self.schemes).get(endpoint.host()).copied();
        known.unwrap_or(if self.settings.is_plain(endpoint.host()) { "http" } else { "https" })
    }

    /// Whether plain HTTP may be tried after HTTPS.
    fn may_be_plain(&self, endpoint: &Endpoint) -> bool {
        let settled = endpoint.file.is_some() || lock(&self.schemes).contains_key(endpoint.host());
        !settled && (endpoint.insecure || is_loopback(endpoint.host()))
    }

    /// Whether plain HTTP to the host of `url` is allowed at all.
    pub fn allows_plain(&self, url: &Url) -> bool {
        // With the port in any case: the site may have written out the usual one.
        let port = url.port_or_known_default().unwrap_or_default();
        let host = format!("{}:{port}", url.host_str().unwrap_or_default());
        is_loopback(&host) || self.settings.is_plain(&host)
    }

    fn redirect(&self, from: &Url, response: &Response) -> Result<Url, RegistryError> {
        let refuse = |why: String| RegistryError::new(Kind::Refused, why);
        let bad = || refuse(format!("{} redirects to no usable address", host_of(from)));
        let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).ok_or_else(bad)?;
        let to = from.join(location).map_err(|_| bad())?;
        if !matches!(to.scheme(), "https" | "http") || to.host_str().is_none() {
            return Err(bad());
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err(refuse(format!("{} redirects to an address with a password in it", host_of(from))));
        }
        if to.scheme() == "http" && (from.scheme() == "https" || !self.allows_plain(&to)) {
            let what = format!("{} redirects to plain HTTP, {}", host_of(from), shown(&to));
            return Err(refuse(what)
                .hint("the administrator can allow plain HTTP for a host: pull.plain-http in grus.toml"));
        }
        Ok(to)
    }

    /// An answer that is neither success nor redirect.
    async fn refused(&self, call: &Call<'_>, url: &Url, mut response: Response, foreign: bool) -> Failure {
        let status = response.status();
        let asked = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let wait = asked.and_then(|v| retry_after(v, SystemTime::now()));
        let body = self.body(&mut response, answer::LONGEST_ERROR).await.unwrap_or_default();
        let account = self.tokens.has_account(call.endpoint);
        let failure = answer::refused(call, url, status, wait, &answer::message(&body), account, foreign);
        self.tokens.explained(call.endpoint, failure)
    }

    /// At most `most` bytes of a body; Err where it is longer, breaks off or does not end in time.
    pub async fn body(&self, response: &mut Response, most: usize) -> Result<Vec<u8>, Failure> {
        let url = response.url().clone();
        let time = self.settings.idle_timeout * SMALL_ANSWER;
        match tokio::time::timeout(time, self.body_of(response, &url, most)).await {
            Ok(body) => body,
            Err(_) => Err(answer::unreachable(&url, &answer::SendError::Slow(time))),
        }
    }

    async fn body_of(&self, response: &mut Response, url: &Url, most: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(response).await.map_err(|e| answer::unreachable(url, &e))? {
            if body.len() + chunk.len() > most {
                let what = format!("{} sends more than {most} bytes where less was due", shown(url));
                return Err(RegistryError::new(Kind::Corrupt, what).into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The next piece of a body, in time.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<answer::Chunk>, answer::SendError> {
        match tokio::time::timeout(self.settings.idle_timeout, response.chunk()).await {
            Ok(chunk) => Ok(chunk?),
            Err(_) => Err(answer::SendError::Silent(self.settings.idle_timeout)),
        }
    }
}

/// A mutex of plain data: what a panicked thread left is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps.
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

#[cfg(test)]
mod tests {
    use super::super::settings::Paths;
    use super::*;

    fn transport(settings: Settings, certs_d: &std::path::Path) -> Transport {
        let paths = Paths { certs_dirs: vec![certs_d.to_owned()], ..Paths::default() };
        Transport::new(Settings { paths, ..settings })
    }

    #[test]
    fn trust_goes_by_the_registry_however_its_server_is_written() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["a.example:443", "b.example", "c.example:443", "c.example", "docker.io"] {
            std::fs::create_dir(dir.path().join(name)).expect("directory");
        }
        let transport = transport(Settings::default(), dir.path());
        for (registry, url, name) in [
            ("a.example:443", "https://a.example/v2/", "a.example:443"),
            ("b.example:443", "https://b.example/v2/", "b.example"),
            ("c.example:443", "https://c.example/v2/", "c.example:443"),
            ("c.example", "https://c.example/v2/", "c.example"),
            ("B.example", "https://b.example/v2/", "b.example"),
            ("docker.io", "https://registry-1.docker.io/v2/", "docker.io"),
            ("none.example:443", "https://none.example/v2/", "none.example:443"),
            ("a.example:443", "https://b.example/elsewhere", "b.example"),
        ] {
            let url = Url::parse(url).expect("static");
            for insecure in [false, true] {
                let endpoint = Endpoint { insecure, ..Endpoint::api(registry) };
                let any = insecure && !url.path().ends_with("elsewhere");
                let trust = if any { Trust::Anything } else { Trust::Verify };
                assert_eq!(transport.trust(&url, &endpoint), (name.to_owned(), trust), "{registry} {url}");
            }
        }
    }

    #[test]
    fn plain_http_is_allowed_with_and_without_the_usual_port() {
        let plain_http = ["a.example:80", "b.example", "c.example:5000"].map(str::to_owned).to_vec();
        let transport = transport(Settings { plain_http, ..Settings::default() }, "/nowhere".as_ref());
        for (url, allowed) in [
            ("http://a.example/x", true),
            ("http://a.example:81/x", false),
            ("http://b.example:81/x", true),
            ("http://c.example:5000/x", true),
            ("http://c.example/x", false),
            ("http://[::1]/x", true),
        ] {
            assert_eq!(transport.allows_plain(&Url::parse(url).expect("static")), allowed, "{url}");
        }
    }
}
