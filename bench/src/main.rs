//! The benches: each measures Grus and a floor or a peer in the same run, alternating, and prints medians with the
//! machine's load. The last line is one JSON object.

mod figures;
mod lab;
mod launch;
mod mpi;
mod pull;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["launch"] => launch::run(),
        ["pagein"] => launch::run_pagein(),
        ["run"] => run::run(),
        ["mpi", ref options @ ..] => mpi::run(options),
        ["pull", ref options @ ..] => pull::run(options),
        // Processes of their own for one measurement of `launch` or `pagein`.
        ["join", image, uid, gid, home] => launch::join_once(image, uid, gid, home),
        ["read", ref words @ ..] => launch::read_once(words),
        ["first", ref words @ ..] => launch::first_once(words),
        _ => Err(anyhow::anyhow!(
            "usage: grus-bench launch|pagein|run\n       {}\n       {}",
            mpi::USAGE,
            pull::USAGE
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("grus-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
