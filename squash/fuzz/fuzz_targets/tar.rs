//! One layer from bytes, parsed as tar. The body is in `targets`, where the corpus tests call it too.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| grus_squash_fuzz::targets::tar(data));
