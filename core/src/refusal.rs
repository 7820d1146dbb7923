//! Why Grus says no: one line of what failed and on what, one line with the way out.

use std::fmt;

/// Who can mend it. Fixes the exit code of `grus` (see `grus(1)`, EXIT STATUS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The request: an option, a reference, a path the user gave. Exit code 2.
    User,
    /// The site's set-up: grus.toml, the repository, a missing program. Exit code 78 (`EX_CONFIG`).
    Site,
    /// The image: not an image, another architecture, a hostile tree. Exit code 65 (`EX_DATAERR`).
    Image,
}

/// A refusal, ready to be shown. Display is the sentence; the way out is in [`Refusal::hint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who can mend it.
    pub cause: Cause,
    /// What failed, on what. No trailing full stop, no newline.
    pub what: String,
    /// The way out; what to type or whom to ask.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal of the user's request.
    pub fn user(what: impl Into<String>) -> Self {
        Self { cause: Cause::User, what: what.into(), hint: None }
    }

    /// A refusal because of the site's set-up.
    pub fn site(what: impl Into<String>) -> Self {
        Self { cause: Cause::Site, what: what.into(), hint: None }
    }

    /// A refusal because of the image.
    pub fn image(what: impl Into<String>) -> Self {
        Self { cause: Cause::Image, what: what.into(), hint: None }
    }

    /// Adds the way out.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Refusal {}

/// Text made safe to print in one line: control characters become `\xNN`, long text is cut.
///
/// Everything that a user, an image or a registry wrote passes through here before it reaches a terminal.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut out = String::with_capacity(text.len().min(LONGEST));
    for c in text.chars() {
        if out.len() >= LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.push_str(&format!("\\x{:02x}", c as u32));
        } else {
            out.push(c);
        }
    }
    out
}

/// Text made safe to print and left whole: control characters become `\xNN`.
pub fn controls_shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { format!("\\x{:02x}", c as u32) } else { c.to_string() })
        .collect()
}

/// The closest of `known` to `word`, if it is close enough to be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (distance(word, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Levenshtein distance in characters, bounded by the lengths of its two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\\x1b[31mb\\x0a");
        assert!(printable(&"x".repeat(5000)).len() < 410);
    }

    #[test]
    fn a_misspelt_word_finds_its_neighbour() {
        assert_eq!(nearest("destnation", ["source", "destination"]), Some("destination"));
        assert_eq!(nearest("zzz", ["source", "destination"]), None);
    }
}
