//! A registry of one's own: Debian's docker-registry on a loopback port, with its storage in the lab.
//!
//! Three kinds: open over HTTP, with basic auth, and over TLS with a certificate authority made for the occasion.
//! Images are pushed with skopeo, a client that shares no code with Grus.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::account::{checked, Account};
use crate::command::Cmd;
use crate::daemon::{wait_until, Daemon};
use crate::machine::{free_ports, session};

/// What a registry is to be like.
#[derive(Debug, Clone)]
pub struct RegistryBuilder {
    dir: PathBuf,
    name: String,
    login: Option<(String, String)>,
    tls: bool,
    persistent: bool,
}

/// A running registry; dropping it takes it down.
#[derive(Debug)]
pub struct Registry {
    dir: PathBuf,
    name: String,
    port: u16,
    login: Option<(String, String)>,
    ca: Option<PathBuf>,
    persistent: bool,
}

impl RegistryBuilder {
    /// Asks for this user and password (basic auth by htpasswd).
    pub fn basic_auth(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// Speaks HTTPS, with a certificate for `localhost` and `127.0.0.1` by [`Registry::ca`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Outlives this process; whoever takes down the lab it lies in stops it.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Starts it. One that already runs under this name (a persistent one) is taken over.
    pub fn start(self) -> Result<Registry> {
        let Self { dir, name, login, tls, persistent } = self;
        let own = dir.join(&name);
        let ca = tls.then(|| own.join("ca.pem"));
        let port_note = own.join("port");
        if let Some(daemon) = Daemon::recorded(&dir, &name) {
            if daemon.alive() && persistent {
                let port = fs::read_to_string(&port_note)?.trim().parse()?;
                return Ok(Registry { dir, name, port, login, ca, persistent });
            }
            daemon.stop(Duration::from_secs(5))?;
        }
        for sub in [own.join("storage"), dir.join("log"), dir.join("pids")] {
            fs::create_dir_all(sub)?;
        }
        let port = free_ports(1)?;
        fs::write(&port_note, port.to_string())?;
        if let Some((user, password)) = &login {
            let made = checked(Cmd::new("htpasswd").args(["-Bbn", user, password]))?;
            fs::write(own.join("htpasswd"), made)?;
        }
        if tls {
            make_certificates(&own)?;
        }
        fs::write(own.join("config.yml"), config(&own, port, login.is_some(), tls))?;
        let account = Account::find("docker-registry")?.context("no docker-registry: run ci/packages")?;
        let ids = format!("{}:{}", account.uid, account.gid);
        checked(Cmd::new("chown").args(["-R", &ids]).arg(&own))?;

        let registry = Registry { dir, name, port, login, ca, persistent };
        registry.launch()?;
        Ok(registry)
    }
}

impl Registry {
    /// A builder for a registry called `name` whose state lies in `dir`: a lab's directory, or any that the user
    /// docker-registry can enter.
    pub fn builder(dir: &Path, name: &str) -> RegistryBuilder {
        RegistryBuilder { dir: dir.into(), name: name.into(), login: None, tls: false, persistent: false }
    }

    /// `127.0.0.1:PORT`, or `localhost:PORT` with TLS: the registry part of an image reference.
    pub fn host(&self) -> String {
        format!("{}:{}", if self.ca.is_some() { "localhost" } else { "127.0.0.1" }, self.port)
    }

    /// The certificate authority's certificate, with TLS.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Where it keeps blobs, for tests that damage them.
    pub fn storage(&self) -> PathBuf {
        self.dir.join(&self.name).join("storage")
    }

    /// Pushes the OCI layout `layout` as `repository` (`path/name:tag`) and returns the full reference.
    pub fn push(&self, layout: &Path, repository: &str) -> Result<String> {
        let reference = format!("{}/{repository}", self.host());
        let mut skopeo = Cmd::new("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false"]);
        // The digest the tests compare with is the layout's.
        skopeo = skopeo.arg("--preserve-digests");
        if let Some((user, password)) = &self.login {
            skopeo = skopeo.arg(format!("--dest-creds={user}:{password}"));
        }
        let from = format!("oci:{}:latest", layout.display());
        checked(skopeo.arg(from).arg(format!("docker://{reference}")).limit(Duration::from_secs(300)))?;
        Ok(reference)
    }

    /// Stops it; its storage stays, so that [`Registry::launch`] brings the same images back.
    pub fn stop(&self) -> Result<()> {
        match Daemon::recorded(&self.dir, &self.name) {
            Some(daemon) => daemon.stop(Duration::from_secs(5)),
            None => Ok(()),
        }
    }

    /// Starts it (again) on the same port.
    pub fn launch(&self) -> Result<()> {
        let mut command = session("setpriv");
        command.args(["--reuid=docker-registry", "--regid=docker-registry", "--clear-groups", "--"]);
        command.args(["docker-registry", "serve"]).arg(self.dir.join(&self.name).join("config.yml"));
        let daemon = Daemon::start(&self.dir, &self.name, &mut command)?;
        let listens = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        let up = wait_until(Duration::from_secs(20), || listens() || !daemon.alive()) && daemon.alive();
        let log = self.dir.join("log").join(format!("{}.out", self.name));
        ensure!(up, "the registry did not start\n{}", fs::read_to_string(log).unwrap_or_default());
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if self.persistent {
            return;
        }
        if let Err(error) = self.stop() {
            eprintln!("registry {} did not stop: {error:#}", self.name);
        }
        let _ = fs::remove_dir_all(self.dir.join(&self.name));
    }
}

fn config(own: &Path, port: u16, auth: bool, tls: bool) -> String {
    let own = own.display();
    let mut text = format!(
        "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {own}/storage\n  delete:\n    enabled: true\n\
         http:\n  addr: 127.0.0.1:{port}\n  secret: of-no-value\n"
    );
    if tls {
        text.push_str(&format!("  tls:\n    certificate: {own}/server.pem\n    key: {own}/server.key\n"));
    }
    if auth {
        text.push_str(&format!("auth:\n  htpasswd:\n    realm: grus-lab\n    path: {own}/htpasswd\n"));
    }
    text
}

fn make_certificates(own: &Path) -> Result<()> {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=grus-lab CA' -keyout ca.key -out ca.pem \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' >server.ext
        openssl x509 -req -days 30 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
            -extfile server.ext -out server.pem";
    checked(Cmd::new("sh").args(["-euc", script]).cwd(own)).map(drop)
}
