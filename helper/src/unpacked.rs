//! Owns unpacked images: what `grus run` runs on where there is no FUSE. Each is a directory in the user's repository,
//! unpacked once, published by rename, and removed again when it is used no more.
//!
//! `unpacked/<key>/` is a tree, `unpacked/<key>.lock` its lock: shared by programs that run in it, which have inherited
//! the open file, and held alone by whoever makes or removes it. Its text is the tree's size, its time the last use.

mod write;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use grus_core::digest::Digest;
use grus_core::path::AbsPath;
use grus_core::refusal::printable;
use rustix::fs::{flock, FlockOperation};
use rustix::io::{Errno, FdFlags};
use sha2::Digest as _;

use crate::failure::Failure;
use crate::output;
use crate::repository::Repository;

/// Most bytes of all trees together; the least recently used go first. One in use always stays.
const MOST: u64 = 20_000_000_000;

/// An image's tree, in use.
pub struct Unpacked {
    place: Place,
    lock: File,
}

/// Where a tree and its lock are.
struct Place {
    dir: PathBuf,
    key: String,
}

impl Unpacked {
    /// The tree of an image in the user's repository, unpacked if it is not there; `why` there is no FUSE is told then. `name` is for messages.
    pub fn of(repository: &Repository, image: &AbsPath, name: &str, why: &str) -> Result<Self, Failure> {
        Self::among(MOST, repository, image, name, why)
    }

    /// The same, where all trees together may have `most` bytes.
    fn among(
        most: u64,
        repository: &Repository,
        image: &AbsPath,
        name: &str,
        why: &str,
    ) -> Result<Self, Failure> {
        repository.prepare()?;
        let dir = repository.root().join("unpacked");
        // What an image lets everyone read is still the user's.
        let private = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        private.map_err(|e| Failure::io("create", &dir, &e))?;
        let place = Place { dir, key: key(image)? };
        loop {
            let lock = place.lock(FlockOperation::LockShared)?;
            if place.tree().is_dir() {
                // Only the order in which trees go depends on it.
                let _ = lock.set_modified(SystemTime::now());
                return Ok(Self { place, lock });
            }
            drop(lock);
            let lock = place.make(image, name, why)?;
            // One lock does not become another at once (flock(2)): somebody may have removed the tree in between.
            if place.is_named(&lock)? && place.tree().is_dir() {
                // This one stays, however large it is: it is in use by now.
                shrink(&place.dir, most, false);
                return Ok(Self { place, lock });
            }
        }
    }

    /// Where it is.
    pub fn shown(&self) -> grus_enter::rootless::Unpacked {
        grus_enter::rootless::Unpacked { dir: self.place.tree(), lock: self.place.file("lock") }
    }

    /// Lets the program that this process becomes inherit the lock, and so all that it starts.
    pub fn keep_open(&self) {
        // Without it, a tree in use could be removed: worse, but nothing to fail for.
        let _ = rustix::io::fcntl_setfd(&self.lock, FdFlags::empty());
    }
}

/// Removes trees that nothing runs in; with `dry_run` none. Returns their bytes.
pub fn prune(root: &Path, dry_run: bool) -> u64 {
    shrink(&root.join("unpacked"), 0, dry_run)
}

/// Removes idle trees, the least recently used first, until all have at most `most` bytes. Returns those removed.
fn shrink(dir: &Path, most: u64, dry_run: bool) -> u64 {
    let names =
        fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let keys = names.filter_map(|name| name.strip_suffix(".lock").map(str::to_owned));
    let mut all: Vec<(SystemTime, u64, Place)> = keys
        .filter_map(|key| {
            let place = Place { dir: dir.to_owned(), key };
            let used = fs::metadata(place.file("lock")).and_then(|meta| meta.modified()).ok()?;
            Some((used, place.size(), place))
        })
        .collect();
    all.sort_by_key(|(used, ..)| *used);
    let mut left: u64 = all.iter().map(|(_, size, _)| size).sum();
    let mut freed = 0;
    for (_, size, place) in &all {
        if left > most || most == 0 {
            let gone = if dry_run { place.is_idle() } else { place.remove() };
            if gone {
                left -= size;
                freed += size;
            }
        }
    }
    freed
}

/// What tells one image from another: its path, where that is a repository's and so what is there stays the same, else
/// also what stat(2) tells of the file, as make(1) does it. The digest in a path is no more than a name: anyone can
/// have a repository, and call a file there by the digest of an image that others trust.
fn key(image: &AbsPath) -> Result<String, Failure> {
    let path = image.as_path();
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let named = Digest::parse(&format!("sha256:{stem}")).is_ok()
        && path.parent().is_some_and(|dir| dir.ends_with("images/sha256"));
    let mut text = image.to_string();
    if !named {
        let meta = fs::metadata(path).map_err(|e| Failure::io("read", path, &e))?;
        text += &format!("\0{}:{}:{}:{}", meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    }
    Ok(Digest::from_bytes(&sha2::Sha256::digest(text.as_bytes()).into()).hex().to_owned())
}

impl Place {
    fn tree(&self) -> PathBuf {
        self.dir.join(&self.key)
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", self.key))
    }

    fn size(&self) -> u64 {
        let text = File::open(self.file("lock")).and_then(|file| {
            let mut text = String::new();
            file.take(32).read_to_string(&mut text).map(|_| text)
        });
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Takes the lock. Its file may have been removed meanwhile, and another one have its name.
    fn lock(&self, how: FlockOperation) -> Result<File, Failure> {
        let path = self.file("lock");
        loop {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = opened.map_err(|e| self.unlocked(&e))?;
            self.take(&file, how)?;
            if self.is_named(&file)? {
                return Ok(file);
            }
        }
    }

    /// Takes the lock of an open file, or makes the one that it has another.
    fn take(&self, file: &File, how: FlockOperation) -> Result<(), Failure> {
        loop {
            match flock(file, how) {
                Err(Errno::INTR) => {}
                // A file system without locks: then trees are only safe from `grus prune` if nobody calls it.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => return Ok(()),
                Err(e) => return Err(self.unlocked(&e.into())),
            }
        }
    }

    /// Whether an open lock is the one that others find.
    fn is_named(&self, lock: &File) -> Result<bool, Failure> {
        let own = lock.metadata().map_err(|e| self.unlocked(&e))?;
        Ok(fs::metadata(self.file("lock")).is_ok_and(|named| named.ino() == own.ino()))
    }

    fn unlocked(&self, error: &io::Error) -> Failure {
        Failure::io("lock", &self.file("lock"), error)
    }

    /// Unpacks, unless another process did so meanwhile; returns a share of the lock.
    fn make(&self, image: &AbsPath, name: &str, why: &str) -> Result<File, Failure> {
        let mut lock = self.lock(FlockOperation::LockExclusive)?;
        if !self.tree().is_dir() {
            self.unpack(&mut lock, image, name, why)?;
        }
        self.take(&lock, FlockOperation::LockShared)?;
        Ok(lock)
    }

    /// Unpacks, under the lock.
    fn unpack(&self, lock: &mut File, image: &AbsPath, name: &str, why: &str) -> Result<(), Failure> {
        output::note(&format!(
            "grus: no FUSE here ({}): unpacking {} into {}, once",
            printable(why),
            printable(name),
            printable(&self.dir.display().to_string())
        ));
        let part = self.file("part");
        remove(&part);
        let written = write::tree(image.as_path(), name, &part);
        let size = written.inspect_err(|_| remove(&part))?;
        let done = lock.set_len(0).and_then(|()| lock.write_all(size.to_string().as_bytes()));
        done.and_then(|()| fs::rename(&part, self.tree())).map_err(|e| {
            remove(&part);
            Failure::io("create", &self.tree(), &e)
        })
    }

    /// Whether nothing runs in the tree.
    fn is_idle(&self) -> bool {
        let file = OpenOptions::new().read(true).write(true).open(self.file("lock"));
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
    }

    /// Removes the tree if nothing runs in it.
    fn remove(&self) -> bool {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(self.file("lock")) else {
            return false;
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return false;
        }
        let part = self.file("part");
        remove(&part);
        // At once out of the way of whoever looks for it.
        let gone = fs::rename(self.tree(), &part).is_ok() || !self.tree().exists();
        remove(&part);
        let _ = fs::remove_file(self.file("lock"));
        gone
    }
}

/// What is left of it goes with the next attempt.
fn remove(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::samples::image;

    /// The tree of an image with 5000 bytes in a file, where all trees may have 10.
    fn tree(lab: &Path, name: &str) -> Unpacked {
        let fill = |tree: &Path| fs::write(tree.join("file"), [1u8; 5000]).expect("write");
        let file = lab.join(name);
        if !file.exists() {
            image(lab, name, "xz", fill);
        }
        unpacked(lab, &file)
    }

    fn unpacked(lab: &Path, file: &Path) -> Unpacked {
        let file = AbsPath::parse(file.to_str().expect("UTF-8")).expect("a path");
        Unpacked::among(10, &Repository::new(lab.join("repo"), false), &file, "an image", "a test")
            .expect("unpacked")
    }

    fn is_there(tree: &Unpacked) -> bool {
        tree.shown().dir.join("file").is_file()
    }

    #[test]
    fn trees_in_use_stay_however_large_they_are() {
        let lab = tempfile::tempdir().expect("a directory");
        let first = tree(lab.path(), "first");
        assert_eq!(fs::read(first.shown().dir.join("file")).expect("unpacked"), [1u8; 5000]);
        let (second, again) = (tree(lab.path(), "second"), tree(lab.path(), "first"));
        assert!(is_there(&first) && is_there(&second) && again.shown().dir == first.shown().dir);
        assert_eq!(prune(&lab.path().join("repo"), false), 0, "all are in use");
    }

    #[test]
    fn idle_trees_go_where_there_are_too_many() {
        let lab = tempfile::tempdir().expect("a directory");
        let (first, second) = (tree(lab.path(), "first"), tree(lab.path(), "second"));
        let idle = first.shown().dir;
        drop(first);
        let third = tree(lab.path(), "third");
        assert!(!idle.exists() && is_there(&second) && is_there(&third));
        let idle = second.shown().dir;
        drop(second);
        assert!(is_there(&tree(lab.path(), "first")), "it is unpacked again");
        assert!(!idle.exists() && is_there(&third));
    }

    /// Whoever may write a repository of their own can call any file there by the digest of an image.
    #[test]
    fn what_another_repository_calls_by_a_digest_is_not_the_image_of_that_digest() {
        let lab = tempfile::tempdir().expect("a directory");
        let name = format!("images/sha256/{}.squashfs", "5".repeat(64));
        let [theirs, ours] = ["theirs", "repo"].map(|repository| {
            let file = lab.path().join(repository).join(&name);
            fs::create_dir_all(file.parent().expect("a directory")).expect("mkdir");
            let fill = |tree: &Path| fs::write(tree.join("file"), repository).expect("write");
            fs::rename(image(lab.path(), &format!("{repository}.img"), "xz", fill), &file).expect("rename");
            file
        });
        for (file, content) in [(&theirs, "theirs"), (&ours, "repo")] {
            let tree = unpacked(lab.path(), file).shown().dir;
            assert_eq!(fs::read_to_string(tree.join("file")).expect("unpacked"), content);
        }
    }
}
