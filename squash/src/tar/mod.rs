//! Owns the tar format: a stream of archive bytes in, entries with their data out. v7, ustar, PAX, GNU,
//! star; sparse files in all four forms. It refuses what is not tar; it knows nothing of layers.

mod header;
mod pax;
mod sparse;

use std::io::BufRead;

use self::header::{Format, Header, BLOCK};
use self::pax::Pax;
use self::sparse::SparseMap;
use crate::error::{LimitKind, TarFault};
use crate::fault::Fault;
use crate::limits::Limits;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

/// One entry as the archive states it: names unchecked, ids in range, time cut to SquashFS's 32 bits.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, 0 to 07777.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970; what lies before or after 32 bits is set to the nearest that fits.
    pub(crate) mtime: u32,
    pub(crate) device: (u32, u32),
    /// Bytes of a regular file, holes counted; 0 for all else.
    pub(crate) size: u64,
    /// In order of name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// ACLs in a text form that cannot be stored.
    pub(crate) text_acls: u64,
}

/// Reads entries one after another. After [`TarReader::next`] the content of a regular file can be read
/// by [`Content`]; what is left unread is skipped.
pub(crate) struct TarReader<'a, R> {
    input: R,
    limits: &'a Limits,
    global: Pax,
    /// Bytes of the global headers so far.
    global_bytes: u64,
    /// Bytes of the current entry's data still in the stream, and the padding after them.
    stored: u64,
    padding: u64,
    /// Place in the current file, and its size.
    position: u64,
    size: u64,
    sparse: Option<SparseMap>,
    started: bool,
}

/// A regular file's bytes, front to back.
pub(crate) trait Content {
    /// Zero bytes that need not be read, from here on.
    fn hole_ahead(&mut self) -> u64;
    /// Steps over zero bytes, no more than [`Content::hole_ahead`] said.
    fn skip_hole(&mut self, bytes: u64);
    /// Fills `buf`, which must not be longer than what is left of the file.
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), Fault>;
}

impl<'a, R: BufRead> TarReader<'a, R> {
    pub(crate) fn new(input: R, limits: &'a Limits) -> Self {
        TarReader {
            input,
            limits,
            global: Pax::default(),
            global_bytes: 0,
            stored: 0,
            padding: 0,
            position: 0,
            size: 0,
            sparse: None,
            started: false,
        }
    }

    /// The next entry; `None` at the archive's end, once the whole stream has been read.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        self.skip_rest()?;
        let mut local = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        // All headers before an entry are held until it comes.
        let mut held = 0;
        loop {
            let Some(header) = self.header()? else {
                self.drain()?;
                return Ok(None);
            };
            match header.kind() {
                b'x' | b'X' => {
                    let data = self.extended(&header, &mut held)?;
                    local.apply(&data, self.limits.sparse_segments)?;
                }
                b'g' => {
                    let mut bytes = self.global_bytes;
                    let data = self.extended(&header, &mut bytes)?;
                    self.global_bytes = bytes;
                    self.global.apply(&data, self.limits.sparse_segments)?;
                    // Not a copy of the whole: there may be thousands of such headers.
                    local.apply(&data, self.limits.sparse_segments)?;
                }
                b'L' => long_name = Some(header::until_nul(&self.extended(&header, &mut held)?).to_vec()),
                b'K' => long_link = Some(header::until_nul(&self.extended(&header, &mut held)?).to_vec()),
                b'V' => self.extended(&header, &mut held).map(drop)?, // the volume's label
                _ => {
                    local.path = local.path.take().or(long_name);
                    local.link = local.link.take().or(long_link);
                    return self.entry(&header, local).map(Some);
                }
            }
        }
    }

    /// Steps over what is left of the current entry.
    fn skip_rest(&mut self) -> Result<(), Fault> {
        let mut left = self.stored.saturating_add(self.padding);
        while left > 0 {
            let have = self.fill_buf()?;
            if have == 0 {
                return Err(TarFault::Truncated.into());
            }
            let step = left.min(have as u64);
            self.input.consume(step as usize);
            left -= step;
        }
        (self.stored, self.padding, self.sparse) = (0, 0, None);
        (self.position, self.size) = (0, 0);
        Ok(())
    }

    fn fill_buf(&mut self) -> Result<usize, Fault> {
        loop {
            match self.input.fill_buf() {
                Ok(have) => return Ok(have.len()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Reads what follows the end marker: its digest counts as well, and so may a decompressor's error.
    fn drain(&mut self) -> Result<(), Fault> {
        loop {
            let have = self.fill_buf()?;
            if have == 0 {
                return Ok(());
            }
            self.input.consume(have);
        }
    }

    /// The next header; `None` at two zero blocks, or where the stream ends between entries, as it does
    /// when a writer leaves the marker out.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        if self.fill_buf()? == 0 {
            return if self.started { Ok(None) } else { Err(TarFault::Empty.into()) };
        }
        let mut header = Header([0; BLOCK]);
        read_full(&mut self.input, &mut header.0)?;
        if header.is_zero() {
            if self.fill_buf()? == 0 {
                return Ok(None);
            }
            read_full(&mut self.input, &mut header.0)?;
            if !header.is_zero() {
                return Err(TarFault::Checksum.into());
            }
            return Ok(None);
        }
        header.check()?;
        self.started = true;
        Ok(Some(header))
    }

    /// The data of a header that describes what follows, counted in `held`.
    fn extended(&mut self, header: &Header, held: &mut u64) -> Result<Vec<u8>, Fault> {
        let size = header.size()?;
        *held = held.saturating_add(size);
        if *held > self.limits.extended_header {
            return Err(LimitKind::ExtendedHeader(self.limits.extended_header).into());
        }
        let mut data = vec![0; size as usize];
        read_full(&mut self.input, &mut data)?;
        let mut padding = [0; BLOCK];
        read_full(&mut self.input, &mut padding[..(size.wrapping_neg() % BLOCK as u64) as usize])?;
        Ok(data)
    }

    fn entry(&mut self, header: &Header, mut pax: Pax) -> Result<Entry, Fault> {
        let mut path = pax.path.take().unwrap_or_else(|| header.path());
        if let Some(name) = pax.sparse.name.take() {
            path = name;
        }
        let kind = kind(header, &path)?;
        let uid = pax.uid.map_or_else(|| header.uid(), Ok)?;
        let gid = pax.gid.map_or_else(|| header.gid(), Ok)?;
        let device = match kind {
            Kind::Char | Kind::Block => {
                let (major, minor) = header.device()?;
                device(pax.dev_major.unwrap_or(major), pax.dev_minor.unwrap_or(minor))?
            }
            _ => (0, 0),
        };
        let entry = Entry {
            link: pax.link.take().unwrap_or_else(|| header.link()),
            kind,
            mode: header.mode()?,
            uid: u32::try_from(uid).map_err(|_| TarFault::Number("uid"))?,
            gid: u32::try_from(gid).map_err(|_| TarFault::Number("gid"))?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?.clamp(0, i64::from(u32::MAX)) as u32,
            device,
            size: self.begin_data(header, kind, &pax)?,
            xattrs: std::mem::take(&mut pax.xattrs).into_iter().collect(),
            text_acls: pax.text_acls,
            path,
        };
        Ok(entry)
    }

    /// Sets up reading of the entry's data and returns the file's size.
    fn begin_data(&mut self, header: &Header, kind: Kind, pax: &Pax) -> Result<u64, Fault> {
        // Only files have data; what other entries state as size is ignored, as by Go's archive/tar.
        // A GNU incremental directory (D) is followed by a list of names.
        if kind != Kind::File && header.kind() != b'D' {
            return Ok(0);
        }
        let mut stored = pax.size.map_or_else(|| header.size(), Ok)?;
        let padding = stored.wrapping_neg() % BLOCK as u64;
        let max = self.limits.sparse_segments;
        let keys = &pax.sparse;
        let (pairs, size) = if kind != Kind::File {
            (None, 0)
        } else if header.kind() == b'S' {
            let (pairs, size) = sparse::old_gnu(header, &mut self.input, max)?;
            (Some(pairs), size)
        } else if keys.major == Some(1) && keys.minor.unwrap_or(0) == 0 {
            let size = keys.real_size.ok_or(TarFault::Sparse)?;
            (Some(sparse::pax_1_0(&mut self.input, &mut stored, max)?), size)
        } else if let (Some(size), false) = (keys.real_size, keys.map.is_empty() && stored > 0) {
            (Some(keys.map.clone()), size)
        } else {
            (None, stored)
        };
        if size > self.limits.file_size {
            return Err(LimitKind::FileSize(self.limits.file_size).into());
        }
        // Kept as the rest of the stream even if the map is bad: the caller stops anyway.
        self.sparse = pairs.map(|pairs| SparseMap::new(&pairs, size, stored)).transpose()?;
        (self.stored, self.padding, self.position, self.size) = (stored, padding, 0, size);
        Ok(size)
    }
}

impl<R: BufRead> Content for TarReader<'_, R> {
    fn hole_ahead(&mut self) -> u64 {
        match &mut self.sparse {
            Some(map) => map.hole_ahead(self.position, self.size),
            None => 0,
        }
    }

    fn skip_hole(&mut self, bytes: u64) {
        self.position += bytes;
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buf.len() {
            let left = buf.len() - done;
            let hole = self.hole_ahead().min(left as u64) as usize;
            if hole > 0 {
                buf[done..done + hole].fill(0);
                done += hole;
                self.position += hole as u64;
                continue;
            }
            let data = match &self.sparse {
                Some(map) => map.data_ahead(self.position).min(left as u64) as usize,
                None => left,
            };
            read_full(&mut self.input, &mut buf[done..done + data])?;
            done += data;
            self.position += data as u64;
            self.stored -= data as u64;
        }
        Ok(())
    }
}

fn kind(header: &Header, path: &[u8]) -> Result<Kind, TarFault> {
    Ok(match header.kind() {
        // Before there was a type for directories, a slash at the end made one; GNU tar still honours it.
        0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' => Kind::File,
        b'S' if matches!(header.format(), Format::Gnu | Format::V7) => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' | b'D' => Kind::Dir,
        b'6' => Kind::Fifo,
        other => return Err(TarFault::Type(char::from(other))),
    })
}

/// Device numbers as SquashFS stores them: 12 bits of major, 20 of minor.
fn device(major: i64, minor: i64) -> Result<(u32, u32), TarFault> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
        _ => Err(TarFault::Number("device")),
    }
}

/// Like `read_exact`, but tells the stream's end from its errors.
fn read_full<R: BufRead>(input: &mut R, mut buf: &mut [u8]) -> Result<(), Fault> {
    while !buf.is_empty() {
        match input.read(buf) {
            Ok(0) => return Err(TarFault::Truncated.into()),
            Ok(n) => buf = &mut buf[n..],
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
