//! Owns images that are being pulled: the image and the index of its finished layers, both in `tmp/` under names
//! that say which image it is to be. What a pull that broke off leaves there, the next one takes up.
//!
//! It refuses to keep what saves nobody anything: without a finished layer, both files go.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use grus_core::digest::Digest;
use grus_core::image::ImageMeta;
use grus_squash::KeptImage;

use super::{temp, Repository, TempFile};
use crate::failure::Failure;

/// Endings of the image's and the index's names, behind the image's digest in hex.
const IMAGE: &str = ".partial";
const INDEX: &str = ".partial-layers";

/// What nobody took up for so long goes, whoever wrote it.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A writer on another machine is taken to be gone after this time without a write.
const QUIET: Duration = Duration::from_secs(24 * 3600);

/// An index of this size or less has no layer.
const HEADER: u64 = 16;

/// An image being made.
pub struct Partial {
    image: TempFile,
    index: TempFile,
}

/// What an earlier pull left, or a running one has so far.
pub struct Left {
    /// The index, beside the image.
    pub index: PathBuf,
    /// The image it was to be.
    pub digest: Digest,
    /// Its writer is gone.
    pub orphan: bool,
}

impl Repository {
    /// Begins an image that can be taken up again.
    pub fn partial(&self, digest: &Digest) -> Result<Partial, Failure> {
        let tmp = self.layout.tmp();
        let named = |ending| TempFile::create_as(&tmp, self.public, &format!(".{}{ending}", digest.hex()));
        let image = named(IMAGE)?;
        // The same name but for the ending, so that one leads to the other.
        let index = TempFile::create_at(index_of(image.path()), self.public)?;
        Ok(Partial { image, index })
    }

    /// All unfinished images with at least one finished layer.
    pub fn unfinished(&self) -> Vec<Left> {
        let left = |index: PathBuf| {
            let name = index.file_name()?.to_str()?;
            let hex = name.strip_suffix(INDEX)?.rsplit('.').next()?;
            let digest = Digest::parse(&format!("sha256:{hex}")).ok()?;
            let orphan = is_orphan(&index, name);
            has_layers(&index).then_some(Left { index, digest, orphan })
        };
        let entries = fs::read_dir(self.layout.tmp()).into_iter().flatten().flatten();
        entries.filter_map(|entry| left(entry.path())).collect()
    }

    /// Publishes a finished image, and its index if the image was not there by then. The index is a help to later
    /// pulls only: the image is no worse without it.
    pub fn publish_partial(&self, partial: Partial, meta: &mut ImageMeta) -> Result<(), Failure> {
        let Partial { image, index } = partial;
        let indexed = index.sync().is_ok();
        let inode = |m: fs::Metadata| (m.dev(), m.ino());
        let ours = image.file().metadata().map(inode).ok();
        self.publish(image, meta)?;
        let there = fs::metadata(self.layout.image(&meta.digest)).map(inode).ok();
        if indexed && there == ours {
            let rename = |from: &Path, to: &Path| fs::rename(from, to).map(|()| true);
            let _ = index.publish(&self.layout.layer_index(&meta.digest), rename);
        }
        Ok(())
    }
}

impl Partial {
    /// The image's file.
    pub fn image(&self) -> &TempFile {
        &self.image
    }

    /// Its index's.
    pub fn index(&self) -> &TempFile {
        &self.index
    }

    /// Leaves what is finished to the next pull.
    pub fn keep(self) {
        if has_layers(self.index.path()) {
            self.image.leave();
            self.index.leave();
        }
    }
}

impl Left {
    /// Opens it.
    pub fn open(&self) -> io::Result<KeptImage> {
        KeptImage::open(File::open(image_of(&self.index))?, File::open(&self.index)?)
    }

    /// Removes both files.
    pub fn remove(&self) {
        remove(&self.index);
    }
}

/// Whether `name` is one of an unfinished image's files.
pub(super) fn is_one(name: &str) -> bool {
    name.ends_with(IMAGE) || name.ends_with(INDEX)
}

/// Whether `path` is a file that the next pull can make use of.
pub(super) fn resumes(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    is_one(name) && has_layers(&index_of(path)) && image_of(path).exists()
}

/// Removes what is of no use: at once if its writer is gone and it has no finished layer, or `all` is asked for;
/// otherwise by age. Failures are left for the next time.
pub(super) fn sweep(tmp: &Path, all: bool) {
    for path in useless(tmp, all) {
        remove(&path);
    }
}

/// What [`sweep`] removes.
pub(super) fn useless(tmp: &Path, all: bool) -> Vec<PathBuf> {
    let doomed = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_one(name)) else { return false };
        let path = entry.path();
        age(&path) > STALE || is_orphan(&path, name) && (all || !resumes(&path))
    };
    let entries = fs::read_dir(tmp).into_iter().flatten().flatten();
    entries.filter(doomed).map(|entry| entry.path()).collect()
}

/// Whether nobody writes the files any more of which one is at `path`, called `name`.
fn is_orphan(path: &Path, name: &str) -> bool {
    temp::is_orphan(name) || age(path) > QUIET
}

/// Time since the last write to either of the files of which one is at `path`; 0 if unknown.
fn age(path: &Path) -> Duration {
    let written = |path: PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    let last = [index_of(path), image_of(path)].into_iter().filter_map(written).max();
    last.and_then(|last| SystemTime::now().duration_since(last).ok()).unwrap_or_default()
}

fn has_layers(index: &Path) -> bool {
    fs::metadata(index).is_ok_and(|m| m.len() > HEADER)
}

fn index_of(path: &Path) -> PathBuf {
    path.with_extension(&INDEX[1..])
}

fn image_of(path: &Path) -> PathBuf {
    path.with_extension(&IMAGE[1..])
}

/// Removes both files of which `path` is one. The index first: alone it would promise what is not there.
fn remove(path: &Path) {
    for path in [index_of(path), image_of(path)] {
        // Missing is as good as removed; any other failure is met again by the next clean-up.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_writer_finished_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::new(dir.path(), false);
        repository.prepare().expect("directories");
        let digest = Digest::from_bytes(&[7; 32]);
        let partial = repository.partial(&digest).expect("files");
        let tmp = repository.layout().tmp();
        let mine = partial.index().path().file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
        // Larger than pid_max can be (2^22), so no process has it.
        let pid = std::process::id().to_string();
        let dead = tmp.join(mine.replacen(&format!(".{pid}."), ".99999999.", 1));
        fs::write(image_of(&dead), "x").expect("write");
        fs::write(&dead, [0; 16]).expect("write");
        sweep(&tmp, false);
        assert!(!dead.exists() && !image_of(&dead).exists(), "no layer in it");
        fs::write(image_of(&dead), "x").expect("write");
        fs::write(&dead, [0; 17]).expect("write");
        sweep(&tmp, false);
        let left = repository.unfinished();
        assert!(matches!(&left[..], [one] if one.orphan && one.digest == digest), "a layer in it");
        sweep(&tmp, true);
        assert!(!dead.exists() && !image_of(&dead).exists());
        let foreign = tmp.join(format!("0-0.1.0.{}{INDEX}", digest.hex()));
        let aged = |path: PathBuf, days: u64| {
            let file = File::create(path).expect("a file");
            io::Write::write_all(&mut &file, &[0; 17]).expect("write");
            file.set_modified(SystemTime::now() - Duration::from_secs(days * 86400)).expect("an old file");
        };
        for (days, all, stays) in [(0, true, true), (2, false, true), (2, true, false), (8, false, false)] {
            aged(foreign.clone(), days);
            aged(image_of(&foreign), days);
            sweep(&tmp, all);
            assert_eq!(foreign.exists(), stays, "another machine's, {days} days old, {all}");
        }
        assert!(partial.image().path().exists() && partial.index().path().exists(), "a living writer's");
        partial.keep();
        assert_eq!(fs::read_dir(&tmp).expect("tmp").count(), 0, "nothing was finished");
    }
}
