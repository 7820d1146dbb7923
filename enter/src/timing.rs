//! How long each phase takes.

use std::time::{Duration, Instant};

use crate::container::Timings;
use crate::failure::Phase;

/// Adds up the time spent in each phase.
#[derive(Debug)]
pub(crate) struct Clock {
    since: Instant,
    phase: Phase,
    spent: Vec<(Phase, Duration)>,
}

impl Clock {
    /// Begins in `phase`.
    pub fn start(phase: Phase) -> Self {
        Self { since: Instant::now(), phase, spent: Vec::with_capacity(16) }
    }

    /// Ends the running phase and begins another.
    pub fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        let took = now - self.since;
        match self.spent.iter_mut().find(|(p, _)| *p == self.phase) {
            Some((_, sum)) => *sum += took,
            None => self.spent.push((self.phase, took)),
        }
        (self.since, self.phase) = (now, phase);
    }

    /// Ends the running phase.
    pub fn stop(mut self) -> Timings {
        self.enter(Phase::Join);
        Timings(self.spent)
    }
}
