//! The site's configuration, `grus.toml` and `grus.d/*.toml`: text in, [`Site`] out.
//!
//! [`KEYS`] is the one definition of every key: the shipped, annotated file and grus.toml(5) are made from
//! it. An unknown key is refused with the nearest known one named. Later files win: a value replaces the
//! earlier one, a list is added to it.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use toml::{Table, Value};

use crate::cdi::{Gpus, USUAL_DIRS};
use crate::environment::Rules;
use crate::module::{self, Modules};
use crate::mount::{Limit, Mount, Size};
use crate::path::AbsPath;
use crate::refusal::{nearest, printable, Refusal};
use crate::request::PullPolicy;
use crate::swap::{GlibcRule, Mode};

pub use crate::site_keys::{annotated_file, wrapped, Key, KEYS, MODULES, MODULE_KEYS};

/// How images that users can write are mounted (ADR 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserImages {
    /// By squashfuse_ll, running as the user.
    Fuse,
    /// By the kernel: the site trusts its users with the kernel's SquashFS parser.
    Kernel,
    /// Not at all; only images of the system repository run.
    Refuse,
}

/// Which system calls tasks lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// None.
    None,
    /// Those that reach deep into the kernel.
    Default,
}

/// The site's choices, complete: what no file sets has its default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Site {
    /// `[repository]`
    pub repository: Repositories,
    /// `[pull]`
    pub pull: Pull,
    /// `[mounts]`
    pub mounts: Mounts,
    /// `[container]`
    pub container: Container,
    /// `[slurm]`
    pub slurm: Slurm,
    /// `[volatile]`
    pub volatile: Volatile,
    /// `[tmpfs]`
    pub tmpfs: Tmpfs,
    /// `[scratch]`
    pub scratch: Scratch,
    /// `[named]`
    pub named: Named,
    /// `[environment]`
    pub environment: Rules,
    /// `[mpi]`
    pub mpi: Mpi,
    /// `[cdi]`
    pub cdi: Cdi,
    /// `[security]`
    pub security: Security,
    /// `[node-cache]`
    pub node_cache: NodeCache,
    /// `[signatures]`
    pub signatures: Signatures,
    /// `[batch]`
    pub batch: Batch,
    /// `[module.NAME]`
    #[serde(default)]
    pub module: Modules,
}

/// Where images are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Repositories {
    /// The user's own; may hold `{user}`, `{home}`, `{uid}` and `${NAME}`.
    pub user: String,
    /// The system's, owned by root; empty for none.
    pub system: String,
}

/// Pulling at submission.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pull {
    /// The default of `--container-pull`.
    pub policy: PullPolicy,
    /// The `grus` program that pulls.
    pub command: AbsPath,
    /// Registries spoken to over plain HTTP, beyond loopback.
    pub plain_http: Vec<String>,
}

/// What every container gets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mounts {
    /// The user's home.
    pub home: bool,
    /// The job's working directory.
    pub workdir: bool,
    /// The host's /tmp.
    pub tmp: bool,
    /// More binds, in the grammar of `--mount`.
    pub site: Vec<String>,
}

/// What containers are like if nobody says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Container {
    /// The default of `--container-writable`.
    pub writable: bool,
    /// The default of `--container-remap-root`.
    pub remap_root: bool,
    /// The default of `--container-entrypoint`.
    pub entrypoint: bool,
    /// The default of `--container-slurm`.
    pub slurm: bool,
    /// The default of `--container-gpu`.
    pub gpu: Gpus,
}

/// Slurm's commands in containers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Slurm {
    /// Where they are on the nodes.
    pub commands: AbsPath,
    /// What they look for by its path.
    pub mounts: Vec<AbsPath>,
    /// SlurmUser of slurm.conf.
    pub user: String,
    /// Where their libraries are; empty for the usual places.
    pub library_path: Vec<AbsPath>,
}

/// Where the changes of volatile directories lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Volatile {
    /// How much they may hold together; bytes where `dir` is set.
    pub size: Limit,
    /// A directory of the node's disk; None: in memory.
    #[serde(deserialize_with = "path_or_none")]
    pub dir: Option<AbsPath>,
}

/// Directories in memory that users mount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tmpfs {
    /// How much a step's may hold together.
    pub size_limit: Limit,
}

/// Directories on the node's disk that users mount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Scratch {
    /// Where they lie; None: there are none.
    #[serde(deserialize_with = "path_or_none")]
    pub dir: Option<AbsPath>,
    /// How much a step's may hold together.
    #[serde(deserialize_with = "size_of_text")]
    pub size_limit: Size,
    /// The mkfs.ext4 program.
    pub mkfs: AbsPath,
}

/// Containers that outlive a step.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Named {
    /// Where they are noted.
    pub dir: AbsPath,
}

/// The host's MPI in containers (ADR 9).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mpi {
    /// The default of `--container-mpi`.
    pub default: Mode,
    /// Whether glibc may come from the host.
    pub glibc: GlibcRule,
    /// Whether each node asks the image's loader before tasks start.
    pub verify: bool,
}

/// The node's devices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cdi {
    /// Directories of files that describe them; empty for the usual ones.
    dirs: Vec<AbsPath>,
}

impl Cdi {
    /// The directories, the later ones with precedence.
    pub fn dirs(&self) -> Vec<AbsPath> {
        match self.dirs.as_slice() {
            [] => USUAL_DIRS.iter().filter_map(|dir| AbsPath::parse(dir).ok()).collect(),
            given => given.to_vec(),
        }
    }
}

/// Trust.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Security {
    /// How images that users can write are mounted.
    pub user_images: UserImages,
    /// Which system calls tasks lack.
    pub seccomp: Seccomp,
    /// The squashfuse_ll program.
    pub squashfuse: AbsPath,
}

/// Copies of users' images on each node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NodeCache {
    /// Where they are; None: there are none.
    #[serde(deserialize_with = "path_or_none")]
    pub dir: Option<AbsPath>,
    /// How much they may hold together.
    #[serde(deserialize_with = "size_of_text")]
    pub size: Size,
}

/// Who must have signed images.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Signatures {
    /// The site's policy; None: only that of Podman, if there is one.
    #[serde(deserialize_with = "path_or_none")]
    pub policy: Option<AbsPath>,
}

/// Batch scripts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Batch {
    /// The default of `--container-batch`.
    pub container: bool,
}

impl Site {
    /// The configuration of a site without any file.
    pub fn defaults() -> Self {
        // KEYS' defaults are constants; a test reads them.
        Self::parse(&[]).unwrap_or_else(|refusal| unreachable!("{refusal}"))
    }

    /// Merges files, given as (name, text) in order, over the defaults.
    pub fn parse(files: &[(String, String)]) -> Result<Self, Refusal> {
        let mut merged = defaults();
        for (name, text) in files {
            let bad = |why: String| {
                Refusal::site(format!("the site file {} is wrong: {}", printable(name), printable(&why)))
                    .hint("the administrator must mend it; see grus.toml(5)")
            };
            let table: Table = text.parse().map_err(|e: toml::de::Error| {
                let line = e.span().map_or(0, |s| text[..s.start].matches('\n').count() + 1);
                bad(format!("line {line}: {}", e.message()))
            })?;
            check_names(&table, "").map_err(bad)?;
            merge(&mut merged, table);
            Self::from_table(merged.clone()).map_err(bad)?;
        }
        let site = Self::from_table(merged).map_err(Refusal::site)?;
        module::check(&site.module).map_err(|why| {
            Refusal::site(format!("a module of the site is wrong: {}", printable(&why)))
                .hint("the administrator must mend it; see MODULES in grus.toml(5)")
        })?;
        // Of all files together: one may name the directory, another the size.
        match (&site.volatile.dir, site.volatile.size) {
            (Some(dir), Limit::Percent(_)) => Err(Refusal::site(format!(
                "volatile.dir {dir} is on a disk, and volatile.size '{}' is a share of memory",
                site.volatile.size
            ))
            .hint("the administrator must set volatile.size in bytes, such as 100g; see grus.toml(5)")),
            _ => Ok(site),
        }
    }

    fn from_table(table: Table) -> Result<Self, String> {
        let site: Self = table.try_into().map_err(|e: toml::de::Error| {
            let text = e.to_string();
            let key = text.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
            key.map_or(String::new(), |key| format!("{key}: ")) + e.message()
        })?;
        for mount in &site.mounts.site {
            Mount::parse(mount, &AbsPath::root()).map_err(|e| e.what)?;
        }
        Ok(site)
    }

    /// The site's own mounts, parsed.
    pub fn site_mounts(&self) -> Vec<Mount> {
        self.mounts.site.iter().filter_map(|m| Mount::parse(m, &AbsPath::root()).ok()).collect()
    }
}

/// What `{…}` and `${…}` stand for in a repository's path.
#[derive(Debug)]
pub struct Who<'a> {
    /// Login name.
    pub user: &'a str,
    /// Home directory.
    pub home: &'a str,
    /// User id.
    pub uid: u32,
    /// The user's environment.
    pub environment: &'a BTreeMap<String, String>,
}

/// Fills in a path template; an unknown name or an unset variable is refused.
pub fn expand(template: &str, who: &Who) -> Result<AbsPath, Refusal> {
    let bad = |why: String| {
        Refusal::site(format!("the repository path '{}' {why}", printable(template)))
            .hint("see repository.user in grus.toml(5)")
    };
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let variable = rest[..at].ends_with('$');
        out.push_str(if variable { &rest[..at - 1] } else { &rest[..at] });
        let (name, after) =
            rest[at + 1..].split_once('}').ok_or_else(|| bad("has a '{' without '}'".into()))?;
        match (variable, name) {
            (false, "user") => out.push_str(who.user),
            (false, "home") => out.push_str(who.home),
            (false, "uid") => out.push_str(&who.uid.to_string()),
            (false, other) => return Err(bad(format!("has an unknown '{{{}}}'", printable(other)))),
            (true, name) => match who.environment.get(name) {
                Some(value) if !value.is_empty() => out.push_str(value),
                _ => return Err(bad(format!("needs ${}, which is not set", printable(name)))),
            },
        }
        rest = after;
    }
    out.push_str(rest);
    AbsPath::parse(&out).map_err(|e| bad(format!("expands to {}", e.what)))
}

/// Empty stands for none.
fn path_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<AbsPath>, D::Error> {
    match String::deserialize(from)?.as_str() {
        "" => Ok(None),
        path => AbsPath::parse(path).map(Some).map_err(|e| D::Error::custom(e.what)),
    }
}

fn size_of_text<'de, D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
    Size::parse(&String::deserialize(from)?).map_err(|e| D::Error::custom(e.what))
}

/// The defaults of [`KEYS`] as one table.
fn defaults() -> Table {
    let mut table = Table::new();
    for key in KEYS {
        let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
        let text = format!("{name} = {}", key.default);
        let row: Table = text.parse().unwrap_or_default();
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.extend(row);
        }
    }
    table
}

fn check_names(table: &Table, above: &str) -> Result<(), String> {
    for (name, value) in table {
        let full = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        // Modules have the site's own names; what is in them is checked where it is read.
        if KEYS.iter().any(|k| k.name == full) || (full == "module" && value.is_table()) {
            continue;
        }
        match value {
            Value::Table(inner) if KEYS.iter().any(|k| k.name.starts_with(&format!("{full}."))) => {
                check_names(inner, &full)?;
            }
            _ => {
                let sections =
                    KEYS.iter().filter_map(|k| k.name.split_once('.')).map(|(s, _)| s).chain(["module"]);
                let near = nearest(&full, KEYS.iter().map(|k| k.name).chain(sections));
                let meant = near.map_or(String::new(), |k| format!("; did you mean '{k}'?"));
                return Err(format!("unknown key '{full}'{meant}"));
            }
        }
    }
    Ok(())
}

fn merge(into: &mut Table, from: Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

#[path = "site_origins.rs"]
mod origins;

pub use origins::InForce;

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
