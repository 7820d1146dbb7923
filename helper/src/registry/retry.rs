//! Owns when to try again: exponential back-off with jitter, and what a server asks for by Retry-After
//! (RFC 9110, 10.2.3). It refuses to wait longer than [`LONGEST_WAIT`], whatever a server asks.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::RegistryError;

/// Longest pause between two attempts. A server that wants more is waited for this long.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Longest pause of our own back-off.
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);

/// A failed attempt.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What to say if this was the last attempt.
    pub error: RegistryError,
    /// Whether another attempt makes sense.
    pub again: Again,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The answer would be the same.
    Never,
    /// After a pause of our choice.
    Yes,
    /// No connection could be made: after a pause, but the name may be wrong.
    Unreached,
    /// After this pause, as the server asked.
    After(Duration),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, again: Again::Never }
    }
}

/// Counts failures in a row.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    most: u32,
    most_unreached: u32,
    patience: Duration,
    first: Duration,
}

/// Retries of a first contact that no connection came of: the name may be misspelt, and the user waits.
const FIRST_CONTACTS: u32 = 2;
/// Longest pause that a first contact waits for unseen; a longer one is for the user to decide on.
const FIRST_WAIT: Duration = Duration::from_secs(20);

impl Backoff {
    /// Gives up after `most` retries in a row; the first pause is about `first`.
    pub fn new(most: u32, first: Duration) -> Self {
        Self { failures: 0, most, most_unreached: most, patience: Duration::MAX, first }
    }

    /// For the first requests to a registry, which may not exist.
    #[must_use]
    pub fn first_contact(self) -> Self {
        Self { most_unreached: self.most.min(FIRST_CONTACTS), patience: FIRST_WAIT, ..self }
    }

    /// Something was gained since: counts from zero again.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt; the error where there should be none.
    pub fn pause(&mut self, failure: Failure) -> Result<Duration, RegistryError> {
        let again = failure.again;
        let most = if again == Again::Unreached { self.most_unreached } else { self.most };
        if again == Again::Never || self.failures >= most {
            return Err(failure.error);
        }
        if let Again::After(asked) = again {
            if asked > self.patience {
                return Err(failure.error.also(&format!("the registry asks to wait {}", shown(asked))));
            }
        }
        let backoff = self.first.saturating_mul(1 << self.failures.min(16)).min(LONGEST_BACKOFF);
        self.failures += 1;
        // Half fixed, half random: clients that failed together do not come back together.
        let jittered = backoff / 2 + backoff.mul_f64(random() / 2.0);
        Ok(match again {
            Again::After(asked) => asked.min(LONGEST_WAIT) + backoff.mul_f64(random() / 2.0),
            _ => jittered,
        })
    }
}

/// A time as people say it, rounded up.
fn shown(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s.div_ceil(60)),
        s => format!("{} h", s.div_ceil(3600)),
    }
}

/// A number in [0, 1), from the seed the standard library draws for each hash map.
fn random() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Reads a Retry-After header: seconds, or an HTTP date seen from `now`.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = http_date(value)?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(at.saturating_sub(now)))
}

/// Seconds since 1970 of an IMF-fixdate, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7). The two
/// obsolete forms are not read: no server sends them.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split(' ').collect();
    let [_weekday, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|m| m == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<u64> = time.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [h, m, s] = clock.as_slice() else { return None };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || *h > 23 || *m > 59 || *s > 60 {
        return None;
    }
    // Days from civil, H. Hinnant: the year begins in March, so that the leap day is its last.
    let (y, m0) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (y / 400, y % 400);
    let days =
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * m0 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + h * 3600 + m * 60 + s)
}

#[cfg(test)]
mod tests {
    use super::super::error::Kind;
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("999999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:40 GMT", Some(3)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("Sun, 06 Nov 2094 08:49:00 GMT", Some(3_155_759_963)),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("Sun, 99 Nov 1994 08:49:40 GMT", None),
            ("Sun, 06 Nov 0000 08:49:40 GMT", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn gives_up_after_so_many_failures_without_progress() {
        let failure = |again| Failure { error: RegistryError::new(Kind::Unavailable, "down"), again };
        let mut backoff = Backoff::new(2, Duration::from_millis(100));
        assert!(backoff.pause(failure(Again::Yes)).is_ok_and(|p| p <= Duration::from_millis(100)));
        assert!(backoff.pause(failure(Again::Yes)).is_ok());
        assert!(backoff.pause(failure(Again::Yes)).is_err());
        backoff.progressed();
        let asked = Duration::from_secs(9);
        assert!(backoff.pause(failure(Again::After(asked))).is_ok_and(|p| p >= asked));
        let longer = backoff.pause(failure(Again::After(Duration::MAX))).expect("no first contact");
        assert!((LONGEST_WAIT..2 * LONGEST_WAIT).contains(&longer), "{longer:?}");
        assert!(backoff.pause(failure(Again::Never)).is_err());
        let mut first = Backoff::new(9, Duration::ZERO).first_contact();
        let error =
            first.pause(failure(Again::After(Duration::from_secs(100)))).expect_err("too long unseen");
        assert_eq!(error.hint.as_deref(), Some("the registry asks to wait 100 s"));
        assert!(
            first.pause(failure(Again::Unreached)).is_ok() && first.pause(failure(Again::Unreached)).is_ok()
        );
        assert!(first.pause(failure(Again::Unreached)).is_err());
    }

    #[test]
    fn a_long_wait_is_told_as_it_is_and_beside_the_better_way_out() {
        let said = |asked: u64| {
            let error = RegistryError::new(Kind::Unavailable, "limited").hint("run 'grus login'");
            let failure = Failure { error, again: Again::After(Duration::from_secs(asked)) };
            let mut first = Backoff::new(9, Duration::ZERO).first_contact();
            first.pause(failure).expect_err("too long unseen").hint.unwrap_or_default()
        };
        assert_eq!(said(119), "run 'grus login'; the registry asks to wait 119 s");
        assert!(said(121).ends_with("asks to wait 3 min") && said(21_000).ends_with("asks to wait 6 h"));
        assert!(said(u64::MAX).contains("asks to wait"));
    }
}
