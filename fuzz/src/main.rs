//! The fuzzer: one program for all targets, the one that GRUS_FUZZ names. `ci/fuzz` builds and runs it.
#![no_main]

use std::sync::OnceLock;

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

/// The chosen target.
fn chosen() -> fn(&[u8]) {
    let name = std::env::var("GRUS_FUZZ").unwrap_or_default();
    let target = grus_fuzz::target(&name);
    target.unwrap_or_else(|| panic!("GRUS_FUZZ names no target: '{name}'")).run
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| RUN.get_or_init(chosen)(data));
