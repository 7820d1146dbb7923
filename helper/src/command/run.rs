//! `grus run`: a program in a container, without Slurm and without root. This process becomes the program: signals,
//! terminal and exit status are its own, and nobody has to clean up after it.

mod become_program;
mod gpus;
mod image;
mod launcher;
mod options;
mod values;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;

use grus_core::identity::User;
use grus_core::module::bring_libraries;
use grus_core::path::AbsPath;
use grus_core::plan::{wish, Host, Job, Rootfs};
use grus_core::platform::Platform;
use grus_core::refusal::Refusal;
use grus_core::request::IMAGE_VARIABLE;
use grus_enter::rootless::{enter, join, Inside, Own};
use grus_enter::{Inputs, StepId, TIME_LIMIT};

use self::options::{Asked, Options};
use super::libraries::{profiles, ruling};
use super::plan::{Found, OwnView};
use crate::context::{working_directory, Context};
use crate::facts::guarded;
use crate::failure::Failure;
use crate::output;
use crate::tree::Tree;
use crate::unpacked::Unpacked;

const EXAMPLES: &str = "\
Examples:
  grus run ubuntu:24.04 cat /etc/os-release
  grus run -it ubuntu:24.04                     the image's own command
  grus run -v /data:/input:ro -e DEBUG=1 -w /input ubuntu:24.04 ls
  grus run --user root --writable debian:12 apt-get update
  grus run --gpus all pytorch:25.09 nvidia-smi
  grus run --entrypoint /bin/sh ./app.squashfs -c 'echo $0'
  mpirun -n 4 grus run ./app.squashfs ./solver  in an allocation, or anywhere

Home, working directory and /tmp are there as in a job. The image is read-only
unless --writable is given. ENTRYPOINT and CMD run as Docker runs them; srun
leaves them out.

Exit status: that of the program; 125 if Grus failed, 126 if the program cannot
be run, 127 if there is no such program.";

/// Arguments of `grus run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "grus run [OPTIONS] IMAGE [COMMAND [ARG...]]")]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// The image, as for srun's --container-image, and what to run in it instead of the image's CMD
    // One list, so that every word after the image is the command's, as with Docker.
    #[arg(value_name = "IMAGE [COMMAND [ARG...]]", required = true, trailing_var_arg = true)]
    words: Vec<OsString>,
}

/// What `docker run` exits with where it failed itself.
const FAILED: u8 = 125;

impl Args {
    pub(super) fn run(self, context: impl FnOnce() -> Result<Context, Failure>) -> Result<(), Failure> {
        let failed = |failure| Failure::Run { code: FAILED, failure: Box::new(options::own_words(failure)) };
        let dry = self.options.dry_run;
        let started = context().and_then(|context| self.start(&context)).map_err(failed)?;
        match dry {
            true => output::print(&started.inside.plan.to_string()),
            false => Err(started.become_program()),
        }
    }

    /// Everything up to the program.
    fn start(self, context: &Context) -> Result<Started, Failure> {
        let cwd = working_directory()?;
        let Some((image, command)) = self.words.split_first() else {
            return Err(Refusal::user("no image is named").hint("write 'grus run IMAGE [COMMAND]'").into());
        };
        let image = image.to_str().ok_or_else(|| Refusal::user("the name of the image is not UTF-8 text"))?;
        let user = caller()?;
        let dry = self.options.dry_run;
        let mut asked = self.options.asked(image, &user, &cwd, &context.site)?;
        let found = image::find_or_pull(context, &asked)?;
        asked.request.ruling = rule(context, &found, &asked)?.map(Box::new);
        asked.request.env.entry(IMAGE_VARIABLE.into()).or_insert_with(|| Some(found.name.clone()));
        let launch = launcher::launch(&context.environment).filter(|_| asked.alike());
        let inputs = inputs(context, asked.request, &found, user, cwd.clone())?;
        let mut tree = None;
        // Found out before the caller is root of a namespace, and root's home the caller's.
        let own = context.repository()?;
        let own_options = Own { hostname: asked.hostname.as_deref(), launch: launch.as_deref() };
        let inside = enter(&inputs, own_options, |why| {
            let unpacked = Unpacked::of(&own, &found.path, &found.name, why)?;
            Ok::<_, Failure>(tree.insert(unpacked).shown())
        })?;
        tell(&inside, inputs.request.ruling.iter().flat_map(|ruling| &ruling.swap.warnings));
        // A plan can be shown of an image that names no command.
        let words = match dry {
            true => vec![],
            false => options::words(asked.entrypoint.as_deref(), command.to_vec(), &inside)?,
        };
        Ok(Started { words, inside, cwd, tree })
    }
}

/// One more program in the container of process `pid`; returns only why not.
pub(super) fn beside(
    pid: u32,
    words: Vec<OsString>,
    variables: Vec<(String, String)>,
    workdir: Option<&str>,
) -> Result<Failure, Failure> {
    let cwd = working_directory()?;
    let workdir = workdir.map(AbsPath::parse).transpose()?;
    let Some(mut inside) = join(pid)? else {
        let what = format!("no container run.{pid} of yours is on this host");
        return Err(Refusal::user(what).hint("'grus ps' lists yours").into());
    };
    inside.plan.environment.set.extend(variables);
    inside.plan.workdir = workdir.or(inside.plan.workdir);
    Ok(Started { words, inside, cwd, tree: None }.become_program())
}

/// The caller with the groups that are in force, which need not be those of the account (newgrp(1)).
fn caller() -> Result<User, Failure> {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let gids: Vec<u32> = groups.into_iter().map(rustix::process::Gid::as_raw).collect();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok(grus_enter::account::user(uid, gid, &gids)?)
}

/// In the container, about to become the program.
struct Started {
    words: Vec<OsString>,
    inside: Inside,
    cwd: AbsPath,
    tree: Option<Unpacked>,
}

fn tell<'a>(inside: &'a Inside, ruled: impl Iterator<Item = &'a String>) {
    ruled.chain(&inside.plan.warnings).for_each(|warning| output::warn(warning));
}

/// What of the host's MPI comes in. Nothing is looked at where the host has none and none is asked for.
fn rule(
    context: &Context,
    found: &image::Image,
    asked: &Asked,
) -> Result<Option<grus_core::swap::Ruling>, Failure> {
    let tree = match bring_libraries(&context.site.module) {
        true => seen(found.path.as_path(), &found.name)?,
        false => None,
    };
    let around = tree.as_ref().map(|tree| (tree as &dyn Rootfs, &OwnView as &dyn Host));
    let wish = wish(&asked.request, &context.site, around)?;
    if wish.is_image() || wish.is_auto() && profiles(&context.stacks_dir())?.is_empty() {
        return Ok(None);
    }
    let looked = Found::of_user(found.path.clone(), found.config.clone());
    ruling(context, &looked, &found.name, &wish)
}

/// The image's tree; none, and a warning, of an image that runs and cannot be looked into.
fn seen(image: &Path, name: &str) -> Result<Option<Tree>, Failure> {
    match guarded(name, || Tree::open(image, name)) {
        Ok(tree) => Ok(Some(tree)),
        Err(Failure::Refusal(why)) => {
            output::warn(&format!("libraries that the site's modules bring by themselves stay out: {why}"));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

fn inputs(
    context: &Context,
    request: grus_core::request::Request,
    found: &image::Image,
    user: User,
    workdir: AbsPath,
) -> Result<Inputs, Failure> {
    let (uid, gid) = (user.uid, user.gid);
    let gids = user.groups.iter().map(|group| group.gid).collect();
    let environment = context.environment.clone();
    let slurm_paths = launcher::launch_paths(&environment);
    Ok(Inputs {
        request,
        site: Arc::new(context.site.clone()),
        stacks: None,
        job: Job { user, workdir, environment, slurm_paths },
        image: found.path.clone(),
        step: StepId::default(),
        uid,
        gid,
        gids,
        platform: Platform::here(),
        node: None,
        limit: TIME_LIMIT,
    })
}

/// How a child ended that was to do our work: its failure has been told by itself.
fn ended(status: std::process::ExitStatus, what: &str) -> Result<(), Failure> {
    match (status.success(), status.signal()) {
        (true, _) => Ok(()),
        (false, Some(signal)) => {
            Err(Refusal::user(format!("{what} was stopped by signal {signal}")).hint("try again").into())
        }
        (false, None) => Err(Refusal::user(format!("{what} failed")).hint("the reason is above").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::facts::samples::image;

    #[test]
    fn an_image_that_cannot_be_looked_into_runs_all_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let good =
            image(dir.path(), "good", "zstd", |tree| symlink("target", tree.join("link")).expect("link"));
        assert!(seen(&good, "good").is_ok_and(|tree| tree.is_some()));
        let target = "x".repeat(300);
        let long =
            image(dir.path(), "long", "zstd", |tree| symlink(&target, tree.join("link")).expect("link"));
        assert!(seen(&long, "long").is_ok_and(|tree| tree.is_none()));
        let noise = dir.path().join("noise");
        fs::write(&noise, [0xa5u8; 9000]).expect("write");
        assert!(seen(&noise, "noise").is_ok_and(|tree| tree.is_none()));
        assert!(seen(&dir.path().join("missing"), "missing").is_err(), "what cannot be read does not run");
    }
}
