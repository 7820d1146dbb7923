//! Ends waits that no signal ends.
//!
//! A task that waits for an answer which its image's server has begun to make waits in the kernel, where not even SIGKILL
//! reaches it. A server that its user has stopped or traces in that moment, or that is broken, would keep the task for
//! ever; and Slurm drains a node whose tasks it cannot kill. The kernel lets root give a FUSE connection up: every
//! wait for it then ends with an error (Documentation/filesystems/fuse/fuse.rst, "Aborting a filesystem connection").
//!
//! A thread looks every few seconds whether anybody waits at all, which is one read of a file in memory; only then, and
//! if it was so before, it looks at processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use grus_core::server::Server;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{getpid, Pid};

use crate::call::{new_mount, stat, Broken, Called};
use crate::server::{waits_in_kernel, Served};
use crate::sys::with_signals_blocked;

/// How often is looked. A connection is given up at the third look after a kill at most: well within Slurm's
/// `UnkillableStepTimeout` of 60 s.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many looks more a server that waits for its file system is given where another step has the container too. It is
/// given up 45 s after a kill at most: a node that is drained would serve that step no better.
const PATIENCE: u32 = 6;

/// SIGKILL in the masks of proc_pid_status(5).
const SIGKILL: u64 = 1 << 8;

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Guard {
    process: Pid,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Watches the processes of this mount namespace, and gives connections up that keep killed ones; `told` hears what
    /// such a connection served. All are `uid`'s, or there is no guard. Call it as root. None: nothing here is served.
    pub(crate) fn of(
        namespace: &OwnedFd,
        served: &[Served],
        uid: u32,
        told: impl Fn(&str) + Send + 'static,
    ) -> Called<Option<Self>> {
        if served.is_empty() {
            return Ok(None);
        }
        let connections: Vec<Connection> =
            served.iter().map(|served| Connection::of(served, uid)).collect::<Called<_>>()?;
        let inode = stat(namespace, "ns/mnt".as_ref())?.st_ino;
        let (end, ended) = channel();
        let thread = with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("grus-guard".into())
                .stack_size(512 << 10)
                .spawn(move || watch(&connections, inode, &ended, told))
        });
        let thread = thread.map_err(|e| Broken::io("clone(CLONE_THREAD)", &e))?;
        Ok(Some(Self { process: getpid(), end: Some(end), thread: Some(thread) }))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (end, thread) = (self.end.take(), self.thread.take());
        if getpid() != self.process {
            // A task, forked from who has the thread.
            std::mem::forget((end, thread));
            return;
        }
        drop(end);
        // It catches nothing, and its panic would be nobody's here.
        let _ = thread.map(JoinHandle::join);
    }
}

/// A FUSE connection, by its directory in the control file system: empty once the connection is gone, whoever has its
/// number later.
#[derive(Debug)]
pub(crate) struct Connection {
    of: String,
    /// The process that serves it.
    pub server: Server,
    directory: OwnedFd,
}

impl Connection {
    /// The one that is served. The user's own, whatever a note says: the kernel gives the directory to the user the file
    /// system was mounted for (the mount option `user_id`). Call it as root.
    pub fn of(served: &Served, uid: u32) -> Called<Self> {
        let control = new_mount("fusectl", &[], MountAttrFlags::empty())?;
        let number = served.server.connection;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(control, number.to_string(), flags, Mode::empty())
            .map_err(|e| Broken::new(format!("openat(fusectl, {number})"), e))?;
        if stat(&directory, "fusectl".as_ref())?.st_uid != uid {
            return Err(Broken::new(format!("fusectl: connection {number} is another user's"), Errno::PERM));
        }
        Ok(Self { of: served.of.clone(), server: served.server, directory })
    }

    /// Opened for each use: what `waiting` says is fixed by the first read of it.
    fn file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Whether a request waits for its answer.
    pub fn is_waited_for(&self) -> bool {
        let mut text = [0; 1];
        let read = self.file("waiting", OFlags::RDONLY).and_then(|file| rustix::io::read(file, &mut text));
        read.is_ok_and(|length| length == 1 && text[0] != b'0')
    }

    /// Ends every wait for it with an error, now and later.
    pub fn give_up(&self) -> Result<(), Errno> {
        rustix::io::write(self.file("abort", OFlags::WRONLY)?, b"1").map(drop)
    }
}

fn watch(connections: &[Connection], namespace: u64, ended: &Receiver<()>, told: impl Fn(&str)) {
    let mut before = false;
    let mut held = 0;
    let mut killed = BTreeSet::new();
    while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let waited_for: Vec<_> = connections.iter().filter(|connection| connection.is_waited_for()).collect();
        if waited_for.is_empty() || !before {
            before = !waited_for.is_empty();
            held = 0;
            killed.clear();
            continue;
        }
        let seen = Seen::of(|thread| is_inside(thread, namespace));
        let still = seen.killed.intersection(&killed).next().is_some();
        held = if still && seen.others.is_empty() { held + 1 } else { 0 };
        if still {
            // A server that waits for its file system will answer once that does; only where nobody else is in the
            // container can no harm come of not waiting.
            let hopeless = waited_for.iter().filter(|c| !waits_in_kernel(c.server) || seen.is_hopeless(held));
            for connection in hopeless {
                if connection.give_up().is_ok() {
                    told(&connection.of);
                }
            }
        }
        killed = seen.killed;
    }
}

/// Processes of which a thread is somewhere.
#[derive(Debug, Default)]
struct Seen {
    /// Those that have been killed and not gone yet.
    killed: BTreeSet<u32>,
    /// Others.
    others: BTreeSet<u32>,
}

impl Seen {
    fn of(mut is_there: impl FnMut(&Path) -> bool) -> Self {
        let mut seen = Self::default();
        for pid in numbers(Path::new("/proc")) {
            let threads = Path::new("/proc").join(pid.to_string()).join("task");
            // A first thread that has ended is in no namespace, its siblings are.
            let mut there = |thread: u32| is_there(&threads.join(thread.to_string()));
            if !there(pid) && (!has_ended(&threads.join(pid.to_string())) || !numbers(&threads).any(there)) {
                continue;
            }
            match numbers(&threads).any(|thread| is_killed(&threads.join(thread.to_string()))) {
                true => seen.killed.insert(pid),
                false => seen.others.insert(pid),
            };
        }
        seen
    }

    /// Whether it is not worth waiting for a server that waits for its file system, at the `held`th look that finds none
    /// but killed tasks of this step.
    fn is_hopeless(&self, held: u32) -> bool {
        self.others.is_empty() && (held > PATIENCE || self.are_all())
    }

    /// Whether these are all that have their container's root. Steps of one `--container-name` have it in a namespace
    /// each.
    fn are_all(&self) -> bool {
        let root = self.killed.iter().find_map(|pid| {
            let threads = Path::new("/proc").join(pid.to_string()).join("task");
            numbers(&threads).find_map(|thread| root_of(&mounts(&threads.join(thread.to_string()))))
        });
        // Else they have gone in the meantime.
        let Some(root) = root else { return false };
        let mut known = BTreeMap::new();
        let has_root = |thread: &Path| {
            let Ok(namespace) = fs::read_link(thread.join("ns/mnt")) else { return false };
            *known.entry(namespace).or_insert_with(|| has_device(&mounts(thread), &root))
        };
        Seen::of(has_root).others.is_subset(&self.killed)
    }
}

/// The mounts that a thread sees (proc_pid_mountinfo(5)); empty where it has ended.
fn mounts(thread: &Path) -> String {
    fs::read(thread.join("mountinfo"))
        .map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into())
}

/// The device of the root, which no other file system has.
fn root_of(mounts: &str) -> Option<String> {
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"))?;
    root.split(' ').nth(2).map(str::to_owned)
}

fn has_device(mounts: &str, device: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(2) == Some(device))
}

/// Entries that are numbers.
fn numbers(dir: &Path) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_inside(thread: &Path, namespace: u64) -> bool {
    let link = fs::read_link(thread.join("ns/mnt")).unwrap_or_default();
    link.as_os_str() == format!("mnt:[{namespace}]").as_str()
}

fn has_ended(thread: &Path) -> bool {
    field(thread, "State:").is_some_and(|state| state.starts_with('Z'))
}

fn is_killed(thread: &Path) -> bool {
    field(thread, "SigPnd:")
        .is_some_and(|mask| u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask & SIGKILL != 0))
}

fn field(thread: &Path, name: &str) -> Option<String> {
    let status = fs::read_to_string(thread.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use rustix::fs::{statx, AtFlags, StatxFlags};

    use super::*;
    use crate::call::open_own;

    #[test]
    fn who_has_the_root_in_another_namespace_is_seen() {
        let text = "7 1 0:9 / /proc rw - x x rw\n8 1 0:41 / / rw - overlay grus rw\n";
        assert_eq!(root_of(text).as_deref(), Some("0:41"));
        assert!(has_device(text, "0:9") && !has_device(text, "0:4") && root_of("").is_none());
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: not root");
        }
        let dir = tempfile::tempdir_in("/run").expect("a directory");
        // As two steps of one name: a root of their own, in a namespace each.
        let script = "mount -t tmpfs grus $0 && cd $0 && mkdir usr && mount --bind /usr usr && ln -s usr/* . || exit\n\
                      unshare -m chroot . /bin/sleep 60 & echo $!; exec chroot . /bin/sleep 60";
        let mut first = Command::new("unshare");
        first.args(["-m", "sh", "-c", script]).arg(dir.path()).stdout(Stdio::piped());
        let mut first = first.spawn().expect("unshare");
        let mut second = String::new();
        let said = first.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut second).expect("a line");
        let own = |pid: u32| root_of(&mounts(&Path::new("/proc").join(pid.to_string())));
        while own(first.id()) == own(std::process::id()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let seen = Seen { killed: [first.id()].into(), others: BTreeSet::new() };
        let waited = (seen.is_hopeless(1), seen.is_hopeless(PATIENCE), seen.is_hopeless(PATIENCE + 1));
        let ended = Command::new("kill").args(["-9", second.trim()]).status();
        let gone = || own(second.trim().parse().expect("a number")).is_none();
        while !gone() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let alone = seen.is_hopeless(1);
        let others = Seen { others: [1].into(), ..seen };
        first.kill().and_then(|()| first.wait()).expect("it is there");
        assert!(ended.expect("kill").success());
        assert_eq!((waited, alone), ((false, false, true), true));
        assert!(!others.is_hopeless(PATIENCE + 1), "some of the step's own");
    }

    #[test]
    fn a_connection_of_another_user_is_not_given_up() {
        let device = match open_own("/dev/fuse", OFlags::RDWR) {
            Ok(device) if rustix::process::geteuid().is_root() => device,
            _ => return println!("skipped: not root, or no FUSE"),
        };
        let fd = device.as_raw_fd().to_string();
        let options =
            [("source", "grus"), ("fd", &fd), ("rootmode", "40000"), ("user_id", "4711"), ("group_id", "0")];
        let mount = new_mount("fuse", &options, MountAttrFlags::empty()).expect("root may mount");
        // Nobody serves it, so nothing is asked of it.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = statx(&mount, c"", flags, StatxFlags::empty()).expect("the kernel knows it");
        let served = Served::started(getpid(), status.stx_dev_minor).expect("this process");
        assert!(Connection::of(&served, 4711).is_ok());
        let refused = Connection::of(&served, 4712).expect_err("another's");
        assert_eq!(refused.errno, Errno::PERM);
    }
}
