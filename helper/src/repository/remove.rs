//! Removing tags and images.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_core::reference::Reference;

use super::read::{entries, tag_file};
use super::{partial, temp, Lock, Repository};
use crate::failure::Failure;

/// How long a removal waits for a command that makes the same image.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Metadata without an image is an orphan after this time; between the two, publishing takes milliseconds.
const ORPHAN: Duration = Duration::from_secs(3600);
/// Age of rulings that are removed: the next launch that needs one makes it again.
const RULING: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a removal took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Tags, each with its platform.
    pub tags: Vec<(Reference, Platform)>,
    /// Images and their sizes in bytes.
    pub images: Vec<(Digest, u64)>,
}

impl Repository {
    /// Removes a tag's file and the directories it leaves empty; its image stays. Not if another command set the tag
    /// to another image than `digest` meanwhile or, with `used`, it was used since then: then it is false.
    pub fn drop_tag(
        &self,
        reference: &Reference,
        platform: &Platform,
        (digest, used): (&Digest, Option<SystemTime>),
        removed: &mut Removed,
    ) -> Result<bool, Failure> {
        let Some(path) = self.layout.tag(reference, platform) else { return Ok(true) };
        match tag_file(&path) {
            Ok(Some((tag, at))) if tag.digest == *digest && used.is_none_or(|used| used == at) => {}
            Ok(None) => return Ok(true),
            Ok(Some(_)) | Err(_) => return Ok(false),
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            done => done.map_err(|e| Failure::io("remove", &path, &e))?,
        }
        removed.tags.push((reference.clone(), platform.clone()));
        let refs = self.layout.refs();
        let mut dir = path.parent();
        while let Some(empty) = dir.filter(|d| *d != refs && d.starts_with(&refs)) {
            // Not empty, or someone else was faster: both end it.
            if fs::remove_dir(empty).is_err() {
                break;
            }
            dir = empty.parent();
        }
        Ok(true)
    }

    /// Removes an image unless a tag points to it. Where a tag cannot be read, that cannot be told, and it stays.
    ///
    /// It is hidden first, then tags are looked for, and it comes back if there is one: whoever sets a tag
    /// looks for the image afterwards (`set_tag`), so a tag never stays behind without its image.
    pub fn remove_image(&self, digest: &Digest, removed: &mut Removed) -> Result<(), Failure> {
        if self.is_tagged(digest)? {
            return Ok(());
        }
        self.prepare()?;
        let _lock = Lock::take(&self.layout.tmp(), digest, |waited| waited < LOCK_WAIT);
        let image = self.layout.image(digest);
        let hidden = self.hide(&image)?;
        if !is_to_go(self.is_tagged(digest), hidden.as_deref(), &image)? {
            return Ok(());
        }
        remove(&self.layout.layer_index(digest))?;
        remove(&self.layout.facts(digest))?;
        remove(&self.layout.meta(digest))?;
        for (name, path, _) in entries(&self.layout.rulings())? {
            if name.starts_with(digest.hex()) {
                remove(&path)?;
            }
        }
        if let Some(hidden) = hidden {
            let bytes = fs::metadata(&hidden).map(|m| m.len()).unwrap_or(0);
            remove(&hidden)?;
            removed.images.push((digest.clone(), bytes));
        }
        Ok(())
    }

    /// Removes what no command needs: leftovers of killed ones, and metadata whose image is gone.
    pub fn sweep(&self) -> Result<(), Failure> {
        let tmp = self.layout.tmp();
        temp::sweep(&tmp);
        partial::sweep(&tmp, true);
        for (name, _, _) in entries(&tmp)? {
            if let Some(digest) = digest_of(&name, ".lock") {
                // Taken and given back, it is removed; held by another command, it stays.
                drop(Lock::take(&tmp, &digest, |_| false));
            }
        }
        for (name, path, _) in entries(&self.layout.images())? {
            if digest_of(&name, ".layers").is_some_and(|digest| !self.layout.image(&digest).exists()) {
                remove(&path)?;
            }
            if digest_of(&name, ".elf.json").is_some_and(|digest| !self.layout.image(&digest).exists()) {
                remove(&path)?;
            }
            let Some(digest) = digest_of(&name, ".json") else { continue };
            // Metadata comes first when an image is published: only what is old enough is an orphan.
            if older(&path, ORPHAN) && !self.layout.image(&digest).exists() {
                remove(&path)?;
            }
        }
        for (_, path, _) in entries(&self.layout.rulings())? {
            if older(&path, RULING) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Bytes of the broken-off pulls that [`Repository::sweep`] removes.
    pub fn broken_off(&self) -> u64 {
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |m| m.len());
        partial::useless(&self.layout.tmp(), true).iter().map(size).sum()
    }

    fn is_tagged(&self, digest: &Digest) -> Result<bool, Failure> {
        let listing = self.list()?;
        if listing.rows.iter().any(|row| row.reference.is_some() && row.digest == *digest) {
            return Ok(true);
        }
        listing.all_read().map(|()| false)
    }

    /// Moves an image out of sight, into `tmp/` under a name that a sweep takes if we die. None if there is
    /// no image.
    fn hide(&self, image: &Path) -> Result<Option<PathBuf>, Failure> {
        let hidden = self.temp()?.path().with_extension("removed.part");
        match fs::rename(image, &hidden) {
            Ok(()) => Ok(Some(hidden)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure::io("remove", image, &e)),
        }
    }
}

/// Whether a hidden image is to be removed: it comes back where a tag points to it, and where nobody could tell. A
/// sweep would take what stays hidden.
fn is_to_go(tagged: Result<bool, Failure>, hidden: Option<&Path>, image: &Path) -> Result<bool, Failure> {
    if let (Some(hidden), Ok(true) | Err(_)) = (hidden, &tagged) {
        fs::rename(hidden, image).map_err(|e| Failure::io("restore", image, &e))?;
    }
    tagged.map(|tagged| !tagged)
}

/// Whether a file was written longer ago than this.
fn older(path: &Path, than: Duration) -> bool {
    let written = fs::metadata(path).and_then(|m| m.modified());
    written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > than))
}

/// The digest that a file `<hex><ending>` is named by.
fn digest_of(name: &str, ending: &str) -> Option<Digest> {
    Digest::parse(&format!("sha256:{}", name.strip_suffix(ending)?)).ok()
}

/// Removes a file; one that is gone already is fine.
fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::io("remove", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_image_goes_only_where_surely_no_tag_points_to_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (hidden, image) = (dir.path().join("x.removed.part"), dir.path().join("x.squashfs"));
        let judge = |tagged| {
            let _ = fs::remove_file(&image);
            fs::write(&hidden, "x").expect("write");
            (is_to_go(tagged, Some(&hidden), &image), image.exists())
        };
        assert!(matches!(judge(Ok(false)), (Ok(true), false)));
        assert!(matches!(judge(Ok(true)), (Ok(false), true)));
        let unread = || Failure::io("read", dir.path(), &io::Error::from_raw_os_error(5));
        assert!(matches!(judge(Err(unread())), (Err(_), true)));
        assert!(matches!(is_to_go(Ok(false), None, &image), Ok(true)), "no image, only what is beside it");
        assert!(is_to_go(Err(unread()), None, &image).is_err());
    }
}
