//! `grus login`, `grus logout`, and the account options of `grus pull`. A secret is never taken from the command
//! line, where `ps` shows it.

use std::path::Path;

use grus_core::reference::{Reference, DOCKER_HUB};
use grus_core::refusal::{printable, Refusal};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::prompt;
use crate::registry::auth_store::{erase, left_to_docker, store, Place};
use crate::registry::{Client, Login, Settings};

const LOGIN_EXAMPLES: &str = "\
Examples:
  grus login                              Docker Hub; asks for name and password
  grus login nvcr.io -u '$oauthtoken'
  grus login ghcr.io -u NAME --password-stdin < ~/.ghcr-token

The account is checked, then kept where Podman keeps it (see
containers-auth.json(5)), or in the credential helper that is set up there.
Accounts of 'docker login' and 'podman login' are used without a login here.";

const LOGOUT_EXAMPLES: &str = "\
Examples:
  grus logout                 Docker Hub
  grus logout nvcr.io";

/// An account given with a command.
#[derive(Debug, clap::Args)]
pub struct Account {
    /// User name at the registry
    #[arg(long, short, value_name = "NAME")]
    username: Option<String>,
    /// Read the password or access token from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

impl Account {
    /// Whether anything was given.
    pub fn given(&self) -> bool {
        self.username.is_some()
    }

    /// The account, with questions for what was not given.
    pub fn ask(&self, registry: &str) -> Result<Login, Failure> {
        let username = match &self.username {
            Some(name) => name.clone(),
            None => prompt::line(&format!("User name at {registry}: "))?,
        };
        let password = match self.password_stdin {
            true => prompt::password_from_stdin()?,
            false => prompt::password(&format!("Password of {username} at {registry}: "))?,
        };
        Ok(Login { registry: registry.to_owned(), username, password })
    }
}

/// Arguments of `grus login`.
#[derive(Debug, clap::Args)]
#[command(after_help = LOGIN_EXAMPLES)]
pub struct LoginArgs {
    /// The registry
    #[arg(value_name = "SERVER[:PORT]", default_value = DOCKER_HUB)]
    registry: String,
    #[command(flatten)]
    account: Account,
}

impl LoginArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let registry = server(&self.registry)?;
        let login = self.account.ask(&registry)?;
        let settings = settings(context, Some(login.clone()));
        let paths = settings.paths.clone();
        Client::new(settings)?.check_login(&registry)?;
        let place = store(&paths, &registry, &login.username, &login.password)?;
        output::print(&format!("Logged in to {registry} as {}; kept in {}\n", login.username, shown(&place)))
    }
}

/// Arguments of `grus logout`.
#[derive(Debug, clap::Args)]
#[command(after_help = LOGOUT_EXAMPLES)]
pub struct LogoutArgs {
    /// The registry
    #[arg(value_name = "SERVER[:PORT]", default_value = DOCKER_HUB)]
    registry: String,
}

impl LogoutArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let registry = server(&self.registry)?;
        let paths = settings(context, None).paths;
        let places = erase(&paths, &registry)?;
        let left = left_to_docker(&paths, &registry);
        if places.is_empty() {
            return Err(nothing_removed(&registry, left?.as_deref()).into());
        }
        let lines = places.iter().map(|p| format!("Removed the account for {registry} from {}\n", shown(p)));
        output::print(&lines.collect::<String>())?;
        // What was asked for is done, whether or not Docker's file can be read.
        if let Ok(Some(file)) = left {
            let (file, command) = (path(&file), dockers_logout(&registry));
            output::warn(&format!("{file} has one too, which pulls go on using; '{command}' removes it"));
        }
        Ok(())
    }
}

/// Nothing of ours was there; `docker` is the file of Docker's that has an account.
fn nothing_removed(registry: &str, docker: Option<&Path>) -> Refusal {
    let Some(file) = docker else {
        return Refusal::user(format!("no account is kept for {registry}"))
            .hint("check the server's name; 'grus login' stores an account");
    };
    let command = dockers_logout(registry);
    Refusal::user(format!("the account for {registry} is Docker's, kept in {}", path(file)))
        .hint(format!("'{command}' removes it, or take it out of that file; until then pulls use it"))
}

/// Docker knows its own registry by no name.
fn dockers_logout(registry: &str) -> String {
    match registry {
        DOCKER_HUB => "docker logout".to_owned(),
        other => format!("docker logout {other}"),
    }
}

/// How this site and this user speak to registries.
pub fn settings(context: &Context, login: Option<Login>) -> Settings {
    Settings { plain_http: context.site.pull.plain_http.clone(), login, ..Settings::default() }
}

/// A registry's name as references have it; Docker Hub has several.
pub(super) fn server(text: &str) -> Result<String, Failure> {
    let bare = text.trim_start_matches("https://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").unwrap_or(bare);
    // What can stand before an image's name is a registry.
    let reference = Reference::parse(&format!("{bare}/x")).ok().filter(|r| r.repository == "x");
    let hub = || (bare == DOCKER_HUB || bare == "index.docker.io").then(|| DOCKER_HUB.to_owned());
    reference.map(|r| r.registry).or_else(hub).ok_or_else(|| {
        Refusal::user(format!("'{}' is not a registry", printable(text)))
            .hint("write it as server[:port], for example ghcr.io or registry.example.org:5000")
            .into()
    })
}

fn shown(place: &Place) -> String {
    match place {
        Place::File(file) => path(file),
        Place::Helper(name) => format!("the credential helper '{}'", printable(name)),
    }
}

fn path(file: &Path) -> String {
    printable(&file.display().to_string())
}
