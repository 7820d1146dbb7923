//! Owns the reading of Content-Range (RFC 9110, 14.4): pure. It refuses every range that is not the one
//! asked for: bytes at the wrong place would only be found at the end of the layer.

use std::ops::Range;

/// Whether `header` says that the bytes begin exactly at `asked.start`, do not pass `asked.end`, and are of
/// `size` bytes in all (or of an unknown number). A shorter range than asked for is allowed.
pub fn fits(header: &str, asked: Range<u64>, size: u64) -> bool {
    let parsed = || -> Option<(u64, u64, Option<u64>)> {
        let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        Some((number(first)?, number(last)?, total))
    };
    parsed().is_some_and(|(first, last, total)| {
        first == asked.start && last >= first && last < asked.end && total.is_none_or(|t| t == size)
    })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_range_asked_for_fits() {
        for good in ["bytes 10-19/100", "bytes 10-19/*", "bytes 10-15/100"] {
            assert!(fits(good, 10..20, 100), "{good}");
        }
        for bad in [
            "",
            "bytes",
            "bytes 10-19",
            "bytes 9-19/100",
            "bytes 11-19/100",
            "bytes 10-20/100",
            "bytes 10-9/100",
            "bytes 10-19/101",
            "bytes */100",
            "bytes 10-19/x",
            "bytes +10-19/100",
            "bytes 10-99999999999999999999999/100",
            "items 10-19/100",
        ] {
            assert!(!fits(bad, 10..20, 100), "{bad}");
        }
    }
}
