//! `grus completion`: scripts for shells, made from the same definition as `--help`.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  source <(grus completion bash)
  grus completion zsh > ~/.zfunc/_grus
  grus completion fish > ~/.config/fish/completions/grus.fish";

/// Arguments of `grus completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let shell = match self.shell.as_str() {
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            _ => Shell::Bash,
        };
        let mut script = vec![];
        clap_complete::generate(shell, &mut visible(), "grus", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}

/// The command line without what is hidden from its help: the generator for bash would offer that, too.
fn visible() -> Command {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("grus").args(whole.get_arguments().cloned()).subcommands(shown)
}
