//! Making directories, publishing images and setting tags.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use grus_core::image::{ImageMeta, MAX_META};
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::Refusal;
use grus_core::repository::{Layout, Tag};
use rustix::fs::{access, renameat_with, Access, RenameFlags, CWD};

use super::{temp, Removed, Repository, TempFile};
use crate::failure::Failure;

/// Bytes of a SquashFS superblock.
const SUPERBLOCK: usize = 96;

impl Repository {
    /// Makes the repository's directories and sweeps what killed writers left.
    pub fn prepare(&self) -> Result<(), Failure> {
        for dir in [self.layout.images(), self.layout.refs(), self.layout.tmp()] {
            self.make_dirs(&dir).map_err(|e| Failure::io("create", &dir, &e))?;
        }
        let tmp = self.layout.tmp();
        // Told before anything is fetched or read.
        access(&tmp, Access::WRITE_OK).map_err(|e| match self.public {
            true => Refusal::user(format!("cannot write to the system repository {}", self.root().display()))
                .hint("ask the administrator; without --system your own repository is used")
                .into(),
            false => Failure::io("write to", &tmp, &e.into()),
        })?;
        temp::sweep(&tmp);
        self.sweep_layers(false);
        Ok(())
    }

    /// A new file to be published later.
    pub fn temp(&self) -> Result<TempFile, Failure> {
        TempFile::create(&self.layout.tmp(), self.public)
    }

    /// Publishes a written image under its digest: metadata first, then the image, so that an image is never
    /// seen without metadata. A sound image of that digest stays as it is: running steps may have it mounted.
    /// `meta.size` is filled in here.
    pub fn publish(&self, image: TempFile, meta: &mut ImageMeta) -> Result<(), Failure> {
        image.sync()?;
        meta.size = check_superblock(image.file(), image.path())?;
        if let Some(there) = self.has(&meta.digest) {
            *meta = there;
            return Ok(());
        }
        let text = meta.to_json();
        if text.len() > MAX_META {
            // Nobody could read it again.
            return Err(Refusal::image(format!(
                "the image's configuration is too large: more than {MAX_META} bytes"
            ))
            .hint("build it with fewer commands, labels and variables")
            .into());
        }
        self.write_text(&self.layout.meta(&meta.digest), &text)?;
        let to = self.layout.image(&meta.digest);
        let replace = to.exists();
        image
            .publish(&to, |from, to| rename(from, to, replace))
            .map_err(|e| Failure::io("create", &to, &e))?;
        sync_dir(&self.layout.images());
        Ok(())
    }

    /// Points `reference`'s tag, or the digest it is pinned to, at an image. False, and no tag, if the image is
    /// not there: another command removed it in the meantime.
    pub fn set_tag(&self, reference: &Reference, platform: &Platform, tag: &Tag) -> Result<bool, Failure> {
        if let Some(path) = self.layout.tag(reference, platform) {
            let dir = path.parent().unwrap_or(&path);
            let mut tries = 0..10;
            // A concurrent removal takes empty directories away, this one or those above it: they are made again.
            loop {
                match self.make_dirs(dir) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound && tries.next().is_some() => continue,
                    made => made.map_err(|e| Failure::io("create", dir, &e))?,
                }
                match self.write_text(&path, &tag.to_json()) {
                    Err(_) if !dir.exists() && tries.next().is_some() => {}
                    done => break done?,
                }
            }
        }
        // Tag first, then look: a concurrent removal hides the image first, then looks for tags, and brings it back
        // if there is one (repository::remove). One of the two always sees the other.
        for _ in 0..20 {
            if self.has(&tag.digest).is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.drop_tag(reference, platform, (&tag.digest, None), &mut Removed::default())?;
        Ok(false)
    }

    fn write_text(&self, to: &Path, text: &str) -> Result<(), Failure> {
        put(&self.layout, to, text, self.public)?;
        to.parent().map(sync_dir);
        Ok(())
    }

    fn make_dirs(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        if let Some(above) = dir.parent() {
            self.make_dirs(above)?;
        }
        match DirBuilder::new().mode(0o777).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Ok(()) if self.public => fs::set_permissions(dir, fs::Permissions::from_mode(0o755)),
            done => done,
        }
    }
}

/// Writes `text` as the file `to` of a repository, which appears or is replaced as a whole.
pub fn put(layout: &Layout, to: &Path, text: &str, public: bool) -> Result<(), Failure> {
    let file = TempFile::create(&layout.tmp(), public)?;
    file.file().write_all_at(text.as_bytes(), 0).map_err(|e| Failure::io("write", file.path(), &e))?;
    file.sync()?;
    file.publish(to, |from, to| rename(from, to, true)).map(|_| ()).map_err(|e| Failure::io("create", to, &e))
}

/// Renames; without `replace`, false if something has the name already. NFS and some others cannot promise
/// the latter (EINVAL): there the last one wins, with the same content.
fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<bool> {
    if !replace {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::EXIST) => return Ok(false),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    fs::rename(from, to).map(|()| true)
}

/// Best effort: a directory that cannot be synced (some network file systems) is as durable as it gets.
fn sync_dir(dir: &Path) {
    let _ = File::open(dir).and_then(|d| d.sync_all());
}

/// The file's size, once it is sure to be a whole SquashFS 4.0 file: what the disk has, not what was written.
fn check_superblock(file: &File, path: &Path) -> Result<u64, Failure> {
    let size = file.metadata().map_err(|e| Failure::io("read", path, &e))?.size();
    let mut head = [0; SUPERBLOCK];
    file.read_exact_at(&mut head, 0).map_err(|_| unsound("shorter than a superblock"))?;
    super::read::bytes_used(&head)
        .filter(|used| *used <= size)
        .map(|_| size)
        .ok_or_else(|| unsound("damaged").into())
}

fn unsound(why: &str) -> Refusal {
    Refusal::image(format!("the SquashFS file that was written is {why}"))
        .hint("check the disk, and the source if it was a SquashFS file, and try again")
}

/// Reads a small file whole, at most `limit` bytes of it plus one, so that the caller sees it is too long.
pub(crate) fn read_limited(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use grus_core::digest::Digest;

    #[test]
    fn a_tag_that_another_command_set_meanwhile_is_not_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::new(dir.path(), false);
        repository.prepare().expect("directories");
        let (app, here) = (Reference::parse("app:1").expect("static"), Platform::here());
        let path = repository.layout().tag(&app, &here).expect("a tag");
        let tag = |n| Tag { digest: Digest::from_bytes(&[n; 32]), resolved: None, signatures: vec![] };
        std::thread::scope(|scope| {
            let gone = scope.spawn(|| repository.set_tag(&app, &here, &tag(1)));
            while !path.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            repository.write_text(&path, &tag(2).to_json()).expect("another tag");
            assert!(matches!(gone.join().expect("it ends"), Ok(false)), "there is no such image");
        });
        assert_eq!(repository.tag(&app, &here), Some(tag(2)));
        assert!(matches!(repository.set_tag(&app, &here, &tag(2)), Ok(false)) && !path.exists(), "its own");
    }
}
