//! The site's `grus` program, run as the user on the submitting host: it pulls what is missing, and rules on
//! the MPI of an image where no ruling is kept yet (docs/adr/0009).

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use grus_core::path::AbsPath;
use grus_core::reference::Reference;
use grus_core::refusal::printable;
use grus_core::site::Site;
use grus_core::swap::{Answer, Wish};
use grus_core::Refusal;

use crate::abi;

/// The program.
#[derive(Debug)]
pub struct Program {
    command: PathBuf,
    config: Option<PathBuf>,
}

impl Program {
    /// The site's. `config` is the site file where it is not the default one.
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
        let mut command = self.command();
        command.args(["pull", &shown]).stdin(Stdio::null()).stdout(std::io::stderr());
        let status = abi::interruptible(|| command.status())
            .map_err(|error| self.cannot_run(&format!("to pull image {shown}"), &error))?;
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

    /// Rules on the MPI of an image file, and keeps the ruling in the user's repository; an error where it cannot be
    /// asked. `name` is for messages. What takes time (reading the libraries of a file that was not pulled) is told on
    /// standard error.
    pub fn rule(&self, image: &AbsPath, name: &str, wish: &Wish) -> Result<Answer, Refusal> {
        let mut command = self.command();
        command.args(["explain", image.as_str(), "--for-launch", &wish.mode.to_string(), "--name", name]);
        command.args(wish.first.as_ref().map(|first| format!("--first={first}")));
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        let what = format!("to look at the MPI of image {}", printable(name));
        let output =
            abi::interruptible(|| command.output()).map_err(|error| self.cannot_run(&what, &error))?;
        Answer::parse(&output.stdout).ok_or_else(|| {
            Refusal::site(format!("{} gave no answer {what}", self.command.display())).hint(
                "--container-mpi=image leaves it as it is; the program must be of this plugin's release",
            )
        })
    }

    /// The plugin's site file and its repository, also where the user's environment names others: both must look in
    /// the same place.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.command);
        match &self.config {
            Some(config) => command.env("GRUS_CONFIG", config),
            None => command.env_remove("GRUS_CONFIG"),
        };
        command.env_remove("GRUS_REPOSITORY");
        command
    }

    fn cannot_run(&self, what: &str, error: &std::io::Error) -> Refusal {
        Refusal::site(format!("cannot run {} {what}: {error}", self.command.display()))
            .hint("ask the administrator to check pull.command in grus.toml")
    }
}
