#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| grus_squash_fuzz::targets::merge(data));
