//! The command line: definition, and the one place where failures are printed.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::command::Command;
use crate::context::Common;
use crate::failure::Failure;
use crate::interrupt;

const AFTER: &str = "\
First steps:
  grus pull ubuntu:24.04
  srun --container-image=ubuntu:24.04 cat /etc/os-release

Exit status:
  0    done                          69   the registry cannot be reached
  1    the system failed (disk...)   77   the registry wants other credentials
  2    wrong usage                   78   the site's set-up is at fault
  65   the image is at fault         130  interrupted
  66   no such image in the registry";

/// Container images for Slurm: fetched ahead of time, by one program, without a daemon
#[derive(Debug, Parser)]
#[command(name = "grus", version, propagate_version = false, after_help = AFTER, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = false)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout with 0, errors to stderr with 2. A closed pipe is no news.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Err(error) = interrupt::install() {
        return fail(&Failure::System { what: format!("cannot handle signals: {error}"), hint: None });
    }
    match cli.command.run(cli.common) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    if !matches!(failure, Failure::Pipe) {
        let mut text = format!("grus: {failure}\n");
        if let Some(hint) = failure.hint() {
            text += &format!("hint: {hint}\n");
        }
        // One write, so that lines of concurrent commands do not mix. Nobody is left to tell if it fails.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
    ExitCode::from(failure.exit_code())
}
