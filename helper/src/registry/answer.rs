//! Owns the meaning of answers that are not what was asked for: status codes, the registry's own words
//! (distribution spec, error codes), broken connections. It refuses to call anything worth a retry that
//! would give the same answer again.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::endpoint::{host_of, shown};
use super::error::{Kind, RegistryError};
use super::retry::{Again, Failure};
use super::transport::Call;

/// Largest body of an error that is read, in bytes.
pub const LONGEST_ERROR: usize = 16 << 10;

/// A piece of a body.
pub type Chunk = bytes::Bytes;

/// Why no answer came.
#[derive(Debug)]
pub enum SendError {
    /// The connection could not be made, or broke.
    Broken(reqwest::Error),
    /// Not one byte for this long.
    Silent(Duration),
    /// Not all of a small answer for this long.
    Slow(Duration),
    /// We did not even try.
    Set(RegistryError),
}

impl From<reqwest::Error> for SendError {
    fn from(error: reqwest::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<RegistryError> for SendError {
    fn from(error: RegistryError) -> Self {
        Self::Set(error)
    }
}

/// The innermost reason of an error of the HTTP client, which names no URL.
pub fn cause(error: &reqwest::Error) -> String {
    let inner = chain(error).last().map(ToString::to_string);
    match error.is_timeout() {
        true => "timed out".to_owned(),
        // Without Rust's `(os error N)`.
        false => inner
            .map(|text| text.split(" (os error").next().unwrap_or_default().to_owned())
            .unwrap_or_default(),
    }
}

/// Whether the other side does not speak TLS at all: it answered something else, or hung up on the first
/// message. Nothing less is a reason to try plain HTTP, least of all a certificate that is not trusted.
pub fn is_not_tls(error: &SendError) -> bool {
    let SendError::Broken(error) = error else { return false };
    let hung_up = |e: &io::Error| {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        matches!(e.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
    };
    error.is_connect()
        && match tls_fault(error) {
            Some(fault) => matches!(fault, rustls::Error::InvalidMessage(_)),
            None => chain(error).any(|e| e.downcast_ref::<io::Error>().is_some_and(hung_up)),
        }
}

/// An error and its reasons. An io::Error's `source` passes over the error it wraps, so that comes first.
fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |&e| {
        match e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => e.source(),
        }
    })
}

fn tls_fault(error: &reqwest::Error) -> Option<&rustls::Error> {
    chain(error).find_map(|e| e.downcast_ref())
}

fn certificate_fault(error: &reqwest::Error) -> Option<String> {
    match tls_fault(error)? {
        rustls::Error::InvalidCertificate(why) => Some(why.to_string()),
        _ => None,
    }
}

/// No answer, or not the whole of it.
pub fn unreachable(url: &Url, error: &SendError) -> Failure {
    let host = host_of(url);
    let error = match error {
        SendError::Set(error) => return error.clone().into(),
        SendError::Silent(time) => {
            let what = format!("{host} sent nothing for {} s", time.as_secs_f32().ceil());
            return Failure { error: down(what), again: Again::Yes };
        }
        SendError::Slow(time) => {
            let what = format!("{host} did not send its whole answer in {} s", time.as_secs_f32().ceil());
            return down(what).into();
        }
        SendError::Broken(error) => error,
    };
    if let Some(why) = certificate_fault(error) {
        return RegistryError::new(Kind::Refused, format!("the certificate of {host} is not trusted: {why}"))
            .hint(format!(
                "if its CA is your site's own, put it in ~/.config/containers/certs.d/{host}/ca.crt"
            ))
            .into();
    }
    match error.is_connect() {
        true => {
            Failure { error: down(format!("cannot reach {host}: {}", cause(error))), again: Again::Unreached }
        }
        false => Failure {
            error: down(format!("the connection to {host} broke: {}", cause(error))),
            again: Again::Yes,
        },
    }
}

fn down(what: String) -> RegistryError {
    RegistryError::new(Kind::Unavailable, what)
        .hint("check the registry's name and the network (proxies: https_proxy, no_proxy), then try again")
}

/// A status that is neither success nor redirect. `words` are the registry's own; `account` says whether
/// the request carried an account, `foreign` that the registry
/// had redirected it to another host.
pub fn refused(
    call: &Call<'_>,
    url: &Url,
    status: StatusCode,
    wait: Option<Duration>,
    words: &str,
    account: bool,
    foreign: bool,
) -> Failure {
    let again = wait.map_or(Again::Yes, Again::After);
    if call.endpoint.file.is_some() {
        return no_file(url, status, again);
    }
    let host = host_of(url);
    let registry = &call.endpoint.registry;
    let thing = format!("{registry}/{}", call.endpoint.repository);
    let said = if words.is_empty() { String::new() } else { format!(": {words}") };
    match status.as_u16() {
        401 | 403 if foreign => RegistryError::new(
            Kind::Refused,
            format!("{host}, where {registry} keeps its layers, answered {status}"),
        )
        .into(),
        401 | 403 if account => RegistryError::new(
            Kind::Auth,
            format!("{host} refuses the stored account access to {thing}{said}"),
        )
        .hint(format!("run 'grus login {registry}' with an account that may read it"))
        .into(),
        401 | 403 => RegistryError::new(Kind::Auth, format!("{host} wants a login for {thing}{said}"))
            .hint(format!("run 'grus login {registry}'; some registries answer so when the name is misspelt"))
            .into(),
        404 => RegistryError::new(Kind::NotFound, format!("{host} has no {}{said}", wanted(call)))
            .hint("check the name and the tag")
            .into(),
        429 => Failure {
            error: RegistryError::new(Kind::Unavailable, format!("{host} limits the rate of requests{said}"))
                .hint(format!("wait, or run 'grus login {registry}': accounts have higher limits")),
            again,
        },
        408 | 500 | 502 | 503 | 504 => Failure {
            error: RegistryError::new(Kind::Unavailable, format!("{host} answered {status}{said}"))
                .hint("the registry is in trouble; try again later"),
            again,
        },
        _ => RegistryError::new(Kind::Refused, format!("{host} answered {status} for {thing}{said}")).into(),
    }
}

/// The same for a file of a web server.
fn no_file(url: &Url, status: StatusCode, again: Again) -> Failure {
    let (host, file) = (host_of(url), shown(url));
    match status.as_u16() {
        401 | 403 => RegistryError::new(Kind::Auth, format!("{host} answered {status} for {file}"))
            .hint("no account is sent to web servers: ask for a signed address, or for a new one if it has expired")
            .into(),
        404 | 410 => RegistryError::new(Kind::NotFound, format!("{host} has no {file}"))
            .hint("check the address")
            .into(),
        408 | 429 | 500 | 502 | 503 | 504 => Failure {
            error: RegistryError::new(Kind::Unavailable, format!("{host} answered {status} for {file}"))
                .hint("the server is in trouble or limits the rate of requests; try again later"),
            again,
        },
        _ => RegistryError::new(Kind::Refused, format!("{host} answered {status} for {file}"))
            .hint("check the address in a browser or with curl")
            .into(),
    }
}

/// `manifests/latest` of a repository as `repository:latest`.
fn wanted(call: &Call<'_>) -> String {
    let repository = &call.endpoint.repository;
    match call.path.split_once('/') {
        Some(("manifests", digest)) if digest.contains(':') => format!("{repository}@{digest}"),
        Some(("manifests", tag)) => format!("{repository}:{tag}"),
        Some((_, digest)) => format!("blob {digest} of {repository}"),
        None => repository.clone(),
    }
}

/// The registry's own words in the body of an error, short.
pub fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
        // Token servers answer so.
        #[serde(default)]
        details: String,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else { return String::new() };
    let words = match errors.errors.into_iter().next() {
        Some(one) if one.message.is_empty() => one.code,
        Some(one) => one.message,
        None => errors.details,
    };
    words.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_found_and_kept_short() {
        for (body, words) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}"#,
                "repository name not known",
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, "DENIED"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            ("<html>", ""),
            ("{\"errors\":[]}", ""),
            ("", ""),
        ] {
            assert_eq!(message(body.as_bytes()), words, "{body}");
        }
        let long = format!("{{\"details\":\"{}\"}}", "x".repeat(9000));
        assert_eq!(message(long.as_bytes()).len(), 200);
    }
}
