//! Reading an image repository without a lock, and without trust in who may write it.
//!
//! A look-up costs three opens at most, whatever the number of images. Writing is the helper's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, MAX_META};
use grus_core::platform::Platform;
use grus_core::reference::{Reference, DOCKER_HUB};
use grus_core::repository::{Layout, Tag, MAX_TAG};
use grus_core::Refusal;
use rustix::fs::{utimensat, AtFlags, OFlags, Timespec, Timestamps, CWD, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::call::{open, shown, stat, Broken};
use crate::failure::reason;
use crate::read::{small, Small};
use crate::trust::is_regular;

/// A use is noted once in this time.
const DAY: Duration = Duration::from_secs(24 * 3600);

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
    let Some(text) = read(&file, MAX_TAG, "tag file")? else { return by_beginning(layout, reference) };
    let tag = Tag::parse(&text, &file.to_string_lossy())?;
    by_digest(layout, &tag.digest)
}

/// Fewest digits of a digest that are taken for one: as many as are shown.
const BEGINNING: usize = 12;

/// The image whose digest is meant by what looks like a name: `3f5a7c91d2e4`, or `sha256:3f5a7c91d2e4...`. Only asked
/// where there is no such name, as in Docker.
fn by_beginning(layout: &Layout, reference: &Reference) -> Result<Option<Found>, Refusal> {
    let tag = reference.tag.as_deref().unwrap_or_default();
    let hex = match (reference.registry.as_str(), reference.repository.strip_prefix("library/")) {
        (DOCKER_HUB, Some("sha256")) => tag,
        (DOCKER_HUB, Some(name)) if tag == "latest" => name,
        _ => return Ok(None),
    };
    let digits = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !digits || !(BEGINNING..=64).contains(&hex.len()) {
        return Ok(None);
    }
    // A repository that cannot be listed has been, or will be, told as such.
    let entries = fs::read_dir(layout.images()).into_iter().flatten().flatten();
    let digest = |entry: fs::DirEntry| {
        let name = entry.file_name();
        Digest::parse(&format!("sha256:{}", name.to_str()?.strip_suffix(".squashfs")?)).ok()
    };
    let mut found = entries.filter_map(digest).filter(|digest| digest.hex().starts_with(hex));
    match (found.next(), found.next()) {
        (Some(one), None) => by_digest(layout, &one),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Refusal::user(format!("several images begin with {hex}"))
            .hint("write more digits; 'grus images --digests' shows them all")),
    }
}

/// The image that is tagged for another platform than the submitting host's: the first by the platform's name.
pub fn find_staged(layout: &Layout, reference: &Reference) -> Result<Option<Found>, Refusal> {
    let Some(dir) = layout.tag_dir(reference) else { return Ok(None) };
    // A directory that cannot be read is as good as an empty one: the image is then told to be missing.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let platforms = names.iter().filter_map(|name| Platform::from_file_name(name.strip_suffix(".json")?));
    for platform in platforms {
        if let Some(found) = find(layout, reference, &platform)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The image file for a node of `platform` and its metadata, where submission found `image` for `reference`: each node takes what the
/// same name means for its own platform. Where there is no such image, `image` again, which then is refused.
pub fn for_node(
    image: &Path,
    reference: &Reference,
    platform: &Platform,
) -> Result<(PathBuf, Option<ImageMeta>), Refusal> {
    let meta = meta_beside(image)?;
    // <root>/images/sha256/<hex>.squashfs
    let found = match (&meta, image.ancestors().nth(3)) {
        (Some(meta), Some(root)) if !platform.runs(&meta.platform) => {
            find(&Layout::new(root), reference, platform)?
        }
        _ => None,
    };
    Ok(match found.filter(|found| platform.runs(&found.meta.platform)) {
        Some(found) => (found.path, Some(found.meta)),
        None => (image.to_owned(), meta),
    })
}

/// Notes that a tag is used, for `grus prune`: the time of its file becomes now. At most one write a day, and none
/// where the user may not write, as in the system's repository. Times of last access would be the file system's word,
/// which is no word under `noatime`.
pub fn note_use(layout: &Layout, reference: &Reference, platform: &Platform) {
    let Some(file) = layout.tag(reference, platform) else { return };
    let modified = fs::symlink_metadata(&file).and_then(|meta| meta.modified());
    let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    if age.is_some_and(|age| age > DAY) {
        let times = Timestamps { last_access: special(UTIME_OMIT), last_modification: special(UTIME_NOW) };
        // Only a record: a use is not to fail for it.
        let _ = utimensat(CWD, &file, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

/// A time that utimensat(2) knows by its nanoseconds alone.
fn special(nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: nanoseconds as _ }
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

#[cfg(test)]
mod tests {
    use super::*;
    use grus_core::image::META_VERSION;

    /// A repository with `app:1` for these platforms, by the image's number.
    fn repository(dir: &Path, platforms: &[&str]) -> (Layout, Vec<PathBuf>) {
        let layout = Layout::new(dir);
        let app = Reference::parse("x.y/app:1").expect("static");
        let tag_dir = layout.tag_dir(&app).expect("a tag");
        fs::create_dir_all(layout.images()).and_then(|()| fs::create_dir_all(&tag_dir)).expect("mkdir");
        let add = |(n, platform): (usize, &&str)| {
            let (digest, platform) =
                (Digest::from_bytes(&[n as u8; 32]), Platform::parse(platform).expect("static"));
            let meta = ImageMeta {
                version: META_VERSION,
                reference: Some(app.clone()),
                digest: digest.clone(),
                platform: platform.clone(),
                created: None,
                size: 1,
                content: None,
                unpacked_size: 1,
                config: Default::default(),
                layers: vec![],
                history: vec![],
            };
            fs::write(layout.image(&digest), "x").expect("image");
            fs::write(layout.meta(&digest), meta.to_json()).expect("metadata");
            let tag = Tag { digest: digest.clone(), resolved: None, signatures: vec![] };
            fs::write(layout.tag(&app, &platform).expect("a tag"), tag.to_json()).expect("tag");
            layout.image(&digest)
        };
        let images = platforms.iter().enumerate().map(add).collect();
        (layout, images)
    }

    #[test]
    fn each_node_takes_the_image_of_its_own_platform() {
        let dir = tempfile::tempdir().expect("a directory");
        let (layout, images) = repository(dir.path(), &["linux/amd64", "linux/arm64"]);
        let app = Reference::parse("x.y/app:1").expect("static");
        for (platform, own) in [("linux/amd64", 0), ("linux/arm64", 1)] {
            let platform = Platform::parse(platform).expect("static");
            for pinned in &images {
                let (path, meta) = for_node(pinned, &app, &platform).expect("an image");
                assert_eq!((&path, meta.map(|meta| meta.platform).as_ref()), (&images[own], Some(&platform)));
            }
        }
        let other = Platform::parse("linux/riscv64").expect("static");
        let refused = for_node(&images[1], &app, &other).expect("an image");
        assert_eq!(refused.0, images[1], "launching refuses it");
        assert_eq!(find_staged(&layout, &app).expect("found").map(|f| f.path).as_ref(), Some(&images[0]));
        let none = Reference::parse("x.y/no:1").expect("static");
        assert_eq!(find_staged(&layout, &none), Ok(None));
        assert_eq!(
            for_node(Path::new("/x.sqsh"), &app, &other),
            Ok(("/x.sqsh".into(), None)),
            "a file is a file"
        );
    }

    #[test]
    fn the_beginning_of_a_digest_names_an_image_where_no_name_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let (layout, images) = repository(dir.path(), &["linux/amd64", "linux/arm64"]);
        let here = Platform::parse("linux/amd64").expect("static");
        let found = |text: &str| {
            let found = find(&layout, &Reference::parse(text).expect(text), &here).expect("readable");
            found.map(|found| found.path)
        };
        let hex = "01".repeat(32);
        for text in [&hex[..12], &hex, &format!("sha256:{hex}"), &format!("sha256:{}", &hex[..20])] {
            assert_eq!(found(text).as_ref(), Some(&images[1]), "{text}");
        }
        for text in [&hex[..11], "0123456789ab", "x.y/010101010101", "010101010101:2", "sha256:zz"] {
            assert_eq!(found(text), None, "{text}");
        }
        // Another image that begins alike.
        let other = images[1].with_file_name(format!("{}ff.squashfs", &hex[..62]));
        fs::write(&other, "x").expect("writable");
        let several = find(&layout, &Reference::parse(&hex[..12]).expect("hex"), &here).expect_err("two");
        assert_eq!(several.what, "several images begin with 010101010101");
    }

    #[test]
    fn a_use_makes_a_tag_young_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (layout, _) = repository(dir.path(), &["linux/amd64"]);
        let app = Reference::parse("x.y/app:1").expect("static");
        let platform = Platform::parse("linux/amd64").expect("static");
        let tag = layout.tag(&app, &platform).expect("a tag");
        let age = |file: &Path, hours: u64| {
            let then = SystemTime::now() - Duration::from_secs(hours * 3600);
            fs::File::options().append(true).open(file).and_then(|f| f.set_modified(then)).expect("a time");
        };
        let modified = |file: &Path| fs::metadata(file).and_then(|m| m.modified()).expect("a time");
        for (hours, noted) in [(900, true), (12, false)] {
            age(&tag, hours);
            let before = modified(&tag);
            note_use(&layout, &app, &platform);
            assert_eq!(modified(&tag) != before, noted, "one write a day is enough");
        }
        note_use(&layout, &Reference::parse("x.y/no").expect("static"), &platform);
    }
}
