//! Owns who we are to each registry: answers its challenges with a stored account, by Basic or by a token
//! (distribution spec, token authentication; OAuth2 for identity tokens), and keeps the answer.
//!
//! It refuses to fetch a token over plain HTTP unless the registry itself is spoken to so, and to follow
//! redirects on the way.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use reqwest::header::{HeaderValue, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::answer;
use super::challenge::Challenge;
use super::credentials::{self, Account, Found};
use super::endpoint::{host_of, shown, Endpoint};
use super::error::{Kind, RegistryError};
use super::retry::{Again, Failure};
use super::secret::Secret;
use super::transport::{lock, Transport};

/// Largest answer of a token server, in bytes.
const LARGEST_TOKEN: usize = 1 << 20;
/// A token lives this long where its server does not say (distribution spec).
const DEFAULT_LIFE: u64 = 60;

/// The accounts in use, by registry and repository.
#[derive(Debug, Default)]
pub struct Tokens {
    held: Mutex<HashMap<(String, String), Held>>,
    /// One renewal at a time, so that N connections ask for one token.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Held {
    header: Option<HeaderValue>,
    until: Option<Instant>,
    challenges: Vec<Challenge>,
    account: bool,
    /// See [`Found::missed`].
    missed: Option<String>,
}

impl Tokens {
    /// The Authorization for `endpoint`, renewed if its time is up; None before the first challenge.
    pub async fn current(&self, to: &Transport, endpoint: &Endpoint) -> Result<Option<HeaderValue>, Failure> {
        let Some(held) = self.get(endpoint) else { return Ok(None) };
        if held.until.is_some_and(|until| Instant::now() >= until) {
            self.renew(to, endpoint, &held.challenges, held.header).await?;
            return Ok(self.get(endpoint).and_then(|h| h.header));
        }
        Ok(held.header)
    }

    /// Whether requests to `endpoint` carry an account (not only an anonymous token).
    pub fn has_account(&self, endpoint: &Endpoint) -> bool {
        self.get(endpoint).is_some_and(|h| h.account)
    }

    /// A refusal of `endpoint`, with what may have kept its account from being found.
    pub fn explained(&self, endpoint: &Endpoint, failure: Failure) -> Failure {
        explained(failure, self.get(endpoint).and_then(|h| h.missed).as_deref())
    }

    /// Answers `challenges`, given to a request that carried `used`.
    pub async fn renew(
        &self,
        to: &Transport,
        endpoint: &Endpoint,
        challenges: &[Challenge],
        used: Option<HeaderValue>,
    ) -> Result<(), Failure> {
        let _one = self.renewing.lock().await;
        if self.get(endpoint).is_some_and(|held| held.header.is_some() && held.header != used) {
            return Ok(());
        }
        let Found { account, missed } = find_account(to, endpoint).await?;
        let with_account = account.is_some();
        let answer = answer_to(to, endpoint, challenges, account).await;
        let (header, until) = answer.map_err(|failure| explained(failure, missed.as_deref()))?;
        let held = Held {
            header: Some(header),
            until,
            challenges: challenges.to_vec(),
            account: with_account,
            missed,
        };
        lock(&self.held).insert(key(endpoint), held);
        Ok(())
    }

    fn get(&self, endpoint: &Endpoint) -> Option<Held> {
        lock(&self.held).get(&key(endpoint)).cloned()
    }
}

fn key(endpoint: &Endpoint) -> (String, String) {
    (endpoint.registry.clone(), endpoint.repository.clone())
}

/// The answer to `challenges`, and until when it is good.
async fn answer_to(
    to: &Transport,
    endpoint: &Endpoint,
    challenges: &[Challenge],
    account: Option<Account>,
) -> Result<(HeaderValue, Option<Instant>), Failure> {
    let bearer = challenges.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    Ok(match (bearer, account) {
        (Some(Challenge::Bearer { .. }), Some(Account::Bearer(token))) => {
            (bearer_header(token.expose())?, None)
        }
        (Some(challenge), account) => {
            let token = fetch(to, endpoint, challenge, account.as_ref()).await?;
            let life = token.expires_in.unwrap_or(DEFAULT_LIFE).clamp(1, 86_400);
            // Renewed a little early: it must not expire on its way.
            let until = Instant::now() + Duration::from_secs(life).mul_f32(0.9);
            (bearer_header(token.text().expose())?, Some(until))
        }
        (None, Some(Account::Password { username, password })) if challenges.contains(&Challenge::Basic) => {
            (basic_header(&username, &password)?, None)
        }
        (None, _) => return Err(no_answer(endpoint, challenges).into()),
    })
}

fn explained(failure: Failure, missed: Option<&str>) -> Failure {
    match missed {
        Some(why) if matches!(failure.error.kind, Kind::Auth | Kind::NotFound) => {
            Failure { error: failure.error.also(why), again: failure.again }
        }
        _ => failure,
    }
}

fn no_answer(endpoint: &Endpoint, challenges: &[Challenge]) -> RegistryError {
    let registry = &endpoint.registry;
    match challenges.is_empty() {
        true => RegistryError::new(
            Kind::Auth,
            format!("{registry} wants a kind of login that Grus does not know"),
        ),
        false => {
            RegistryError::new(Kind::Auth, format!("{registry} wants a login for {}", endpoint.repository))
                .hint(format!("run 'grus login {registry}'"))
        }
    }
}

async fn find_account(to: &Transport, endpoint: &Endpoint) -> Result<Found, Failure> {
    if let Some(login) = to.settings.login.as_ref().filter(|l| l.registry == endpoint.registry) {
        let (username, password) = (login.username.clone(), login.password.clone());
        return Ok(Found { account: Some(Account::Password { username, password }), missed: None });
    }
    let (paths, registry, repository) =
        (to.settings.paths.clone(), endpoint.registry.clone(), endpoint.repository.clone());
    // Reads files and may run a credential helper.
    let found = tokio::task::spawn_blocking(move || credentials::find(&paths, &registry, &repository)).await;
    let stopped = |_| RegistryError::new(Kind::Cancelled, "stopped");
    Ok(found.map_err(stopped)??)
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Token {
    fn text(self) -> Secret {
        Secret::new(if self.token.is_empty() { self.access_token } else { self.token })
    }
}

async fn fetch(
    to: &Transport,
    endpoint: &Endpoint,
    challenge: &Challenge,
    account: Option<&Account>,
) -> Result<Token, Failure> {
    let Challenge::Bearer { realm, service, scope } = challenge else {
        return Err(no_answer(endpoint, &[]).into());
    };
    let mut url = realm_url(to, endpoint, realm)?;
    let scope = scope.clone().or_else(|| endpoint.scope());
    let mut fields: Vec<(&str, &str)> = scope.iter().map(|s| ("scope", s.as_str())).collect();
    fields.extend(service.as_deref().map(|s| ("service", s)));
    let client = to.client(&url, endpoint)?;
    let request = match account {
        Some(Account::Identity(token)) => {
            let mut form =
                Url::parse("x:").map(|mut u| u.query_pairs_mut().extend_pairs(&fields).finish().clone());
            if let Ok(form) = &mut form {
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "grus")
                    .append_pair("refresh_token", token.expose());
            }
            let body = form.ok().and_then(|f| f.query().map(str::to_owned)).unwrap_or_default();
            client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        }
        Some(Account::Password { username, password }) => {
            url.query_pairs_mut().extend_pairs(&fields).append_pair("account", username);
            client.get(url.clone()).header(AUTHORIZATION, basic_header(username, password)?)
        }
        Some(Account::Bearer(_)) | None => {
            url.query_pairs_mut().extend_pairs(&fields);
            client.get(url.clone())
        }
    };
    let mut response = to.in_time(request).await.map_err(|e| answer::unreachable(&url, &e))?;
    let status = response.status();
    let body = to.body(&mut response, LARGEST_TOKEN).await?;
    if !status.is_success() {
        return Err(refused(endpoint, &url, status, &answer::message(&body), account.is_some()));
    }
    let token: Token = serde_json::from_slice(&body).unwrap_or(Token {
        token: String::new(),
        access_token: String::new(),
        expires_in: None,
    });
    match token.token.is_empty() && token.access_token.is_empty() {
        true => Err(RegistryError::new(Kind::Refused, format!("{} gives no token", shown(&url))).into()),
        false => Ok(token),
    }
}

fn realm_url(to: &Transport, endpoint: &Endpoint, realm: &str) -> Result<Url, RegistryError> {
    let refuse = |why: &str| {
        RegistryError::new(Kind::Refused, format!("{} wants a token from {why}", endpoint.registry))
    };
    let url = Url::parse(realm).map_err(|_| refuse("a malformed address"))?;
    let plain_registry = to.scheme(endpoint) == "http";
    match url.scheme() {
        "https" => Ok(url),
        "http" if plain_registry && (endpoint.is_at(&url) || to.allows_plain(&url)) => Ok(url),
        _ => Err(refuse(&format!("{}, which is not HTTPS", shown(&url)))),
    }
}

fn refused(endpoint: &Endpoint, url: &Url, status: StatusCode, words: &str, account: bool) -> Failure {
    let registry = &endpoint.registry;
    let said = if words.is_empty() { String::new() } else { format!(": {words}") };
    let host = host_of(url);
    match status.as_u16() {
        400 | 401 | 403 if account => {
            RegistryError::new(Kind::Auth, format!("{host} refuses the stored account for {registry}{said}"))
                .hint(format!("run 'grus login {registry}' again"))
                .into()
        }
        401 | 403 => RegistryError::new(Kind::Auth, format!("{registry} wants a login{said}"))
            .hint(format!("run 'grus login {registry}'"))
            .into(),
        408 | 429 | 500 | 502 | 503 | 504 => Failure {
            error: RegistryError::new(
                Kind::Unavailable,
                format!("the token server {host} answered {status}{said}"),
            )
            .hint("try again later"),
            again: Again::Yes,
        },
        _ => RegistryError::new(Kind::Refused, format!("the token server {host} answered {status}{said}"))
            .into(),
    }
}

fn basic_header(username: &str, password: &Secret) -> Result<HeaderValue, RegistryError> {
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    let text = base64::engine::general_purpose::STANDARD.encode(pair.expose());
    secret_header(&format!("Basic {text}"))
}

fn bearer_header(token: &str) -> Result<HeaderValue, RegistryError> {
    secret_header(&format!("Bearer {token}"))
}

fn secret_header(text: &str) -> Result<HeaderValue, RegistryError> {
    let bad = |_| RegistryError::new(Kind::Refused, "a token has characters that HTTP cannot carry");
    let mut header = HeaderValue::from_str(text).map_err(bad)?;
    header.set_sensitive(true);
    Ok(header)
}
