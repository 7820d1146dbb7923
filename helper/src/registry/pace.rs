//! Owns how long a range is: long enough that the wait for its first byte is small beside it, short enough that a slow
//! network brings the bytes nearly in the order in which they are read. What is ahead of that order is lost when the
//! program is killed, and shows late in the image. Pure: times are told to it.

use std::time::Duration;

/// A range that arrives sooner than this may be longer,
const SHORT: Duration = Duration::from_secs(1);
/// and one that takes longer should be shorter.
const LONG: Duration = Duration::from_secs(4);

/// The shortest range is this part of the longest, and the first is between them.
const SHORTEST: u64 = 16;
const FIRST: u64 = 8;

/// The length of the next range.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    now: u64,
    longest: u64,
}

impl Pace {
    /// Ranges of at most `longest` bytes.
    pub fn new(longest: u64) -> Self {
        Self { now: (longest / FIRST).max(1), longest: longest.max(1) }
    }

    /// Bytes of the next range.
    pub fn segment(&self) -> u64 {
        self.now
    }

    /// A range of `bytes` took so long. The last one of a layer may be too short to say anything.
    pub fn took(&mut self, bytes: u64, time: Duration) {
        if time < SHORT && bytes >= self.now {
            self.now = (self.now * 2).min(self.longest);
        } else if time > LONG && bytes <= self.now {
            self.now = (self.now / 2).max(self.longest / SHORTEST).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_speed_within_bounds() {
        let mut pace = Pace::new(8 << 20);
        assert_eq!(pace.segment(), 1 << 20);
        for _ in 0..9 {
            pace.took(pace.segment(), Duration::from_millis(10));
        }
        assert_eq!(pace.segment(), 8 << 20, "fast");
        pace.took(8 << 20, Duration::from_secs(2));
        assert_eq!(pace.segment(), 8 << 20, "just right");
        for _ in 0..9 {
            pace.took(pace.segment(), Duration::from_secs(30));
        }
        assert_eq!(pace.segment(), 512 << 10, "slow");
        pace.took(100, Duration::from_millis(1));
        assert_eq!(pace.segment(), 512 << 10, "the end of a layer says nothing");
        assert_eq!(Pace::new(0).segment(), 1);
    }
}
