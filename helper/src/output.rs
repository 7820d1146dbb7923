//! Owns standard output: everything a command says goes through here, so that a reader that goes away
//! (`grus images | head -1`) ends the command quietly, and a full disk behind `>` is an error.

use std::io::{self, IsTerminal, Write};

use crate::failure::{reason, Failure};

/// Prints lines of finished text. The caller has made foreign text printable.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::Pipe,
        _ => Failure::System { what: format!("cannot write to standard output: {}", reason(&e)), hint: None },
    })
}

/// Prints a value as one JSON document. Control characters are escapes in JSON, so nothing else is needed.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::System { what: format!("cannot write JSON: {e}"), hint: None })?;
    print(&(text + "\n"))
}

/// Says something on standard error that is no failure.
pub fn warn(text: &str) {
    // Nowhere is left to report a failure of stderr to.
    let _ = writeln!(io::stderr().lock(), "grus: warning: {text}");
}

/// Says how things go, on standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Columns of the terminal that standard output is; None where it is none, or too small for anything to fit.
pub fn width() -> Option<usize> {
    let out = io::stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok())??;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= 40)
}

/// Sentences for the terminal: lines that are too long for it go on below, this many columns in. As it is elsewhere.
pub fn folded(text: &str, indent: usize) -> String {
    match width() {
        None => text.to_owned(),
        Some(width) => text.split_inclusive('\n').map(|line| fold(line, indent, width)).collect(),
    }
}

fn fold(line: &str, indent: usize, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > indent && column + length > width {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        }
        out.push_str(word);
        column += word.chars().count();
    }
    out
}

/// Columns padded to their widest cell, two spaces between; no spaces at the end of a line.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Bytes for people: 3 significant digits, decimal units as Docker shows them.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{n} B"),
        (_, v) if v < 9.995 => format!("{v:.2} {}", UNITS[unit]),
        (_, v) if v < 99.95 => format!("{v:.1} {}", UNITS[unit]),
        (_, v) => format!("{v:.0} {}", UNITS[unit]),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long ago an RFC 3339 time was, as Docker shows it; the date alone if it cannot be read or is in the
/// future.
pub fn ago(created: &str, now: u64) -> Option<String> {
    let then = seconds(created)?;
    let age = now.checked_sub(then)?;
    const STEPS: [(u64, &str); 6] = [
        (365 * 86400, "year"),
        (30 * 86400, "month"),
        (7 * 86400, "week"),
        (86400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    // Two of the larger unit before it is used, so that '13 days' is not '1 week'.
    let (n, unit) = STEPS
        .iter()
        .find(|(length, _)| age >= 2 * length)
        .map_or((age, "second"), |(length, unit)| (age / length, unit));
    Some(format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" }))
}

/// Seconds since 1970 of an RFC 3339 time, time zone included; None if malformed.
pub fn seconds(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let time = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            minutes * if *sign == b'+' { 60 } else { -60 }
        }
        _ => return None,
    };
    // Days from the civil date, by the era of 400 years (Hinnant, "chrono-compatible low-level date algorithms").
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era_days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    let days = era_days + (153 * m + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86400 + time - offset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below() {
        assert_eq!(fold("one two three\n", 2, 13), "one two three\n");
        assert_eq!(fold("one two three\n", 2, 12), "one two\n  three\n");
        assert_eq!(fold("a  padded-and-long x\n", 3, 6), "a  padded-and-long\n   x\n");
        assert_eq!(fold("\n", 2, 12), "\n");
    }

    #[test]
    fn sizes_have_three_digits() {
        for (n, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (65_432_100, "65.4 MB"), (999_600_000, "1.00 GB")]
        {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn times_are_read_with_their_zones() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2023-11-14T22:13:20Z"), Some(1_700_000_000));
        assert_eq!(seconds("2023-11-15T00:13:20.123456789+02:00"), Some(1_700_000_000));
        assert_eq!(seconds("2024-02-29T00:00:00Z"), Some(1_709_164_800));
        for bad in
            ["", "yesterday", "2023-13-01T00:00:00Z", "2023-11-14T22:13:20", "\u{e9}023-11-14T22:13:20Z"]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn ages_are_words() {
        let now = 1_700_000_000;
        assert_eq!(ago("2023-11-14T22:13:19Z", now).as_deref(), Some("1 second ago"));
        assert_eq!(ago("2023-11-13T22:13:20Z", now).as_deref(), Some("24 hours ago"));
        assert_eq!(ago("2023-11-01T22:13:20Z", now).as_deref(), Some("13 days ago"));
        assert_eq!(ago("2023-10-30T22:13:20Z", now).as_deref(), Some("2 weeks ago"));
        assert_eq!(ago("2024-11-14T22:13:19Z", now), None, "the future");
    }

    #[test]
    fn tables_have_no_trailing_spaces() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("A", "B"), row("long", "")]), "A     B\nlong\n");
    }
}
