//! The fuzz targets over their seed corpus, and over a fixed set of damaged copies of it, so that the
//! ordinary tests run them without a fuzzer.

mod fixture;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// Damaged copies of each seed.
const COPIES: u64 = 150;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(dir).expect("corpus").map(|e| e.expect("entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 3, "the corpus of {target} is there");
    paths.iter().map(|path| fs::read(path).expect("seed")).collect()
}

fn run(target: &str, function: fn(&[u8])) {
    for seed in seeds(target) {
        function(&seed);
        for copy in 0..COPIES {
            let mut state = copy.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 20) as usize % below
            };
            let mut damaged = seed.clone();
            for _ in 0..=next(4) {
                match next(4) {
                    0 => damaged.truncate(1 + next(damaged.len())),
                    1 => {
                        let (at, other) = (next(damaged.len()), next(damaged.len()));
                        damaged[at] = damaged[other];
                    }
                    _ => {
                        let at = next(damaged.len());
                        damaged[at] ^= 1 << next(8);
                    }
                }
            }
            function(&damaged);
        }
    }
}

#[test]
fn the_tar_seeds_are_good_layers() {
    for seed in seeds("tar") {
        let made = fixture::image(&fixture::sources(&[seed]), &grus_squash::Options::default());
        made.map(|_| ()).expect("a seed that fails at once explores nothing");
    }
}

#[test]
fn tar_target() {
    run("tar", targets::tar);
}

#[test]
fn merge_target() {
    run("merge", targets::merge);
}
