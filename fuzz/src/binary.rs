//! Files of the loader's: ELF objects, and its cache.

use grus_core::elf::Object;
use grus_core::ldcache::{parse, Cache};

/// Bytes as an ELF file. What was read of it survives being kept beside an image.
pub fn elf(data: &[u8]) {
    match Object::read(&data.to_vec()) {
        Err(malformed) => super::printable(&malformed.to_string()),
        Ok(None) => {}
        Ok(Some(object)) => {
            let text = serde_json::to_string(&object).expect("an object is JSON");
            let again: Object = serde_json::from_str(&text).expect("our own JSON");
            assert_eq!(again, object);
        }
    }
}

/// Bytes as /etc/ld.so.cache. What is written of it is read the same, and is written the same again.
pub fn ldcache(data: &[u8]) {
    match parse(data) {
        Err(malformed) => super::printable(&malformed.to_string()),
        Ok(cache) => {
            let written = cache.write();
            let again = parse(&written).expect("our own cache");
            assert_eq!(sorted(&again), sorted(&cache));
            assert_eq!(again.write(), written);
        }
    }
}

fn sorted(cache: &Cache) -> Vec<String> {
    let mut entries: Vec<_> = cache.entries.iter().map(|entry| format!("{entry:?}")).collect();
    entries.sort();
    entries
}
