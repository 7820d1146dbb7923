//! Moving this thread between mount namespaces.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

use crate::call::{open_own, shown, stat, Broken, Called};
use crate::sys::{unshare, with_signals_blocked};

/// The one this thread is in. Once it has another root, that path leads through its /proc, if it has one.
pub(crate) fn here() -> Called<OwnedFd> {
    open_own("/proc/thread-self/ns/mnt", OFlags::RDONLY)
}

/// Moves the thread there. It must share neither root nor directory with others (setns(2)).
pub(crate) fn enter(namespace: &OwnedFd) -> Called<()> {
    let kind = Some(LinkNameSpaceType::Mount);
    move_into_link_name_space(namespace.as_fd(), kind).map_err(|e| Broken::new("setns(CLONE_NEWNS)", e))
}

/// Moves the thread to the one at `path`, with a root and directory of its own; false if it is there already.
pub(crate) fn join(path: &Path) -> Called<bool> {
    // Followed to its end: in /proc it is a magic link.
    let other = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Broken::new(format!("open({})", shown(path)), e))?;
    if same(&here()?, &other)? {
        return Ok(false);
    }
    unshare(false)?;
    enter(&other).map_err(|e| Broken::new(format!("setns({})", shown(path)), e.errno))?;
    Ok(true)
}

/// Does something in one of them, and comes back.
pub(crate) fn within<T>(namespace: &OwnedFd, back: &OwnedFd, act: impl FnOnce() -> Called<T>) -> Called<T> {
    if same(namespace, back)? {
        return act();
    }
    enter(namespace)?;
    let done = act();
    enter(back)?;
    done
}

/// Does something in one of them and waits for it: in a thread if the caller is in another, whose root and directory are
/// not ours to change. What ends with the thread that started it (prctl(2), PR_SET_PDEATHSIG) is to have ended by then.
pub(crate) fn elsewhere<T: Send>(namespace: &OwnedFd, act: impl FnOnce() -> T + Send) -> Called<T> {
    if same(namespace, &here()?)? {
        return Ok(act());
    }
    let there = || {
        unshare(false)?;
        enter(namespace)?;
        Ok(act())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grus-elsewhere".into()).stack_size(256 << 10);
        let thread = with_signals_blocked(|| thread.spawn_scoped(scope, there));
        let thread = thread.map_err(|e| Broken::io("clone(CLONE_THREAD)", &e))?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn same(a: &OwnedFd, b: &OwnedFd) -> Called<bool> {
    let (a, b) = (stat(a, "ns/mnt".as_ref())?, stat(b, "ns/mnt".as_ref())?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
