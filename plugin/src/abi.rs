//! The border to C: every symbol Slurm looks for, and the few calls that have no safe wrapper. The only file
//! of the plugin with `unsafe` in it. It decides nothing: hooks go to [`Grus::run`], options are only noted.
//!
//! Exactly these symbols are exported. The epilog costs a process per job and node (docs/adr/0010), so the prolog,
//! which would cost another, is left out. Nothing here is called `init` or `fini`: Slurm's loader calls those.
#![allow(unsafe_code)]

use std::error::Error;
use std::ffi::{c_char, c_int, c_long, c_void, CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::Mutex;

use grus_core::options::{Spec, TABLE};
use slurm_spank::{init_spank_handle, spank_callback_with_globals, spank_sys, Plugin, SpankHandle};

use crate::hooks::{Grus, Hook};
use crate::stamp;

/// The plugin's name, as Slurm shows it and puts it into the names of option variables.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static plugin_name: [u8; 5] = *b"grus\0";

/// The kind of plugin.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static plugin_type: [u8; 6] = *b"spank\0";

/// Slurm's own version, compared when the plugin is loaded. An atomic lies in writable memory and has the
/// representation of a `u32`; [`stamp_version`] fills it in before anyone reads it.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static plugin_version: AtomicU32 = AtomicU32::new(0);

/// Version of the SPANK interface; Slurm defines it and never reads it.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static spank_plugin_version: u32 = 1;

/// ESPANK_JOB_FAILURE: should `slurm_spank_init` ever fail in a required plugin, the job fails and the node is
/// not drained. Read by Slurm 25.05 and later.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static slurm_spank_init_failure_mode: c_int = 3012;

/// Runs when the plugin is loaded, before `plugin_version` is compared.
#[used]
#[link_section = ".init_array"]
static STAMP: extern "C" fn() = stamp_version;

extern "C" fn stamp_version() {
    type ApiVersion = unsafe extern "C" fn() -> c_long;
    let Some(function) = symbol(c"slurm_api_version") else { return };
    // SAFETY: slurm/slurm.h declares `extern long slurm_api_version(void)`, unchanged in 20.11 to 26.05.
    let version = unsafe { std::mem::transmute::<*mut c_void, ApiVersion>(function)() };
    plugin_version.store(stamp::plugin_version(version), Ordering::Relaxed);
}

/// A function of the process that loaded us, or None where this release of Slurm lacks it.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `name` ends with NUL; RTLD_DEFAULT searches what is loaded and touches nothing (dlsym(3)).
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

macro_rules! hook {
    ($symbol:ident, $method:ident $(, after $first:ident)?) => {
        /// Called by Slurm.
        ///
        /// # Safety
        /// `spank` is Slurm's handle, `argv` holds `argc` strings; both live for the call.
        #[no_mangle]
        pub unsafe extern "C" fn $symbol(
            spank: spank_sys::spank_t,
            argc: c_int,
            argv: *const *const c_char,
        ) -> c_int {
            $($first(spank);)?
            // slurm-spank's own `setup` and `report_error` are never called: they send every tracing event of
            // the process through slurm_info. A panic that gets here, past `guarded`, becomes -1.
            spank_callback_with_globals::<Grus, _>(|plugin, options, _first| {
                plugin.$method(&mut init_spank_handle(spank, argc, argv, options))
            })
        }
    };
}

hook!(slurm_spank_init, init, after register_options);
hook!(slurm_spank_init_post_opt, init_post_opt);
hook!(slurm_spank_user_init, user_init);
hook!(slurm_spank_task_init_privileged, task_init_privileged);
hook!(slurm_spank_task_init, task_init, after note_handle);
hook!(slurm_spank_task_post_fork, task_post_fork);
hook!(slurm_spank_task_exit, task_exit);
hook!(slurm_spank_job_epilog, job_epilog);
hook!(slurm_spank_exit, exit);

type Outcome = Result<(), Box<dyn Error>>;

// SAFETY: the trait asks for care in the task hooks, which run in a fork of a process with threads. They
// print, call setns(2) and chdir(2); they take no lock that another thread of slurmstepd could have held.
unsafe impl Plugin for Grus {
    fn init(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::Init, spank)
    }
    fn init_post_opt(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::InitPostOpt, spank)
    }
    fn user_init(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::UserInit, spank)
    }
    fn task_init_privileged(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::TaskInitPrivileged, spank)
    }
    fn task_init(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::TaskInit, spank)
    }
    fn task_post_fork(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::TaskPostFork, spank)
    }
    fn task_exit(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::TaskExit, spank)
    }
    fn job_epilog(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::JobEpilog, spank)
    }
    fn exit(&mut self, spank: &mut SpankHandle) -> Outcome {
        guarded(self, Hook::Exit, spank)
    }
}

/// Runs a hook. Always Ok, so that Slurm always sees 0: a failure is remembered and ends the tasks, or has
/// ended srun already. A panic is a failure like any other.
fn guarded(grus: &mut Grus, hook: Hook, spank: &mut SpankHandle) -> Outcome {
    if catch_unwind(AssertUnwindSafe(|| grus.run(hook, spank))).is_err() {
        grus.panicked(hook, spank);
    }
    Ok(())
}

/// Options as typed, in the order Slurm handed them over: row of the table and value.
static TYPED: Mutex<Vec<(&'static Spec, String)>> = Mutex::new(Vec::new());

/// Notes an option. Slurm calls it on the nodes too, where the one variable counts instead.
extern "C" fn option_typed(row: c_int, value: *const c_char, remote: c_int) -> c_int {
    let noted = catch_unwind(|| {
        let spec = usize::try_from(row).ok().and_then(|row| TABLE.get(row));
        let (Some(spec), 0) = (spec, remote) else { return };
        let value = match value.is_null() {
            true => String::new(),
            // SAFETY: Slurm hands over a string that lives for the call, or NULL for a flag (slurm/spank.h).
            false => unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned(),
        };
        TYPED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((spec, value));
    });
    noted.map_or(-1, |()| 0)
}

/// Takes the options noted so far.
pub fn typed() -> Vec<(&'static Spec, String)> {
    std::mem::take(&mut TYPED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Tells Slurm of our options: in every context that parses or receives them, which slurmd does not.
///
/// Not slurm-spank's `register_option`: it keeps but the last value of a repeated option.
fn register_options(spank: spank_sys::spank_t) {
    // SAFETY: asks Slurm for a number, no arguments.
    if unsafe { spank_sys::spank_context() } == spank_sys::spank_context_S_CTX_SLURMD {
        return;
    }
    for (row, spec) in (0..).zip(TABLE) {
        let texts = [spec.name, spec.value.unwrap_or(""), spec.usage].map(CString::new);
        let [Ok(name), Ok(value), Ok(usage)] = texts else { continue };
        let mut option = spank_sys::spank_option {
            name: name.as_ptr(),
            arginfo: if spec.value.is_some() { value.as_ptr() } else { std::ptr::null() },
            usage: usage.as_ptr(),
            has_arg: c_int::from(spec.value.is_some()),
            val: row,
            cb: Some(option_typed),
        };
        // SAFETY: the handle is the running hook's; Slurm copies the option with its strings. Where it
        // refuses one, it says so itself.
        unsafe { spank_sys::spank_option_register(spank, &mut option) };
    }
}

/// Slurm's handle in task_init, for the one call below.
static HANDLE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

fn note_handle(spank: spank_sys::spank_t) {
    HANDLE.store(spank.cast(), Ordering::Relaxed);
}

/// Puts words before the task's command, in task_init. None where this release of Slurm (before 23.11) cannot.
pub fn prepend(words: &[CString]) -> Option<Result<(), i32>> {
    type Prepend =
        unsafe extern "C" fn(spank_sys::spank_t, c_int, *mut *const c_char) -> spank_sys::spank_err_t;
    let function = symbol(c"spank_prepend_task_argv")?;
    let mut pointers = pointers(words);
    let spank = HANDLE.load(Ordering::Relaxed);
    // SAFETY: slurm/spank.h declares it so from 23.11 on; the handle is the running hook's, and Slurm copies the words.
    let code = unsafe {
        let function = std::mem::transmute::<*mut c_void, Prepend>(function);
        function(spank.cast(), words.len() as c_int, pointers.as_mut_ptr())
    };
    Some(if code == spank_sys::ESPANK_SUCCESS { Ok(()) } else { Err(code as i32) })
}

/// The strings, and NULL after them.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Becomes another program; returns only why not.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> std::io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: all strings end with NUL and both vectors with NULL (execve(2)).
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    std::io::Error::last_os_error()
}

/// The command of one task of a step with `--multi-prog`, by slurmstepd's own reading of the file. `command` is the
/// step's, its second word the file's text; `rank` is the task's in the step.
pub fn command_of(rank: u32, command: &[CString], environment: &[CString]) -> Option<Vec<CString>> {
    type GetArgv = unsafe extern "C" fn(
        *const c_char,
        *const *const c_char,
        u32,
        *mut u32,
        *mut *mut *mut c_char,
        c_int,
        *const *const c_char,
    ) -> c_int;
    let function = symbol(c"multi_prog_get_argv")?;
    let (words, variables) = (pointers(command), pointers(environment));
    let (mut count, mut found) = (0, std::ptr::null_mut());
    // SAFETY: slurmstepd's src/slurmd/slurmstepd/multi_prog.h declares it so; it reads what it is given, and what it
    // returns lives as long as this task.
    unsafe {
        let function = std::mem::transmute::<*mut c_void, GetArgv>(function);
        let text = command.get(1)?.as_ptr();
        let total = command.len() as c_int;
        function(text, variables.as_ptr(), rank, &mut count, &mut found, total, words.as_ptr());
        if found.is_null() || count == 0 {
            return None;
        }
        Some((0..count as usize).map(|at| CStr::from_ptr(*found.add(at)).to_owned()).collect())
    }
}

/// `struct slurm_rlimits_info` of Slurm's src/common/slurm_rlimits_info.h.
#[repr(C)]
struct Limit {
    resource: c_int,
    name: *const c_char,
    propagate: c_int,
}

/// Slurm's name of each limit, its number, and whether the site has the submitting shell's passed on.
pub fn limits() -> Vec<(String, i32, bool)> {
    type Info = unsafe extern "C" fn() -> *const Limit;
    const PASSED_ON: c_int = 1;
    let Some(function) = symbol(c"get_slurm_rlimits_info") else { return vec![] };
    let mut limits = vec![];
    // SAFETY: src/common/slurm_rlimits_info.h declares it so; the table is Slurm's own and ends with no name.
    unsafe {
        let mut next = std::mem::transmute::<*mut c_void, Info>(function)();
        while !next.is_null() && !(*next).name.is_null() {
            let name = CStr::from_ptr((*next).name).to_string_lossy().into_owned();
            limits.push((name, (*next).resource, (*next).propagate == PASSED_ON));
            next = next.add(1);
        }
    }
    limits
}

/// Sets a soft limit; what the hard one forbids is left as it is, as Slurm does.
pub fn set_limit(resource: i32, soft: u64) {
    // SAFETY: both calls read or write one struct (setrlimit(2)); an unknown resource is an error to them.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(resource as _, &mut limit) == 0 && limit.rlim_cur != soft {
            limit.rlim_cur = soft;
            libc::setrlimit(resource as _, &limit);
        }
    }
}

/// Ends this process at once: no destructors and no exit handlers, which belong to Slurm.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(status) }
}

/// A user, for a program that runs as this one.
#[derive(Clone, Debug)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub gids: Vec<u32>,
}

/// Runs `wait` with the terminal's signals unblocked. srun blocks them before it loads plugins, and a program
/// that is started inherits that: neither could be interrupted (sigprocmask(2), execve(2)).
pub fn interruptible<T>(wait: impl FnOnce() -> T) -> T {
    // SAFETY: sigset_t is a set of integers, for which zero is a value; sigemptyset and sigaddset write to the
    // set they are given, pthread_sigmask(3) reads one and writes the other, and all three know these signals.
    let before = unsafe {
        let (mut signals, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            libc::sigaddset(&mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &signals, &mut before);
        before
    };
    let result = wait();
    // SAFETY: puts back the mask that was read above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    result
}

/// The real user and group of this process.
pub fn ids() -> (u32, u32) {
    // SAFETY: both always succeed (getuid(2), getgid(2)).
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// Slurm's TmpFS on this node, with its `%n` and `%h` filled in. None where Slurm does not say.
pub fn tmp_fs(node: &str) -> Option<PathBuf> {
    type TmpFs = unsafe extern "C" fn(*mut c_char) -> *mut c_char;
    let function = symbol(c"slurm_get_tmp_fs")?;
    let node = CString::new(node).ok()?;
    // SAFETY: Slurm's src/common/read_config.h declares `char *slurm_get_tmp_fs(char *node_name)`, which reads
    // the name and returns a string of Slurm's allocator.
    owned_by_slurm(unsafe { std::mem::transmute::<*mut c_void, TmpFs>(function)(node.as_ptr().cast_mut()) })
}

/// Copies a string of Slurm's allocator and leaves the original to the end of the process.
fn owned_by_slurm(path: *mut c_char) -> Option<PathBuf> {
    if path.is_null() {
        return None;
    }
    // SAFETY: not NULL, and Slurm's strings end with NUL.
    Some(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()).into())
}

/// Paths of the Unix sockets this process has bound, among its first file descriptors.
pub fn bound_sockets() -> Vec<PathBuf> {
    /// slurmstepd opens its socket as one of its first files.
    const SEARCHED: c_int = 256;
    (0..SEARCHED).filter_map(bound_path).collect()
}

/// Where Slurm expects a configuration file of this name. None where this release does not say.
pub fn configuration(name: &str) -> Option<PathBuf> {
    type ExtraConf = unsafe extern "C" fn(*mut c_char) -> *mut c_char;
    let function = symbol(c"get_extra_conf_path")?;
    let name = CString::new(name).ok()?;
    // SAFETY: Slurm's src/common/read_config.h declares `char *get_extra_conf_path(char *conf_name)`, which
    // reads the name and returns a string of Slurm's allocator.
    owned_by_slurm(unsafe {
        std::mem::transmute::<*mut c_void, ExtraConf>(function)(name.as_ptr().cast_mut())
    })
}

fn bound_path(fd: c_int) -> Option<PathBuf> {
    // SAFETY: all fields of sockaddr_un are integers, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `address` and fails with EBADF or ENOTSOCK for what
    // is no socket (getsockname(2)).
    let rc = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &mut length) };
    if rc != 0 || i32::from(address.sun_family) != libc::AF_UNIX {
        return None;
    }
    let path: Vec<u8> = address.sun_path.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    (!path.is_empty()).then(|| OsStr::from_bytes(&path).into())
}
