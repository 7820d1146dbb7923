//! The image of a run: found, or pulled first by a process of its own, since this one must not have threads.

use std::io;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use grus_core::image::ImageConfig;
use grus_core::path::AbsPath;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::Refusal;
use grus_core::request::{Image as Named, PullPolicy};
use grus_enter::repository::{find, note_use};
use rustix::process::{kill_process, Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::super::name::nearest_name;
use super::super::plan;
use super::options::Asked;
use crate::context::Context;
use crate::failure::{reason, Failure};
use crate::interrupt::Noted;

/// How often a pull is looked at: by polling, for want of a thread (see [`Noted`]).
const POLL: Duration = Duration::from_millis(20);

/// An image that is here.
pub struct Image {
    /// Its file.
    pub path: AbsPath,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its name, for messages.
    pub name: String,
}

/// Finds the image, or pulls it as the options say.
pub fn find_or_pull(context: &Context, asked: &Asked) -> Result<Image, Failure> {
    match &asked.request.image {
        Some(Named::Reference(reference)) => {
            let policy = asked.request.pull.unwrap_or(context.site.pull.policy);
            in_repository(context, reference, &asked.platform, policy)
        }
        Some(Named::File(path)) => {
            let found = plan::file(path)?;
            Ok(Image { path: found.path, config: found.config, name: path.to_string() })
        }
        Some(Named::None) | None => {
            Err(Refusal::user("'none' is no image, and on the host no container is needed")
                .hint("name an image; one that is called none is written docker.io/library/none")
                .into())
        }
    }
}

fn in_repository(
    context: &Context,
    reference: &Reference,
    platform: &Platform,
    policy: PullPolicy,
) -> Result<Image, Failure> {
    if policy != PullPolicy::Always {
        if let Some(image) = look(context, reference, platform)? {
            return Ok(image);
        }
    }
    let shown = reference.familiar();
    if policy == PullPolicy::Never {
        let near = nearest_name(context, &shown).map_or(String::new(), |near| format!(", or name {near}"));
        return Err(Refusal::user(format!("image {shown} is in no repository"))
            .hint(format!("run 'grus pull {shown}', leave --pull=never out{near}"))
            .into());
    }
    pull(context, &shown, platform)?;
    let gone = || Refusal::user(format!("image {shown} was removed by another command meanwhile"));
    look(context, reference, platform)?.ok_or_else(|| gone().hint("run the command again").into())
}

fn look(context: &Context, reference: &Reference, platform: &Platform) -> Result<Option<Image>, Failure> {
    for repository in context.lookup()? {
        let Some(found) = find(repository.layout(), reference, platform)? else { continue };
        let name = reference.familiar();
        found.meta.check_platform(&Platform::here(), &name)?;
        note_use(repository.layout(), reference, platform);
        return Ok(Some(Image { path: plan::absolute(&found.path)?, config: found.meta.config, name }));
    }
    Ok(None)
}

/// By `grus pull`, whose progress and errors go to our standard error: our standard output is the program's. A signal
/// that is meant to end us ends the pull, and we wait until it has cleaned up.
fn pull(context: &Context, shown: &str, platform: &Platform) -> Result<(), Failure> {
    let mut command = context.own_program().map_err(|e| cannot_run(shown, &e))?;
    command.args(["pull", "--platform", &platform.to_string(), shown]);
    let noted = Noted::from_now(&[SIGINT, SIGTERM, SIGHUP]);
    let spawned = command.stdin(Stdio::null()).stdout(io::stderr()).spawn();
    let status = spawned.and_then(|child| ended_with(child, &noted));
    if noted.end() {
        return Err(Failure::Cancelled);
    }
    let status = status.map_err(|e| cannot_run(shown, &e))?;
    super::ended(status, &format!("pulling {shown}"))
}

/// Waits for a child, which a signal of ours ends, too. One from a terminal has reached it already; a second is nothing
/// to it.
fn ended_with(mut child: Child, noted: &Noted) -> io::Result<ExitStatus> {
    while !noted.came() {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        sleep(POLL);
    }
    if let Some(pid) = Pid::from_raw(child.id() as i32) {
        // It has not been waited for, so the number is still its own.
        kill_process(pid, Signal::TERM)?;
    }
    child.wait()
}

fn cannot_run(shown: &str, error: &io::Error) -> Failure {
    Failure::System { what: format!("cannot start 'grus pull {shown}': {}", reason(error)), hint: None }
}
