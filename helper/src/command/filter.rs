//! `--filter` of `grus images`: the keys of Docker's that mean something here.

use grus_core::reference::Reference;
use grus_core::refusal::{nearest, printable, Refusal};

use super::name::{meant, Meant};
use crate::failure::Failure;
use crate::output;
use crate::repository::{Listing, Row};

const KEYS: [&str; 7] = ["reference", "server", "dangling", "label", "platform", "before", "since"];

/// What an image must be; all of it.
#[derive(Debug)]
pub struct Filter(Vec<(&'static str, String)>);

impl Filter {
    /// Reads `KEY=VALUE`s.
    pub fn parse(texts: &[String]) -> Result<Self, Refusal> {
        texts.iter().map(|text| one(text)).collect::<Result<_, _>>().map(Self)
    }

    /// Takes out what does not fit.
    pub fn apply(&self, listing: &mut Listing, place: &str) -> Result<(), Failure> {
        // Found before anything is taken out.
        let mut bounds = vec![];
        for (key, value) in &self.0 {
            if matches!(*key, "before" | "since") {
                let (Meant::Tag(rows) | Meant::Image(_, rows)) = meant(value, listing, place)?;
                bounds.push((*key, rows.first().and_then(|row| created(row)).unwrap_or(0)));
            }
        }
        listing.rows.retain(|row| {
            self.0.iter().all(|(key, value)| fits(row, key, value))
                && bounds.iter().all(|(key, bound)| match (*key, created(row)) {
                    ("before", Some(at)) => at < *bound,
                    (_, Some(at)) => at > *bound,
                    (_, None) => false,
                })
        });
        Ok(())
    }
}

fn one(text: &str) -> Result<(&'static str, String), Refusal> {
    let bad = |why: String| {
        Refusal::user(format!("--filter {}: {why}", printable(text)))
            .hint(format!("write KEY=VALUE; keys are {}", KEYS.join(", ")))
    };
    let (key, value) = text.split_once('=').ok_or_else(|| bad("it has no '='".into()))?;
    let Some(known) = KEYS.iter().find(|known| **known == key) else {
        let near = nearest(key, KEYS).map_or(String::new(), |near| format!("; did you mean '{near}'?"));
        return Err(bad(format!("there is no filter '{}'{near}", printable(key))));
    };
    if *known == "dangling" && !["true", "false"].contains(&value) {
        return Err(bad("dangling is true or false".into()));
    }
    Ok((known, value.to_owned()))
}

fn created(row: &Row) -> Option<u64> {
    output::seconds(row.meta.as_ref()?.created.as_deref()?)
}

fn fits(row: &Row, key: &str, value: &str) -> bool {
    match key {
        "reference" => row.reference.as_ref().is_some_and(|r| named(r, value)),
        "server" => row.reference.as_ref().is_some_and(|r| r.registry == value),
        "dangling" => row.reference.is_none() == (value == "true"),
        "platform" => row.platform.to_string() == value,
        "label" => row.meta.as_ref().is_some_and(|meta| match value.split_once('=') {
            Some((name, value)) => meta.config.labels.get(name).is_some_and(|v| v == value),
            None => meta.config.labels.contains_key(value),
        }),
        _ => true,
    }
}

/// The pattern is of the name, or of name and tag, as a user types it or in full.
fn named(reference: &Reference, pattern: &str) -> bool {
    let names = [reference.familiar_name(), reference.familiar(), reference.name(), reference.to_string()];
    names.iter().any(|name| fits_pattern(pattern.as_bytes(), name.as_bytes()))
}

/// `*` is anything without a '/', `?` one character, as Docker has them (Go's path.Match).
fn fits_pattern(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            fits_pattern(&pattern[1..], name)
                || name.first().is_some_and(|c| *c != b'/' && fits_pattern(pattern, &name[1..]))
        }
        (Some(b'?'), Some(c)) if *c != b'/' => fits_pattern(&pattern[1..], &name[1..]),
        (Some(p), Some(c)) if p == c => fits_pattern(&pattern[1..], &name[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_dockers() {
        let reference = |text: &str| Reference::parse(text).expect(text);
        for (pattern, name, fit) in [
            ("ubuntu", "ubuntu:24.04", true),
            ("ubuntu:*", "ubuntu:24.04", true),
            ("ub*:2?.04", "ubuntu:24.04", true),
            ("docker.io/library/ubuntu", "ubuntu:24.04", true),
            ("nvcr.io/*/*", "nvcr.io/nvidia/pytorch:1", true),
            ("nvcr.io/*", "nvcr.io/nvidia/pytorch:1", false),
            ("ubunt", "ubuntu:24.04", false),
        ] {
            assert_eq!(named(&reference(name), pattern), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn an_unknown_filter_is_named() {
        let said = |text: &str| Filter::parse(&[text.to_owned()]).expect_err(text).what;
        assert!(said("dangeling=true").contains("did you mean 'dangling'?"));
        assert!(said("dangling").contains("no '='"));
        assert!(said("dangling=maybe").contains("true or false"));
    }
}
