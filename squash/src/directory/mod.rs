//! Owns a directory tree as a layer: the tree is walked while it is read, and given out as a tar stream,
//! so it goes the way every layer goes. It refuses names that layers reserve for whiteouts, and files
//! that change while they are read.

mod acl;
mod encode;
mod reach;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use self::encode::Header;
use self::reach::Top;
use crate::source::LayerSource;

/// A directory as one layer: the tree below it becomes the root file system, with owners, modes, times,
/// hard links, holes and extended attributes. Sockets are left out. Where an access control list cannot be kept, the
/// group gets what the list gives it, not what the mode shows (acl(5)).
#[derive(Clone)]
pub struct DirectorySource {
    /// Top of the tree.
    pub path: PathBuf,
    /// Who decides what becomes of an entry; `Arc::new(())` takes all as it is.
    pub judge: Arc<dyn Judge>,
}

/// Decides what becomes of an entry of a directory tree. Paths are relative to the top, which is the empty one.
pub trait Judge: Send + Sync {
    /// Asked before an entry is read.
    fn entry(&self, path: &Path, meta: &Metadata) -> io::Result<Verdict> {
        let _ = (path, meta);
        Ok(Verdict::Take)
    }

    /// Asked where an entry may not be read; [`Verdict::Take`] makes that the error it is.
    fn unreadable(&self, path: &Path, meta: Option<&Metadata>) -> io::Result<Verdict> {
        let _ = (path, meta);
        Ok(Verdict::Take)
    }
}

impl Judge for () {}

/// What becomes of an entry.
pub enum Verdict {
    /// It is taken as it is.
    Take,
    /// A directory is taken without what is in it.
    TakeEmpty,
    /// It is left out, with all below it.
    LeaveOut,
    /// These members of a tar (without its end) come in its place.
    Instead(Box<dyn Read + Send>),
}

impl LayerSource for DirectorySource {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Walk {
            // A symlink to a directory is fine as the top only.
            top: Top::open(&self.path).map_err(|e| at(&self.path, e))?,
            path: self.path.clone(),
            judge: self.judge.clone(),
            todo: vec![PathBuf::new()],
            instead: None,
            names: HashMap::new(),
            buffer: Vec::new(),
            at: 0,
            file: None,
            ended: false,
        }))
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// The walk, as a tar stream.
struct Walk {
    top: Top,
    /// Where the top is, for messages.
    path: PathBuf,
    judge: Arc<dyn Judge>,
    /// Paths below the top still to come, last first.
    todo: Vec<PathBuf>,
    /// First names of files that have several, by device and inode.
    names: HashMap<(u64, u64), PathBuf>,
    /// What comes in the place of an entry.
    instead: Option<Box<dyn Read + Send>>,
    /// Bytes to give out next.
    buffer: Vec<u8>,
    at: usize,
    /// The file whose data follow the buffer.
    file: Option<Data>,
    ended: bool,
}

/// A file's data segments.
struct Data {
    /// For messages.
    path: PathBuf,
    file: File,
    /// Last first: where each begins, and how long it is.
    segments: Vec<(u64, u64)>,
    padding: usize,
    /// What is left of the segment being read.
    left: u64,
}

impl Read for Walk {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at < self.buffer.len() {
                let n = (self.buffer.len() - self.at).min(buf.len());
                buf[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
                self.at += n;
                return Ok(n);
            }
            (self.at, self.buffer) = (0, Vec::new());
            if let Some(instead) = &mut self.instead {
                match instead.read(buf)? {
                    0 if !buf.is_empty() => self.instead = None,
                    n => return Ok(n),
                }
            } else if let Some(data) = &mut self.file {
                match data.read(buf)? {
                    0 => {
                        self.buffer = vec![0; data.padding];
                        self.file = None;
                    }
                    n => return Ok(n),
                }
            } else if let Some(path) = self.todo.pop() {
                self.entry(path)?;
            } else if self.ended || buf.is_empty() {
                return Ok(0);
            } else {
                self.ended = true;
                self.buffer = vec![0; 1024];
            }
        }
    }
}

impl Walk {
    /// Sets up what `path` (below the top) gives.
    fn entry(&mut self, path: PathBuf) -> io::Result<()> {
        let full = self.path.join(&path);
        let held = self.top.entry(&path, OFlags::PATH).and_then(|held| Ok((held.metadata()?, held)));
        let held = held.map_err(|e| at(&full, e));
        let verdict = match &held {
            Ok((meta, _)) => self.judge.entry(&path, meta)?,
            Err(_) => Verdict::Take,
        };
        let empty = matches!(verdict, Verdict::TakeEmpty);
        let taken = match verdict {
            Verdict::LeaveOut => return Ok(()),
            Verdict::Instead(tar) => {
                self.instead = Some(tar);
                return Ok(());
            }
            Verdict::Take | Verdict::TakeEmpty => match &held {
                Ok((meta, held)) => self.take(&path, &full, meta, held, empty),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            },
        };
        match taken {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                match self.judge.unreadable(&path, held.as_ref().ok().map(|(meta, _)| meta))? {
                    Verdict::Take | Verdict::TakeEmpty => return Err(e),
                    Verdict::LeaveOut => {}
                    Verdict::Instead(tar) => self.instead = Some(tar),
                }
                Ok(())
            }
            taken => taken,
        }
    }

    /// The same for an entry that is taken. What it changes is changed when nothing can fail any more.
    fn take(
        &mut self,
        path: &Path,
        full: &Path,
        meta: &Metadata,
        held: &File,
        empty: bool,
    ) -> io::Result<()> {
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh.")) {
            let why = "names that begin with .wh. stand for deleted files in images";
            return Err(at(full, io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let kind = meta.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = header(path, meta, held).map_err(|e| at(full, e))?;
        let several = !kind.is_dir() && meta.nlink() > 1;
        if several {
            if let Some(first) = self.names.get(&(meta.dev(), meta.ino())) {
                header.kind = b'1';
                header.link = first.as_os_str().as_bytes().to_vec();
                self.buffer = header.encode();
                return Ok(());
            }
        }
        let open = match kind.is_file() || kind.is_dir() && !empty {
            // Not blocking: it may have become something else meanwhile.
            true => Some(self.top.entry(path, OFlags::NONBLOCK).map_err(|e| at(full, e))?),
            false => None,
        };
        header.xattrs = xattrs(held, open.as_ref()).map_err(|e| at(full, e))?;
        header.mind_access_list();
        let mut below = vec![];
        match open {
            Some(file) if kind.is_file() => {
                let (data, sparse) = Data::new(full.to_owned(), file, meta)?;
                self.buffer = header.encode_file(meta.len(), sparse.then_some(&data.segments[..]));
                self.file = Some(data);
            }
            Some(dir) => {
                below = children(dir, path).map_err(|e| at(full, e))?;
                self.buffer = header.encode();
            }
            None => self.buffer = header.encode(),
        }
        if several {
            self.names.insert((meta.dev(), meta.ino()), path.to_owned());
        }
        self.todo.extend(below);
        Ok(())
    }
}

/// What a tar says of an entry, but for its attributes and its other names.
fn header(path: &Path, meta: &Metadata, held: &File) -> io::Result<Header> {
    let kind = meta.file_type();
    let mut header = Header::new(path.as_os_str().as_bytes(), meta);
    if kind.is_dir() {
        header.kind = b'5';
    } else if kind.is_symlink() {
        header.kind = b'2';
        header.link = rustix::fs::readlinkat(held, "", Vec::new())?.into_bytes();
    } else if kind.is_char_device() || kind.is_block_device() {
        header.kind = if kind.is_char_device() { b'3' } else { b'4' };
        header.device = Some((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())));
    } else if kind.is_fifo() {
        header.kind = b'6';
    }
    Ok(header)
}

/// The names in a directory, last first, so that they are popped in order.
fn children(dir: File, path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = vec![];
    for entry in Dir::new(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}

impl Data {
    fn new(path: PathBuf, file: File, meta: &Metadata) -> io::Result<(Data, bool)> {
        let opened = file.metadata().map_err(|e| at(&path, e))?;
        if (opened.dev(), opened.ino(), opened.len()) != (meta.dev(), meta.ino(), meta.len()) {
            return Err(at(&path, changed()));
        }
        let sparse = meta.blocks() * 512 < meta.len();
        let mut segments = if sparse { segments(&file, meta.len())? } else { vec![(0, meta.len())] };
        segments.reverse();
        let total: u64 = segments.iter().map(|segment| segment.1).sum();
        let padding = (total.wrapping_neg() % 512) as usize;
        Ok((Data { path, file, segments, padding, left: 0 }, sparse))
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some((start, length)) = self.segments.pop() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(start)).map_err(|e| at(&self.path, e))?;
            self.left = length;
        }
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.file.read(&mut buf[..want]).map_err(|e| at(&self.path, e))? {
            0 if want > 0 => Err(at(&self.path, changed())),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

/// Where a sparse file has data (lseek(2), SEEK_DATA). All of it, where the file system cannot say.
fn segments(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut here = 0;
    while here < size {
        let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(here)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // nothing but a hole to the end
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![(0, size)]),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break; // it shrank; reading will tell
        }
        found.push((start, end - start));
        here = end;
    }
    Ok(found)
}

/// All attributes that can be read; file systems without any have none.
fn xattrs(held: &File, open: Option<&File>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // What cannot be opened, such as a link or a device, is named by its descriptor: its path may lead elsewhere by now.
    let magic = format!("/proc/self/fd/{}", held.as_raw_fd());
    let mut names = vec![0; 65536];
    let listed = match open {
        Some(file) => rustix::fs::flistxattr(file, &mut names[..]),
        None => rustix::fs::listxattr(&magic, &mut names[..]),
    };
    let n = match listed {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        // No /proc for us. Links and devices cannot have attributes of users anyway.
        Err(Errno::NOENT | Errno::ACCESS) if open.is_none() => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    names.truncate(n);
    let mut found = Vec::new();
    let mut value = vec![0; 65536];
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let got = match open {
            Some(file) => rustix::fs::fgetxattr(file, name, &mut value[..]),
            None => rustix::fs::getxattr(&magic, name, &mut value[..]),
        };
        match got {
            Ok(n) => found.push((name.to_vec(), value[..n].to_vec())),
            // trusted. without the privilege to read it, or gone in between.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort();
    Ok(found)
}

fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn changed() -> io::Error {
    io::Error::other("it changed while it was read")
}
