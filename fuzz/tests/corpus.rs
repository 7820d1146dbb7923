//! Every target over its corpus, and over a fixed set of damaged copies of it, so that the ordinary tests run them
//! without a fuzzer. A finding's input goes into the corpus, and is tried here for ever.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use grus_fuzz::{target, Target, TARGETS};

/// Damaged copies of each input.
const COPIES: u64 = 150;

/// What texts turn on, and what terminals and paths do.
const ODD: &[&str] = &[
    "\"",
    "{",
    "]",
    ",",
    "null",
    "-1",
    "1e999",
    "\\u001b[2J",
    "\\ud800",
    "/../",
    "sha512:",
    "\0",
    "\u{9b}",
    "=",
    ":",
    "@",
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus().join(name)).unwrap_or_else(|e| panic!("the corpus of {name}: {e}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), fs::read(path).expect("input"))).collect()
}

fn damaged(input: &[u8], copy: u64) -> Vec<u8> {
    let mut state = copy.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below.max(1)
    };
    let mut bytes = input.to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(6) {
            0 => bytes.truncate(1 + at),
            1 => {
                let odd = ODD[next(ODD.len())];
                bytes.splice(at..at, odd.bytes());
            }
            2 if !bytes.is_empty() => bytes[at] = bytes[next(bytes.len())],
            _ if !bytes.is_empty() => bytes[at] ^= 1 << next(8),
            _ => {}
        }
    }
    bytes
}

fn run(Target { name, run }: &Target) {
    let inputs = inputs(name);
    assert!(inputs.len() >= 3, "the corpus of {name} is there");
    for (path, input) in inputs {
        // A panic shows which one it is.
        println!("{path}");
        run(&input);
        for copy in 0..COPIES {
            run(&damaged(&input, copy));
        }
    }
}

/// A test for each, so that they run at the same time and fail by their own names.
macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(target(stringify!($name)).expect("a target"));
        })*

        #[test]
        fn every_target_has_a_test_and_a_corpus_of_its_own() {
            let tests: BTreeSet<String> = [$(stringify!($name)),*].into_iter().map(str::to_owned).collect();
            let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
            let dirs = fs::read_dir(corpus()).expect("corpus").map(|e| e.expect("entry").file_name());
            let dirs: BTreeSet<String> = dirs.map(|name| name.to_string_lossy().into_owned()).collect();
            assert_eq!((&tests, &dirs), (&names, &names));
        }
    };
}

targets!(tar merge squashfs manifest options request mounts reference site stack cdi policy elf ldcache);

#[test]
fn deep_nesting_is_an_error_and_no_stack_that_is_used_up() {
    let run = target("manifest").expect("a target").run;
    run(&b"[".repeat(1 << 20));
    run(&br#"{"a":"#.repeat(1 << 18));
}

#[test]
fn good_images_and_profiles_are_in_the_corpus() {
    // Inputs that fail at once explore nothing.
    for (path, input) in inputs("stack") {
        let text = String::from_utf8(input).expect("UTF-8");
        let stack = grus_core::stack::Stack::parse("cluster", &text);
        assert!(!path.ends_with("good") || stack.is_ok(), "{path}: {stack:?}");
    }
    for (path, input) in inputs("squashfs").iter().filter(|(path, _)| path.contains("good-")) {
        let limits = grus_squash::Limits::default();
        let report = grus_squash::validate_to(&input[..], &limits, grus_squash::Depth::Data);
        assert!(report.is_ok(), "{path}: {report:?}");
    }
}
