//! Starting programs beside the tasks: raw system calls between clone(2) and execve(2).

use std::ffi::{c_char, CString};
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut};

use libc::{c_int, c_void};
use rustix::io::Errno;

use super::errno;
use crate::call::{Broken, Called};
use crate::program::{Identity, Program, MOST_DESCRIPTORS};

/// What the new processes read, and the last one writes, in memory shared with the caller.
struct Spawn<'a> {
    program: &'a Program<'a>,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    dies_with_parent: bool,
    untraceable: bool,
    stack: *mut c_void,
    pid: c_int,
    failed: Option<(&'static str, c_int)>,
}

/// Stack of each new process, in 16-byte units: 64 KiB.
pub(super) const STACK: usize = 4096;

/// Starts a server: own session, `/` as directory, default signals (but SIGPIPE ignored), no_new_privs, and not to be
/// traced by its own user (see [`keep_a_capability`]). It is init's child, so that neither Slurm's wait for tasks nor its tracking of children ever meets it. Returns its process id
/// once it runs the program.
///
/// As posix_spawn(3) does, both processes share the caller's memory until execve(2), and the caller's thread sleeps
/// meanwhile (CLONE_VM|CLONE_VFORK): nothing is copied of slurmstepd, and no lock of libc's can be met held.
pub(crate) fn spawn_server(server: &Program<'_>) -> Called<rustix::process::Pid> {
    started(server, |spawn, stack| {
        // SAFETY: `middle` runs on its own stack, which like `spawn` outlives it, since CLONE_VFORK holds this thread
        // until it has ended. No exit signal: slurmstepd hears nothing of it, and a plain wait(2) never finds it.
        let pid = unsafe {
            (*spawn).untraceable = true;
            libc::clone(middle, stack, libc::CLONE_VM | libc::CLONE_VFORK, spawn.cast())
        };
        if pid >= 0 {
            // SAFETY: a plain call; __WALL since the process has no exit signal.
            unsafe { libc::waitpid(pid, null_mut(), libc::__WALL) };
        }
        pid
    })
}

/// Starts a program like [`spawn_server`], but as a child, to be collected by [`wait`], and as the first process of a
/// PID namespace: what it starts ends with it (pid_namespaces(7)), and it with the calling thread. An ordinary wait(2)
/// finds it, since execve(2) gives it SIGCHLD back: for the time before slurmstepd waits for tasks.
pub(crate) fn spawn_confined(program: &Program<'_>) -> Called<rustix::process::Pid> {
    child(program, libc::CLONE_NEWPID)
}

/// Starts a program like [`spawn_confined`], but without a PID namespace: it hears what signals the step hears. To be
/// collected before slurmstepd waits again.
pub(crate) fn spawn_child(program: &Program<'_>) -> Called<rustix::process::Pid> {
    child(program, 0)
}

fn child(program: &Program<'_>, namespace: c_int) -> Called<rustix::process::Pid> {
    started(program, |spawn, stack| {
        // SAFETY: as in `spawn_server`, for the one process.
        unsafe {
            (*spawn).dies_with_parent = true;
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | namespace;
            let pid = libc::clone(become_program, stack, flags, spawn.cast());
            (*spawn).pid = pid;
            if (*spawn).failed.is_some() {
                libc::waitpid(pid, null_mut(), libc::__WALL);
            }
            pid
        }
    })
}

/// Waits for the end of what [`spawn_confined`] started; its status as of wait(2).
pub(crate) fn wait(pid: rustix::process::Pid) -> i32 {
    let mut status = 0;
    // SAFETY: a plain call into a local; __WALL since the process has no exit signal.
    while unsafe { libc::waitpid(pid.as_raw_pid(), &mut status, libc::__WALL) } < 0 && errno() == Errno::INTR
    {
    }
    status
}

/// Lays out what the new process needs, and hands it and the end of a stack to `clone`.
fn started(
    program: &Program<'_>,
    clone: impl FnOnce(*mut Spawn, *mut c_void) -> c_int,
) -> Called<rustix::process::Pid> {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([null()]).collect()
    };
    let (arguments, environment) = (pointers(program.arguments), pointers(program.environment));
    let mut stacks = vec![0u128; 2 * STACK];
    let first_top = stacks.as_mut_ptr_range().end;
    // SAFETY: one past the first half of `stacks` is within it.
    let second_top = unsafe { stacks.as_mut_ptr().add(STACK) };
    let mut spawn = Spawn {
        program,
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        dies_with_parent: false,
        untraceable: false,
        stack: second_top.cast(),
        pid: -1,
        failed: None,
    };
    let call = format!("clone({})", program.path.to_string_lossy());
    if clone(&mut spawn, first_top.cast()) < 0 {
        return Err(Broken::new(call, errno()));
    }
    if let Some((step, code)) = spawn.failed {
        let text = format!("{step} for {}", program.path.to_string_lossy());
        return Err(Broken::new(text, Errno::from_raw_os_error(code)));
    }
    rustix::process::Pid::from_raw(spawn.pid).ok_or_else(|| Broken::new(call, Errno::AGAIN))
}

/// The process between: starts the server and ends, so that init inherits it.
extern "C" fn middle(spawn: *mut c_void) -> c_int {
    // SAFETY: `spawn` is the caller's, who sleeps. Only raw calls are made here, nothing that locks or allocates.
    unsafe {
        let spawn: *mut Spawn = spawn.cast();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(become_program, (*spawn).stack, flags, spawn.cast());
        (*spawn).pid = pid;
        if pid < 0 {
            (*spawn).failed = Some(("clone", *libc::__errno_location()));
        }
        libc::_exit(0)
    }
}

/// The new process before it runs its program.
extern "C" fn become_program(spawn: *mut c_void) -> c_int {
    // SAFETY: `spawn` is the caller's, who sleeps until execve or _exit. Only async-signal-safe calls are made, and
    // identity is changed by raw calls, since libc's would signal the threads of the program it believes to be in.
    unsafe {
        let spawn: *mut Spawn = spawn.cast();
        let step = prepare(&*spawn);
        (*spawn).failed = Some((step, *libc::__errno_location()));
        libc::_exit(127)
    }
}

/// Gives these the numbers from 0 on and closes all others; the error is the call's name.
unsafe fn descriptors(these: &[BorrowedFd<'_>]) -> Result<(), &'static str> {
    let mut high = [0; MOST_DESCRIPTORS];
    // SAFETY: plain calls, in a process whose descriptor table is its own.
    unsafe {
        // First out of the way of the numbers they are to have.
        for (to, from) in high.iter_mut().zip(these) {
            *to = libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 16);
            if *to < 0 {
                return Err("fcntl(F_DUPFD_CLOEXEC)");
            }
        }
        for (to, from) in high.iter().enumerate().take(these.len()) {
            if libc::dup2(*from, to as c_int) < 0 {
                return Err("dup2");
            }
        }
        match libc::syscall(libc::SYS_close_range, these.len(), !0u32, 0) {
            0 => Ok(()),
            _ => Err("close_range"),
        }
    }
}

/// CAP_BLOCK_SUSPEND of linux/capability.h: to keep the machine from being suspended by epoll(7), EPOLLWAKEUP.
const HARMLESS: u32 = 36;

/// Gives up all of root's capabilities but one that is of no use to anybody, and keeps that one over execve(2). Who has
/// less than a process may not trace it (ptrace(2), "Ptrace access mode checking"; security/commoncap.c): neither change
/// its memory nor take its descriptors, although the user is the same. Whether it can be dumped would say the same, but
/// only of a program that its user cannot read, and execve(2) asks anew. For after the change of identity, with
/// PR_SET_KEEPCAPS (capabilities(7)). The error is the call's name.
unsafe fn keep_a_capability() -> Result<(), &'static str> {
    // `struct __user_cap_header_struct` with _LINUX_CAPABILITY_VERSION_3, and two of `__user_cap_data_struct`: effective,
    // permitted and inheritable, of the lower and of the upper 32.
    let header = [0x2008_0522u32, 0];
    let kept = 1 << (HARMLESS - 32);
    let sets = [0, 0, 0, 0, kept, kept];
    // SAFETY: plain calls; both arrays outlive the call that reads them.
    unsafe {
        if libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) < 0 {
            return Err("capset(CAP_BLOCK_SUSPEND)");
        }
        let (raise, none): (_, libc::c_ulong) = (libc::PR_CAP_AMBIENT_RAISE, 0);
        match libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(HARMLESS), none, none) {
            0 => Ok(()),
            _ => Err("prctl(PR_CAP_AMBIENT_RAISE, CAP_BLOCK_SUSPEND)"),
        }
    }
}

/// Returns only on failure, with the name of the call.
unsafe fn prepare(spawn: &Spawn) -> &'static str {
    // SAFETY: as in `become_program`, of which this is the body.
    unsafe {
        libc::setsid();
        for procs in spawn.program.cgroups {
            // It may have gone with its last task; the program is no less the user's for that. 0: who writes (cgroups(7)).
            libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1);
        }
        if let Err(step) = descriptors(spawn.program.descriptors) {
            return step;
        }
        for signal in 1..=64 {
            libc::signal(signal, if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        // slurmstepd may be exempt from the OOM killer (proc_pid_oom_score_adj(5)); a user's server is not.
        let oom = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if oom >= 0 {
            libc::write(oom, c"0".as_ptr().cast(), 1);
            libc::close(oom);
        }
        for (resource, most) in spawn.program.limits {
            if libc::setrlimit(*resource as _, &libc::rlimit { rlim_cur: *most, rlim_max: *most }) < 0 {
                return "setrlimit";
            }
        }
        if libc::chdir(c"/".as_ptr()) < 0 {
            return "chdir(/)";
        }
        if let Some(Identity { uid, gid, gids }) = spawn.program.identity {
            if libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) < 0 {
                return "setgroups";
            }
            if libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0 {
                return "setresgid";
            }
            let untraceable = spawn.untraceable && uid != 0;
            if untraceable && libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 {
                return "prctl(PR_SET_KEEPCAPS)";
            }
            if libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0 {
                return "setresuid";
            }
            if let Err(step) = if untraceable { keep_a_capability() } else { Ok(()) } {
                return step;
            }
        }
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            return "prctl(PR_SET_NO_NEW_PRIVS)";
        }
        // After the change of identity, which takes it back (prctl(2)).
        if spawn.dies_with_parent && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) < 0 {
            return "prctl(PR_SET_PDEATHSIG)";
        }
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, null_mut());
        libc::execve(spawn.program.path.as_ptr(), spawn.arguments, spawn.environment);
    }
    "execve"
}
