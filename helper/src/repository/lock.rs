//! Owns the advisory lock that lets concurrent pulls of one image do the work once.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grus_core::digest::Digest;
use rustix::fs::{flock, FlockOperation};

use crate::interrupt;

/// Held while an image is being made. Released when dropped, also by a killed process.
#[derive(Debug)]
pub struct Lock {
    // flock(2) belongs to the open file; closing it releases the lock.
    held: Option<(File, PathBuf)>,
}

impl Lock {
    /// Takes the lock of `digest` in `tmp`, waiting for another holder while `wait` allows it: `wait` is asked
    /// a few times a second with the time waited so far. Where locks do not work (a file system without
    /// flock), or waiting ends, the work is simply done again: correctness never depends on the lock.
    pub fn take(tmp: &Path, digest: &Digest, mut wait: impl FnMut(Duration) -> bool) -> Self {
        let path = tmp.join(format!("{}.lock", digest.hex()));
        let none = Self { held: None };
        let Ok(file) = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
        else {
            return none;
        };
        let start = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    interrupt::temporary().insert(path.clone());
                    return Self { held: Some((file, path)) };
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(_) => return none,
            }
            if !wait(start.elapsed()) {
                return none;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((_file, path)) = &self.held {
            // Whoever waits has the file open, gets the lock of a nameless file, and finds the image made. One
            // that comes later makes a new file. Two holders at once would only mean double work.
            interrupt::remove(path);
        }
    }
}
