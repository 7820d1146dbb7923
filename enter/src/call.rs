//! System calls with their arguments in the error, as strace shows them. Safe calls are here, by rustix
//! (which calls the kernel directly, so that a thread's identity stays the thread's own); the others are in `sys`.

use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use grus_core::path::AbsPath;
use grus_core::plan::Make;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, CWD};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::failure::{advice, Failed, Failure, Phase};

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The call with its arguments.
    pub call: String,
    /// Its error.
    pub errno: Errno,
}

/// A call's outcome.
pub(crate) type Called<T> = Result<T, Broken>;

impl Broken {
    /// `call` failed with `errno`.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), errno }
    }

    /// `call` failed with `error`.
    pub fn io(call: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(call, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// As the failure of a phase.
    pub fn during(self, phase: Phase) -> Failure {
        let advice = advice(phase, self.errno);
        Failure::Failed(Failed { phase, call: self.call, errno: Some(self.errno.raw_os_error()), advice })
    }
}

/// Names the phase of a call that failed.
pub(crate) trait During<T> {
    /// As the failure of a phase.
    fn during(self, phase: Phase) -> Result<T, Failure>;
}

impl<T> During<T> for Called<T> {
    fn during(self, phase: Phase) -> Result<T, Failure> {
        self.map_err(|broken| broken.during(phase))
    }
}

/// Opens `path`, followed from the root, but through no magic link.
///
/// A magic link of /proc (`/proc/self/fd/5`) would hand out what slurmstepd has open or can see, whatever the
/// identity in force: threads of one process are allowed everything on each other (proc_pid_fd(5)).
pub(crate) fn open(path: &Path, flags: OFlags) -> Called<OwnedFd> {
    rustix::fs::openat2(CWD, path, polite(flags), Mode::empty(), ResolveFlags::NO_MAGICLINKS)
        .map_err(|e| Broken::new(format!("open({})", shown(path)), e))
}

/// Close-on-exec always; no terminal becomes the caller's own. openat2(2) refuses O_NOCTTY beside O_PATH.
fn polite(flags: OFlags) -> OFlags {
    match flags.contains(OFlags::PATH) {
        true => flags | OFlags::CLOEXEC,
        false => flags | OFlags::CLOEXEC | OFlags::NOCTTY,
    }
}

/// Opens a file that this program chose, such as a device or a file of /proc.
pub(crate) fn open_own(path: &str, flags: OFlags) -> Called<OwnedFd> {
    rustix::fs::open(path, polite(flags), Mode::empty()).map_err(|e| Broken::new(format!("open({path})"), e))
}

/// Opens `path` with `root` as the root of all its links (openat2(2), RESOLVE_IN_ROOT).
pub(crate) fn open_in(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    more: ResolveFlags,
) -> Called<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    let mut tries = TRIES;
    loop {
        match rustix::fs::openat2(root, path, polite(flags), Mode::empty(), resolve) {
            // A mount or rename anywhere on the machine while a `..` was followed (openat2(2), EAGAIN): only then can
            // the kernel not tell whether it left the root.
            Err(Errno::AGAIN) if tries > 0 => {
                tries -= 1;
                std::thread::yield_now();
            }
            opened => {
                return opened.map_err(|e| {
                    Broken::new(format!("openat2(rootfs, {}, RESOLVE_IN_ROOT)", shown(path)), e)
                })
            }
        }
    }
}

/// For [`open_in`] where root makes something, or opens it to a user: no link is followed and no mount is entered, so
/// that it is what was mounted for the container and nothing of the host's. A user has a say in where mounts land.
pub(crate) const OWN: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_XDEV);

/// Makes one name below `root`, in a directory of that very mount ([`OWN`]), and gives it to `owner`. `shown` is the path
/// for errors.
pub(crate) fn make_in(
    root: BorrowedFd<'_>,
    path: &AbsPath,
    make: &Make,
    (uid, gid): (u32, u32),
    shown: &AbsPath,
) -> Called<()> {
    let (Some(above), Some(name)) = (path.parent(), path.components().next_back()) else { return Ok(()) };
    let broken = |call: &str, e| Broken::new(format!("{call}({shown})"), e);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let dir = open_in(root, above.as_path(), flags, OWN).map_err(|b| broken("openat2", b.errno))?;
    match make {
        Make::Directory => {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)).map_err(|e| broken("mkdirat", e))?
        }
        Make::File => {
            rustix::fs::mknodat(&dir, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
                .map_err(|e| broken("mknodat", e))?;
        }
        Make::Link(target) => {
            rustix::fs::symlinkat(target.as_path(), &dir, name).map_err(|e| broken("symlinkat", e))?
        }
    }
    match (uid, gid) {
        // As it was made.
        (0, 0) => Ok(()),
        owner => give(&dir, name, owner).map_err(|b| broken(&b.call, b.errno)),
    }
}

/// Gives a name in a directory to `owner`, unless it is in another mount: whoever can rename in a root that others use can
/// move a mount onto the name meanwhile, and what is mounted there is not the container's.
fn give(dir: &OwnedFd, name: &str, (uid, gid): (u32, u32)) -> Called<()> {
    let made = open_in(dir.as_fd(), Path::new(name), OFlags::PATH | OFlags::NOFOLLOW, OWN)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .map_err(|e| Broken::new("fchownat", e))
}

/// How often a look-up is tried that mounts and renames elsewhere keep disturbing. A node may make thousands a second,
/// one look-up takes microseconds.
const TRIES: u32 = 10_000;

/// What an open file is. `name` is for the error.
pub(crate) fn stat(fd: impl AsFd, name: &Path) -> Called<Stat> {
    rustix::fs::fstat(fd).map_err(|e| Broken::new(format!("fstat({})", shown(name)), e))
}

/// What every mount that is made for a container is.
pub(crate) const PLAIN: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Makes a file system of `kind` with `options`, not attached anywhere. Options without a value are flags. The
/// kernel's own words, where it has some, are part of the error (fsopen(2), retrieving messages).
pub(crate) fn new_mount(
    kind: &'static str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Called<OwnedFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| Broken::new(format!("fsopen({kind})"), e))?;
    let fs = configure(fs, kind, options)?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|e| Broken::new(format!("fsmount({kind})"), e))
}

fn configure(fs: OwnedFd, kind: &str, options: &[(&str, &str)]) -> Called<OwnedFd> {
    for (key, value) in options {
        let set = match value.is_empty() {
            true => rustix::mount::fsconfig_set_flag(&fs, *key),
            false => rustix::mount::fsconfig_set_string(&fs, *key, *value),
        };
        if let Err(e) = set {
            return Err(said(fs, format!("fsconfig({kind}, {key}={value})"), e));
        }
    }
    match rustix::mount::fsconfig_create(&fs) {
        Ok(()) => Ok(fs),
        Err(e) => {
            let all: Vec<String> = options
                .iter()
                .map(|(k, v)| if v.is_empty() { (*k).to_owned() } else { format!("{k}={v}") })
                .collect();
            Err(said(fs, format!("fsconfig({kind}, {}, FSCONFIG_CMD_CREATE)", all.join(",")), e))
        }
    }
}

/// Adds the messages of a file system context to a call. Each read gives one message, `e` and a space before it.
fn said(fs: OwnedFd, call: String, errno: Errno) -> Broken {
    let mut log = std::fs::File::from(fs);
    let mut messages = vec![];
    let mut message = [0; 1024];
    while messages.len() < 8 {
        match log.read(&mut message) {
            Ok(length) if length > 0 => {
                let text = String::from_utf8_lossy(&message[..length]);
                let text = text.strip_prefix(['e', 'w', 'i']).unwrap_or(&text).trim();
                messages.push(grus_core::refusal::printable(text));
            }
            _ => break,
        }
    }
    match messages.is_empty() {
        true => Broken::new(call, errno),
        false => Broken::new(format!("{call} ({})", messages.join("; ")), errno),
    }
}

/// A copy of the mount at `fd`, with those below it if `recursive`, attached nowhere. `name` is for the error.
pub(crate) fn clone_tree(fd: BorrowedFd<'_>, recursive: bool, name: &Path) -> Called<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(fd, c"", flags)
        .map_err(|e| Broken::new(format!("open_tree({}, {flags:?})", shown(name)), e))
}

/// Attaches a mount on what is open at `on`. `name` is for the error.
pub(crate) fn attach(mount: BorrowedFd<'_>, on: BorrowedFd<'_>, name: &Path) -> Called<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", on, c"", flags)
        .map_err(|e| Broken::new(format!("move_mount({})", shown(name)), e))
}

/// A new directory `name` in `dir`, opened.
pub(crate) fn new_dir(dir: BorrowedFd<'_>, name: &CStr) -> Called<OwnedFd> {
    let broken = |call: &str, e| Broken::new(format!("{call}({})", name.to_string_lossy()), e);
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)).map_err(|e| broken("mkdirat", e))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| broken("openat", e))
}

/// The path in /proc of a descriptor of this thread, for calls that take no descriptor.
pub(crate) fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A path as it may be shown in one line.
pub(crate) fn shown(path: &Path) -> String {
    grus_core::refusal::printable(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{symlink, MetadataExt};

    use super::*;

    #[test]
    fn nothing_is_given_away_in_another_mount() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: not root");
        }
        let lab = tempfile::tempdir_in("/run").expect("a directory");
        for name in ["here", "mounted"] {
            std::fs::create_dir(lab.path().join(name)).expect("mkdir");
        }
        symlink("/etc/passwd", lab.path().join("link")).expect("symlink");
        let given = std::thread::scope(|scope| {
            let work = || {
                crate::sys::unshare(true).expect("root may");
                let dir = open_own(lab.path().to_str().expect("UTF-8"), OFlags::PATH).expect("there");
                let tmpfs = new_mount("tmpfs", &[], PLAIN).expect("root may");
                let on = open_in(dir.as_fd(), "mounted".as_ref(), OFlags::PATH, OWN).expect("there");
                attach(tmpfs.as_fd(), on.as_fd(), "mounted".as_ref()).expect("root may");
                ["here", "link", "mounted"].map(|name| give(&dir, name, (4321, 4322)).map_err(|b| b.errno))
            };
            scope.spawn(work).join().expect("no panic")
        });
        assert_eq!(given, [Ok(()), Ok(()), Err(Errno::XDEV)]);
        let owner = |path: &Path| path.symlink_metadata().map(|m| (m.uid(), m.gid())).expect("there");
        assert_eq!([owner(&lab.path().join("here")), owner(&lab.path().join("link"))], [(4321, 4322); 2]);
        assert_eq!(owner("/etc/passwd".as_ref()), (0, 0));
    }
}
