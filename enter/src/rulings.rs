//! Rulings kept in a user's repository (docs/adr/0009): found again by everything they depend on.
//!
//! Writing is the helper's. One that cannot be read is none: it is only a decision that need not be made again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use grus_core::digest::Digest;
use grus_core::path::AbsPath;
use grus_core::repository::Layout;
use grus_core::swap::{Brought, GlibcRule, Ruling, Wish, MAX_RULING};
use sha2::Digest as _;

use crate::read::{small, Small};
use crate::site::Profiles;

/// What a ruling depends on besides the rules themselves.
#[derive(Debug)]
pub struct Basis<'a> {
    /// The image file.
    pub image: &'a AbsPath,
    /// Its digest where it has one.
    pub digest: Option<&'a Digest>,
    /// What is wanted.
    pub wish: &'a Wish,
    /// The site's rule for glibc.
    pub glibc: GlibcRule,
    /// The host's profiles.
    pub profiles: &'a Profiles,
}

/// The profiles that a ruling depends on, by `read`: none where the image's own MPI is asked for.
pub fn profiles<E>(wish: &Wish, read: impl FnOnce() -> Result<Profiles, E>) -> Result<Profiles, E> {
    match wish.is_image() {
        true => Ok(Profiles::of(vec![])),
        false => read(),
    }
}

impl Basis<'_> {
    /// Whether there is anything to rule on. The libraries of a file that was not pulled are not known, and reading
    /// them takes time: without need nobody does.
    pub fn matters(&self) -> bool {
        let indifferent = self.wish.is_image() || self.wish.is_auto() && self.profiles.is_empty();
        self.digest.is_some() || !indifferent
    }

    /// Its place in a repository; `None` if the image file cannot be looked at.
    ///
    /// A file without a digest is known by what stat(2) tells of it, as make(1) does it.
    pub fn place(&self, layout: &Layout) -> Option<PathBuf> {
        let image = match self.digest {
            Some(digest) => digest.clone(),
            None => {
                let meta = std::fs::metadata(self.image.as_path()).ok()?;
                let (device, inode, size) = (meta.dev(), meta.ino(), meta.size());
                let (changed, nanoseconds) = (meta.ctime(), meta.ctime_nsec());
                digest_of(&format!("{}\0{device}:{inode}:{size}:{changed}:{nanoseconds}", self.image))
            }
        };
        let glibc = match self.glibc {
            GlibcRule::Never => "never",
            GlibcRule::Auto => "auto",
        };
        let rules = env!("CARGO_PKG_VERSION");
        let first = self.wish.first.as_ref().map(Brought::to_string).unwrap_or_default();
        let key =
            [rules, &self.wish.mode.to_string(), &first, glibc, self.profiles.digest().hex()].join("\0");
        Some(layout.ruling(&image, &digest_of(&key)))
    }
}

fn digest_of(text: &str) -> Digest {
    Digest::from_bytes(&sha2::Sha256::digest(text).into())
}

/// The ruling at this place, if there is a sound one.
pub fn read(place: &Path) -> Option<Ruling> {
    match small(place, MAX_RULING) {
        Ok(Small::Bytes(text)) => Ruling::parse(&text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grus_core::swap::Mode;

    fn key(image: &str, digest: Option<u8>, wish: impl Into<Wish>, profiles: u8) -> Option<PathBuf> {
        let wish = wish.into();
        let (image, digest) =
            (AbsPath::parse(image).expect("static"), digest.map(|n| Digest::from_bytes(&[n; 32])));
        let profiles = Profiles::of(vec![("one.toml".into(), profiles.to_string())]);
        Basis {
            image: &image,
            digest: digest.as_ref(),
            wish: &wish,
            glibc: GlibcRule::Never,
            profiles: &profiles,
        }
        .place(&Layout::new("/r"))
    }

    #[test]
    fn everything_that_matters_is_in_the_key_and_nothing_else() {
        let one = key("/a", Some(1), Mode::Auto, 1).expect("a key");
        assert_eq!(key("/b", Some(1), Mode::Auto, 1), Some(one.clone()), "the digest is the image");
        let first = Brought::parse("m=x");
        for other in [
            key("/a", Some(1), Wish::from(Mode::Auto).after(first), 1),
            key("/a", Some(2), Mode::Auto, 1),
            key("/a", Some(1), Mode::Host, 1),
            key("/a", Some(1), Mode::Stack("x".into()), 1),
            key("/a", Some(1), Mode::Auto, 2),
        ] {
            assert_ne!(other.expect("a key"), one);
        }
        assert_eq!(key("/nonexistent/image", None, Mode::Auto, 1), None);
    }

    #[test]
    fn a_file_that_changes_is_another_image() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image.squashfs");
        let text = path.to_string_lossy().into_owned();
        std::fs::write(&path, "1").expect("write");
        let before = key(&text, None, Mode::Auto, 1).expect("a key");
        assert_eq!(key(&text, None, Mode::Auto, 1).expect("a key"), before);
        std::fs::write(&path, "22").expect("write");
        assert_ne!(key(&text, None, Mode::Auto, 1).expect("a key"), before);
    }
}
