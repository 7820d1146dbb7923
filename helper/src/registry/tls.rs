//! Owns whom to trust: the system's root certificates (SSL_CERT_FILE, SSL_CERT_DIR), and for each registry
//! the CA and client certificates that Docker and Podman keep in certs.d (containers-certs.d(5)). It
//! refuses a certificate file it cannot read: leaving a CA out silently would only show as a puzzle.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::{Kind, RegistryError};

/// Largest certificate or key file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Certificates of this machine.
#[derive(Debug)]
pub struct Tls {
    dirs: Vec<PathBuf>,
    system: OnceLock<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

/// How far to trust a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// No TLS will be spoken.
    Plain,
    /// Certificates are verified.
    Verify,
    /// Any certificate will do: registries.conf says `insecure`.
    Anything,
}

impl Tls {
    /// Certificates from `dirs`, and the system's, which are read at first use.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs, system: OnceLock::new(), provider: Arc::new(ring::default_provider()) }
    }

    /// The directory for `host[:port]`: the first that exists, as in Podman.
    pub fn dir(&self, host: &str) -> Option<PathBuf> {
        self.dirs.iter().map(|d| d.join(host)).find(|d| d.is_dir())
    }

    /// How to speak TLS with `host[:port]`.
    pub fn config(&self, host: &str, trust: Trust) -> Result<ClientConfig, RegistryError> {
        let failed = |e: rustls::Error| RegistryError::new(Kind::Site, format!("cannot set up TLS: {e}"));
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let found = match (trust, self.dir(host)) {
            (Trust::Plain, _) | (_, None) => Found::default(),
            (_, Some(dir)) => read(&dir)?,
        };
        let builder = match trust {
            Trust::Plain => builder.with_root_certificates(RootCertStore::empty()),
            Trust::Anything => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(self.provider.clone()))),
            Trust::Verify => {
                let mut roots = self.system_roots().clone();
                for (path, certificate) in found.authorities {
                    roots.add(certificate).map_err(|e| unreadable(&path, &e))?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut config = match found.identity {
            Some((path, chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|e| unreadable(&path, &e))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn system_roots(&self) -> &RootCertStore {
        self.system.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            // A certificate that cannot be read is left out: the system's store has odd ones at times.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        })
    }
}

#[derive(Default)]
struct Found {
    authorities: Vec<(PathBuf, CertificateDer<'static>)>,
    identity: Option<(PathBuf, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// `*.crt` are authorities; `*.cert` with the `*.key` of the same name is the client's certificate.
fn read(dir: &Path) -> Result<Found, RegistryError> {
    let mut found = Found::default();
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).map_err(|e| unreadable(dir, &e))?.flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => {
                let certificates = certificates(&path)?;
                found.authorities.extend(certificates.into_iter().map(|c| (path.clone(), c)));
            }
            Some("cert") if found.identity.is_none() => {
                let key_file = path.with_extension("key");
                let key = PrivateKeyDer::from_pem_slice(&content(&key_file)?)
                    .map_err(|e| unreadable(&key_file, &e))?;
                found.identity = Some((path.clone(), certificates(&path)?, key));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(&content(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| unreadable(path, &e))?;
    match all.is_empty() {
        true => Err(unreadable(path, &"there is no certificate in it")),
        false => Ok(all),
    }
}

fn content(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let meta = fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(unreadable(path, &"it is not a file of reasonable size"));
    }
    fs::read(path).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::new(Kind::Site, format!("cannot use {}: {why}", path.display())).hint(
        "certs.d holds CA certificates as NAME.crt, client certificates as NAME.cert with NAME.key, all PEM",
    )
}

/// Accepts every certificate, but still checks that the server has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
