//! Namespaces of a container beside the mount namespace: network, IPC and host name, made by the builder thread as
//! root, so that no task has rights over them; and the user namespace of a remapped root, made as the user.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use grus_core::plan::Opener;
use grus_core::request::Unshare;
use grus_core::Refusal;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::builder::Inputs;
use crate::call::{open_own, Broken, Called, During};
use crate::credentials::Credentials;
use crate::failure::{reason, Failure, Phase};
use crate::sys;

/// A namespace, and its kind for setns(2).
pub(crate) type Owned = (LinkNameSpaceType, OwnedFd);

/// What setns(2) calls the kinds that a container may have, and their names in /proc/PID/ns.
pub(crate) const KINDS: [(LinkNameSpaceType, &str); 3] = [
    (LinkNameSpaceType::Network, "net"),
    (LinkNameSpaceType::InterProcessCommunication, "ipc"),
    (LinkNameSpaceType::HostNameAndNISDomainName, "uts"),
];

/// Most lines of a map of ids (user_namespaces(7)).
const MOST_LINES: usize = 340;

/// Moves this thread to new namespaces and returns them. Before the pivot: their files are in the node's /proc.
pub(crate) fn own(wanted: Unshare) -> Result<Vec<Owned>, Failure> {
    let flags = [
        (wanted.net, UnshareFlags::NEWNET),
        (wanted.ipc, UnshareFlags::NEWIPC),
        (wanted.uts, UnshareFlags::NEWUTS),
    ];
    let mut owned = vec![];
    for ((kind, name), (_, flag)) in KINDS.into_iter().zip(flags).filter(|(_, (wanted, _))| *wanted) {
        sys::unshare_more(flag).during(Phase::Namespace)?;
        if kind == LinkNameSpaceType::Network {
            loopback().during(Phase::Namespace)?;
        }
        let path = format!("/proc/thread-self/ns/{name}");
        owned.push((kind, open_own(&path, OFlags::RDONLY).during(Phase::Namespace)?));
    }
    Ok(owned)
}

/// A new network has a loopback device that is down.
fn loopback() -> Called<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|e| Broken::io("bind(0.0.0.0)", &e))?;
    sys::loopback_up(socket.as_fd())
}

/// A user namespace in which the user is root, and nobody else there is but the user's groups.
///
/// Made with the user's identity and without root's rights, so that it is had only where the user could make one:
/// a site that forbids user namespaces is respected. The map is written as root, since a user may map one group only.
/// It maps nothing but what the user is, so no right comes of it; and setgroups(2) is denied for good, by which a
/// group could be dropped that a file's permissions shut out.
pub(crate) fn root_of_its_own(inputs: &Inputs, credentials: &Credentials) -> Result<OwnedFd, Failure> {
    credentials.switch(Opener::User).during(Phase::Credentials)?;
    let mut root = Ok(());
    let made = sys::in_user_namespace(|pid| {
        // From here on as root, also where the namespace could not be made.
        root = credentials.switch(Opener::Site);
        map(pid, inputs.uid, inputs.gid, &inputs.gids)
    });
    root.and_then(|()| credentials.switch(Opener::Site)).during(Phase::Credentials)?;
    made.map_err(|broken| refused(&broken, "--container-remap-root", "leave the option out"))
}

fn map(pid: Pid, uid: u32, gid: u32, gids: &[u32]) -> Called<OwnedFd> {
    let of = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    put(&of("setgroups"), "deny")?;
    put(&of("uid_map"), &format!("0 {uid} 1\n"))?;
    put(&of("gid_map"), &groups(gid, gids))?;
    open_own(&of("ns/user"), OFlags::RDONLY)
}

/// The primary group is root's; the others are themselves, so that their names are shown. Group 0 of the node cannot
/// be told from root's.
fn groups(gid: u32, gids: &[u32]) -> String {
    let others: BTreeSet<u32> = gids.iter().copied().filter(|other| *other != gid && *other != 0).collect();
    let lines = others.into_iter().take(MOST_LINES - 1).map(|other| format!("{other} {other} 1\n"));
    std::iter::once(format!("0 {gid} 1\n")).chain(lines).collect()
}

/// Writes to a file of /proc, at once as it has to be.
fn put(path: &str, text: &str) -> Called<()> {
    write(open_own(path, OFlags::WRONLY)?, path, text)
}

fn write(file: OwnedFd, name: &str, text: &str) -> Called<()> {
    let written = std::fs::File::from(file).write_all(text.as_bytes());
    written.map_err(|e| Broken::io(format!("write({name})"), &e))
}

/// Moves this process, which has one thread, to a user namespace in which `outside` is `inside`, ids of a user and a
/// group, and nobody else is there. `task` is the open `/proc/thread-self`, which by then may be out of sight.
pub(crate) fn move_to_own(
    task: &OwnedFd,
    inside: (u32, u32),
    outside: (u32, u32),
    with: UnshareFlags,
) -> Called<()> {
    let unshare = || sys::unshare_more(UnshareFlags::NEWUSER | with);
    alone(unshare).map_err(|broken| Broken::new("unshare(CLONE_NEWUSER)", broken.errno))?;
    let put = |name: &str, text: &str| {
        let file = rustix::fs::openat(task, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let shown = format!("/proc/thread-self/{name}");
        write(file.map_err(|e| Broken::new(format!("open({shown})"), e))?, &shown, text)
    };
    put("setgroups", "deny")?;
    put("uid_map", &format!("{} {} 1\n", inside.0, outside.0))?;
    put("gid_map", &format!("{} {} 1\n", inside.1, outside.1))
}

/// A thread that has been waited for may be on its last instructions, and unshare(2) refuses with EINVAL while there is
/// another one.
fn alone(unshare: impl Fn() -> Called<()>) -> Called<()> {
    for _ in 0..100 {
        match unshare() {
            Err(broken) if broken.errno == Errno::INVAL => std::thread::sleep(Duration::from_millis(1)),
            done => return done,
        }
    }
    unshare()
}

/// No user namespace for `what`; `without` is how to do without.
pub(crate) fn refused(broken: &Broken, what: &str, without: &str) -> Failure {
    let call = format!("{}: {}", broken.call, reason(broken.errno));
    let what = format!("{what}: this node gives users no user namespace: {call}");
    let allow = match broken.errno {
        Errno::NOSPC | Errno::USERS => "the administrator can allow more (sysctl user.max_user_namespaces)",
        _ => {
            "the administrator can allow them (sysctl user.max_user_namespaces, \
             kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        }
    };
    let hint = format!("{without}; {allow}");
    Failure::Refused(Refusal::site(what).hint(hint))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::deadline::Deadline;

    #[test]
    fn a_node_that_forbids_user_namespaces_is_respected() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let refused = std::thread::spawn(|| {
            // The kernel forbids them to whoever is in another root than its mount namespace's (clone(2), EPERM).
            sys::unshare(false).expect("a root of its own");
            rustix::process::chroot("/usr").expect("root may");
            let made = sys::in_user_namespace(|_| Ok(()));
            made.map_err(|broken| refused(&broken, "it", "do without"))
        });
        let failure = refused.join().expect("no panic").expect_err("forbidden");
        assert!(
            failure.what().contains("gives users no user namespace: clone(CLONE_NEWUSER): "),
            "{failure}"
        );
        assert!(failure.hint().expect("a way out").contains("user.max_user_namespaces"));
    }

    #[test]
    fn a_user_is_root_of_the_own_namespace_and_nobody_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let read = std::thread::spawn(|| {
            let deadline = Deadline::new(Instant::now(), Arc::default());
            let credentials = Credentials::of(4321, 4322, &[4322, 50], &deadline).expect("root may");
            credentials.switch(Opener::User).expect("root may");
            sys::in_user_namespace(|pid| {
                credentials.switch(Opener::Site)?;
                map(pid, 4321, 4322, &[4322, 50])?;
                Ok(["uid_map", "gid_map", "setgroups"].map(|name| {
                    let text = std::fs::read_to_string(format!("/proc/{}/{name}", pid.as_raw_nonzero()));
                    text.expect("there").split_whitespace().collect::<Vec<_>>().join(" ")
                }))
            })
        });
        let read = read.join().expect("no panic").expect("made");
        assert_eq!(read, ["0 4321 1", "0 4322 1 50 50 1", "deny"]);
    }

    #[test]
    fn groups_are_mapped_once_and_never_the_nodes_own() {
        assert_eq!(groups(1000, &[1000, 50, 0, 50, 7]), "0 1000 1\n7 7 1\n50 50 1\n");
        let many: Vec<u32> = (1..2000).collect();
        assert_eq!(groups(1, &many).lines().count(), MOST_LINES);
    }
}
