//! Owns the advisory lock that lets concurrent pulls of one image do the work once.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use grus_core::digest::Digest;
use rustix::fs::{flock, FlockOperation};

/// Held while an image is being made. Released when dropped, also by a killed process.
#[derive(Debug)]
pub struct Lock {
    // flock(2) belongs to the open file; closing it releases the lock.
    _file: Option<File>,
    waited: bool,
}

impl Lock {
    /// Takes the lock of `digest` in `tmp`, waiting for another holder while `wait` allows it: `wait` is asked
    /// a few times a second with the time waited so far. Where locks do not work (a file system without
    /// flock), or waiting ends, the work is simply done again: correctness never depends on the lock.
    pub fn take(tmp: &Path, digest: &Digest, mut wait: impl FnMut(Duration) -> bool) -> Self {
        let path = tmp.join(format!("{}.lock", digest.hex()));
        let none = |waited| Self { _file: None, waited };
        let Ok(file) = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
        else {
            return none(false);
        };
        let start = Instant::now();
        let mut waited = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self { _file: Some(file), waited },
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(_) => return none(waited),
            }
            waited = true;
            if !wait(start.elapsed()) {
                return none(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether someone else held it: the image may be there by now.
    pub fn waited(&self) -> bool {
        self.waited
    }
}
