//! Finding what a user means by a name or a digest, among the images of a repository.

use std::path::PathBuf;

use grus_core::digest::Digest;
use grus_core::image::ImageMeta;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::{nearest, printable, Refusal};
use grus_core::signature::Signed;

use crate::context::Context;
use crate::failure::Failure;
use crate::repository::{Listing, Repository, Row};

/// Shortest digest prefix that is taken for one; shorter ones are names.
const SHORTEST: usize = 4;

/// What a name stands for.
#[derive(Debug)]
pub enum Meant<'a> {
    /// A tag, for one platform or several.
    Tag(Vec<&'a Row>),
    /// An image, by digest, under all its tags.
    Image(Digest, Vec<&'a Row>),
}

/// An image that is there, sound.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is known of it.
    pub meta: ImageMeta,
    /// All its names.
    pub tags: Vec<Reference>,
    /// The signatures that any of its names was taken for, each once.
    pub signatures: Vec<Signed>,
    /// The SquashFS file.
    pub path: PathBuf,
    /// The repository's directory.
    pub repository: PathBuf,
}

/// The images that a name stands for, one for each platform, in the first repository that has any.
pub fn every(context: &Context, name: &str) -> Result<Vec<Found>, Failure> {
    let mut first = None;
    for repository in context.lookup()? {
        let listing = repository.list()?;
        let what = meant(name, &listing, &repository.root().display().to_string());
        match what.and_then(|what| sound(name, what, &repository, &listing)) {
            Ok(found) => return Ok(found),
            // Where none has it, what the user's own says is told.
            Err(failure) => first = first.or(Some(failure)),
        }
    }
    Err(first.unwrap_or(Failure::Cancelled))
}

/// The name nearest to one that is not there, in all repositories.
pub fn nearest_name(context: &Context, name: &str) -> Option<String> {
    let listings = context.lookup().ok()?.into_iter().filter_map(|repository| repository.list().ok());
    let names: Vec<String> =
        listings.flat_map(|listing| listing.rows).filter_map(|row| Some(row.reference?.familiar())).collect();
    nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

/// The one image that a name stands for: of several platforms, this machine's.
pub fn one(context: &Context, name: &str) -> Result<Found, Failure> {
    let mut all = every(context, name)?;
    let here = all.iter().position(|found| Platform::here().runs(&found.meta.platform)).unwrap_or(0);
    Ok(all.swap_remove(here))
}

/// The sound images of these rows, each once.
fn sound(
    name: &str,
    what: Meant<'_>,
    repository: &Repository,
    listing: &Listing,
) -> Result<Vec<Found>, Failure> {
    let (Meant::Tag(rows) | Meant::Image(_, rows)) = what;
    let mut all: Vec<Found> = vec![];
    for meta in rows.iter().filter_map(|row| row.meta.as_ref()) {
        if !all.iter().any(|found| found.meta.digest == meta.digest) {
            let of: Vec<&Row> = listing.rows.iter().filter(|row| row.digest == meta.digest).collect();
            let mut signatures: Vec<Signed> = vec![];
            for signed in of.iter().flat_map(|row| &row.signatures) {
                if !signatures.contains(signed) {
                    signatures.push(signed.clone());
                }
            }
            all.push(Found {
                meta: meta.clone(),
                tags: of.iter().filter_map(|row| row.reference.clone()).collect(),
                signatures,
                path: repository.layout().image(&meta.digest),
                repository: repository.root().to_owned(),
            });
        }
    }
    match all.is_empty() {
        true => Err(Refusal::image(format!("there is no sound image behind {}", printable(name)))
            .hint("pull or import it again")
            .into()),
        false => Ok(all),
    }
}

/// Resolves `text` as Docker does: a tag first, then a digest or the unambiguous beginning of one.
pub fn meant<'a>(text: &str, listing: &'a Listing, place: &str) -> Result<Meant<'a>, Failure> {
    // A pinned reference is kept without its tag.
    let kept = |r: Reference| Reference { tag: r.tag.filter(|_| r.digest.is_none()), ..r };
    let reference = Reference::parse(text).ok().map(kept);
    let named = |row: &&Row| row.reference.is_some() && row.reference == reference;
    let rows: Vec<&Row> = listing.rows.iter().filter(named).collect();
    if !rows.is_empty() {
        return Ok(Meant::Tag(rows));
    }
    if let Some(digest) = reference.as_ref().and_then(|r| r.digest.as_ref()) {
        if let Some(image) = by_digest(digest.hex(), listing)? {
            return Ok(image);
        }
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() >= SHORTEST && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        if let Some(image) = by_digest(hex, listing)? {
            return Ok(image);
        }
    }
    // A malformed name is told as such; a well-formed one is only not there.
    let shown = match &reference {
        Some(reference) => reference.familiar(),
        None if text.starts_with("sha256:") => printable(text),
        None => return Err(Reference::parse(text).err().map_or(Failure::Cancelled, Failure::from)),
    };
    let names: Vec<String> =
        listing.rows.iter().filter_map(|r| r.reference.as_ref()).map(Reference::familiar).collect();
    let hint = match nearest(&shown, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}? 'grus images' lists what there is"),
        None => "'grus images' lists what there is".to_owned(),
    };
    Err(Refusal::user(format!("no image {shown} in the repository {}", printable(place))).hint(hint).into())
}

fn by_digest<'a>(hex: &str, listing: &'a Listing) -> Result<Option<Meant<'a>>, Failure> {
    let rows: Vec<&Row> = listing.rows.iter().filter(|row| row.digest.hex().starts_with(hex)).collect();
    let Some(first) = rows.first() else {
        // An image that is damaged has no row, yet it can be named in full.
        return Ok(Digest::parse(&format!("sha256:{hex}"))
            .ok()
            .filter(|d| listing.broken.contains(d))
            .map(|d| Meant::Image(d, vec![])));
    };
    let digest = first.digest.clone();
    if rows.iter().any(|row| row.digest != digest) {
        return Err(Refusal::user(format!("several images begin with {}", printable(hex)))
            .hint("write more digits; 'grus images --digests' shows them all")
            .into());
    }
    Ok(Some(Meant::Image(digest, rows)))
}
