//! The fuzz target over its seed corpus, and over a fixed set of damaged copies of it, so that the ordinary tests run
//! it without a fuzzer.

use std::fs;
use std::path::Path;

use super::image::noise;

#[path = "../../fuzz/src/targets.rs"]
mod targets;

/// Damaged copies of each seed.
const COPIES: u64 = 3000;

/// What JSON turns on, and what terminals and paths do.
const ODD: &[&str] =
    &["\"", "{", "]", ",", "null", "-1", "1e999", "\\u001b[2J", "\\ud800", "/../", "sha512:", "\0", "\u{9b}"];

#[test]
fn documents() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/manifest");
    let mut seeds: Vec<_> = fs::read_dir(corpus).expect("corpus").map(|e| e.expect("entry").path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 4, "the corpus is there");
    for seed in seeds {
        let seed = fs::read(seed).expect("seed");
        targets::document(&seed);
        for copy in 0..COPIES {
            targets::document(&damaged(&seed, copy));
        }
    }
    // Deep nesting must end in an error, not in a stack that is used up.
    targets::document(&[b'['].repeat(1 << 20));
    targets::document(&br#"{"a":"#.repeat(1 << 18));
}

fn damaged(seed: &[u8], copy: u64) -> Vec<u8> {
    let random = noise(copy, 16);
    let at =
        |n: usize, below: usize| usize::from(u16::from_le_bytes([random[n], random[n + 1]])) % below.max(1);
    let mut bytes = seed.to_vec();
    for round in (0..8).step_by(4).take(1 + usize::from(random[15] % 2)) {
        let from = at(round, bytes.len());
        match random[round + 2] % 4 {
            0 => bytes.truncate(from),
            1 => bytes[from] = random[round + 3],
            2 => {
                let odd = ODD[usize::from(random[round + 3]) % ODD.len()];
                bytes.splice(from..from, odd.bytes());
            }
            _ => {
                let to = (from + at(round + 8 - 4, 40)).min(bytes.len());
                bytes.drain(from..to);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}
