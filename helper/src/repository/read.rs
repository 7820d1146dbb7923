//! Finding and listing what is in a repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, MAX_META};
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::printable;
use grus_core::repository::{Tag, MAX_TAG};
use grus_core::signature::Signed;

use super::write::read_limited;
use super::Repository;
use crate::failure::{reason, Failure};

/// Deepest nesting below `refs/`: a registry, a repository of 255 characters, a tag.
const MAX_DEPTH: usize = 130;

/// One image under one name.
#[derive(Clone, Debug)]
pub struct Row {
    /// The tag; None for an image without one.
    pub reference: Option<Reference>,
    /// What the tag is for; the image's platform where there is no tag.
    pub platform: Platform,
    /// The image.
    pub digest: Digest,
    /// What the registry answered for the tag.
    pub resolved: Option<Digest>,
    /// The signatures it was taken for.
    pub signatures: Vec<Signed>,
    /// Its metadata; None if the image or its metadata is missing or damaged.
    pub meta: Option<ImageMeta>,
    /// When its tag was last used: set by a pull or an import, changed or not, or named by a job (the plugin notes it).
    /// For an image without a tag, when it was made. The distant past if nobody knows.
    pub used: SystemTime,
}

/// What a repository holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By reference, then platform; images without a tag last.
    pub rows: Vec<Row>,
    /// What is damaged, a sentence each.
    pub damage: Vec<String>,
    /// Image files that are damaged or have no metadata, and no tag.
    pub broken: Vec<Digest>,
    /// A tag that cannot be read or understood, a sentence: any image may be the one that it names.
    pub unread: Option<String>,
}

impl Listing {
    /// Refuses to go on as if all tags were known. What removes images asks: one that seems to have no tag may have one.
    pub fn all_read(&self) -> Result<(), Failure> {
        let Some(what) = self.unread.clone() else { return Ok(()) };
        let hint = "pull that image again, or remove the file; until then no image is removed that may be meant by it";
        Err(Failure::System { what, hint: Some(hint.into()) })
    }
}

impl Repository {
    /// The metadata of an image, if the image is there and as long as its metadata says.
    pub fn has(&self, digest: &Digest) -> Option<ImageMeta> {
        let size = fs::metadata(self.layout.image(digest)).ok()?.len();
        let path = self.layout.meta(digest);
        let meta =
            ImageMeta::parse(&read_limited(&path, MAX_META).ok()?, &path.display().to_string()).ok()?;
        (meta.size == size && meta.digest == *digest).then_some(meta)
    }

    /// Where a tag points; None if there is no such tag.
    pub fn tag(&self, reference: &Reference, platform: &Platform) -> Option<Tag> {
        let path = self.layout.tag(reference, platform)?;
        Some(tag_file(&path).ok()??.0)
    }

    /// Everything in the repository. A repository that does not exist is empty.
    pub fn list(&self) -> Result<Listing, Failure> {
        let mut listing = Listing::default();
        let mut metas = BTreeMap::new();
        self.list_tags(&self.layout.refs(), &mut vec![], &mut listing)?;
        for row in &mut listing.rows {
            row.meta = metas.entry(row.digest.clone()).or_insert_with(|| self.has(&row.digest)).clone();
            if row.meta.is_none() {
                let name = row.reference.as_ref().map(Reference::familiar).unwrap_or_default();
                listing.damage.push(format!("{name} ({}) has no sound image behind it", row.platform));
            }
        }
        listing.rows.sort_by(|a, b| (&a.reference, &a.platform).cmp(&(&b.reference, &b.platform)));
        let tagged: BTreeSet<Digest> = metas.into_keys().collect();
        self.list_untagged(&tagged, &mut listing)?;
        Ok(listing)
    }

    fn list_tags(&self, dir: &Path, above: &mut Vec<String>, into: &mut Listing) -> Result<(), Failure> {
        for (name, path, is_dir) in entries(dir)? {
            if is_dir && above.len() < MAX_DEPTH {
                above.push(name);
                self.list_tags(&path, above, into)?;
                above.pop();
                continue;
            }
            let Some((reference, platform)) = named(above, &name) else {
                into.damage.push(format!("{} is no tag", printable(&path.display().to_string())));
                continue;
            };
            match tag_file(&path) {
                Ok(Some((tag, used))) => into.rows.push(Row {
                    reference: Some(reference),
                    platform,
                    digest: tag.digest,
                    resolved: tag.resolved,
                    signatures: tag.signatures,
                    meta: None,
                    used,
                }),
                // Removed by another command meanwhile.
                Ok(None) => {}
                Err(failure) => {
                    into.damage.push(failure.to_string());
                    into.unread = Some(failure.to_string());
                }
            }
        }
        Ok(())
    }

    fn list_untagged(&self, tagged: &BTreeSet<Digest>, into: &mut Listing) -> Result<(), Failure> {
        for (name, path, _) in entries(&self.layout.images())? {
            let Some(hex) = name.strip_suffix(".squashfs") else { continue };
            let Ok(digest) = Digest::parse(&format!("sha256:{hex}")) else { continue };
            if tagged.contains(&digest) {
                continue;
            }
            let meta = self.has(&digest);
            match &meta {
                Some(meta) => {
                    let platform = meta.platform.clone();
                    into.rows.push(Row {
                        reference: None,
                        platform,
                        digest,
                        resolved: None,
                        signatures: vec![],
                        meta: Some(meta.clone()),
                        used: last_write(fs::metadata(&path)),
                    });
                }
                None => {
                    let path = printable(&path.display().to_string());
                    into.damage.push(format!("{path} is damaged; remove it with 'grus rmi {digest}'"));
                    into.broken.push(digest);
                }
            }
        }
        Ok(())
    }
}

/// The name and the platform that a tag's file `refs/<above...>/<name>` is for.
fn named(above: &[String], name: &str) -> Option<(Reference, Platform)> {
    let platform = Platform::from_file_name(name.strip_suffix(".json")?)?;
    let (tag, repository) = above.split_last()?;
    let suffix = match tag.strip_prefix('@') {
        Some(hex) => format!("@sha256:{hex}"),
        None => tag.clone(),
    };
    let reference = Reference::parse(&format!("{}{suffix}", repository.join("/"))).ok()?;
    Some((reference, platform))
}

/// What a tag's file says, and when the tag was last used; None if there is no such file.
pub(super) fn tag_file(path: &Path) -> Result<Option<(Tag, SystemTime)>, Failure> {
    let failed = |e: io::Error| Failure::io("read", path, &e);
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let used = last_write(file.metadata());
    let mut text = vec![];
    file.take(MAX_TAG as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    Ok(Some((Tag::parse(&text, &path.display().to_string())?, used)))
}

fn last_write(meta: io::Result<fs::Metadata>) -> SystemTime {
    meta.and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The entries of a directory by name, with whether each is a directory; none if there is no directory.
/// Links are not followed.
pub(super) fn entries(dir: &Path) -> Result<Vec<(String, PathBuf, bool)>, Failure> {
    let failed = |e: &io::Error| Failure::io("read", dir, e);
    let listed = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(Failure::System {
                what: format!(
                    "{} is not a repository: {}",
                    printable(&dir.display().to_string()),
                    reason(&e)
                ),
                hint: Some("name the repository's directory with --repository".into()),
            })
        }
        listed => listed.map_err(|e| failed(&e))?,
    };
    let mut all = vec![];
    for entry in listed {
        let entry = entry.map_err(|e| failed(&e))?;
        let is_dir = match entry.file_type() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            kind => kind.map_err(|e| failed(&e))?.is_dir(),
        };
        if let Ok(name) = entry.file_name().into_string() {
            all.push((name, entry.path(), is_dir));
        }
    }
    all.sort();
    Ok(all)
}

/// `bytes_used` of a SquashFS 4.0 superblock (kernel: fs/squashfs/squashfs_fs.h); None if it is none.
pub fn bytes_used(head: &[u8; 96]) -> Option<u64> {
    let number = |at: usize| head[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    let version = (u16::from_le_bytes([head[28], head[29]]), u16::from_le_bytes([head[30], head[31]]));
    (&head[..4] == b"hsqs" && version == (4, 0)).then(|| number(40))
}
