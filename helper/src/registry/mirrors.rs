//! Owns containers-registries.conf(5): where a repository is to be had, mirrors first. Pure over the files'
//! text. It refuses what the administrator blocked, and a file it cannot parse.
//!
//! Short names are Docker's (`ubuntu` is `docker.io/library/ubuntu`), whatever the file says of aliases and
//! search lists: a name means one image everywhere.

use std::fs;
use std::path::{Path, PathBuf};

use grus_core::reference::Reference;
use serde::Deserialize;

use super::endpoint::Endpoint;
use super::error::{Kind, RegistryError};
use super::settings::Paths;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The `[[registry]]` tables of all files.
#[derive(Clone, Debug, Default)]
pub struct Registries(Vec<Registry>);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    registry: Vec<Registry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

impl Registries {
    /// Adds the text of a file; a table for the same prefix replaces the earlier one.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        for registry in file.registry.into_iter().map(Registry::plain) {
            if registry.key().is_empty() {
                return Err("a [[registry]] has neither prefix nor location".into());
            }
            if registry.mirror.iter().any(|m| m.location.is_empty()) {
                return Err(format!("a mirror of {} has no location", registry.key()));
            }
            self.0.retain(|r| r.key() != registry.key());
            self.0.push(registry);
        }
        Ok(())
    }

    /// Where to get `reference` from, in order.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let name = reference.name();
        let Some((matched, registry)) = self.table(&name)? else {
            return Ok(vec![Endpoint::of(reference)]);
        };
        let by_digest = reference.digest.is_some();
        let rest = &name[matched..];
        let mut endpoints = Vec::new();
        for mirror in &registry.mirror {
            let use_it = match mirror.pull_from_mirror.as_str() {
                "digest-only" => by_digest,
                "tag-only" => !by_digest,
                _ => by_digest || !registry.mirror_by_digest_only,
            };
            if use_it {
                endpoints.push(endpoint(&format!("{}{rest}", mirror.location), mirror.insecure, true)?);
            }
        }
        let location = match registry.location.is_empty() {
            true => name.clone(),
            false => format!("{}{rest}", registry.location),
        };
        endpoints.push(endpoint(&location, registry.insecure, false)?);
        Ok(endpoints)
    }

    /// The API of `registry` itself, which a login asks: its account is for no mirror.
    pub fn api(&self, registry: &str) -> Result<Endpoint, RegistryError> {
        let table = self.table(registry)?.map(|(_, table)| table);
        // A table that leads elsewhere speaks of that place: a password must not go to this one unverified.
        let here = |table: &&Registry| {
            table.location.is_empty() || table.location.split('/').next() == Some(registry)
        };
        let insecure = table.filter(here).is_some_and(|table| table.insecure);
        Ok(Endpoint { insecure, ..Endpoint::api(registry) })
    }

    /// The table for `name` (`host/path`), and how much of the name it matches; refused where it is blocked.
    fn table(&self, name: &str) -> Result<Option<(usize, &Registry)>, RegistryError> {
        let matching = self.0.iter().filter_map(|r| Some((r.matched(name)?, r)));
        // The longest match decides, as the man page says.
        match matching.max_by_key(|(len, _)| *len) {
            Some((_, registry)) if registry.blocked => {
                let what = format!("{} is blocked by registries.conf", registry.key());
                Err(RegistryError::new(Kind::Refused, what)
                    .hint("the administrator decided so; ask for another source"))
            }
            found => Ok(found),
        }
    }
}

impl Registry {
    /// Without slashes at the ends of its places, as Podman reads them: a block must not miss for one.
    fn plain(mut self) -> Self {
        let mirrors = self.mirror.iter_mut().map(|m| &mut m.location);
        for place in mirrors.chain([&mut self.prefix, &mut self.location]) {
            place.truncate(place.trim_end_matches('/').len());
        }
        self
    }

    fn key(&self) -> &str {
        if self.prefix.is_empty() {
            &self.location
        } else {
            &self.prefix
        }
    }

    /// Length of what matches of `name` (`host/path`), if anything does. `*.example` matches subdomains.
    fn matched(&self, name: &str) -> Option<usize> {
        let ends_there = |len: usize| name.len() == len || name.as_bytes()[len] == b'/';
        match self.key().strip_prefix("*.") {
            Some(domain) => {
                let host = name.split('/').next().unwrap_or(name);
                let host_name = host.split(':').next().unwrap_or(host);
                let (subdomain, rest) = host_name.split_at(host_name.len().checked_sub(domain.len() + 1)?);
                (rest.strip_prefix('.') == Some(domain) && !subdomain.is_empty()).then_some(host.len())
            }
            None => {
                (name.starts_with(self.key()) && ends_there(self.key().len())).then_some(self.key().len())
            }
        }
    }
}

fn endpoint(location: &str, insecure: bool, mirror: bool) -> Result<Endpoint, RegistryError> {
    let bad = || {
        RegistryError::new(Kind::Site, format!("'{location}' in registries.conf is not a place of images"))
            .hint("a location is host[:port][/path], see containers-registries.conf(5)")
    };
    let (registry, repository) = location.split_once('/').ok_or_else(bad)?;
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:[]".contains(&b));
    let ok = !registry.is_empty()
        && plain(location)
        && repository.split('/').all(|p| !p.is_empty() && p != ".." && p != ".");
    let made = Endpoint { insecure, mirror, repository: repository.to_owned(), ..Endpoint::api(registry) };
    match ok && made.url("https", "").is_ok() {
        true => Ok(made),
        false => Err(bad()),
    }
}

/// Reads the files of `paths`.
pub fn load(paths: &Paths) -> Result<Registries, RegistryError> {
    let mut files: Vec<PathBuf> =
        paths.registries_conf.iter().find(|f| f.is_file()).cloned().into_iter().collect();
    for dir in &paths.registries_conf_d {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        found.retain(|p| p.extension().is_some_and(|e| e == "conf"));
        found.sort();
        files.extend(found);
    }
    let mut registries = Registries::default();
    for file in files {
        let wrong = |why: &dyn std::fmt::Display| unusable(&file, why);
        if fs::metadata(&file).map_err(|e| wrong(&e))?.len() > MAX_FILE {
            return Err(wrong(&"it is too large"));
        }
        let text = fs::read_to_string(&file).map_err(|e| wrong(&e))?;
        registries.add(&text).map_err(|e| wrong(&e))?;
    }
    Ok(registries)
}

fn unusable(file: &Path, why: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::new(Kind::Site, format!("cannot use {}: {why}", file.display()))
        .hint("see containers-registries.conf(5)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
        unqualified-search-registries = ["example.com"]
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example:5000/hub"
        insecure = true
        [[registry.mirror]]
        location = "digests.example"
        pull-from-mirror = "digest-only"
        [[registry]]
        location = "moved.example/old"
        prefix = "example.com/old"
        [[registry]]
        prefix = "*.internal.example"
        insecure = true
        [[registry]]
        prefix = "bad.example"
        blocked = true
        [[registry]]
        location = "pinned.example"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "pins.example"
    "#;

    fn places(text: &str) -> Vec<String> {
        let mut registries = Registries::default();
        registries.add(CONF).expect("well formed");
        let reference = Reference::parse(text).expect("static");
        match registries.endpoints(&reference) {
            Ok(list) => list
                .iter()
                .map(|e| format!("{}/{}{}", e.registry, e.repository, if e.insecure { "!" } else { "" }))
                .collect(),
            Err(e) => vec![format!("{:?}", e.kind)],
        }
    }

    #[test]
    fn mirrors_come_in_order_and_locations_replace_prefixes() {
        let digest = format!("@sha256:{}", "0".repeat(64));
        let hub = ["mirror.example:5000/hub/library/ubuntu!", "docker.io/library/ubuntu"];
        assert_eq!(places("ubuntu"), hub);
        assert_eq!(places(&format!("ubuntu{digest}"))[1], "digests.example/library/ubuntu");
        assert_eq!(places("example.com/old/app"), ["moved.example/old/app"]);
        assert_eq!(places("example.com/older/app"), ["example.com/older/app"]);
        assert_eq!(places("a.internal.example:444/x"), ["a.internal.example:444/x!"]);
        assert_eq!(places("internal.example/x"), ["internal.example/x"]);
        assert_eq!(places("bad.example/x"), ["Refused"]);
        assert_eq!(places("pinned.example/x"), ["pinned.example/x"]);
        assert_eq!(places(&format!("pinned.example/x{digest}")), ["pins.example/x", "pinned.example/x"]);
    }

    #[test]
    fn a_slash_at_the_end_means_nothing() {
        let mut registries = Registries::default();
        let text = "[[registry]]\nprefix = 'bad.example/'\nblocked = true\n\
                    [[registry]]\nprefix = 'a.example/team/'\nlocation = 'b.example//'\n\
                    [[registry.mirror]]\nlocation = 'm.example/copy/'";
        registries.add(text).expect("well formed");
        let places = |name: &str| registries.endpoints(&Reference::parse(name).expect("static"));
        assert_eq!(places("bad.example/x").expect_err("blocked").kind, Kind::Refused);
        let found = places("a.example/team/app").expect("two places");
        let found: Vec<String> = found.iter().map(|e| format!("{}/{}", e.registry, e.repository)).collect();
        assert_eq!(found, ["m.example/copy/app", "b.example/app"]);
        assert!(registries.add("[[registry]]\nlocation = '/'").is_err(), "that is no place");
    }

    #[test]
    fn a_login_asks_the_registry_as_its_table_says() {
        let mut registries = Registries::default();
        registries.add(CONF).expect("well formed");
        let moved = "[[registry]]\nprefix = 'old.example'\nlocation = 'new.example'\ninsecure = true";
        registries.add(moved).expect("well formed");
        let insecure = |registry: &str| registries.api(registry).expect("not blocked").insecure;
        assert!(insecure("a.internal.example:444"));
        // Insecure is the place it leads to; the mirror of Docker Hub is, not the Hub.
        assert!(!insecure("old.example") && !insecure("docker.io") && !insecure("unknown.example"));
        assert_eq!(registries.api("docker.io").expect("not blocked"), Endpoint::api("docker.io"));
        let error = registries.api("bad.example").expect_err("blocked");
        assert!(error.kind == Kind::Refused && error.what.contains("blocked"), "{error}");
    }

    #[test]
    fn a_later_file_replaces_a_table() {
        let mut registries = Registries::default();
        registries.add(CONF).expect("well formed");
        registries
            .add("[[registry]]\nprefix = 'bad.example'\nlocation = 'good.example'")
            .expect("well formed");
        let reference = Reference::parse("bad.example/x").expect("static");
        assert_eq!(registries.endpoints(&reference).expect("unblocked")[0].registry, "good.example");
    }

    #[test]
    fn hostile_files_are_refused() {
        for text in [
            "[[registry]]",
            "[[registry]]\nprefix = 5",
            "[[registry]]\nlocation = 'a'\n[[registry.mirror]]",
            "registry = 1",
            "= =",
        ] {
            assert!(Registries::default().add(text).is_err(), "{text}");
        }
        for location in ["a b", "host/../x", "ho st/x", "user@host/x", "http://x/y", "/x", "x//y", "h?/y"] {
            let mut registries = Registries::default();
            let text = format!("[[registry]]\nprefix = 'p.example'\nlocation = '{location}'");
            registries.add(&text).expect("toml");
            let reference = Reference::parse("p.example/z").expect("static");
            let places = registries.endpoints(&reference);
            assert!(places.is_err(), "{location}: {places:?}");
        }
    }
}
