//! Owns Ctrl-C: whatever was being written is removed and the process ends, at any moment. Only what the next run can
//! take up stays: an unfinished image, the layers of a slow pull.
//!
//! A temporary file is known here from before it is made until it is published or removed. The list is locked
//! while a file is published, so a signal finds each file either still temporary or wholly in place.
//!
//! `grus run` can have no thread that waits for signals: there they are [`Noted`] by whoever has something to clean up.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level, SigId};

/// Whether the file at a path is to stay after all, for a later command.
pub type Stays = fn(&Path) -> bool;

/// Files to be removed when the process is interrupted.
pub struct Files(BTreeMap<PathBuf, Option<Stays>>);

impl Files {
    /// Adds a file that goes in any case.
    pub fn insert(&mut self, path: PathBuf) {
        self.0.insert(path, None);
    }

    /// Adds a file that goes unless `stays` says otherwise at that moment.
    pub fn insert_unless(&mut self, path: PathBuf, stays: Stays) {
        self.0.insert(path, Some(stays));
    }

    /// Forgets a file.
    pub fn remove(&mut self, path: &Path) {
        self.0.remove(path);
    }
}

static TEMPORARY: Mutex<Files> = Mutex::new(Files(BTreeMap::new()));

/// Takes moving lines off the terminal; told whether it was a key that ended them.
pub type Clear = Box<dyn Fn(bool) + Send>;

static SCREEN: Mutex<Option<Clear>> = Mutex::new(None);

/// Ends the process cleanly on SIGINT, SIGTERM and SIGHUP, unless they were ignored from the start (nohup,
/// background jobs of scripts).
pub fn install() -> io::Result<()> {
    let mut signals = Signals::new(not_ignored(&[SIGINT, SIGTERM, SIGHUP]))?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end(signal);
        }
    })?;
    Ok(())
}

/// Files to be removed when the process is interrupted.
pub fn temporary() -> MutexGuard<'static, Files> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What takes moving lines off the terminal before the last words.
pub fn set_screen(clear: Clear) {
    *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(clear);
}

/// Forgets and removes `path`.
pub fn remove(path: &Path) {
    let mut files = temporary();
    // Missing already is as good as removed; any other failure is met again by the next clean-up.
    let _ = fs::remove_file(path);
    files.remove(path);
}

#[allow(clippy::exit)] // the main thread may sit in a system call; there is no other way to end it
fn end(signal: i32) {
    let files = temporary();
    // Asked of all before any goes: an unfinished image and its index stay together.
    let (kept, doomed): (Vec<_>, Vec<_>) =
        files.0.iter().partition(|(path, stays)| stays.is_some_and(|stays| stays(path)));
    for (path, _) in doomed {
        let _ = fs::remove_file(path);
    }
    if let Some(clear) = SCREEN.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        clear(signal == SIGINT);
    }
    let end = match kept.is_empty() {
        true => "nothing unfinished is left",
        false => "the next run goes on with what is here",
    };
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "grus: interrupted; {end}");
    // By the signal itself: a shell ends its loop only if the command in it has ended by Ctrl-C.
    let _ = low_level::emulate_default_handler(signal);
    std::process::exit(128 + signal);
}

/// Signals that are noted for as long as this lives, by whoever cleans up and ends early. Afterwards they end the process
/// as before. Those that were ignored from the start stay so, also in the program that this process becomes.
pub struct Noted {
    came: Arc<AtomicBool>,
    noting: Vec<(i32, SigId)>,
}

/// What ends the process where signals were noted and are no more: the library that catches them gives none back to the
/// kernel, and would ignore them.
static NO_MORE: Mutex<Vec<SigId>> = Mutex::new(Vec::new());

impl Noted {
    /// Notes `signals` from now on. One that cannot be caught ends the process, as ever.
    pub fn from_now(signals: &[i32]) -> Self {
        let came = Arc::new(AtomicBool::new(false));
        let note = |signal: i32| Some((signal, flag::register(signal, Arc::clone(&came)).ok()?));
        let noting = not_ignored(signals).filter_map(note).collect();
        for id in NO_MORE.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            low_level::unregister(id);
        }
        Self { came, noting }
    }

    /// Whether one came.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Ends it; whether one came, up to the last moment.
    pub fn end(self) -> bool {
        let came = Arc::clone(&self.came);
        drop(self);
        came.load(Ordering::Relaxed)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut no_more = NO_MORE.lock().unwrap_or_else(PoisonError::into_inner);
        for (signal, id) in self.noting.drain(..) {
            // In this order, so that there is no moment at which a signal is lost.
            if let Ok(ends) = flag::register_conditional_default(signal, Arc::new(AtomicBool::new(true))) {
                no_more.push(ends);
            }
            low_level::unregister(id);
        }
    }
}

/// Those of `signals` that are not ignored.
fn not_ignored(signals: &[i32]) -> impl Iterator<Item = i32> + '_ {
    let ignored = ignored_signals();
    signals.iter().copied().filter(move |signal| ignored & (1 << (signal - 1)) == 0)
}

/// The mask of ignored signals, proc(5) SigIgn; 0 if unknown.
fn ignored_signals() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?.trim().to_owned();
            u64::from_str_radix(&line, 16).ok()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// Set in the process that the test is about, which a signal may end.
    const INSIDE: &str = "GRUS_TEST_NOTED";

    fn raise() {
        low_level::raise(SIGTERM).expect("raise(3)");
    }

    /// Notes a signal twice, and then no more.
    fn noted_twice() {
        let caught = not_ignored(&[SIGTERM]).next().is_some();
        for _ in 0..2 {
            let noted = Noted::from_now(&[SIGTERM]);
            assert!(!noted.came());
            raise();
            assert_eq!(noted.came(), caught);
            assert_eq!(noted.end(), caught);
        }
        eprintln!("noted twice");
        raise();
        assert!(!caught, "a signal that nobody notes is lost");
    }

    #[test]
    fn a_noted_signal_ends_the_process_afterwards_unless_it_was_ignored() {
        if std::env::var_os(INSIDE).is_some() {
            return noted_twice();
        }
        let this = std::env::current_exe().expect("this program");
        let name = "interrupt::tests::a_noted_signal_ends_the_process_afterwards_unless_it_was_ignored";
        for (script, signal) in [("exec \"$@\"", Some(SIGTERM)), ("trap '' TERM; exec \"$@\"", None)] {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", script, "sh"])
                .arg(&this)
                .args(["--exact", name, "--nocapture"])
                .env(INSIDE, "");
            let ended = shell.output().expect("a shell");
            assert!(String::from_utf8_lossy(&ended.stderr).contains("noted twice"), "{ended:?}");
            assert_eq!(ended.status.signal(), signal, "{ended:?}");
            assert_eq!(ended.status.success(), signal.is_none(), "{ended:?}");
        }
    }
}
