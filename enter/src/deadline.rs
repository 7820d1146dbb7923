//! When a build is given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use crate::call::{Broken, Called};

/// A moment, or the caller's having gone before it.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    abandoned: Arc<AtomicBool>,
}

impl Deadline {
    /// At this moment, or once `abandoned` is set.
    pub fn new(at: Instant, abandoned: Arc<AtomicBool>) -> Self {
        Self { at, abandoned }
    }

    /// Whether whoever waited for the result has gone.
    pub fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Fails once whoever waited for the result has gone: what is done then nobody answers for.
    pub fn wanted(&self) -> Called<()> {
        match self.abandoned() {
            true => Err(Broken::new("the launch was given up", Errno::TIMEDOUT)),
            false => Ok(()),
        }
    }

    /// Whether nobody waits for the result any more.
    pub fn passed(&self) -> bool {
        self.abandoned() || Instant::now() >= self.at
    }
}
