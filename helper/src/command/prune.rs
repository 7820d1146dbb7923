//! `grus prune`: a repository kept small.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use clap::builder::{StringValueParser, TypedValueParser};
use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::printable;
use serde::Serialize;

use super::rmi::said;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::repository::{Removed, Repository, Row};
use crate::unpacked;

const EXAMPLES: &str = "\
Examples:
  grus prune                      images without a name, kept layers, unpacked
                                  images that nothing runs in, leftovers
  grus prune --older-than 90d     also what was not used for 90 days
  grus prune --keep 50GB          also the least recently used, down to 50 GB
  grus prune --keep 0 --dry-run   what would go if everything went

An image is used when it is pulled or imported, changed or not, and when a job
or step is submitted that names it. The latter is noted once a day, where the
user may write: not in the system's repository. An image without a name goes
however young it is. Steps that run in a removed image are not disturbed, but on
NFS, where those on other nodes can fail.";

/// Arguments of `grus prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Remove images that were last used longer ago than this: hours, days or weeks, as 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = age())]
    older_than: Option<Duration>,
    /// Remove the least recently used images until the rest is at most this large: bytes, or with kB, MB, GB, TB
    #[arg(long, value_name = "SIZE", value_parser = size())]
    keep: Option<u64>,
    /// Only say what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What went, or with --dry-run would go; its JSON form is printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    untagged: Vec<Name>,
    deleted: Vec<Gone>,
    /// Bytes of pulls that broke off.
    broken_off: u64,
    /// Bytes of unpacked images that nothing runs in.
    unpacked: u64,
    /// All bytes.
    freed: u64,
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Name {
    reference: Reference,
    platform: Platform,
}

#[derive(Debug, Serialize)]
struct Gone {
    digest: Digest,
    size: u64,
}

/// An image with all its names.
struct Candidate<'a> {
    digest: Digest,
    rows: Vec<&'a Row>,
    size: u64,
    /// When it was last used under any of its names.
    fresh: SystemTime,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let repository = context.repository()?;
        if !repository.root().exists() {
            return self.report(Removed::default(), 0, 0);
        }
        let listing = repository.list()?;
        listing.all_read()?;
        let mut all = candidates(&listing.rows);
        all.sort_by_key(|c| c.fresh);
        let doomed = self.doomed(&all);
        let mut removed = Removed::default();
        let gone = all.iter().filter(|c| doomed.contains(&c.digest));
        let done = self.remove_all(&repository, gone, &listing.broken, &mut removed);
        // What went before a failure is told all the same.
        let (broken_off, unpacked) = match done {
            Ok(broken_off) => (broken_off, unpacked::prune(repository.root(), self.dry_run)),
            Err(_) => (0, 0),
        };
        self.report(removed, broken_off, unpacked)?;
        done.map(drop)
    }

    /// Removes images, and what pulls that broke off have left; how many bytes that is.
    fn remove_all<'c>(
        &self,
        repository: &Repository,
        doomed: impl Iterator<Item = &'c Candidate<'c>>,
        broken: &[Digest],
        removed: &mut Removed,
    ) -> Result<u64, Failure> {
        for candidate in doomed {
            self.remove(repository, candidate, removed)?;
        }
        for digest in broken {
            match self.dry_run {
                true => removed.images.push((digest.clone(), 0)),
                false => repository.remove_image(digest, removed)?,
            }
        }
        let broken_off = repository.broken_off();
        if !self.dry_run {
            repository.sweep()?;
            repository.sweep_layers(true);
        }
        Ok(broken_off)
    }

    fn report(&self, removed: Removed, broken_off: u64, unpacked: u64) -> Result<(), Failure> {
        let freed = broken_off + unpacked + removed.images.iter().map(|(_, bytes)| bytes).sum::<u64>();
        if !self.json {
            return output::print(
                &(said(&removed)
                    + &said_bytes("pulls that broke off", broken_off)
                    + &said_bytes("unpacked images", unpacked)
                    + &total(freed)),
            );
        }
        let name = |(reference, platform)| Name { reference, platform };
        output::json(&Report {
            untagged: removed.tags.into_iter().map(name).collect(),
            deleted: removed.images.into_iter().map(|(digest, size)| Gone { digest, size }).collect(),
            broken_off,
            unpacked,
            freed,
            dry_run: self.dry_run,
        })
    }

    /// Which images go; `all` begins with the oldest.
    fn doomed(&self, all: &[Candidate]) -> BTreeSet<Digest> {
        let now = SystemTime::now();
        let old = |c: &Candidate| {
            let age = now.duration_since(c.fresh).unwrap_or_default();
            self.older_than.is_some_and(|limit| age > limit)
        };
        let mut doomed: BTreeSet<Digest> =
            all.iter().filter(|c| old(c) || c.nameless()).map(|c| c.digest.clone()).collect();
        let mut left: u64 = all.iter().filter(|c| !doomed.contains(&c.digest)).map(|c| c.size).sum();
        for candidate in all {
            if self.keep.is_some_and(|keep| left > keep) && doomed.insert(candidate.digest.clone()) {
                left -= candidate.size;
            }
        }
        doomed
    }

    fn remove(
        &self,
        repository: &Repository,
        doomed: &Candidate,
        removed: &mut Removed,
    ) -> Result<(), Failure> {
        for row in &doomed.rows {
            let Some(reference) = &row.reference else { continue };
            match self.dry_run {
                true => removed.tags.push((reference.clone(), row.platform.clone())),
                false => {
                    let judged = (&row.digest, Some(row.used));
                    // Set or used meanwhile: what was judged is no longer so, for its other names neither.
                    if !repository.drop_tag(reference, &row.platform, judged, removed)? {
                        return Ok(());
                    }
                }
            }
        }
        match self.dry_run {
            true => removed.images.push((doomed.digest.clone(), doomed.size)),
            false => repository.remove_image(&doomed.digest, removed)?,
        }
        Ok(())
    }
}

impl Candidate<'_> {
    fn nameless(&self) -> bool {
        self.rows.iter().all(|row| row.reference.is_none())
    }
}

/// All images by digest.
fn candidates(rows: &[Row]) -> Vec<Candidate<'_>> {
    let mut all: Vec<Candidate> = vec![];
    for row in rows {
        match all.iter_mut().find(|c| c.digest == row.digest) {
            Some(known) => {
                known.rows.push(row);
                known.fresh = known.fresh.max(row.used);
            }
            None => {
                let size = row.meta.as_ref().map_or(0, |m| m.size);
                all.push(Candidate { digest: row.digest.clone(), rows: vec![row], size, fresh: row.used });
            }
        }
    }
    all
}

/// What else went.
fn said_bytes(what: &str, bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!("Deleted: {what} ({})\n", output::bytes(bytes)),
    }
}

fn total(bytes: u64) -> String {
    format!("Freed: {}\n", output::bytes(bytes))
}

fn age() -> impl TypedValueParser<Value = Duration> {
    StringValueParser::new().try_map(|text| {
        let hours = match text.chars().last() {
            Some('h') => 1,
            Some('d') => 24,
            Some('w') => 7 * 24,
            _ => 0,
        };
        let number = text.get(..text.len().saturating_sub(1)).and_then(|n| n.parse::<u32>().ok());
        match (number, hours) {
            (Some(n), 1..) => Ok(Duration::from_secs(u64::from(n) * hours * 3600)),
            _ => Err(format!("'{}' is no age; write 12h, 30d or 8w", printable(&text))),
        }
    })
}

fn size() -> impl TypedValueParser<Value = u64> {
    StringValueParser::new().try_map(|text| {
        const UNITS: [(&str, u64); 5] =
            [("kb", 1000), ("mb", 1_000_000), ("gb", 1_000_000_000), ("tb", 1_000_000_000_000), ("b", 1)];
        let lower = text.to_ascii_lowercase();
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| lower.strip_suffix(unit).map(|n| (n, *factor)))
            .unwrap_or((&lower, 1));
        let bytes = number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
        bytes.ok_or_else(|| format!("'{}' is no size; write 500MB, 50GB or 1TB", printable(&text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::put;
    use grus_core::repository::Tag;
    use std::fs;

    #[test]
    fn a_tag_that_was_set_or_used_since_it_was_judged_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::new(dir.path(), false);
        repository.prepare().expect("directories");
        let reference = Reference::parse("app:1").expect("static");
        let tag = repository.layout().tag(&reference, &Platform::here()).expect("a tag");
        let (now, old) = (SystemTime::now(), SystemTime::now() - Duration::from_secs(90 * 86400));
        let set = |image: u8, used| {
            fs::create_dir_all(tag.parent().expect("a directory")).expect("mkdir");
            let content =
                Tag { digest: Digest::from_bytes(&[image; 32]), resolved: None, signatures: vec![] };
            put(repository.layout(), &tag, &content.to_json(), false).expect("a tag");
            fs::File::options().write(true).open(&tag).and_then(|f| f.set_modified(used)).expect("a time");
        };
        let args = Args { older_than: None, keep: Some(0), dry_run: false, json: false };
        for (image, used, stays) in [(1, old, false), (2, old, true), (1, now, true)] {
            set(1, old);
            let listing = repository.list().expect("a list");
            set(image, used);
            let mut removed = Removed::default();
            for candidate in candidates(&listing.rows) {
                args.remove(&repository, &candidate, &mut removed).expect("removed");
            }
            assert_eq!((tag.exists(), removed.tags.is_empty()), (stays, stays), "image {image}");
        }
    }
}
