//! Asks whether a file that others than root can write is a sound SquashFS, before the kernel mounts it where the site
//! has that so (`security.user-images = "kernel"`).
//!
//! `grus verify` answers, as the user and without privilege, by the file's descriptor: its parser, its decompressors and
//! what they depend on stay out of slurmstepd. What it says is true of the bytes that it read. It finds what is broken by
//! a bad disk, a cut copy or a wrong tool; against a user who changes the file between this and the mount, or later, it
//! is no defence: there is none for a kernel that reads what users can write, but "fuse". Of a copy in the node's cache,
//! which no user can change, it is one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use grus_core::refusal::printable;
use grus_core::site::Site;
use grus_core::Refusal;
use rustix::fs::OFlags;
use rustix::process::{kill_process, Resource, Signal};

use crate::call::{open_own, During};
use crate::failure::{Failed, Failure, Phase};
use crate::program::{cstr, pipe, proc, said, Identity, Named, Program};
use crate::sys::{spawn_confined, wait, KILLED};

/// How long it may take. Some 2 million inodes take a second or two, from a disk that is not slow.
pub(crate) const TIME: Duration = Duration::from_secs(60);

/// Processor seconds, address space (its own ceilings are far below), no core file.
const LIMITS: &[(Resource, u64)] = &[(Resource::Cpu, 60), (Resource::As, 4 << 30), (Resource::Core, 0)];

/// The exit status for an image that is at fault (grus(1)).
const BROKEN: i32 = 65;

/// Refuses an image that is not sound; any other failure is of the look at it. The program runs as `identity`.
pub(crate) fn check(
    image: &OwnedFd,
    path: &Path,
    site: &Site,
    identity: Option<Identity<'_>>,
    time: Duration,
) -> Result<(), Failure> {
    let (key, package, phase) = ("pull.command", "grus", Phase::Image);
    let program = Named { path: &site.pull.command, key, package, phase }.trusted()?;
    let (messages, end) = pipe().during(phase)?;
    let null = open_own("/dev/null", OFlags::RDWR).during(phase)?;
    let proc = proc().during(phase)?;
    let arguments = ["grus", "verify", "-"].map(cstr);
    let pid = spawn_confined(&Program {
        path: &program,
        arguments: &arguments,
        environment: &[],
        descriptors: &[image.as_fd(), null.as_fd(), end.as_fd()],
        proc: proc.as_fd(),
        cgroups: &[],
        limits: LIMITS,
        identity,
    })
    .during(phase)?;
    drop(end);
    let words = said(messages, time);
    // It has said everything, or has had its time.
    if words.is_err() {
        let _ = kill_process(pid, Signal::KILL);
    }
    let status = wait(pid, KILLED);
    let name = printable(&path.to_string_lossy());
    match (words, status.filter(|status| libc::WIFEXITED(*status)).map(|status| libc::WEXITSTATUS(status))) {
        (Ok(_), Some(0)) => Ok(()),
        (Ok(words), Some(BROKEN)) => Err(told(&name, &String::from_utf8_lossy(&words)).into()),
        (words, _) => {
            let why = words.map(|words| String::from_utf8_lossy(&words).into_owned());
            let why = why.unwrap_or_else(|why| why);
            let last = why.lines().find(|line| !line.trim().is_empty()).unwrap_or("it ended without a word");
            Err(Failure::Failed(Failed {
                phase,
                call: format!("grus verify of {name}: {}", printable(last.trim_start_matches("grus: "))),
                errno: None,
                advice: Some("pull.command in grus.toml must be a grus of this version".into()),
            }))
        }
    }
}

/// The program's own two lines, with the file's name.
fn told(name: &str, words: &str) -> Refusal {
    let line = |begin: &str| words.lines().find_map(|line| line.strip_prefix(begin)).map(printable);
    let what = line("grus: standard input ").unwrap_or_else(|| "is no valid SquashFS image".into());
    let hint = line("hint: ").unwrap_or_else(|| format!("'grus verify {name}' says more"));
    Refusal::image(format!("image {name} {what}")).hint(hint)
}
