//! Starting programs beside the tasks: raw system calls between clone(2) and execve(2).
//!
//! The new process is the user's some calls before it runs the program, and finds the program where the user wants: it
//! can be stopped or killed, and execve(2) can wait for a file system of the user's own. So it has a copy of slurmstepd's memory, of
//! which it can leave no core, and is waited for with a limit: by a pipe that execve(2) closes, or on which it says
//! what failed. Not by CLONE_VFORK, as posix_spawn(3) has it, which no signal ends.

use std::ffi::{c_char, CString};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use libc::{c_int, c_void};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{kill_process, pidfd_open, Pid, PidfdFlags, Signal};

use super::errno;
use crate::call::{Broken, Called};
use crate::program::{pipe, said, Identity, Program, MOST_DESCRIPTORS};

/// What the new processes read.
struct Spawn<'a> {
    program: &'a Program<'a>,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    dies_with_parent: bool,
    untraceable: bool,
    /// The pipe on which it is told what failed.
    failures: BorrowedFd<'a>,
    stack: *mut c_void,
    /// The process that runs the program; by the process between, whose memory is the caller's.
    pid: c_int,
}

/// Stack of each new process, in 16-byte units: 64 KiB.
pub(super) const STACK: usize = 4096;

/// How long a program may take until it runs: a cold file system that it is on is the slow part.
const START: Duration = Duration::from_secs(20);

/// How long the end of a killed process is waited for: it may wait for a file system itself.
pub(crate) const KILLED: Duration = Duration::from_secs(2);

/// Starts a server: own session, `/` as directory, default signals (but SIGPIPE ignored), no_new_privs, and not to be
/// traced by its own user (see [`keep_a_capability`]). It is init's child, so that neither Slurm's wait for tasks nor its tracking of children ever meets it. Returns its process id
/// once it runs the program.
pub(crate) fn spawn_server(server: &Program<'_>) -> Called<Pid> {
    started(server, |spawn, stack| {
        // SAFETY: `middle` runs on its own stack, which like `spawn` outlives it, since CLONE_VFORK holds this thread
        // until it has ended; it is root, and opens nothing, so nobody keeps it from that. No exit signal: slurmstepd
        // hears nothing of it, and a plain wait(2) never finds it.
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
pub(crate) fn spawn_confined(program: &Program<'_>) -> Called<Pid> {
    child(program, libc::CLONE_NEWPID)
}

/// Starts a program like [`spawn_confined`], but without a PID namespace: it hears what signals the step hears. To be
/// collected before slurmstepd waits again.
pub(crate) fn spawn_child(program: &Program<'_>) -> Called<Pid> {
    child(program, 0)
}

fn child(program: &Program<'_>, namespace: c_int) -> Called<Pid> {
    started(program, |spawn, stack| {
        // SAFETY: the process has a copy of `spawn` and of its stack.
        unsafe {
            (*spawn).dies_with_parent = true;
            (*spawn).pid = libc::clone(become_program, stack, namespace, spawn.cast());
            (*spawn).pid
        }
    })
}

/// Waits for the end of what [`spawn_confined`] started, for at most `time`; its status as of wait(2). None: it does not
/// end, killed or not, as it waits for a file system. It is init's one day.
pub(crate) fn wait(pid: Pid, time: Duration) -> Option<i32> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) != Err(Errno::INTR) {
            break;
        }
    }
    let mut status = 0;
    // SAFETY: a plain call into a local; __WALL since a process that runs no program yet has no exit signal.
    let ended = unsafe { libc::waitpid(pid.as_raw_pid(), &mut status, libc::__WALL | libc::WNOHANG) };
    (ended == pid.as_raw_pid()).then_some(status)
}

/// Lays out what the new process needs, hands it and the end of a stack to `clone`, and waits until the program runs.
fn started(program: &Program<'_>, clone: impl FnOnce(*mut Spawn, *mut c_void) -> c_int) -> Called<Pid> {
    let name = program.path.to_string_lossy();
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([null()]).collect()
    };
    let (arguments, environment) = (pointers(program.arguments), pointers(program.environment));
    let (told, failures) = pipe()?;
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
        failures: failures.as_fd(),
        stack: second_top.cast(),
        pid: -1,
    };
    let call = format!("clone({name})");
    if clone(&mut spawn, first_top.cast()) < 0 {
        return Err(Broken::new(call, errno()));
    }
    let pid = Pid::from_raw(spawn.pid.max(0));
    drop(failures);
    let broken = match (said(told, START), pid) {
        (Ok(failure), Some(pid)) if failure.is_empty() => return Ok(pid),
        (Ok(failure), _) => broken(&failure, &name),
        (Err(_), _) => {
            // It has the pipe still, so the number is its own.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
            Broken::new(
                format!("execve({name}), which has not begun after {} s", START.as_secs()),
                Errno::TIMEDOUT,
            )
        }
    };
    let _ = pid.map(|pid| wait(pid, KILLED));
    Err(broken)
}

/// What a new process told of its failure: an error's number, and the call's name.
fn broken(failure: &[u8], name: &str) -> Broken {
    let (code, step) = failure.split_first_chunk().unwrap_or((&[0; size_of::<c_int>()], b"clone"));
    let code = Errno::from_raw_os_error(c_int::from_ne_bytes(*code));
    Broken::new(format!("{} for {name}", String::from_utf8_lossy(step)), code)
}

/// Tells the caller what failed, for [`broken`], and ends.
unsafe fn fail(failures: c_int, step: &str) -> ! {
    // SAFETY: plain calls, of what outlives them.
    unsafe {
        let code = *libc::__errno_location();
        libc::write(failures, (&raw const code).cast(), size_of::<c_int>());
        libc::write(failures, step.as_ptr().cast(), step.len());
        libc::_exit(127)
    }
}

/// The process between: starts the server and ends, so that init inherits it.
extern "C" fn middle(spawn: *mut c_void) -> c_int {
    // SAFETY: `spawn` is the caller's, who sleeps. Only raw calls are made here, nothing that locks or allocates.
    unsafe {
        let spawn: *mut Spawn = spawn.cast();
        (*spawn).pid = libc::clone(become_program, (*spawn).stack, libc::SIGCHLD, spawn.cast());
        if (*spawn).pid < 0 {
            fail((*spawn).failures.as_raw_fd(), "clone");
        }
        libc::_exit(0)
    }
}

/// The new process before it runs its program.
extern "C" fn become_program(spawn: *mut c_void) -> c_int {
    // SAFETY: `spawn` is in a copy of the caller's memory. Only async-signal-safe calls are made, and
    // identity is changed by raw calls, since libc's would signal the threads of the program it believes to be in.
    unsafe {
        let spawn: *const Spawn = spawn.cast();
        let mut failures = (*spawn).failures.as_raw_fd();
        let step = prepare(&*spawn, &mut failures);
        fail(failures, step)
    }
}

/// Gives these the numbers from 0 on, and `failures` the next one until execve(2), and closes all others; the error is the
/// call's name.
unsafe fn descriptors(these: &[BorrowedFd<'_>], failures: &mut c_int) -> Result<(), &'static str> {
    let mut high = [0; MOST_DESCRIPTORS + 1];
    let last = these.len();
    // SAFETY: plain calls, in a process whose descriptor table is its own.
    unsafe {
        // First out of the way of the numbers they are to have.
        let all = these.iter().map(AsRawFd::as_raw_fd).chain([*failures]);
        for (to, from) in high.iter_mut().zip(all) {
            *to = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 16);
            if *to < 0 {
                return Err("fcntl(F_DUPFD_CLOEXEC)");
            }
        }
        *failures = high[last];
        for (to, from) in high.iter().enumerate().take(last + 1) {
            let flags = if to == last { libc::O_CLOEXEC } else { 0 };
            if libc::dup3(*from, to as c_int, flags) < 0 {
                return Err("dup3");
            }
        }
        *failures = last as c_int;
        match libc::syscall(libc::SYS_close_range, last + 1, !0u32, 0) {
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

/// Takes on this user's identity; the error is the call's name.
unsafe fn become_user(who: Identity<'_>, untraceable: bool) -> Result<(), &'static str> {
    let Identity { uid, gid, gids } = who;
    // SAFETY: plain raw calls; libc's would reach for other threads.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) < 0 {
            return Err("setgroups");
        }
        if libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0 {
            return Err("setresgid");
        }
        let untraceable = untraceable && uid != 0;
        if untraceable && libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 {
            return Err("prctl(PR_SET_KEEPCAPS)");
        }
        if libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0 {
            return Err("setresuid");
        }
        // Until execve(2), which asks anew. The change of identity has left it to fs.suid_dumpable, and where that is 2,
        // the user's signal would leave a core of slurmstepd's memory.
        if libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 {
            return Err("prctl(PR_SET_DUMPABLE)");
        }
        if untraceable {
            keep_a_capability()
        } else {
            Ok(())
        }
    }
}

/// Returns only on failure, with the name of the call.
unsafe fn prepare(spawn: &Spawn, failures: &mut c_int) -> &'static str {
    // SAFETY: as in `become_program`, of which this is the body.
    unsafe {
        libc::setsid();
        for procs in spawn.program.cgroups {
            // It may have gone with its last task; the program is no less the user's for that. 0: who writes (cgroups(7)).
            libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1);
        }
        // slurmstepd may be exempt from the OOM killer (proc_pid_oom_score_adj(5)); a user's server is not.
        let (proc, flags) =
            (spawn.program.proc.as_raw_fd(), libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW);
        let oom = libc::openat(proc, c"self/oom_score_adj".as_ptr(), flags);
        if oom >= 0 {
            libc::write(oom, c"0".as_ptr().cast(), 1);
        }
        if let Err(step) = descriptors(spawn.program.descriptors, failures) {
            return step;
        }
        for signal in 1..=64 {
            libc::signal(signal, if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        for (resource, most) in spawn.program.limits {
            if libc::setrlimit(*resource as _, &libc::rlimit { rlim_cur: *most, rlim_max: *most }) < 0 {
                return "setrlimit";
            }
        }
        if libc::chdir(c"/".as_ptr()) < 0 {
            return "chdir(/)";
        }
        if let Some(Err(step)) = spawn.program.identity.map(|who| become_user(who, spawn.untraceable)) {
            return step;
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
