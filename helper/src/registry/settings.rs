//! Owns what a client can be told: times, bounds, and where this machine keeps accounts, certificates and
//! mirrors. It reads the environment once, here, so that everything below is a function of its input.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;

/// How to speak to registries. [`Settings::default`] is right for users; tests shorten the times.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Registries (`host` or `host:port`) spoken to over plain HTTP, beyond loopback.
    pub plain_http: Vec<String>,
    /// An account for one registry, before all stored ones: `--username`, `--password-stdin`.
    pub login: Option<Login>,
    /// Parallel connections of a download.
    pub connections: usize,
    /// Bytes of layers that may wait in memory, in all.
    pub buffer: u64,
    /// A layer is fetched in ranges of at most this many bytes.
    pub segment: u64,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time without one byte after which a connection counts as dead.
    pub idle_timeout: Duration,
    /// Failures in a row, without one byte gained between, after which to give up.
    pub retries: u32,
    /// About the first pause before a retry; it doubles each time.
    pub retry_pause: Duration,
    /// Where accounts, certificates and mirrors are kept.
    pub paths: Paths,
}

/// An account given by the caller.
#[derive(Clone, Debug)]
pub struct Login {
    /// The registry it is for, as in a reference.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: Secret,
}

/// Files and directories that Docker and Podman read, in order of precedence.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// containers-auth.json(5) files and Docker's config.json. The first is where a login is stored.
    pub auth_files: Vec<PathBuf>,
    /// containers-certs.d(5) directories.
    pub certs_dirs: Vec<PathBuf>,
    /// containers-registries.conf(5): the first file that exists is read.
    pub registries_conf: Vec<PathBuf>,
    /// Directories of drop-ins to it, later ones win.
    pub registries_conf_d: Vec<PathBuf>,
    /// containers-policy.json(5): the first file that exists is read.
    pub policies: Vec<PathBuf>,
    /// Directories of containers-registries.d(5): the first that exists is read.
    pub registries_d: Vec<PathBuf>,
    /// Where credential helpers are looked up; `PATH` if None.
    pub helper_path: Option<OsString>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            login: None,
            connections: 6,
            buffer: 64 << 20,
            segment: 8 << 20,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            retries: 6,
            retry_pause: Duration::from_millis(500),
            paths: Paths::from_environment(),
        }
    }
}

impl Settings {
    /// Whether the site says that `host[:port]` is spoken to over plain HTTP.
    pub(super) fn is_plain(&self, host: &str) -> bool {
        self.plain_http.iter().any(|p| p.eq_ignore_ascii_case(host) || p.eq_ignore_ascii_case(name_of(host)))
    }
}

impl Paths {
    /// The places Docker and Podman use for the calling user.
    pub fn from_environment() -> Self {
        Self::from(|name| std::env::var_os(name).filter(|v| !v.is_empty()))
    }

    /// The same for an environment given by `var`.
    pub fn from(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| var(name).map(PathBuf::from);
        let home = path("HOME").filter(|h| h.is_absolute());
        let config = path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|h| h.join(".config")));
        let own = |sub: &str| config.as_ref().map(|c| c.join("containers").join(sub));
        let docker = path("DOCKER_CONFIG").or_else(|| home.as_ref().map(|h| h.join(".docker")));
        let runtime = path("XDG_RUNTIME_DIR").map(|r| r.join("containers/auth.json"));
        let auth_files = match path("REGISTRY_AUTH_FILE") {
            Some(only) => vec![only],
            None => [runtime, own("auth.json"), docker.map(|d| d.join("config.json"))]
                .into_iter()
                .flatten()
                .collect(),
        };
        let etc = |sub: &str| Some(PathBuf::from("/etc").join(sub));
        let list = |paths: [Option<PathBuf>; 3]| paths.into_iter().flatten().collect();
        Self {
            auth_files,
            certs_dirs: list([own("certs.d"), etc("containers/certs.d"), etc("docker/certs.d")]),
            registries_conf: list([
                path("CONTAINERS_REGISTRIES_CONF"),
                own("registries.conf"),
                etc("containers/registries.conf"),
            ]),
            registries_conf_d: list([etc("containers/registries.conf.d"), own("registries.conf.d"), None]),
            policies: list([own("policy.json"), etc("containers/policy.json"), None]),
            registries_d: list([own("registries.d"), etc("containers/registries.d"), None]),
            helper_path: None,
        }
    }
}

/// `host` without its port.
pub(super) fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Whether `host[:port]` is this machine: `localhost`, 127.0.0.0/8, `::1`. Names are not looked up.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = name_of(host);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "127.0.0.1.example:80", "[::2]:5000", "example:127"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn files_are_found_where_podman_and_docker_keep_them() {
        let paths = |list: &[(&str, &str)]| {
            let list: Vec<(String, OsString)> = list.iter().map(|(n, v)| ((*n).into(), v.into())).collect();
            Paths::from(move |name| list.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
        };
        let all = paths(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1")]);
        let files =
            ["/run/user/1/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"];
        assert_eq!(all.auth_files, files.map(PathBuf::from));
        assert_eq!(all.certs_dirs[0], PathBuf::from("/h/.config/containers/certs.d"));
        assert_eq!(paths(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/h")]).auth_files, [PathBuf::from("/a")]);
        assert!(paths(&[]).auth_files.is_empty());
    }
}
