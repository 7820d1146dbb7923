//! Owns what every command needs first: who calls, what the site chose, which repository is meant.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use grus_core::identity::{Group, User};
use grus_core::path::AbsPath;
use grus_core::refusal::{printable, Refusal};
use grus_core::site::{expand, Site, Who};
use grus_enter::site::listed;

use crate::failure::{reason, Failure};
use crate::repository::Repository;

/// The site's file, unless `--config` names another.
pub const SITE_FILE: &str = "/etc/grus/grus.toml";

/// Largest site file that is read, in bytes.
const MAX_SITE: u64 = 1 << 20;

/// Options that come before or after every command.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Read this site file instead of /etc/grus/grus.toml [env: GRUS_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Use the image repository in DIR; srun looks in the site's choice only [env: GRUS_REPOSITORY]
    #[arg(long, global = true, value_name = "DIR")]
    pub repository: Option<PathBuf>,
    /// Act on the system repository, which all users share (changes need root)
    #[arg(long, global = true, conflicts_with = "repository")]
    pub system: bool,
}

/// The caller's surroundings.
#[derive(Debug)]
pub struct Context {
    /// The site's choices.
    pub site: Site,
    /// The caller's environment; names and values that are not UTF-8 are left out.
    pub environment: BTreeMap<String, String>,
    common: Common,
    account: OnceCell<nix::unistd::User>,
}

impl Context {
    /// Reads the site file.
    pub fn new(common: Common) -> Result<Self, Failure> {
        match Self::or_defaults(common) {
            (context, None) => Ok(context),
            (_, Some(fault)) => Err(fault),
        }
    }

    /// Reads the site file; where that fails, the defaults, and why.
    pub fn or_defaults(mut common: Common) -> (Self, Option<Failure>) {
        // Options beat variables; a variable set to nothing is not set.
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        common.config = common.config.or_else(|| variable("GRUS_CONFIG"));
        if !common.system {
            common.repository = common.repository.or_else(|| variable("GRUS_REPOSITORY"));
        }
        let (site, fault) = match load_site(common.config.as_deref()) {
            Ok(site) => (site, None),
            Err(fault) => (Site::defaults(), Some(fault)),
        };
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = std::env::vars_os().filter_map(utf8).collect();
        (Self { site, environment, common, account: OnceCell::new() }, fault)
    }

    /// The site file that was read, or would be.
    pub fn site_file(&self) -> &Path {
        self.common.config.as_deref().unwrap_or(Path::new(SITE_FILE))
    }

    /// The texts of the site's files, by name.
    pub fn site_files(&self) -> Result<Vec<(String, String)>, Failure> {
        site_files(self.common.config.as_deref())
    }

    /// Where the choice of the repository is from, unless from the site.
    pub fn repository_origin(&self) -> Option<&'static str> {
        let variable = std::env::var_os("GRUS_REPOSITORY").map(PathBuf::from);
        match &self.common.repository {
            Some(dir) if Some(dir) == variable.as_ref() => Some("GRUS_REPOSITORY"),
            Some(_) => Some("--repository"),
            None if self.common.system => Some("--system"),
            None => None,
        }
    }

    /// The repository that commands act on: `--repository`, the system's with `--system`, else the user's.
    pub fn repository(&self) -> Result<Repository, Failure> {
        if let Some(dir) = &self.common.repository {
            let dir = std::path::absolute(dir).map_err(|e| Failure::io("use", dir, &e))?;
            return Ok(Repository::new(dir, false));
        }
        if self.common.system {
            return self.system_repository()?.ok_or_else(|| {
                Refusal::site("this site has no system repository")
                    .hint("set repository.system in /etc/grus/grus.toml, see grus.toml(5)")
                    .into()
            });
        }
        let user = self.account()?;
        let (uid, home) = (user.uid.as_raw(), user.dir.to_string_lossy());
        let who = Who { user: &user.name, home: &home, uid, environment: &self.environment };
        Ok(Repository::new(expand(&self.site.repository.user, &who)?.as_path(), false))
    }

    /// Repositories an image is looked for in, in order: the one chosen, then the system's.
    pub fn lookup(&self) -> Result<Vec<Repository>, Failure> {
        let mut all = vec![self.repository()?];
        if self.common.repository.is_none() && !self.common.system {
            all.extend(self.system_repository()?);
        }
        Ok(all)
    }

    /// The system's repository; None if the site has none.
    pub fn system_repository(&self) -> Result<Option<Repository>, Failure> {
        match self.site.repository.system.as_str() {
            "" => Ok(None),
            dir => Ok(Some(Repository::new(AbsPath::parse(dir)?.as_path(), true))),
        }
    }

    /// This program again, as it was called: with the same site file and repository.
    pub fn own_program(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        let common = &self.common;
        command.envs(common.config.as_ref().map(|path| ("GRUS_CONFIG", path)));
        command.env_remove("GRUS_REPOSITORY");
        command.envs(common.repository.as_ref().map(|path| ("GRUS_REPOSITORY", path)));
        command.args(common.system.then_some("--system"));
        Ok(command)
    }

    /// Where the profiles of the host's stacks are: beside the site file.
    pub fn stacks_dir(&self) -> PathBuf {
        self.site_file().with_file_name("stacks")
    }

    /// The calling user's account. Asked for once: it may be a server's to answer.
    fn account(&self) -> Result<&nix::unistd::User, Failure> {
        if let Some(known) = self.account.get() {
            return Ok(known);
        }
        let uid = nix::unistd::Uid::effective();
        let unknown = |why: String| {
            Refusal::site(format!("the name service does not know user id {uid}{why}"))
                .hint("check with 'id'; the administrator must add the user, or name the repository with --repository")
        };
        let user = nix::unistd::User::from_uid(uid)
            .map_err(|e| unknown(format!(": {}", reason(&e.into()))))?
            .ok_or_else(|| unknown(String::new()))?;
        Ok(self.account.get_or_init(|| user))
    }

    /// The calling user, as the name service knows them.
    pub fn user(&self) -> Result<User, Failure> {
        let user = self.account()?.clone();
        let gids = std::ffi::CString::new(user.name.as_str())
            .ok()
            .and_then(|name| nix::unistd::getgrouplist(&name, user.gid).ok())
            .unwrap_or_else(|| vec![user.gid]);
        let name = |gid| nix::unistd::Group::from_gid(gid).ok().flatten().map(|g| g.name);
        let groups = gids.into_iter().map(|gid| Group { gid: gid.as_raw(), name: name(gid) }).collect();
        Ok(User {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            gecos: user.gecos.to_string_lossy().into_owned(),
            home: user.dir.display().to_string(),
            shell: user.shell.display().to_string(),
            name: user.name,
            groups,
        })
    }
}

/// The directory commands are called in, as the shell shows it where that is true.
pub fn working_directory() -> Result<AbsPath, Failure> {
    let dir = std::env::current_dir().map_err(|e| Failure::io("use", Path::new("."), &e))?;
    Ok(AbsPath::parse(&dir.to_string_lossy())?)
}

fn load_site(named: Option<&Path>) -> Result<Site, Failure> {
    Ok(Site::parse(&site_files(named)?)?)
}

/// The site file and `grus.d/*.toml` beside it, by name. Without `--config`, a missing file means the defaults.
fn site_files(named: Option<&Path>) -> Result<Vec<(String, String)>, Failure> {
    let path = named.unwrap_or(Path::new(SITE_FILE));
    let mut files = vec![];
    match read(path) {
        Ok(text) => files.push((path.display().to_string(), text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => {}
        Err(e) => return Err(unreadable(path, &e)),
    }
    for part in listed(&path.with_file_name("grus.d"))? {
        files.push((part.display().to_string(), read(&part).map_err(|e| unreadable(&part, &e))?));
    }
    Ok(files)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, MAX_SITE), &mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Refusal::site(format!(
        "cannot read the site file {}: {}",
        printable(&path.display().to_string()),
        reason(error)
    ))
    .hint("the administrator must mend it; see grus.toml(5)")
    .into()
}
