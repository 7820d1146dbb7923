//! The commands, one file each: arguments in, text out.

mod account;
mod completion;
mod config;
mod doctor;
mod exec;
mod explain;
mod export;
mod fetch;
mod filter;
mod formatted;
mod history;
mod host;
mod images;
mod import;
mod inspect;
mod launch_options;
mod libraries;
mod modules;
mod name;
mod plan;
mod prune;
mod ps;
mod pull;
mod rmi;
mod run;
mod save_container;
mod shared;
mod tag;
mod transport;
mod verify;
mod version;

use clap::Subcommand;

pub(crate) use account::settings as registry_settings;

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
    /// Show how an image was made
    History(history::Args),
    /// Write an image as an archive for Podman, Docker and Skopeo
    #[command(visible_alias = "save")]
    Export(export::Args),
    /// Give an image another name
    Tag(tag::Args),
    /// Remove images
    Rmi(rmi::Args),
    /// Remove what is old or unused
    Prune(prune::Args),
    /// Save a container, for the plugin
    #[command(name = "save-container", hide = true)]
    Save(save_container::Args),
    /// Run a program in a container, without Slurm and without root
    Run(Box<run::Args>),
    /// Show what a container would be, without starting it
    Plan(plan::Args),
    /// Show which of the host's MPI libraries an image would get, and why
    Explain(explain::Args),
    /// List running containers
    Ps(ps::Args),
    /// Run a command in a running container
    Exec(exec::Args),
    /// Describe the MPI stacks of this host
    Host(host::Args),
    /// Show the configuration in force, and where each value is from
    Config(config::Args),
    /// Check whether containers run on this machine, and say what mends what is wrong
    Doctor(doctor::Args),
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
        !matches!(self, Command::Run(_) | Command::Exec(_))
    }

    /// Does it.
    pub fn run(self, common: Common) -> Result<(), Failure> {
        let context = || Context::new(common.clone());
        match self {
            Command::Pull(args) => args.run(&context()?),
            Command::Import(args) => args.run(&context()?),
            Command::Images(args) => args.run(&context()?),
            Command::Inspect(args) => args.run(&context()?),
            Command::Verify(args) => args.run(context),
            Command::History(args) => args.run(&context()?),
            Command::Export(args) => args.run(&context()?),
            Command::Tag(args) => args.run(&context()?),
            Command::Prune(args) => args.run(&context()?),
            Command::Rmi(args) => args.run(&context()?),
            Command::Save(args) => args.run(),
            Command::Run(args) => args.run(context),
            Command::Plan(args) => args.run(&context()?),
            Command::Explain(args) => args.run(&context()?),
            Command::Host(args) => args.run(&context()?),
            Command::Ps(args) => args.run(),
            Command::Exec(args) => args.run(),
            Command::Config(args) => args.run(&context()?),
            Command::Doctor(args) => args.run(common),
            Command::Login(args) => args.run(&context()?),
            Command::Logout(args) => args.run(&context()?),
            Command::Completion(args) => args.run(),
            Command::Version(args) => args.run(),
        }
    }
}
