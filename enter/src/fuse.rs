//! An image through squashfuse_ll, running as the user (ADR 4): the bytes are parsed with the user's rights only.
//!
//! Root opens /dev/fuse and mounts; the server gets that descriptor and the image's, nothing else, and runs outside
//! the container's mount namespace, so it pins nothing. When the mount goes, its read of /dev/fuse ends with ENODEV
//! and it exits; nobody has to look after it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use grus_core::path::AbsPath;
use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::pipe::{pipe_with, PipeFlags};

use crate::builder::Inputs;
use crate::call::{new_mount, open_own, Broken, Called, During};
use crate::failure::{Failed, Failure, Phase};
use crate::loopdev::IMAGE;
use crate::program::{cstr, last_words, proc, Identity, Named, Program};
use crate::server::Served;
use crate::sys::spawn_server;

/// Who the image is served for.
#[derive(Debug)]
pub(crate) struct Owner<'a> {
    /// User id, as this user namespace has it.
    pub uid: u32,
    /// Primary group, likewise.
    pub gid: u32,
    /// Whom the server becomes; None: it stays who we are, a user without root's rights.
    pub identity: Option<Identity<'a>>,
}

impl<'a> Owner<'a> {
    /// The job's user.
    pub fn of(inputs: &'a Inputs) -> Self {
        let Inputs { uid, gid, gids, .. } = inputs;
        Self { uid: *uid, gid: *gid, identity: Some(Identity { uid: *uid, gid: *gid, gids }) }
    }

    /// The user who is root of this user namespace (see [`crate::rootless`]).
    pub fn of_namespace() -> Self {
        Self { uid: 0, gid: 0, identity: None }
    }
}

/// Mounts an open image, attached nowhere, and waits for the first answer. Returns the mount and its server. `started`
/// hears of the server before that wait, so that one that never answers can be ended.
pub(crate) fn mount(
    image: &OwnedFd,
    program: &AbsPath,
    owner: &Owner<'_>,
    started: impl FnOnce(&Served),
) -> Result<(OwnedFd, Served), Failure> {
    let (key, package) = ("security.squashfuse", "squashfuse");
    let program = Named { path: program, key, package, phase: Phase::Mount };
    let program = if owner.identity.is_some() { program.trusted() } else { program.any() }?;
    let device = open_own("/dev/fuse", OFlags::RDWR).during(Phase::Mount)?;
    // allow_other, since root builds the overlay over it and the FUSE default lets only its owner look (fuse(8));
    // default_permissions, since squashfuse itself checks none.
    let (fd, uid, gid) = (device.as_raw_fd().to_string(), owner.uid.to_string(), owner.gid.to_string());
    let options = [
        ("source", "squashfuse"),
        ("subtype", "squashfuse"),
        ("fd", fd.as_str()),
        ("rootmode", "40000"),
        ("user_id", uid.as_str()),
        ("group_id", gid.as_str()),
        ("allow_other", ""),
        ("default_permissions", ""),
        ("ro", ""),
    ];
    let mount = new_mount("fuse", &options, IMAGE).during(Phase::Mount)?;
    let connection = connection_of(&mount).during(Phase::Mount)?;
    let (messages, stderr) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|e| Broken::new("pipe2", e).during(Phase::Mount))?;
    let null = open_own("/dev/null", OFlags::RDWR).during(Phase::Mount)?;
    let proc = proc().during(Phase::Mount)?;
    let arguments = ["squashfuse_ll", "-f", "/proc/self/fd/3", "/dev/fd/4"].map(cstr);
    let server = Program {
        path: &program,
        arguments: &arguments,
        environment: &[],
        descriptors: &[null.as_fd(), null.as_fd(), stderr.as_fd(), image.as_fd(), device.as_fd()],
        proc: proc.as_fd(),
        cgroups: &[],
        limits: &[],
        identity: owner.identity,
    };
    let pid = spawn_server(&server).during(Phase::Mount)?;
    // The process cannot have been forgotten yet: until the mount answers, nothing but its own end ends it, and
    // then the answer below is an error.
    let served = Served::started(pid, connection);
    if let Ok(served) = &served {
        started(served);
    }
    // Only the server's own descriptor may be left: then its end, however it comes, ends every wait for it.
    drop((device, stderr));
    match rustix::fs::fstat(&mount) {
        Ok(_) => Ok((mount, served.during(Phase::Mount)?)),
        Err(errno) => Err(no_answer(messages, errno)),
    }
}

/// The number of a mount's connection, without asking the server, which does not run yet (statx(2), AT_STATX_DONT_SYNC).
fn connection_of(mount: &OwnedFd) -> Called<u32> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = rustix::fs::statx(mount, c"", flags, StatxFlags::empty());
    status.map(|status| status.stx_dev_minor).map_err(|e| Broken::new("statx(AT_STATX_DONT_SYNC)", e))
}

/// Why there is no FUSE here, if that is what failed: no server, no device, or none for a user.
pub(crate) fn unavailable(failure: &Failure) -> Option<String> {
    let calls = ["open(/dev/fuse)", "fsopen(fuse)", "fsconfig(fuse", "fsmount(fuse)"];
    match failure {
        Failure::Refused(refusal) => Some(refusal.what.clone()),
        Failure::Failed(failed) if calls.iter().any(|call| failed.call.starts_with(call)) => {
            Some(failure.what())
        }
        Failure::Failed(_) => None,
    }
}

/// The server ended before its first answer; its own words say why.
fn no_answer(messages: OwnedFd, errno: Errno) -> Failure {
    let said = match last_words(messages) {
        None => "squashfuse_ll ended without a word".to_owned(),
        Some(words) => format!("squashfuse_ll said: {words}"),
    };
    Failure::Failed(Failed {
        phase: Phase::Mount,
        call: said,
        errno: Some(errno.raw_os_error()),
        advice: Some("the image may be damaged or compressed in a way squashfuse was built without; try 'grus pull' again".into()),
    })
}
