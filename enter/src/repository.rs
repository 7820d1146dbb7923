//! Reading an image repository (DESIGN D7) without a lock, and without trust in who may write it.
//!
//! A look-up costs three opens at most, whatever the number of images. Writing is the helper's.

use std::fs;
use std::path::{Path, PathBuf};

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, MAX_META};
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::repository::{Layout, Tag, MAX_TAG};
use grus_core::Refusal;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::call::{open, shown, stat, Broken};
use crate::failure::reason;
use crate::read::{small, Small};
use crate::trust::is_regular;

/// An image in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name in the repository.
    pub digest: Digest,
    /// The SquashFS file.
    pub path: PathBuf,
    /// Its metadata.
    pub meta: ImageMeta,
}

/// Looks an image up by digest, else by the file of its tag or pinned digest, which may be an index's. `None` if the
/// repository does not have it, or has it only in part.
pub fn find(layout: &Layout, reference: &Reference, platform: &Platform) -> Result<Option<Found>, Refusal> {
    if let Some(digest) = &reference.digest {
        if let Some(found) = by_digest(layout, digest)? {
            return Ok(Some(found));
        }
    }
    let Some(file) = layout.tag(reference, platform) else { return Ok(None) };
    let Some(text) = read(&file, MAX_TAG, "tag file")? else { return Ok(None) };
    let tag = Tag::parse(&text, &file.to_string_lossy())?;
    by_digest(layout, &tag.digest)
}

/// All images of a repository, by digest. One that cannot be read is an entry with its refusal.
pub fn list(layout: &Layout) -> Result<Vec<Result<Found, Refusal>>, Refusal> {
    let dir = layout.images();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(unreadable(&dir, "repository", Errno::from_io_error(&e).unwrap_or(Errno::IO))),
    };
    let mut digests: Vec<Digest> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            Digest::parse(&format!("sha256:{}", name.to_str()?.strip_suffix(".squashfs")?)).ok()
        })
        .collect();
    digests.sort();
    Ok(digests.iter().filter_map(|digest| by_digest(layout, digest).transpose()).collect())
}

/// The metadata beside an image file; `None` if there is none.
pub fn meta_beside(image: &Path) -> Result<Option<ImageMeta>, Refusal> {
    meta(&Layout::meta_beside(image))
}

fn by_digest(layout: &Layout, digest: &Digest) -> Result<Option<Found>, Refusal> {
    let path = layout.image(digest);
    let status = match open(&path, OFlags::PATH).and_then(|fd| stat(&fd, &path)) {
        Ok(status) => status,
        Err(b) if matches!(b.errno, Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(b) => return Err(unreadable(&path, "image", b.errno)),
    };
    if !is_regular(&status) {
        return Err(not_a_file(&path, "image"));
    }
    let Some(meta) = meta(&layout.meta(digest))? else { return Ok(None) };
    Ok(Some(Found { digest: digest.clone(), path, meta }))
}

fn meta(path: &Path) -> Result<Option<ImageMeta>, Refusal> {
    match read(path, MAX_META, "image metadata")? {
        Some(text) => ImageMeta::parse(&text, &path.to_string_lossy()).map(Some),
        None => Ok(None),
    }
}

fn read(path: &Path, limit: usize, what: &str) -> Result<Option<Vec<u8>>, Refusal> {
    match small(path, limit).map_err(|b: Broken| unreadable(path, what, b.errno))? {
        Small::Missing => Ok(None),
        Small::Bytes(bytes) => Ok(Some(bytes)),
        Small::NotAFile => Err(not_a_file(path, what)),
        Small::TooLong => {
            Err(Refusal::image(format!("the {what} {} is larger than {limit} bytes", shown(path)))
                .hint("pull or import the image again"))
        }
    }
}

fn unreadable(path: &Path, what: &str, errno: Errno) -> Refusal {
    Refusal::user(format!("cannot read the {what} {}: {}", shown(path), reason(errno)))
        .hint("it is opened with your own permissions; check them")
}

fn not_a_file(path: &Path, what: &str) -> Refusal {
    Refusal::image(format!("the {what} {} is not a regular file", shown(path)))
        .hint("remove it, and pull or import the image again")
}
