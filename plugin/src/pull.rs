//! Pulling at submission: the site's `grus` program, run once, as the user, on the submitting host (D11).

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use grus_core::reference::Reference;
use grus_core::site::Site;
use grus_core::Refusal;

use crate::abi;

/// How an image is pulled.
#[derive(Debug)]
pub struct Puller {
    command: PathBuf,
    config: Option<PathBuf>,
}

impl Puller {
    /// By the site's program. `config` is the site file where it is not the default one.
    pub fn new(site: &Site, config: Option<PathBuf>) -> Self {
        Self { command: site.pull.command.as_path().into(), config }
    }

    #[cfg(test)]
    pub fn none() -> Self {
        Self { command: "/nonexistent/grus".into(), config: None }
    }

    /// Pulls, and waits. What the program says, progress and errors alike, goes to our standard error: our
    /// standard output is the job's. It is in our process group, so an interrupt from the terminal ends it as
    /// it ends us.
    pub fn pull(&self, reference: &Reference) -> Result<(), Refusal> {
        let shown = reference.familiar();
        let mut command = Command::new(&self.command);
        // The plugin's site file and its repository, also where the user's environment names others: both must look
        // in the same place.
        match &self.config {
            Some(config) => command.env("GRUS_CONFIG", config),
            None => command.env_remove("GRUS_CONFIG"),
        };
        command.env_remove("GRUS_REPOSITORY");
        command.args(["pull", &shown]).stdin(Stdio::null()).stdout(std::io::stderr());
        let status = abi::interruptible(|| command.status()).map_err(|error| {
            Refusal::site(format!("cannot run {} to pull image {shown}: {error}", self.command.display()))
                .hint("ask the administrator to check pull.command in grus.toml")
        })?;
        match (status.success(), status.signal()) {
            (true, _) => Ok(()),
            (false, Some(signal)) => {
                Err(Refusal::user(format!("pulling image {shown} was stopped by signal {signal}"))
                    .hint(format!("submit again, or run 'grus pull {shown}' first")))
            }
            (false, None) => Err(Refusal::user(format!("image {shown} could not be pulled"))
                .hint(format!("the reason is above; 'grus pull {shown}' tries again"))),
        }
    }
}
