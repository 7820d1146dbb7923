//! Owns images that are nothing but a tree of files: a tar, a directory or a finished SquashFS file. They have no
//! configuration; their digest comes from their bytes.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_squash::LayerSource;
use sha2::{Digest as _, Sha256};

use super::docker;
use crate::digest::{digest_of, digest_of_hash};
use crate::image::{Identity, Image, Layer};
use crate::oci::{Config, RawPlatform, RootFs};

/// An image of one layer whose digest is known once it was read.
pub fn image(reader: Box<dyn Read + Send>, name: &str, platform: &Platform) -> Image {
    let content = Arc::new(OnceLock::new());
    let source = Once { reader: Mutex::new(Some(reader)), name: name.to_owned(), content: content.clone() };
    // The layer's digest stands for 'not known yet'; the identity gives both digests in the end.
    let layer = Layer { digest: digest_of(b""), size: 0, source: Arc::new(source) };
    Image {
        identity: Identity::AfterReading(content),
        platform: platform.clone(),
        config: Config::default(),
        layers: vec![layer],
    }
}

/// The digest of an image that is only this content, for a platform.
pub fn digest(content: &Digest, platform: &Platform) -> Digest {
    let config = Config {
        platform: RawPlatform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        },
        rootfs: RootFs { diff_ids: vec![content.clone()] },
        ..Config::default()
    };
    let diff_ids = &config.rootfs.diff_ids;
    let text = format!(
        r#"{{"architecture":"{}","os":"{}","variant":"{}","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{content}"]}}}}"#,
        platform.architecture,
        platform.os,
        platform.variant.as_deref().unwrap_or(""),
    );
    digest_of(docker::manifest(text.as_bytes(), diff_ids).as_bytes())
}

/// A stream that can be read once, and its digest afterwards.
struct Once {
    reader: Mutex<Option<Box<dyn Read + Send>>>,
    name: String,
    content: Arc<OnceLock<Digest>>,
}

impl LayerSource for Once {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inner = reader.ok_or_else(|| io::Error::other("a stream cannot be read twice"))?;
        Ok(Box::new(Hashed::new(inner, self.content.clone())))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A stream whose digest is known when it was read to its end.
pub struct Hashed {
    inner: Box<dyn Read + Send>,
    hash: Sha256,
    content: Arc<OnceLock<Digest>>,
}

impl Hashed {
    /// Sets `content` at the end of `inner`.
    pub fn new(inner: Box<dyn Read + Send>, content: Arc<OnceLock<Digest>>) -> Self {
        Self { inner, hash: Sha256::new(), content }
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match n {
            0 if !buffer.is_empty() => {
                self.content.get_or_init(|| digest_of_hash(std::mem::take(&mut self.hash)));
            }
            n => self.hash.update(&buffer[..n]),
        }
        Ok(n)
    }
}
