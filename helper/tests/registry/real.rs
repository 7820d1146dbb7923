//! Against Debian's docker-registry: plain, behind a proxy that breaks things, with accounts, with TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use grus_helper::registry::{Kind, Login, Secret, Settings};

use super::image::{noise, Content};
use super::server::{Answer, Server};
use super::tls::make_certificates;
use super::{paths, pull, settings};

const PASSWORD: &str = "right horse";

/// A registry process; killed with the value.
struct Registry {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
    content: Content,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// None, with a word on stderr, where there is no docker-registry. `more` is configuration, in which `@` is
    /// the registry's directory.
    fn start(tls: bool, more: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let content = Content::image(&[300_000, 900_000, 20_000]);
        content.store(dir.path(), "team/app");
        make_certificates(dir.path());
        let here = dir.path().display().to_string();
        let port = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("bound").port();
        let tls = if tls {
            format!("  tls: {{certificate: {here}/server.pem, key: {here}/server.key}}\n")
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {here}}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: none\n{tls}{}",
            more.replace('@', &here)
        );
        fs::write(dir.path().join("config.yml"), config).expect("write");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            eprintln!("SKIPPED: no docker-registry on this machine (Debian package docker-registry)");
            return None;
        };
        let mut registry = Self { child, port, dir, content };
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            assert!(registry.child.try_wait().expect("child").is_none(), "the registry ended at once");
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("the registry does not listen");
    }

    fn image(&self) -> String {
        format!("127.0.0.1:{}/team/app:1", self.port)
    }

    fn login(&self, password: &str) -> Settings {
        let registry = format!("127.0.0.1:{}", self.port);
        let login = Login { registry, username: "grus".into(), password: Secret::new(password) };
        Settings { login: Some(login), ..settings() }
    }
}

#[test]
fn a_plain_registry_on_loopback() {
    let Some(registry) = Registry::start(false, "") else { return };
    assert!(pull(settings(), &registry.image()).expect("pulled").0 == registry.content.layers);
    let error = pull(settings(), &format!("127.0.0.1:{}/team/app:absent", registry.port)).map(drop);
    assert_eq!(error.expect_err("no such tag").kind, Kind::NotFound);
}

#[test]
fn a_mirror_that_is_down() {
    let Some(registry) = Registry::start(false, "") else { return };
    let home = tempfile::tempdir().expect("temporary directory");
    // Bound and closed again: nobody listens there.
    let dead = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("bound");
    // The second mirror goes away in the middle, each time.
    let cutting = cutting_proxy(registry.port, 77);
    let conf = format!(
        "[[registry]]\nprefix = 'hub.example'\nlocation = '127.0.0.1:{}/team'\n\
         [[registry.mirror]]\nlocation = '{dead}/team'\n\
         [[registry.mirror]]\nlocation = '127.0.0.1:{cutting}/team'\n",
        registry.port
    );
    fs::write(home.path().join("registries.conf"), conf).expect("write");
    let mirrored = Settings { paths: paths(home.path()), retries: 1, ..settings() };
    assert!(pull(mirrored, "hub.example/app:1").expect("pulled").0 == registry.content.layers);
}

/// Copies between a client and `port`; the answers of every second connection end after some random bytes.
fn cutting_proxy(port: u16, seed: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let own = listener.local_addr().expect("bound").port();
    let count = AtomicUsize::new(0);
    std::thread::spawn(move || {
        // Bounded: a test needs far fewer connections.
        for client in listener.incoming().take(400).flatten() {
            let n = count.fetch_add(1, Ordering::SeqCst) as u64;
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let random = noise(seed * 1000 + n, 4).iter().fold(0u64, |a, b| a << 8 | u64::from(*b));
            let most = if n % 2 == 1 { u64::MAX } else { random % 400_000 };
            let (from, to) = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
            std::thread::spawn(move || copy(from, to, u64::MAX));
            std::thread::spawn(move || copy(server, client, most));
        }
    });
    own
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut most: u64) {
    let _ = from.set_read_timeout(Some(Duration::from_secs(10)));
    let mut buffer = [0; 8192];
    while most > 0 {
        let Ok(n @ 1..) = from.read(&mut buffer) else { break };
        let n = (n as u64).min(most) as usize;
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        most -= n as u64;
    }
    for stream in [from, to] {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn connections_cut_at_random_points() {
    let Some(registry) = Registry::start(false, "") else { return };
    for seed in 0..12 {
        let port = cutting_proxy(registry.port, seed);
        let patient = Settings { retries: 8, ..settings() };
        let (layers, _) = pull(patient, &format!("127.0.0.1:{port}/team/app:1")).expect("survives");
        assert!(layers == registry.content.layers, "seed {seed}");
    }
}

#[test]
fn basic_auth() {
    let Some(registry) = Registry::start(false, "auth: {htpasswd: {realm: grus, path: @/htpasswd}}\n") else {
        return;
    };
    // bcrypt of PASSWORD, by htpasswd -Bbn
    let line = "grus:$2y$05$HHQopqkwaOc/iSUIflnGTeSVrSehv6QBOESTSY0AT5IeEEw4/6qLC\n";
    fs::write(registry.dir.path().join("htpasswd"), line).expect("write");
    let error = pull(settings(), &registry.image()).map(drop).expect_err("private");
    assert_eq!(error.kind, Kind::Auth);
    assert_eq!(
        pull(registry.login("wrong"), &registry.image()).map(drop).expect_err("wrong").kind,
        Kind::Auth
    );
    assert!(pull(registry.login(PASSWORD), &registry.image()).expect("private").0 == registry.content.layers);
}

/// A token as the registry wants it (RFC 7519; distribution, token authentication), good for `seconds`.
fn token(dir: &Path, seconds: u64) -> String {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let pem = fs::read_to_string(dir.join("sign.pem")).expect("made");
    let der: String = pem.lines().filter(|l| !l.starts_with("---")).collect();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let header = format!("{{\"typ\":\"JWT\",\"alg\":\"RS256\",\"x5c\":[\"{der}\"]}}");
    let claims = format!(
        "{{\"iss\":\"test\",\"aud\":\"grus\",\"sub\":\"grus\",\"nbf\":{},\"iat\":{now},\"exp\":{},\"jti\":\"1\",\
         \"access\":[{{\"type\":\"repository\",\"name\":\"team/app\",\"actions\":[\"pull\"]}}]}}",
        now - 30,
        now + seconds
    );
    let text = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", "sign.key"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl");
    openssl.stdin.take().expect("piped").write_all(text.as_bytes()).expect("write");
    let signature = openssl.wait_with_output().expect("openssl").stdout;
    format!("{text}.{}", encode(&signature))
}

#[test]
fn bearer_auth() {
    let keys = tempfile::tempdir().expect("temporary directory");
    let script =
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=token -keyout sign.key -out sign.pem";
    let made = Command::new("sh").args(["-euc", script]).current_dir(keys.path()).output().expect("sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let good =
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("grus:{PASSWORD}")));
    let signer = keys.path().to_owned();
    let tokens = Server::start(move |r| match r.header("authorization") == Some(&good) {
        true => Answer::ok(format!("{{\"token\":\"{}\",\"expires_in\":1}}", token(&signer, 60)).into_bytes()),
        false => Answer::status(401),
    });
    let bundle = keys.path().join("sign.pem");
    let more = format!(
        "auth: {{token: {{realm: \"http://{}/token\", service: grus, issuer: test, rootcertbundle: {}}}}}\n",
        tokens.host(),
        bundle.display()
    );
    let Some(registry) = Registry::start(false, &more) else { return };
    assert_eq!(pull(settings(), &registry.image()).map(drop).expect_err("private").kind, Kind::Auth);
    assert_eq!(
        pull(registry.login("wrong"), &registry.image()).map(drop).expect_err("wrong").kind,
        Kind::Auth
    );
    assert!(pull(registry.login(PASSWORD), &registry.image()).expect("private").0 == registry.content.layers);
}

#[test]
fn self_signed_tls() {
    let Some(registry) = Registry::start(true, "") else { return };
    let home = tempfile::tempdir().expect("temporary directory");
    let with = |home: &Path| Settings { paths: paths(home), ..settings() };
    let error = pull(with(home.path()), &registry.image()).map(drop).expect_err("unknown CA");
    assert!(error.what.contains("is not trusted"), "{error:?}");
    let certs = home.path().join("certs.d").join(format!("127.0.0.1:{}", registry.port));
    fs::create_dir_all(&certs).expect("directory");
    fs::copy(registry.dir.path().join("ca.pem"), certs.join("ca.crt")).expect("copy");
    assert!(pull(with(home.path()), &registry.image()).expect("trusted").0 == registry.content.layers);
}
