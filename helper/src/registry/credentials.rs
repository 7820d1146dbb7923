//! Owns the accounts that `docker login`, `podman login` and `grus login` stored: which file, which entry,
//! which credential helper (containers-auth.json(5), Docker's config.json). It refuses a file it cannot
//! parse, by name: an account that is silently left out shows as a puzzling refusal of the registry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use base64::Engine;
use serde::{Deserialize, Deserializer};

use super::credential_helper;
use super::error::{Kind, RegistryError};
use super::secret::Secret;
use super::settings::Paths;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// An account at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// User name and password (or access token in its place).
    Password {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// An identity (refresh) token, exchanged at the token server.
    Identity(Secret),
    /// A token for the registry itself.
    Bearer(Secret),
}

/// Where an account comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The file itself.
    Here(Account),
    /// `docker-credential-NAME`, asked for one of these servers, in this order.
    Helper {
        /// NAME.
        name: String,
        /// Keys to ask with.
        servers: Vec<String>,
    },
}

/// An auth.json or config.json.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthFile {
    #[serde(deserialize_with = "or_default")]
    auths: BTreeMap<String, Entry>,
    #[serde(deserialize_with = "or_default")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    creds_store: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
    registrytoken: Option<Secret>,
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl AuthFile {
    /// Parses the text of a file. The error names no content: it may be a secret.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text)
            .map_err(|e| format!("line {}, column {}: not as it should be", e.line(), e.column()))
    }

    /// What this file has for `registry/repository`: a helper for the registry, the entry with the longest
    /// matching path, the helper for all, in this order, as Podman does.
    pub fn lookup(&self, registry: &str, repository: &str) -> Result<Option<Stored>, String> {
        let names = names_of(registry);
        if let Some(name) = names.iter().find_map(|n| self.cred_helpers.get(*n)).filter(|n| !n.is_empty()) {
            return Ok(Some(helper(name, &names)));
        }
        if let Some((key, entry)) = self.entry(&names, repository) {
            if let Some(account) = entry.account().map_err(|why| format!("the entry of {key} {why}"))? {
                return Ok(Some(Stored::Here(account)));
            }
        }
        Ok((!self.creds_store.is_empty()).then(|| helper(&self.creds_store, &names)))
    }

    fn entry(&self, names: &[&str], repository: &str) -> Option<(&str, &Entry)> {
        let mut path = Some(repository);
        while let Some(prefix) = path {
            for name in names {
                let wanted = if prefix.is_empty() { (*name).to_owned() } else { format!("{name}/{prefix}") };
                if let Some((key, entry)) = self.auths.iter().find(|(key, _)| plain_key(key) == wanted) {
                    return Some((key, entry));
                }
            }
            path = match prefix {
                "" => None,
                _ => Some(prefix.rsplit_once('/').map_or("", |(parent, _)| parent)),
            };
        }
        None
    }
}

/// `https://index.docker.io/v1/` (Docker's old way) as `index.docker.io`; other keys as they are.
fn plain_key(key: &str) -> &str {
    match key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => {
            key.strip_suffix("/v1/").or_else(|| key.strip_suffix("/v2/")).unwrap_or(key.trim_end_matches('/'))
        }
    }
}

/// The names a registry goes by in these files.
pub(super) fn names_of(registry: &str) -> Vec<&str> {
    match registry {
        "docker.io" => vec!["docker.io", "index.docker.io", "registry-1.docker.io", DOCKER_HUB_KEY],
        other => vec![other],
    }
}

/// Docker's key for Docker Hub, which credential helpers know it by.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

fn helper(name: &str, names: &[&str]) -> Stored {
    let mut servers: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    servers.reverse(); // Docker's own key first
    Stored::Helper { name: name.to_owned(), servers }
}

impl Entry {
    fn account(&self) -> Result<Option<Account>, &'static str> {
        let some = |s: &Option<Secret>| s.clone().filter(|s| !s.is_empty());
        if let Some(token) = some(&self.identitytoken) {
            return Ok(Some(Account::Identity(token)));
        }
        if let Some(token) = some(&self.registrytoken) {
            return Ok(Some(Account::Bearer(token)));
        }
        if let Some(auth) = some(&self.auth) {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(auth.expose().trim())
                .map_err(|_| "has an 'auth' that is not base64")?;
            let text = Secret::new(String::from_utf8(bytes).map_err(|_| "has an 'auth' that is not text")?);
            let (username, password) = text.expose().split_once(':').ok_or("has an 'auth' without ':'")?;
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some(Account::Password { username: username.to_owned(), password }));
        }
        match (&self.username, &self.password) {
            (Some(username), Some(password)) if !username.is_empty() => {
                Ok(Some(Account::Password { username: username.clone(), password: password.clone() }))
            }
            _ => Ok(None),
        }
    }
}

/// What there is of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The account.
    pub account: Option<Account>,
    /// Why one may have been missed: matters only to a registry that wants one, or hides what is private.
    pub missed: Option<String>,
}

/// The account stored for `registry/repository`, if there is one. Reads files and may run a helper.
///
/// A helper that Docker's file names need not be here, or work: such files are copied, or come with Docker Desktop, and
/// its helpers want a desktop's session, which ssh does not give. A public image needs no account. Docker goes on, too.
pub fn find(paths: &Paths, registry: &str, repository: &str) -> Result<Found, RegistryError> {
    let (mut missed, helper_path) = (None, paths.helper_path.as_deref());
    for path in &paths.auth_files {
        match stored(path, registry, repository)? {
            Some(Stored::Here(account)) => return Ok(Found { account: Some(account), missed: None }),
            Some(Stored::Helper { name, .. })
                if is_dockers(path) && !credential_helper::is_installed(&name, helper_path)? =>
            {
                missed = Some(format!(
                    "{} keeps accounts in the credential helper '{name}', which is not installed here",
                    path.display()
                ));
            }
            Some(Stored::Helper { name, servers }) => match ask(&name, &servers, helper_path) {
                Ok(Some(account)) => return Ok(Found { account: Some(account), missed: None }),
                Ok(None) => {}
                Err(error) if is_dockers(path) => {
                    missed =
                        Some(format!("the accounts of {} were left out: {}", path.display(), error.what));
                }
                Err(error) => return Err(error),
            },
            None => {}
        }
    }
    Ok(Found { account: None, missed })
}

/// What a file has for `registry/repository`.
pub(super) fn stored(path: &Path, registry: &str, repository: &str) -> Result<Option<Stored>, RegistryError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let wrong = |why: String| {
        RegistryError::new(Kind::Site, format!("cannot read the accounts in {}: {why}", path.display()))
            .hint("mend or remove the file; see containers-auth.json(5)")
    };
    let file = AuthFile::parse(text.expose().as_bytes()).map_err(wrong)?;
    file.lookup(registry, repository).map_err(wrong)
}

/// The account that a helper has for the first of `servers` that it knows.
pub(super) fn ask(
    name: &str,
    servers: &[String],
    path: Option<&OsStr>,
) -> Result<Option<Account>, RegistryError> {
    for server in servers {
        if let Some(account) = credential_helper::get(name, server, path)? {
            return Ok(Some(account));
        }
    }
    Ok(None)
}

/// Whether a file of accounts is Docker's config.json, and not one of Podman's.
pub(super) fn is_dockers(file: &Path) -> bool {
    file.file_name().is_some_and(|n| n == "config.json")
}

/// The text of a file of accounts; None if there is none, or none that is for this user.
pub(super) fn read(path: &Path) -> Result<Option<Secret>, RegistryError> {
    match text(path) {
        Ok(text) => Ok(text),
        // Another user's runtime directory, inherited by su or sudo.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(None),
        // `docker run -v` and /dev/null make what is no file: nothing is stored there.
        Err(e) if matches!(e.kind(), ErrorKind::NotADirectory | ErrorKind::InvalidInput) => Ok(None),
        Err(e) => Err(RegistryError::new(
            Kind::Site,
            format!("cannot read the accounts in {}: {e}", path.display()),
        )
        .hint("mend or remove the file; see containers-auth.json(5)")),
    }
}

/// The text of a file of accounts; None if it is empty or not there. What is no regular file is InvalidInput.
pub(super) fn text(path: &Path) -> io::Result<Option<Secret>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
        Ok(meta) if !meta.is_file() => {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
        }
        Ok(meta) if meta.len() > MAX_FILE => {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is too large"))
        }
        Ok(_) => {}
    }
    let text = fs::read_to_string(path)?;
    Ok((!text.trim().is_empty()).then(|| Secret::new(text)))
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
