//! The commands, one file each: arguments in, text out.

mod account;
mod completion;
mod explain;
mod fetch;
mod host;
mod images;
mod import;
mod inspect;
mod launch_options;
mod libraries;
mod name;
mod plan;
mod prune;
mod pull;
mod rmi;
mod run;
mod save;
mod shared;
mod tag;
mod transport;
mod verify;
mod version;

use clap::Subcommand;

use crate::context::{Common, Context};
use crate::failure::Failure;

/// What `grus` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch an image from a registry
    Pull(pull::Args),
    /// Make an image from a file, a directory or a pipe
    Import(import::Args),
    /// List the images of a repository
    Images(images::Args),
    /// Show all that is known of an image
    Inspect(inspect::Args),
    /// Check that images are sound
    Verify(verify::Args),
    /// Give an image another name
    Tag(tag::Args),
    /// Remove images
    Rmi(rmi::Args),
    /// Remove what is old or unused
    Prune(prune::Args),
    /// Save a container, for the plugin
    #[command(hide = true)]
    Save(save::Args),
    /// Run a program in a container, without Slurm and without root
    Run(Box<run::Args>),
    /// Show what a container would be, without starting it
    Plan(plan::Args),
    /// Show which of the host's MPI libraries an image would get, and why
    Explain(explain::Args),
    /// Describe the MPI stacks of this host
    Host(host::Args),
    /// Store an account for a registry
    Login(account::LoginArgs),
    /// Forget an account for a registry
    Logout(account::LogoutArgs),
    /// Print the completion script of a shell
    Completion(completion::Args),
    /// Print the version
    Version(version::Args),
}

impl Command {
    /// Whether it cleans up when it is interrupted, for which it has a thread.
    pub fn cleans_up(&self) -> bool {
        !matches!(self, Command::Run(_))
    }

    /// Does it.
    pub fn run(self, common: Common) -> Result<(), Failure> {
        let context = || Context::new(common);
        match self {
            Command::Pull(args) => args.run(&context()?),
            Command::Import(args) => args.run(&context()?),
            Command::Images(args) => args.run(&context()?),
            Command::Inspect(args) => args.run(&context()?),
            Command::Verify(args) => args.run(context),
            Command::Tag(args) => args.run(&context()?),
            Command::Prune(args) => args.run(&context()?),
            Command::Rmi(args) => args.run(&context()?),
            Command::Save(args) => args.run(),
            Command::Run(args) => args.run(&context()?),
            Command::Plan(args) => args.run(&context()?),
            Command::Explain(args) => args.run(&context()?),
            Command::Host(args) => args.run(&context()?),
            Command::Login(args) => args.run(&context()?),
            Command::Logout(args) => args.run(&context()?),
            Command::Completion(args) => args.run(),
            Command::Version(args) => args.run(),
        }
    }
}
