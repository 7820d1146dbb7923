//! Owns local sources of images: what is behind `grus import FILE|-|DIR`, and the image in it.
//!
//! Everything read here is hostile. Documents are limited in size, names and links stay inside the archive,
//! every blob is checked against its digest while it is converted.

mod directory;
mod docker;
mod layout;
mod members;
mod rootfs;
mod stream;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use grus_core::digest::Digest;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::{printable, Refusal};

use crate::digest::Verified;
use crate::failure::{reason, Failure};
use crate::image::Image;
use crate::oci::{Config, RawPlatform};
use crate::repository::{Repository, TempFile};
use members::Members;
use stream::{Content, Stream};

pub use rootfs::{digest as rootfs_digest, image as rootfs_image, Hashed};

/// Which image of an archive is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it will be called; chooses among several images by their names.
    pub reference: Reference,
    /// `--select`: the name of the image in the archive.
    pub select: Option<String>,
    /// `--digest`: what the bytes must be.
    pub digest: Option<Digest>,
    /// The platform.
    pub platform: Platform,
}

/// What a source turned out to be.
pub enum Source {
    /// An image of layers.
    Image(Box<Image>),
    /// A finished SquashFS file.
    Squashfs(Box<dyn io::Read + Send>),
}

/// An opened source. The spool of a pipe lives as long as this.
pub struct Opened {
    /// What it is.
    pub source: Source,
    spool: Option<TempFile>,
}

impl Opened {
    /// Whether the stream it comes from was read to its end.
    pub fn is_spooled(&self) -> bool {
        self.spool.is_some()
    }
}

/// Finds out what `from` is (`-` is standard input) and opens the wanted image in it.
pub fn open(from: &Path, wanted: &Wanted, repository: &Repository) -> Result<Opened, Failure> {
    let name = match from.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => printable(&from.display().to_string()),
    };
    let stated = |from: Box<dyn Read + Send>| -> Box<dyn Read + Send> {
        match &wanted.digest {
            Some(digest) => Box::new(Verified::new(from, digest.clone(), None)),
            None => from,
        }
    };
    if from.as_os_str() == "-" {
        return open_stream(stated(Box::new(io::stdin())), &name, wanted, repository);
    }
    let meta = fs::metadata(from).map_err(|e| not_there(&name, &e))?;
    if meta.is_dir() {
        if wanted.digest.is_some() {
            return Err(Refusal::user(format!("{name} is a directory, which has no digest"))
                .hint("leave --digest out, or import a file")
                .into());
        }
        return in_directory(from, wanted)
            .map(|image| Opened { source: Source::Image(Box::new(image)), spool: None });
    }
    let failed = |e: io::Error| not_there(&name, &e);
    let mut file = File::open(from).map_err(failed)?;
    if meta.is_file() && wanted.digest.is_none() {
        // A plain tar of images is read in place; all else is read as a stream.
        let head = Stream::open(Box::new(file.try_clone().map_err(failed)?), &name)?;
        if head.content() == Content::Tar && head.is_plain() && head.is_tar() {
            if let Some(image) = tar(file.try_clone().map_err(failed)?, &name, wanted)? {
                return Ok(Opened { source: Source::Image(Box::new(image)), spool: None });
            }
        }
        io::Seek::rewind(&mut file).map_err(failed)?;
    }
    open_stream(stated(Box::new(file)), &name, wanted, repository)
}

fn in_directory(from: &Path, wanted: &Wanted) -> Result<Image, Failure> {
    let members = Members::Directory(from.to_owned());
    if layout::is_layout(&members) {
        return layout::open(&members, wanted);
    }
    if docker::is_archive(&members) {
        return docker::open(&members, wanted);
    }
    if !["bin", "usr", "etc", "lib"].iter().any(|dir| from.join(dir).symlink_metadata().is_ok()) {
        return Err(unknown(&members.name()));
    }
    directory::open(from, &members.name(), &wanted.platform)
}

/// The image in the archive `file`; None if it is a tar of something else.
fn tar(file: File, name: &str, wanted: &Wanted) -> Result<Option<Image>, Failure> {
    let Some(members) = Members::tar(file, name)? else { return Ok(None) };
    if layout::is_layout(&members) {
        return layout::open(&members, wanted).map(Some);
    }
    match docker::is_archive(&members) {
        true => docker::open(&members, wanted).map(Some),
        false => Ok(None),
    }
}

/// The same for bytes that come in their order, such as a pipe, a compressed file or a download: a root file system is converted as it comes; an archive of images is spooled,
/// since the order of its members is not that of reading.
pub fn open_stream(
    from: Box<dyn io::Read + Send>,
    name: &str,
    wanted: &Wanted,
    repository: &Repository,
) -> Result<Opened, Failure> {
    let stream = Stream::open(from, name)?;
    let plain = |source| Opened { source, spool: None };
    match stream.content() {
        Content::Squashfs => return Ok(plain(Source::Squashfs(stream.reader()))),
        Content::Rootfs => {
            let image = rootfs::image(stream.reader(), name, &wanted.platform);
            return Ok(plain(Source::Image(Box::new(image))));
        }
        Content::Tar if !stream.is_tar() => return Err(unknown(name)),
        Content::Tar => {}
    }
    repository.prepare()?;
    let spool = repository.temp()?;
    copy(&mut stream.reader(), &mut spool.file(), name, spool.path())?;
    let again = || spool.file().try_clone().map_err(|e| Failure::io("read", spool.path(), &e));
    let image = match tar(again()?, name, wanted)? {
        Some(image) => image,
        None => {
            let mut file = again()?;
            io::Seek::rewind(&mut file).map_err(|e| Failure::io("read", spool.path(), &e))?;
            rootfs::image(Box::new(file), name, &wanted.platform)
        }
    };
    Ok(Opened { source: Source::Image(Box::new(image)), spool: Some(spool) })
}

/// Copies all of `from` (called `name`) to `to`, which is at `path`.
pub fn copy(from: &mut dyn Read, to: &mut dyn Write, name: &str, path: &Path) -> Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n]).map_err(|e| Failure::io("write", path, &e))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Failure::read(name, &e)),
        }
    }
}

/// The candidates that bear the wanted name; all of them where names do not matter, i.e. there is one name at
/// most. Several images of which none has the name are refused with the list.
fn select<'a, T>(
    all: &[&'a T],
    names: impl Fn(&&'a T) -> Vec<String>,
    wanted: &Wanted,
    on: &str,
) -> Result<Vec<&'a T>, Failure> {
    let bears = |name: &str| -> Vec<&'a T> {
        let full = Reference::parse(name).ok();
        let same = |n: &String| {
            n == name || full.as_ref().is_some_and(|f| Reference::parse(n).ok().as_ref() == Some(f))
        };
        all.iter().filter(|c| names(c).iter().any(same)).copied().collect()
    };
    if let Some(name) = &wanted.select {
        let found = bears(name);
        return match found.is_empty() {
            true => Err(ambiguous(all, names, wanted, on)),
            false => Ok(found),
        };
    }
    let mut different: Vec<Vec<String>> = all.iter().map(&names).collect();
    different.sort();
    different.dedup();
    if different.len() <= 1 {
        return Ok(all.to_vec());
    }
    // OCI layouts name images by their tag alone, others in full.
    let tag = wanted.reference.tag.as_deref().unwrap_or("latest");
    let full = bears(&wanted.reference.to_string());
    let found = if full.is_empty() { bears(tag) } else { full };
    match found.is_empty() {
        true => Err(ambiguous(all, names, wanted, on)),
        false => Ok(found),
    }
}

fn ambiguous<'a, T>(
    all: &[&'a T],
    names: impl Fn(&&'a T) -> Vec<String>,
    wanted: &Wanted,
    on: &str,
) -> Failure {
    let mut list: Vec<String> = all.iter().flat_map(names).collect();
    list.sort();
    list.dedup();
    let what = match &wanted.select {
        Some(name) => format!("{on} has no image named {}", printable(name)),
        None => format!("{on} has several images, none of them named {}", wanted.reference.familiar()),
    };
    let has = if list.is_empty() { "images without names".to_owned() } else { list.join(", ") };
    Refusal::user(what).hint(format!("choose one with --select NAME; it has: {}", printable(&has))).into()
}

/// The image's platform, refused unless it is the wanted one.
fn check_platform(
    config: &Config,
    described: Option<&RawPlatform>,
    wanted: &Wanted,
    on: &str,
) -> Result<Platform, Failure> {
    let platform = config.platform.known().or_else(|| described.and_then(RawPlatform::known));
    // Some builders state none; such an image is taken at the caller's word.
    let platform = platform.unwrap_or_else(|| wanted.platform.clone());
    match wanted.platform.runs(&platform) {
        true => Ok(platform),
        false => Err(Refusal::image(format!("{on} is for {platform}, not for {}", wanted.platform))
            .hint(format!("to import it for other nodes, add --platform {platform}"))
            .into()),
    }
}

fn unknown(name: &str) -> Failure {
    Refusal::image(format!("{name} is no image"))
        .hint(
            "an OCI layout, a docker-archive, a root file system (each a directory or a tar, also gzip or zstd) or a \
             SquashFS file can be imported",
        )
        .into()
}

fn not_there(name: &str, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "check the path; '-' reads standard input",
        _ => "check the permissions of this path and of those above",
    };
    Refusal::user(format!("cannot read {name}: {}", reason(error))).hint(hint).into()
}
