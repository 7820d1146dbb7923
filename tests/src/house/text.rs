//! Rules on any text file: length, left-over notes, paths of somebody's machine, unwinding.

/// Longest source file.
const SOURCE: usize = 450;
/// Longest file of tests.
const TESTS: usize = 600;
/// Longest shell script; past that it is a program and belongs in Rust.
const SCRIPT: usize = 50;

/// Appends what `name` breaks.
pub fn faults(name: &str, content: &str, faults: &mut Vec<String>) {
    let lines = content.lines().count();
    let limit = if name.ends_with(".rs") {
        if is_test(name) {
            TESTS
        } else {
            SOURCE
        }
    } else if content.starts_with("#!/bin/bash") || content.starts_with("#!/bin/sh") {
        SCRIPT
    } else {
        usize::MAX
    };
    if lines > limit {
        faults.push(format!("{name}: {lines} lines, at most {limit}"));
    }
    for (number, line) in content.lines().enumerate() {
        for fault in line_faults(name, line) {
            faults.push(format!("{name}:{}: {fault}", number + 1));
        }
    }
}

/// Files of tests, as far as names tell.
pub fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/") || name.starts_with("tests/slurm/")
}

fn line_faults(name: &str, line: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    // Written in two halves, so that this file keeps its own rules.
    for note in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let at = line
            .find(note)
            .filter(|&at| !line[..at].ends_with(word) && !line[at + note.len()..].starts_with(word));
        if at.is_some_and(|at| !line[at + note.len()..].starts_with("(#")) && !name.ends_with(".lock") {
            faults.push("a note without an issue's number: write it as NOTE(#12)");
        }
    }
    for place in [concat!("/wo", "rk/main"), concat!("/wo", "rk/shared"), concat!("/ro", "ot/.cargo")] {
        if line.contains(place) {
            faults.push("a path of somebody's machine");
        }
    }
    let no_spaces: String = line.chars().filter(|c| !c.is_whitespace()).collect();
    if name.ends_with("Cargo.toml") && no_spaces.starts_with("panic=\"abort\"") {
        faults.push("panic must unwind: one in slurmstepd must be caught");
    }
    faults
}
