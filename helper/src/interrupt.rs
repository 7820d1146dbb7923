//! Owns Ctrl-C: whatever was being written is removed and the process ends, at any moment. Only what the next run can
//! take up stays: an unfinished image, the layers of a slow pull.
//!
//! A temporary file is known here from before it is made until it is published or removed. The list is locked
//! while a file is published, so a signal finds each file either still temporary or wholly in place.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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
    let ignored = ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(wanted)?;
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
        true => "nothing was changed",
        false => "the next run goes on with what is here",
    };
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "grus: interrupted; {end}");
    std::process::exit(128 + signal);
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
