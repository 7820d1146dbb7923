//! Every unsafe call of Grus outside the plugin's ABI: thin, safe wrappers. Each names call and arguments when it
//! fails. Nothing here decides anything.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use libc::{c_char, c_int, c_void};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::thread::UnshareFlags;

use crate::call::{Broken, Called};
use crate::loopdev::LoopConfig;

mod spawn;

use spawn::STACK;
pub(crate) use spawn::{spawn_child, spawn_confined, spawn_server, wait, KILLED};

/// The calling thread's error of the last libc call.
fn errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Runs `start` with every signal blocked, so that a thread it starts never runs a handler of the host program.
///
/// By libc's own call, not the kernel's: libc keeps the two signals to itself by which its setuid(2) reaches
/// every thread (nptl(7)); a thread that blocked those would hang slurmstepd.
pub(crate) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are initialised by the calls before they are read; the calls touch only this thread's mask.
    unsafe {
        let mut all: libc::sigset_t = zeroed();
        let mut before: libc::sigset_t = zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut());
        result
    }
}

/// Gives this thread its own root, working directory and umask, and with `mounts` its own mount namespace.
pub(crate) fn unshare(mounts: bool) -> Called<()> {
    let (flags, text) = match mounts {
        true => (UnshareFlags::FS | UnshareFlags::NEWNS, "unshare(CLONE_FS|CLONE_NEWNS)"),
        false => (UnshareFlags::FS, "unshare(CLONE_FS)"),
    };
    // SAFETY: the descriptor table stays shared (no CLONE_FILES), which is what the call is unsafe for.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|e| Broken::new(text, e))
}

/// Gives this thread other namespaces of its own.
pub(crate) fn unshare_more(flags: UnshareFlags) -> Called<()> {
    // SAFETY: as above.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|e| Broken::new(format!("unshare({flags:?})"), e))
}

/// Brings up the loopback device of this thread's network. `socket` is one of that network.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> Called<()> {
    // SAFETY: a struct of integers and a union with them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    (request.ifr_name[0], request.ifr_name[1]) = (b'l' as c_char, b'o' as c_char);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as _;
    // SAFETY: `request` is what this ioctl reads (netdevice(7)) and outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } {
        0 => Ok(()),
        _ => Err(Broken::new("ioctl(lo, SIOCSIFFLAGS, IFF_UP)", errno())),
    }
}

/// Connects to a stream socket of this name in the abstract namespace (unix(7)), without waiting; tells which process
/// listens there, and as which user.
pub(crate) fn connect_abstract(name: &str) -> Result<(c_int, u32), Errno> {
    // SAFETY: structs of integers, for which zero is a value.
    let (mut address, mut peer): (libc::sockaddr_un, libc::ucred) = unsafe { (zeroed(), zeroed()) };
    address.sun_family = libc::AF_UNIX as _;
    // The first byte stays 0, and the name ends with the address.
    let room = address.sun_path.get_mut(1..=name.len()).ok_or(Errno::NAMETOOLONG)?;
    room.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte as c_char);
    let length = size_of::<libc::sa_family_t>() + 1 + name.len();
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain call; what it returns is a new descriptor, of nobody else's.
    let socket = unsafe {
        match libc::socket(libc::AF_UNIX, flags, 0) {
            fd if fd >= 0 => OwnedFd::from_raw_fd(fd),
            _ => return Err(errno()),
        }
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: address and peer are whole structs of the sizes given, and outlive the calls.
    unsafe {
        let fd = socket.as_raw_fd();
        if libc::connect(fd, (&raw const address).cast(), length as _) < 0 {
            return Err(errno());
        }
        match libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut size) {
            0 => Ok((peer.pid, peer.uid)),
            _ => Err(errno()),
        }
    }
}

/// Lets this many connections wait at a socket.
pub(crate) fn listen(socket: BorrowedFd<'_>, most: c_int) -> Called<()> {
    // SAFETY: a plain call.
    match unsafe { libc::listen(socket.as_raw_fd(), most) } {
        0 => Ok(()),
        _ => Err(Broken::new("listen", errno())),
    }
}

/// Gives this thread's UTS namespace a host name.
pub(crate) fn set_host_name(name: &str) -> Called<()> {
    // SAFETY: the bytes are read during the call, and their length is true.
    match unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } {
        0 => Ok(()),
        _ => Err(Broken::new(format!("sethostname({name})"), errno())),
    }
}

/// Starts a process in a user namespace of the caller's effective user, shows it to `look`, and ends it.
///
/// By clone(2) and not by unshare(2), which refuses a user namespace to a process with threads. The process shares
/// the caller's memory, on a stack of its own, and does nothing but wait for the end of `look`, or of the caller.
pub(crate) fn in_user_namespace<T>(look: impl FnOnce(rustix::process::Pid) -> Called<T>) -> Called<T> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (read, write) = pipe.map_err(|e| Broken::new("pipe2", e))?;
    let ends = [read.as_raw_fd(), write.as_raw_fd()];
    let mut stack = vec![0u128; STACK];
    // SAFETY: stack and `ends` outlive the process, which is waited for here. No exit signal: slurmstepd hears
    // nothing of it, and a plain wait(2) never finds it.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast();
        libc::clone(wait_for_end, top, libc::CLONE_VM | libc::CLONE_NEWUSER, ends.as_ptr().cast_mut().cast())
    };
    let pid = rustix::process::Pid::from_raw(pid.max(0));
    let pid = pid.ok_or_else(|| Broken::new("clone(CLONE_NEWUSER)", errno()))?;
    let seen = look(pid);
    // Not by closing the pipe alone: a process forked meanwhile may hold it, too.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    // Without a limit, since it has this memory. Whoever stops it, it opens nothing, and SIGKILL ends a stopped one, too.
    // SAFETY: a plain call; __WALL since the process has no exit signal.
    while unsafe { libc::waitpid(pid.as_raw_pid(), null_mut(), libc::__WALL) } < 0 && errno() == Errno::INTR {
    }
    seen
}

/// Waits until nobody holds the pipe's other end. By raw calls: libc's would touch the caller's thread data.
extern "C" fn wait_for_end(ends: *mut c_void) -> c_int {
    // SAFETY: `ends` is the caller's, who waits for this process; the read is of one byte, into a local.
    unsafe {
        let [read, write] = *ends.cast::<[c_int; 2]>();
        let mut byte = 0u8;
        libc::syscall(libc::SYS_close, write);
        libc::syscall(libc::SYS_read, read, &raw mut byte, 1);
        libc::syscall(libc::SYS_exit, 0) as c_int
    }
}

/// Puts a filter on this process's system calls, for good (seccomp(2)); needs no_new_privs.
pub(crate) fn filter_calls(filter: &mut [libc::sock_filter]) -> Called<()> {
    let program = libc::sock_fprog { len: filter.len() as _, filter: filter.as_mut_ptr() };
    // The flag, lest the processor's speculation be switched off for the whole task.
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    // SAFETY: `program` and its filter are read during the call, and their length is true.
    match unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &program) } {
        0 => Ok(()),
        _ => Err(Broken::new("seccomp(SECCOMP_SET_MODE_FILTER)", errno())),
    }
}

/// Of asm-generic/fcntl.h; libc lacks it.
const F_SETOWN_EX: c_int = 15;

/// Whether anyone has this file, which is open read-only here, open for writing (fcntl(2), F_SETLEASE).
pub(crate) fn open_for_writing(file: BorrowedFd<'_>) -> bool {
    lease_is_refused(file, libc::F_RDLCK)
}

/// Whether anyone else has this file, which is open read-only here, open at all.
pub(crate) fn open_elsewhere(file: BorrowedFd<'_>) -> bool {
    lease_is_refused(file, libc::F_WRLCK)
}

/// A lease is refused while others have the file open in a way that it excludes; a file system without leases tells
/// nothing, and counts as no.
///
/// Who opens the file in the moment of the lease waits for its end, and SIGIO is sent for it, which would end
/// slurmstepd: it goes to this thread, which is to have all signals blocked.
fn lease_is_refused(file: BorrowedFd<'_>, lease: c_int) -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    // `struct f_owner_ex`: F_OWNER_TID, and the thread.
    let owner: [c_int; 2] = [0, thread];
    // SAFETY: `owner` outlives the call that reads it; else plain calls with integers. The lease is given back at once.
    unsafe {
        if libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, owner.as_ptr()) < 0 {
            return false;
        }
        let refused = libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, lease) < 0;
        let why = errno();
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
        refused && why == Errno::AGAIN
    }
}

/// `struct mount_attr` (mount_setattr(2)).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes on a mount and all below it, and makes them receive mounts but never pass any on (slave).
pub(crate) fn confine(tree: BorrowedFd<'_>, set: MountAttrFlags, name: &str) -> Called<()> {
    let attr =
        MountAttr { attr_set: u64::from(set.bits()), attr_clr: 0, propagation: libc::MS_SLAVE, userns_fd: 0 };
    set_attributes(tree, attr, libc::AT_RECURSIVE)
        .map_err(|e| Broken::new(format!("mount_setattr({name}, AT_RECURSIVE, {set:?}, MS_SLAVE)"), e))
}

/// Makes a mount read-only, but none below it.
pub(crate) fn make_read_only(mount: BorrowedFd<'_>, name: &str) -> Called<()> {
    let set = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    set_attributes(mount, MountAttr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 }, 0)
        .map_err(|e| Broken::new(format!("mount_setattr({name}, MOUNT_ATTR_RDONLY)"), e))
}

/// Changes nothing of the mount at `path`; the answer tells whether the kernel knows the call (mount_setattr(2)).
pub(crate) fn change_no_attribute(path: impl AsFd) -> Result<(), Errno> {
    set_attributes(path.as_fd(), MountAttr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 }, 0)
}

fn set_attributes(mount: BorrowedFd<'_>, attr: MountAttr, flags: c_int) -> Result<(), Errno> {
    // SAFETY: `attr` is a whole struct of the size given and outlives the call; the path is a NUL-terminated literal.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;

/// The number of a loop device that is free now; the kernel makes one if there is none.
pub(crate) fn loop_free(control: BorrowedFd<'_>) -> Called<u32> {
    // SAFETY: this ioctl takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| Broken::new("ioctl(/dev/loop-control, LOOP_CTL_GET_FREE)", errno()))
}

/// Makes a loop device as `config` says.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, config: &LoopConfig) -> Called<()> {
    // SAFETY: `config` has the layout the kernel reads (its size is asserted where it is defined) and outlives the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config as *const LoopConfig) } {
        0 => Ok(()),
        _ => Err(Broken::new("ioctl(/dev/loopN, LOOP_CONFIGURE)", errno())),
    }
}

/// A record of passwd(5): name, primary group, gecos, home, shell.
pub(crate) type Account = (String, u32, String, String, String);

/// The account of a user id; None if the name service knows none.
pub(crate) fn account(uid: u32) -> Called<Option<Account>> {
    let text = |p: *const c_char| match p.is_null() {
        true => String::new(),
        // SAFETY: libc filled the record; its strings end in NUL and live in the buffer of the call.
        false => unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned(),
    };
    grow(format!("getpwuid_r({uid})"), |buffer| {
        // SAFETY: a record of integers and pointers may start as zeros.
        let mut record: libc::passwd = unsafe { zeroed() };
        let mut found = null_mut();
        // SAFETY: record, buffer (with its true length) and result are writable and outlive the call.
        let code = unsafe {
            libc::getpwuid_r(uid, &mut record, buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        let account = (!found.is_null()).then(|| {
            let (name, gecos) = (text(record.pw_name), text(record.pw_gecos));
            (name, record.pw_gid, gecos, text(record.pw_dir), text(record.pw_shell))
        });
        (code, account)
    })
}

/// The name of a group id; None if the name service knows none.
pub(crate) fn group_name(gid: u32) -> Called<Option<String>> {
    grow(format!("getgrgid_r({gid})"), |buffer| {
        // SAFETY: a record of integers and pointers may start as zeros.
        let mut record: libc::group = unsafe { zeroed() };
        let mut found = null_mut();
        // SAFETY: record, buffer (with its true length) and result are writable and outlive the call.
        let code = unsafe {
            libc::getgrgid_r(gid, &mut record, buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        let name = (!found.is_null() && !record.gr_name.is_null()).then(|| {
            // SAFETY: libc filled the record; the name ends in NUL and lives in `buffer`.
            unsafe { CStr::from_ptr(record.gr_name) }.to_string_lossy().into_owned()
        });
        (code, name)
    })
}

/// Repeats a look-up with a larger buffer while it says ERANGE (getpwnam_r(3)); a large group needs megabytes.
fn grow<T>(call: String, mut ask: impl FnMut(&mut [u8]) -> (c_int, Option<T>)) -> Called<Option<T>> {
    let mut buffer = vec![0u8; 4 << 10];
    loop {
        match ask(&mut buffer) {
            (_, Some(found)) => return Ok(Some(found)),
            (libc::ERANGE, None) if buffer.len() < 64 << 20 => buffer = vec![0; buffer.len() * 4],
            // Services disagree on how they say 'not found' (getpwnam_r(3), ERRORS).
            (0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, None) => return Ok(None),
            (code, None) => return Err(Broken::new(call, Errno::from_raw_os_error(code))),
        }
    }
}

/// Runs `child` in a process that shares memory only with this one, as Slurm's contain_spank does, with `own_mounts`
/// in a mount namespace of its own; waits for it.
#[cfg(test)]
pub(crate) fn in_memory_sharing_child(own_mounts: bool, child: impl FnOnce()) {
    struct Child<F>(Option<F>, bool);
    extern "C" fn run<F: FnOnce()>(child: *mut c_void) -> c_int {
        // SAFETY: the caller waits, so its `Child` is alive and nobody else uses it.
        let child: &mut Child<F> = unsafe { &mut *child.cast() };
        if child.1 {
            // SAFETY: only root, directory and mounts become this process's own.
            let _ = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
        }
        if let Some(child) = child.0.take() {
            child();
        }
        0
    }
    fn start<F: FnOnce()>(child: &mut Child<F>) -> c_int {
        let mut stack = vec![0u128; 64 * STACK];
        // SAFETY: stack and closure outlive the process, which is waited for here.
        unsafe {
            let top = stack.as_mut_ptr_range().end;
            let flags = libc::CLONE_VM | libc::SIGCHLD;
            let pid = libc::clone(run::<F>, top.cast(), flags, (child as *mut Child<F>).cast());
            assert!(pid > 0, "clone(CLONE_VM): {}", errno());
            libc::waitpid(pid, null_mut(), 0)
        }
    }
    start(&mut Child(Some(child), own_mounts));
}
