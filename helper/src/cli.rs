//! The command line: definition, and the one place where failures are printed.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use grus_core::refusal::printable;

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
  2    wrong usage, no such image    78   the site's set-up is at fault
  65   the image is at fault         130  interrupted
  66   no such image in the registry
'grus run' ends as its program does; 125, 126 and 127 are as Docker's.";

/// Containers for Slurm: pulls and keeps images, runs them without Slurm, and tells what a job would get
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
        Err(error) => return misused(&error),
    };
    if let Some(error) = cli.command.cleans_up().then(interrupt::install).and_then(Result::err) {
        return fail(&Failure::System { what: format!("cannot handle signals: {error}"), hint: None });
    }
    match cli.command.run(cli.common) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// Help and version go to standard output; wrong usage is told like any other failure.
fn misused(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is no news.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let _ = write!(io::stderr(), "{}", Cli::command().render_help());
            ExitCode::from(2)
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            // clap writes the error, tips, the usage and a pointer to --help, with empty lines between.
            let mut parts =
                text.split("\n\n").map(str::trim_end).filter(|part| !part.starts_with("For more"));
            let what = lines_printable(parts.next().unwrap_or("wrong usage"));
            let rest: Vec<String> = parts.map(lines_printable).collect();
            let _ = writeln!(io::stderr(), "grus: {what}\nhint: {}", hint(&rest));
            // As `docker run`: what is below belongs to the program.
            let runs = rest.iter().any(|part| part.starts_with("Usage: grus run"));
            ExitCode::from(if runs { 125 } else { 2 })
        }
    }
}

/// clap's tips if it has any, else where to read on.
fn hint(rest: &[String]) -> String {
    let tip = rest.iter().find_map(|part| part.trim_start().strip_prefix("tip: "));
    let usage = rest.iter().find_map(|part| part.strip_prefix("Usage: "));
    match (tip, usage) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("usage: {usage}; see --help"),
        (None, None) => "see --help".to_owned(),
    }
}

/// What was typed may hold anything; the line breaks are clap's own.
fn lines_printable(text: &str) -> String {
    text.lines().map(|line| printable(line.trim())).collect::<Vec<_>>().join(" ")
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
