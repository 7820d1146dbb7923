//! A set of symbol names with a compact text form that people can read and edit.
//!
//! MPI's names come in families: `MPI_Send` and `PMPI_Send`; `mpi_send`, `mpi_send_` and `mpi_send__`. The
//! text writes a family as one word with the optional letters in brackets: `[P]MPI_Send`,
//! `[p]mpi_send[_][_]`. Words are separated by white space.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Longest text taken, in bytes.
const MAX_TEXT: usize = 2 << 20;

/// Most names in a set.
pub(super) const MAX_NAMES: usize = 1 << 17;

/// Most optional groups in one word.
const MAX_GROUPS: usize = 3;

/// A sorted set of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Symbols(Vec<String>);

impl Symbols {
    /// From names in any order.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("the symbol list is longer than {MAX_TEXT} bytes"));
        }
        let mut names = vec![];
        for word in text.split_whitespace() {
            expand(word, &mut names)?;
            if names.len() > MAX_NAMES {
                return Err(format!("more than {MAX_NAMES} symbols"));
            }
        }
        Ok(Self::new(names))
    }

    /// Whether `name` is in it.
    pub fn contains(&self, name: &str) -> bool {
        self.0.binary_search_by(|n| n.as_str().cmp(name)).is_ok()
    }

    /// The names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The words of the text form, in order.
    pub fn words(&self) -> Vec<String> {
        // For each stem: which of {with, without P} x {0, 1, 2 underscores} are there.
        let mut stems: BTreeMap<&str, [[bool; 3]; 2]> = BTreeMap::new();
        let mut words = vec![];
        for name in &self.0 {
            match stem(name) {
                Some((stem, p, tail)) => stems.entry(stem).or_default()[p][tail] = true,
                None => words.push(name.clone()),
            }
        }
        for (stem, [plain, profiled]) in stems {
            let letter = if stem.starts_with('M') { "P" } else { "p" };
            if plain == profiled {
                tails(&format!("[{letter}]{stem}"), plain, &mut words);
            } else {
                tails(stem, plain, &mut words);
                tails(&format!("{letter}{stem}"), profiled, &mut words);
            }
        }
        words.sort_unstable_by(|a, b| a.trim_start_matches("[P]").cmp(b.trim_start_matches("[P]")));
        words
    }
}

/// Splits `PMPI_Send__` into (`MPI_Send`, 1, 2). Only MPI's own names have families.
fn stem(name: &str) -> Option<(&str, usize, usize)> {
    let bare = name.strip_prefix(['P', 'p']).filter(|n| n.starts_with("MPI") || n.starts_with("mpi"));
    let rest = bare.unwrap_or(name);
    if !(rest.starts_with("MPI") || rest.starts_with("mpi")) {
        return None;
    }
    // `Pmpi_x` would come back as `pmpi_x`.
    if bare.is_some() && name.starts_with('P') != rest.starts_with('M') {
        return None;
    }
    let stem = rest.trim_end_matches('_');
    let tail = rest.len() - stem.len();
    (tail <= 2 && !stem.is_empty()).then_some((stem, usize::from(bare.is_some()), tail))
}

fn tails(stem: &str, there: [bool; 3], words: &mut Vec<String>) {
    match there {
        [true, true, true] => words.push(format!("{stem}[_][_]")),
        [true, true, false] => words.push(format!("{stem}[_]")),
        [false, true, true] => words.push(format!("{stem}_[_]")),
        _ => {
            let one = |n: usize| there[n].then(|| format!("{stem}{}", "_".repeat(n)));
            words.extend((0..3).filter_map(one));
        }
    }
}

/// Adds every name that `word` stands for.
fn expand(word: &str, out: &mut Vec<String>) -> Result<(), String> {
    let wrong = || format!("'{}' is not a symbol", crate::refusal::printable(word));
    if word.len() > 1024 || !word.is_ascii() || word.matches('[').count() > MAX_GROUPS {
        return Err(wrong());
    }
    let mut names = vec![String::new()];
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('[') {
        let (optional, after) = after.split_once(']').ok_or_else(wrong)?;
        if before.contains(']') || optional.is_empty() || optional.contains('[') {
            return Err(wrong());
        }
        names.iter_mut().for_each(|n| n.push_str(before));
        let with: Vec<String> = names.iter().map(|n| format!("{n}{optional}")).collect();
        names.extend(with);
        rest = after;
    }
    if rest.contains(']') {
        return Err(wrong());
    }
    names.iter_mut().for_each(|n| n.push_str(rest));
    if names.iter().any(String::is_empty) {
        return Err(wrong());
    }
    out.append(&mut names);
    Ok(())
}

impl fmt::Display for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}

impl TryFrom<String> for Symbols {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Symbols> for String {
    fn from(s: Symbols) -> String {
        s.to_string()
    }
}

impl<'a> FromIterator<&'a str> for Symbols {
    fn from_iter<T: IntoIterator<Item = &'a str>>(names: T) -> Self {
        Self::new(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_one_word_and_come_back() {
        let set = Symbols::new([
            "MPI_Send",
            "PMPI_Send",
            "MPI_Only",
            "PMPI_Alone",
            "mpi_send",
            "mpi_send_",
            "mpi_send__",
            "pmpi_send",
            "pmpi_send_",
            "pmpi_send__",
            "mpi_x_",
            "pmpi_x_",
            "pmpi_x__",
            "MPI_SEND",
            "PMPI_SEND",
            "MPI_",
            "_ZN3MPI4CommE",
            "ompi_mpi_int",
            "mpi_strange___",
            "Pmpi_y",
        ]);
        let text = set.to_string();
        for word in
            ["[P]MPI_Send", "[p]mpi_send[_][_]", "mpi_x_", "pmpi_x_[_]", "[P]MPI_SEND", "ompi_mpi_int"]
        {
            assert!(text.split(' ').any(|w| w == word), "{word} in {text}");
        }
        assert_eq!(Symbols::parse(&text).expect("own text"), set);
        assert!(set.contains("pmpi_send_") && !set.contains("pmpi_send___"));
    }

    #[test]
    fn wrong_words_are_named() {
        for bad in ["[", "a[b", "a]b", "[]a", "[a]", "[a[b]]c", "[a][b][c][d]e", "ü"] {
            assert!(Symbols::parse(bad).is_err(), "{bad}");
        }
        assert!(Symbols::parse(&"a".repeat(MAX_TEXT + 1)).is_err());
        assert!(Symbols::parse(" \n").expect("nothing").is_empty());
    }
}
