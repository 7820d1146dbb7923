//! The registry client against servers that misbehave in every way, and against a real registry.
//!
//! Everything is on loopback and bounded. No test asserts a time; short time-outs only make them quick.
#![allow(missing_docs)] // a test is read, not called

mod accounts;
mod faults;
mod image;
mod real;
mod resolving;
mod server;
mod tls;

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_helper::registry::{Client, Paths, Progress, RegistryError, Settings};

/// Settings that fail fast and read nothing of this machine.
pub fn settings() -> Settings {
    Settings {
        connections: 4,
        buffer: 512 << 10,
        segment: 64 << 10,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_millis(400),
        retries: 5,
        retry_pause: Duration::from_millis(4),
        paths: Paths::default(),
        ..Settings::default()
    }
}

/// Paths below `home` only.
pub fn paths(home: &Path) -> Paths {
    Paths {
        auth_files: vec![home.join("auth.json"), home.join("config.json")],
        certs_dirs: vec![home.join("certs.d")],
        registries_conf: vec![home.join("registries.conf")],
        registries_conf_d: vec![],
        policies: vec![],
        registries_d: vec![],
        helper_path: Some(home.join("bin").into()),
    }
}

pub fn amd64() -> Platform {
    Platform::parse("linux/amd64").expect("static")
}

/// What a download told its watcher.
#[derive(Default)]
pub struct Watch {
    pub bytes: AtomicU64,
    pub restarts: AtomicUsize,
    pub finished: AtomicUsize,
    pub notes: Mutex<Vec<String>>,
}

impl Progress for Watch {
    fn bytes(&self, _: usize, n: u64) {
        self.bytes.fetch_add(n, Ordering::Relaxed);
    }
    fn restarted(&self, _: usize, _: u64, _: &RegistryError) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }
    fn finished(&self, _: usize) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
    fn note(&self, text: &str) {
        self.notes.lock().expect("unpoisoned").push(text.to_owned());
    }
}

/// Resolves and downloads; the layers' bytes, bottom first.
pub fn pull(settings: Settings, name: &str) -> Result<(Vec<Vec<u8>>, Arc<Watch>), RegistryError> {
    let client = Client::new(settings)?;
    let reference = Reference::parse(name).expect("a test's own reference");
    let resolved = client.resolve(&reference, &amd64())?;
    let watch = Arc::new(Watch::default());
    let sources = client.download(&resolved, watch.clone())?;
    let mut layers = Vec::new();
    for source in sources.iter().rev() {
        let mut bytes = Vec::new();
        let mut reader = source.open().expect("opening never fails");
        if let Err(error) = reader.read_to_end(&mut bytes) {
            return Err(RegistryError::from_io(&error).expect("a typed error inside").clone());
        }
        layers.insert(0, bytes);
    }
    assert_eq!(watch.bytes.load(Ordering::Relaxed), resolved.size(), "progress adds up");
    assert_eq!(watch.finished.load(Ordering::Relaxed), layers.len());
    Ok((layers, watch))
}
