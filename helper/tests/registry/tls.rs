//! Whom to trust: certificates in certs.d, client certificates, and never less than TLS after TLS.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use grus_helper::registry::{Client, Kind, Settings};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::image::Content;
use super::server::{Answer, Server};
use super::{paths, pull, settings};

/// A CA, a certificate for loopback and one for a client, made by openssl in `dir`.
pub fn make_certificates(dir: &Path) {
    let script = "
        ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca \
            -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE; }
        leaf() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr
            printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nextendedKeyUsage=%s\\n' $2 >$1.ext
            openssl x509 -req -days 2 -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile $1.ext -out $1.pem; }
        ca && leaf server serverAuth && leaf client clientAuth";
    let made = Command::new("sh").args(["-euc", script]).current_dir(dir).output().expect("sh");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
}

fn chain(dir: &Path, name: &str) -> Vec<CertificateDer<'static>> {
    let text = fs::read(dir.join(format!("{name}.pem"))).expect("made");
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().expect("PEM")
}

fn server_config(dir: &Path, wants_client: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("versions");
    let builder = match wants_client {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(chain(dir, "ca").remove(0)).expect("a CA");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("verifier"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&fs::read(dir.join("server.key")).expect("made")).expect("PEM");
    Arc::new(builder.with_single_cert(chain(dir, "server"), key).expect("matching"))
}

struct Lab {
    home: tempfile::TempDir,
    server: Server,
    content: Content,
}

fn lab(wants_client: bool) -> Lab {
    let home = tempfile::tempdir().expect("temporary directory");
    make_certificates(home.path());
    let content = Content::image(&[100_000, 200_000]);
    let mine = content.clone();
    let server = Server::start_tls(server_config(home.path(), wants_client), move |r| mine.answer(r));
    Lab { home, server, content }
}

impl Lab {
    fn settings(&self) -> Settings {
        Settings { paths: paths(self.home.path()), ..settings() }
    }

    /// Puts `file` into the registry's directory below certs.d as `name`.
    fn trust(&self, file: &str, name: &str) {
        let dir = self.home.path().join("certs.d").join(self.server.host());
        fs::create_dir_all(&dir).expect("directory");
        fs::copy(self.home.path().join(file), dir.join(name)).expect("copy");
    }
}

#[test]
fn a_ca_in_certs_d_is_trusted_and_without_it_nothing_is_sent() {
    let lab = lab(false);
    let error = pull(lab.settings(), &lab.server.image()).map(drop).expect_err("unknown CA");
    assert!(error.kind == Kind::Refused && error.what.contains("is not trusted"), "{error:?}");
    assert!(error.hint.as_ref().is_some_and(|h| h.contains("certs.d")), "{error:?}");
    assert_eq!(lab.server.log().len(), 0, "no plain HTTP after distrust");
    lab.trust("ca.pem", "ca.crt");
    assert!(pull(lab.settings(), &lab.server.image()).expect("trusted").0 == lab.content.layers);
}

#[test]
fn a_client_certificate_is_shown_where_it_is_wanted() {
    let lab = lab(true);
    lab.trust("ca.pem", "ca.crt");
    assert!(pull(lab.settings(), &lab.server.image()).is_err());
    lab.trust("client.pem", "client.cert");
    lab.trust("client.key", "client.key");
    assert!(pull(lab.settings(), &lab.server.image()).expect("known client").0 == lab.content.layers);
}

#[test]
fn broken_certificates_are_named() {
    let lab = lab(false);
    lab.trust("server.csr", "ca.crt");
    let error = pull(lab.settings(), &lab.server.image()).map(drop).expect_err("no certificate");
    assert!(error.kind == Kind::Site && error.what.contains("ca.crt"), "{error:?}");
    lab.trust("ca.pem", "ca.crt");
    lab.trust("client.pem", "client.cert");
    let error = pull(lab.settings(), &lab.server.image()).map(drop).expect_err("no key");
    assert!(error.kind == Kind::Site && error.what.contains("client.key"), "{error:?}");
}

#[test]
fn insecure_in_registries_conf_means_any_certificate() {
    let lab = lab(false);
    let conf = format!("[[registry]]\nprefix = '{}'\ninsecure = true\n", lab.server.host());
    fs::write(lab.home.path().join("registries.conf"), conf).expect("write");
    assert!(pull(lab.settings(), &lab.server.image()).expect("insecure").0 == lab.content.layers);
}

#[test]
fn a_location_in_capitals_has_its_certificates_and_its_insecure() {
    let lab = lab(false);
    let location = lab.server.host().replace("127.0.0.1", "LOCALHOST");
    let table = |insecure: bool| {
        let host = lab.server.host();
        let conf =
            format!("[[registry]]\nprefix = '{host}'\nlocation = '{location}'\ninsecure = {insecure}\n");
        fs::write(lab.home.path().join("registries.conf"), conf).expect("write");
    };
    let pulled = || pull(lab.settings(), &lab.server.image()).map(|(layers, _)| layers);
    table(true);
    assert!(pulled().expect("insecure") == lab.content.layers);
    table(false);
    assert_eq!(pulled().expect_err("unknown CA").kind, Kind::Refused);
    for name in [location.to_lowercase(), location.clone()] {
        let dir = lab.home.path().join("certs.d").join(name);
        fs::create_dir_all(&dir).expect("directory");
        fs::copy(lab.home.path().join("ca.pem"), dir.join("ca.crt")).expect("copy");
        assert!(pulled().expect("trusted") == lab.content.layers);
        fs::remove_dir_all(&dir).expect("removed");
    }
}

#[test]
fn a_login_goes_by_registries_conf_too() {
    let home = tempfile::tempdir().expect("temporary directory");
    make_certificates(home.path());
    let server = Server::start_tls(server_config(home.path(), false), |_| Answer::ok(b"{}".to_vec()));
    let lab = Lab { home, server, content: Content::default() };
    let login = || Client::new(lab.settings()).expect("client").check_login(&lab.server.host());
    let error = login().expect_err("unknown CA");
    assert!(error.kind == Kind::Refused && error.what.contains("is not trusted"), "{error:?}");
    let table = |rule: &str| {
        let conf = format!("[[registry]]\nlocation = '{}'\n{rule} = true\n", lab.server.host());
        fs::write(lab.home.path().join("registries.conf"), conf).expect("write");
    };
    table("insecure");
    assert_eq!(login(), Ok(()));
    table("blocked");
    let asked = lab.server.log().len();
    let error = login().expect_err("blocked");
    assert!(error.kind == Kind::Refused && error.what.contains("blocked"), "{error:?}");
    assert_eq!(lab.server.log().len(), asked, "a blocked registry is not asked");
}

#[test]
fn a_redirect_from_https_to_http_is_refused_even_to_loopback() {
    let home = tempfile::tempdir().expect("temporary directory");
    make_certificates(home.path());
    let plain = Server::start(|_| Answer::status(500));
    let location = format!("http://{}/x", plain.host());
    let server = Server::start_tls(server_config(home.path(), false), move |_| {
        Answer::status(307).header("Location", &location)
    });
    let content = Content::default();
    let lab = Lab { home, server, content };
    lab.trust("ca.pem", "ca.crt");
    let error = pull(lab.settings(), &lab.server.image()).map(drop).expect_err("downgrade");
    assert!(error.kind == Kind::Refused && error.what.contains("plain HTTP"), "{error:?}");
    assert_eq!(plain.log().len(), 0);
}
