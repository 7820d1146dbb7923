//! The options of `grus run`, as Docker's users know them, turned into the one request that srun's options make too.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use grus_core::identity::User;
use grus_core::options::Opt;
use grus_core::path::AbsPath;
use grus_core::platform::Platform;
use grus_core::refusal::Refusal;
use grus_core::request::{Request, Unshare};
use grus_core::site::Site;
use grus_enter::cdi;
use grus_enter::rootless::Inside;

use super::gpus::{device, gpus, Wanted};
use super::values::{is_root, namespaces, short, variables};
use crate::failure::Failure;

/// As typed.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Set a variable, or keep the value that it has here; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file, NAME[=VALUE] a line; --env has precedence
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Bind a file or directory of the host; may be repeated
    #[arg(short, long, value_name = "SRC:DST[:ro]")]
    volume: Vec<String>,
    /// Mount something, as srun's --mount does: type=bind|tmpfs|squashfs,source=SRC,destination=DST[,readonly]
    #[arg(long, value_name = "SPEC")]
    mount: Vec<String>,
    /// Leave the home directory out
    #[arg(long)]
    no_home: bool,
    /// Start in this directory of the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run this instead of the image's ENTRYPOINT, and leave its CMD out; '' runs the command alone
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Make the whole container writable; changes vanish with the program
    #[arg(long, conflicts_with = "read_only")]
    writable: bool,
    /// Keep the container read-only, which is the default unless the site chose otherwise
    #[arg(long)]
    read_only: bool,
    /// Make directories of the image writable; changes vanish with the program
    #[arg(long, value_name = "DIR[,DIR...]")]
    writable_volatile: Vec<String>,
    /// Be shown as root (0, root), or as yourself
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Accepted: standard input is always the caller's
    #[arg(short, long)]
    interactive: bool,
    /// Insist on a terminal, which is the caller's
    #[arg(short, long)]
    tty: bool,
    /// Accepted: nothing is ever left of a container
    #[arg(long)]
    rm: bool,
    /// Pull the image if it is missing, always, or never (default: the site's choice, normally missing)
    #[arg(long, value_name = "missing|always|never")]
    pull: Option<String>,
    /// Take the image that was pulled, or is to be pulled, for this platform
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Whose MPI the program uses, as srun's --container-mpi
    #[arg(long, value_name = "auto|host|image|fabric|STACK")]
    mpi: Option<String>,
    /// GPUs with their driver, as the host's CDI files describe them; with none of these, those that Slurm gave
    #[arg(long, value_name = "all|none|device=N,...")]
    gpus: Option<String>,
    /// A device with its driver, as srun's --container-device, or a device node, which may get another path
    #[arg(long, value_name = "VENDOR/CLASS=NAME|/dev/NAME[:DST]")]
    device: Vec<String>,
    /// 'none': a network with nothing but loopback; 'host' is the default
    #[arg(long, visible_alias = "net", value_name = "host|none")]
    network: Option<String>,
    /// A host name of the container's own
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Print the plan of the container, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    refused: Refused,
}

/// Options of Docker that cannot be had, known so that it can be said why.
#[derive(Debug, clap::Args)]
struct Refused {
    #[arg(short, long, hide = true)]
    detach: bool,
    #[arg(short, long, hide = true)]
    publish: Vec<String>,
    #[arg(long, hide = true)]
    name: Option<String>,
    #[arg(long, hide = true)]
    privileged: bool,
}

/// What the options say.
pub struct Asked {
    /// What srun's options would make of it.
    pub request: Request,
    /// What replaces the ENTRYPOINT; nothing does where it is empty.
    pub entrypoint: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// The image's platform.
    pub platform: Platform,
}

impl Asked {
    /// Whether the ranks of a launch may have one container: not if it has namespaces of its own beside.
    pub fn alike(&self) -> bool {
        self.request.namespaces.unwrap_or_default() == Unshare::default()
    }
}

impl Refused {
    fn check(&self) -> Result<(), Refusal> {
        let all = [
            (
                self.detach,
                "--detach",
                "there is no daemon to keep a container",
                "end the command with '&', or submit it with sbatch",
            ),
            (
                !self.publish.is_empty(),
                "--publish",
                "the container has the host's network",
                "leave it out: ports are the host's own",
            ),
            (
                self.name.is_some(),
                "--name",
                "nothing is kept of a container that could have a name",
                "leave it out; in a job, srun --container-name keeps one",
            ),
            (
                self.privileged,
                "--privileged",
                "no right is gained in a container",
                "leave it out; --user=root shows you as root",
            ),
        ];
        let first = all.into_iter().find(|(given, ..)| *given);
        first.map_or(Ok(()), |(_, name, why, hint)| Err(Refusal::user(format!("{name}: {why}")).hint(hint)))
    }
}

impl Options {
    /// Turns the options into what they ask for.
    pub fn asked(self, image: &str, user: &User, cwd: &AbsPath, site: &Site) -> Result<Asked, Failure> {
        self.refused.check()?;
        if self.tty && !io::stdin().is_terminal() {
            return Err(Refusal::user("--tty: standard input is no terminal")
                .hint("leave -t out; for a terminal in a job: srun --pty grus run ...")
                .into());
        }
        let mut request = Request { entrypoint: Some(self.entrypoint.is_none()), ..Request::default() };
        request.set(Opt::Image, image, cwd)?;
        let flags = [
            (self.writable, Opt::Writable),
            (self.read_only, Opt::Readonly),
            (self.no_home, Opt::NoMountHome),
        ];
        flags.into_iter().filter(|(on, _)| *on).try_for_each(|(_, opt)| request.set(opt, "", cwd))?;
        let values = [(&self.workdir, Opt::Workdir), (&self.pull, Opt::Pull), (&self.mpi, Opt::Mpi)];
        for (value, opt) in values {
            value.iter().try_for_each(|value| request.set(opt, value, cwd))?;
        }
        self.mount.iter().try_for_each(|mount| request.set(Opt::Mount, mount, cwd))?;
        self.volume.iter().try_for_each(|volume| request.set(Opt::Mount, &short(volume)?, cwd))?;
        self.writable_volatile.iter().try_for_each(|dir| request.set(Opt::WritableVolatile, dir, cwd))?;
        let mut wanted = match &self.gpus {
            Some(asked) => gpus(asked, || cdi::load(&site.cdi.dirs()))?,
            None => vec![],
        };
        wanted.extend(self.device.iter().map(|asked| device(asked)).collect::<Result<Vec<_>, _>>()?);
        wanted.iter().try_for_each(|wanted| match wanted {
            Wanted::Gpus(word) => request.set(Opt::Gpu, word, cwd),
            Wanted::Device(name) => request.set(Opt::Device, name, cwd),
            Wanted::Bind(bind) => request.set(Opt::Mount, bind, cwd),
            Wanted::Nothing => Ok(()),
        })?;
        // Docker's names are more than those that srun's option takes.
        request.env = variables(&self.env_file, &self.env)?;
        request.remap_root = self.user.as_deref().map(|asked| is_root(asked, user)).transpose()?;
        request.namespaces = Some(namespaces(self.network.as_deref(), self.hostname.as_deref())?);
        let platform = self.platform.as_deref().map(Platform::parse).transpose()?;
        let platform = platform.unwrap_or_else(Platform::here);
        Ok(Asked { request, entrypoint: self.entrypoint, hostname: self.hostname, platform })
    }
}

/// What is run: ENTRYPOINT with the command, or with CMD where no command is given (image-spec, config.md).
pub fn words(
    entrypoint: Option<&str>,
    command: Vec<OsString>,
    inside: &Inside,
) -> Result<Vec<OsString>, Refusal> {
    let cmd: &[String] = inside.meta.as_ref().map_or(&[], |meta| meta.config.cmd.as_slice());
    joined(entrypoint, command, (&inside.plan.entrypoint, cmd))
}

/// The same, of the image's ENTRYPOINT and CMD. An entrypoint that is given replaces both, also by nothing, as with Docker.
fn joined(
    entrypoint: Option<&str>,
    command: Vec<OsString>,
    (own, cmd): (&[String], &[String]),
) -> Result<Vec<OsString>, Refusal> {
    let mut words: Vec<OsString> = match entrypoint {
        Some("") => vec![],
        Some(program) => vec![program.into()],
        None => own.iter().map(OsString::from).collect(),
    };
    match command.is_empty() && entrypoint.is_none() {
        true => words.extend(cmd.iter().map(OsString::from)),
        false => words.extend(command),
    }
    if !words.is_empty() {
        return Ok(words);
    }
    Err(match entrypoint {
        Some(_) => {
            Refusal::user("--entrypoint='' leaves no command to run, since the image's CMD is left out, too")
                .hint("add one: grus run --entrypoint='' IMAGE COMMAND")
        }
        None => Refusal::user("the image names no command to run").hint("add one: grus run IMAGE COMMAND"),
    })
}

/// srun's names of options, which refusals of the common rules bear, and their names here.
const NAMES: [(&str, &str); 7] = [
    ("leave --container-entrypoint out, or pass --no-container-entrypoint", "pass --entrypoint"),
    ("--container-remap-root", "--user=root"),
    ("--container-unshare=net", "--network=none"),
    ("--container-unshare", "--network"),
    ("--container-image", "IMAGE"),
    ("--container-gpu", "--gpus"),
    ("--container-", "--"),
];

/// A failure in the words of these options.
pub fn own_words(failure: Failure) -> Failure {
    let own = |text: String| NAMES.iter().fold(text, |text, (theirs, ours)| text.replace(theirs, ours));
    match failure {
        Failure::Refusal(refusal) => {
            Failure::Refusal(Refusal { what: own(refusal.what), hint: refusal.hint.map(own), ..refusal })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_options_of_this_command() {
        let text = |what: &str| own_words(Refusal::user(what).into()).to_string();
        assert_eq!(text("--container-workdir=/x: no"), "--workdir=/x: no");
        assert_eq!(text("with --container-unshare=net x"), "with --network=none x");
    }

    #[test]
    fn an_entrypoint_is_replaced_or_left_out_as_by_docker() {
        let (own, cmd) = (["entry".to_owned(), "--".to_owned()], ["cmd".to_owned()]);
        let run = |entrypoint: Option<&str>, command: &str| {
            let command = command.split_whitespace().map(OsString::from).collect();
            joined(entrypoint, command, (&own, &cmd))
        };
        for (entrypoint, command, expected) in [
            (None, "", "entry -- cmd"),
            (None, "python x.py", "entry -- python x.py"),
            (Some("echo"), "", "echo"),
            (Some("echo"), "x", "echo x"),
            (Some(""), "python x.py", "python x.py"),
        ] {
            let expected: Vec<OsString> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(run(entrypoint, command), Ok(expected), "{entrypoint:?} {command}");
        }
        let refusal = run(Some(""), "").expect_err("the CMD is left out, too");
        assert!(refusal.what.contains("no command to run"), "{refusal}");
        assert!(refusal.hint.is_some_and(|hint| hint.contains("--entrypoint='' IMAGE COMMAND")));
        assert!(joined(None, vec![], (&[], &[])).is_err());
    }
}
