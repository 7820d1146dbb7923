//! Owns the files of an archive, be it a directory or a tar: opened by name, always below the archive's top.
//!
//! It refuses names that leave the archive, links that do, anything that is no regular file, and tars with more
//! members, or more about a member, than any archive has.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grus_core::refusal::{printable, Refusal};
use rustix::fs::{openat2, Mode, OFlags, ResolveFlags, CWD};

use crate::failure::{reason, Failure};
use crate::oci::MAX_DOCUMENT;
use crate::section::Section;

/// Most members of a tar archive of images.
const MAX_MEMBERS: usize = 100_000;

/// One of them is in every archive of images.
const MARKS: [&str; 4] = ["oci-layout", "index.json", "manifest.json", "repositories"];

/// Most bytes of a header of a tar with what belongs to it: a long name, or where a sparse file has data, which may be
/// a million places (`grus_squash::Limits`).
const MAX_HEADER: u64 = 32 << 20;

/// Longest name of a member, and of what a link leads to (PATH_MAX).
const MAX_NAME: usize = 4096;

/// Most links followed to a member.
const MAX_LINKS: usize = 8;

/// The files of an archive.
#[derive(Clone, Debug)]
pub enum Members {
    /// A directory.
    Directory(PathBuf),
    /// A tar file, not compressed.
    Tar(Arc<Index>),
}

/// Where a tar's members are.
#[derive(Debug)]
pub struct Index {
    file: File,
    /// What the file was given as, for messages.
    name: String,
    members: HashMap<String, Member>,
}

#[derive(Clone, Debug)]
enum Member {
    Data { offset: u64, size: u64 },
    Link(String),
}

impl Members {
    /// Reads the table of members of the tar in `file`. None if it has more than an archive of images can have and
    /// is none by their names: a large root file system.
    pub fn tar(file: File, name: &str) -> Result<Option<Self>, Failure> {
        Self::at_most(MAX_MEMBERS, file, name)
    }

    fn at_most(most: usize, file: File, name: &str) -> Result<Option<Self>, Failure> {
        let broken = |e: io::Error| unsound(name, &reason(&e));
        let mut members: HashMap<String, Member> = HashMap::new();
        let reader = file.try_clone().map_err(broken)?;
        (&reader).rewind().map_err(broken)?;
        let mut archive = tar::Archive::new(Headers { file: reader, read: 0 });
        for (count, entry) in archive.entries_with_seek().map_err(broken)?.enumerate() {
            let entry = entry.map_err(broken)?;
            if count >= most {
                return match MARKS.iter().any(|mark| members.contains_key(*mark)) {
                    true => Err(unsound(name, &format!("it has more than {most} members")).into()),
                    false => Ok(None),
                };
            }
            let Some(path) = named(&entry.path_bytes()).and_then(|path| inside("", &path)) else { continue };
            let kind = entry.header().entry_type();
            let target = entry.link_name_bytes().and_then(|target| named(&target));
            let above = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            let member = match (kind, target) {
                (tar::EntryType::Regular | tar::EntryType::Continuous, _) => {
                    Member::Data { offset: entry.raw_file_position(), size: entry.size() }
                }
                // A symlink is seen from its directory, a hard link from the top (tar(5)).
                (tar::EntryType::Symlink, Some(target)) => match inside(above, &target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                (tar::EntryType::Link, Some(target)) => match inside("", &target) {
                    Some(target) if target != path => Member::Link(target),
                    _ => continue,
                },
                _ => continue,
            };
            members.insert(path, member);
        }
        Ok(Some(Self::Tar(Arc::new(Index { file, name: name.to_owned(), members }))))
    }

    /// What the archive is called in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Directory(dir) => printable(&dir.display().to_string()),
            Self::Tar(index) => index.name.clone(),
        }
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.open(name).is_ok_and(|found| found.is_some())
    }

    /// Opens a file at its first byte, with its size; None if there is none.
    pub fn open(&self, name: &str) -> io::Result<Option<(Section, u64)>> {
        let Some(name) = inside("", name) else { return Ok(None) };
        match self {
            Self::Directory(dir) => open_below(dir, &name),
            Self::Tar(index) => index.open(&name),
        }
    }

    /// Reads a small document whole; None if there is none.
    pub fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let failed = |why: String| {
            Refusal::image(format!("cannot read {} in {}: {why}", printable(name), self.name()))
                .hint("it was not made by an image builder, or it is damaged; make the archive again")
        };
        let Some((file, size)) = self.open(name).map_err(|e| failed(reason(&e)))? else { return Ok(None) };
        if size > MAX_DOCUMENT {
            return Err(failed(format!("it is larger than {MAX_DOCUMENT} bytes")).into());
        }
        let mut bytes = vec![];
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(|e| failed(reason(&e)))?;
        Ok(Some(bytes))
    }
}

impl Index {
    fn open(&self, name: &str) -> io::Result<Option<(Section, u64)>> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            match self.members.get(name) {
                None => return Ok(None),
                Some(Member::Link(target)) => name = target,
                Some(Member::Data { offset, size }) => {
                    let file = self.file.try_clone()?;
                    return Ok(Some((Section::new(file, *offset, Some(offset + size)), *size)));
                }
            }
        }
        Err(io::Error::other("too many links"))
    }
}

/// A tar as its headers are read: the crate seeks to each, and holds what it reads from there on, whatever its size.
struct Headers {
    file: File,
    /// Bytes since the last seek.
    read: u64,
}

impl Read for Headers {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        self.read += n as u64;
        match self.read > MAX_HEADER {
            true => Err(io::Error::other(format!("a header in it is larger than {MAX_HEADER} bytes"))),
            false => Ok(n),
        }
    }
}

impl Seek for Headers {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.read = 0;
        self.file.seek(to)
    }
}

/// A name as text; None if no file can have it.
fn named(bytes: &[u8]) -> Option<String> {
    (bytes.len() < MAX_NAME).then(|| String::from_utf8_lossy(bytes).into_owned())
}

fn unsound(name: &str, why: &str) -> Refusal {
    Refusal::image(format!("{name} is no sound tar archive: {}", printable(why)))
        .hint("make or copy the archive again")
}

/// Opens a regular file below `dir`. Links are followed as long as they stay below it (openat2(2)).
fn open_below(dir: &Path, name: &str) -> io::Result<Option<(Section, u64)>> {
    let top = openat2(
        CWD,
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::empty(),
    )?;
    // NONBLOCK: a FIFO in a hostile directory must not hang us; it has no effect on regular files.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&top, name, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(rustix::io::Errno::XDEV) => return Err(io::Error::other("it is a link out of the archive")),
        opened => File::from(opened?),
    };
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Ok(None);
    }
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(Some((Section::new(file, 0, None), meta.len())))
}

/// `path` seen from `dir`, both below the archive's top, without `.`, `..` and doubled slashes. None if it is
/// absolute, empty or climbs out.
pub fn inside(dir: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut kept: Vec<&str> = dir.split('/').filter(|c| !c.is_empty()).collect();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                kept.pop()?;
            }
            name => kept.push(name),
        }
    }
    (!kept.is_empty()).then(|| kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(inside("", "./a//b/../c").as_deref(), Some("a/c"));
        assert_eq!(inside("x/y", "../z/layer.tar").as_deref(), Some("x/z/layer.tar"));
        for out in ["/etc/passwd", "../x", "a/../../x", "", ".", "a/.."] {
            assert_eq!(inside("", out), None, "{out}");
        }
    }

    #[test]
    fn a_tar_of_too_many_members_is_a_root_file_system_unless_a_name_says_otherwise() {
        let tar_of = |names: &[&str]| {
            let mut tar = tar::Builder::new(tempfile::tempfile().expect("a file"));
            for name in names {
                let mut header = tar::Header::new_gnu();
                header.set_size(0);
                tar.append_data(&mut header, name, std::io::empty()).expect("append");
            }
            tar.into_inner().expect("tar")
        };
        let read = |names: &[&str]| Members::at_most(2, tar_of(names), "x.tar");
        assert!(read(&["a", "b"]).expect("sound").is_some_and(|members| members.has("b")));
        assert!(read(&["NGC-DL-CONTAINER-LICENSE", "bin/sh", "etc/passwd"]).expect("sound").is_none());
        for mark in MARKS {
            let refused = read(&["a", &format!("./{mark}"), "b"]).map(drop).expect_err(mark);
            assert!(refused.to_string().contains("it has more than 2 members"), "{refused}");
        }
    }

    #[test]
    fn no_header_fills_the_memory() {
        for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(MAX_HEADER + 1);
            header.set_cksum();
            let mut file = tempfile::tempfile().expect("a file");
            std::io::Write::write_all(&mut file, header.as_bytes()).expect("write");
            file.set_len(MAX_HEADER * 2).expect("holes");
            let refused = Members::tar(file, "x.tar").map(drop).expect_err("too much");
            assert!(
                refused.to_string().contains("a header in it is larger than 33554432 bytes"),
                "{refused}"
            );
        }
        let mut tar = tar::Builder::new(tempfile::tempfile().expect("a file"));
        for name in ["n".repeat(MAX_NAME), "n".repeat(MAX_NAME - 1), "index.json".into()] {
            let mut header = tar::Header::new_gnu();
            // Data of a member are no header, however large.
            let size = if name == "index.json" { MAX_HEADER + 1 } else { 0 };
            header.set_size(size);
            tar.append_data(&mut header, name, std::io::repeat(0).take(size)).expect("append");
        }
        let members =
            Members::tar(tar.into_inner().expect("tar"), "x.tar").expect("sound").expect("an archive");
        let Members::Tar(index) = &members else { panic!("no tar") };
        assert!(members.has("index.json") && index.members.len() == 2);
    }

    #[test]
    fn a_directory_gives_no_link_out_no_fifo_and_no_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("real"), "x").expect("write");
        std::os::unix::fs::symlink("real", at("in")).expect("link");
        std::os::unix::fs::symlink("/etc/passwd", at("out")).expect("link");
        std::os::unix::fs::symlink("loop", at("loop")).expect("link");
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::from(0o600), 0).expect("fifo");
        let members = Members::Directory(dir.path().into());
        assert!(members.has("in") && members.has("./real") && !members.has("../etc") && !members.has("."));
        assert!(members.open("out").is_err());
        assert!(members.open("loop").is_err());
        assert!(members.open("fifo").is_err());
    }
}
