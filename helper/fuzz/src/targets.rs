//! What a fuzzer's bytes are put through. A target may see any error, but no panic, and no error that would move a
//! terminal's cursor.

use grus_core::platform::Platform;
use grus_helper::oci::{Config, Document};
use grus_helper::registry::manifest;

/// Bytes as each of the documents that a registry sends: index, manifest, configuration.
pub fn document(data: &[u8]) {
    let platform = Platform::parse("linux/arm64/v8").expect("static");
    match manifest::parse(data, "x.y/app:1") {
        Ok(Document::Index(index)) => {
            let chosen = index.choose(&platform, "x.y/app:1");
            chosen.map(drop).unwrap_or_else(|error| printable(&error.to_string()));
        }
        Ok(Document::Manifest(manifest)) => assert!(manifest.layers.len() <= grus_helper::oci::MAX_LAYERS),
        Err(error) => printable(&format!("{error}{}", error.way_out().unwrap_or_default())),
    }
    if let Err(refusal) = Config::parse(data, "the configuration of x.y/app:1") {
        printable(&refusal.to_string());
    }
}

fn printable(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
