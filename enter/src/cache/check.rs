//! Whether a kernel parser may meet the bytes of a copy: hostile bytes are hostile under any name.
//!
//! `grus verify` reads them, in a process of its own that has no rights: a user id and group that nobody else has, no
//! environment, no descriptor but the copy's, a namespace of process ids of its own, limits of time and memory. The
//! user cannot reach it, and what it parses cannot reach slurmstepd.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use grus_core::site::Site;
use rustix::fs::OFlags;
use rustix::process::{kill_process, Resource, Signal};

use crate::call::{open_own, Called};
use crate::deadline::Deadline;
use crate::disk::ends;
use crate::failure::{reason, Phase};
use crate::program::{cstr, Named, Program};
use crate::sys::{spawn_confined, wait};

/// How long it may take.
const TIME: Duration = Duration::from_secs(20);

/// Processor seconds, address space, files it writes, no core file.
const LIMITS: &[(Resource, u64)] =
    &[(Resource::Cpu, 20), (Resource::As, 4 << 30), (Resource::Fsize, 0), (Resource::Core, 0)];

/// Whose it runs as: near the end of the numbers, where no name service has anybody, and not -1 or -2.
const NOBODY: u32 = 0xffff_fff0;

/// Status of `grus verify` for an image that is not to be trusted (grus(1), EXIT STATUS).
const REFUSED: i32 = 65;

/// Whether the copy passes; an error where that could not be told.
pub(super) fn passes(copy: &OwnedFd, site: &Site, deadline: &Deadline) -> Result<bool, String> {
    let (key, package) = ("pull.command", "grus");
    let program = Named { path: &site.pull.command, key, package, phase: Phase::Cache };
    let program = program.trusted().map_err(|failure| failure.what())?;
    let arguments = ["grus", "verify", "-"].map(cstr);
    let status = run(copy, &program, &arguments, deadline)
        .map_err(|broken| format!("grus verify: {}: {}", broken.call, reason(broken.errno)))?;
    // As of wait(2).
    match (status & 0x7f, status >> 8) {
        (0, 0) => Ok(true),
        (0, REFUSED) => Ok(false),
        (0, other) => Err(format!("grus verify ended with status {other}")),
        (signal, _) => Err(format!("grus verify had no time left, or broke off (signal {signal})")),
    }
}

/// Its wait status.
fn run(
    copy: &OwnedFd,
    path: &std::ffi::CStr,
    arguments: &[std::ffi::CString],
    deadline: &Deadline,
) -> Called<i32> {
    let null = open_own("/dev/null", OFlags::RDWR)?;
    let program = Program {
        path,
        arguments,
        environment: &[],
        descriptors: &[copy.as_fd(), null.as_fd(), null.as_fd()],
        limits: LIMITS,
        uid: NOBODY,
        gid: NOBODY,
        gids: &[],
    };
    let pid = spawn_confined(&program)?;
    let ended = ends(pid, Instant::now() + TIME, deadline);
    let _ = kill_process(pid, Signal::KILL);
    let status = wait(pid);
    ended.map(|_| status)
}
