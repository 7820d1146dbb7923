//! One document of a registry. The body is in `targets`, where the corpus test calls it too.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| grus_helper_fuzz::targets::document(data));
