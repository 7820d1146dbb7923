//! Owns the reading of a kept layer: the same entries and contents as the layer's own stream gave.

use std::fs::File;
use std::io::{self, Cursor};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use zstd::stream::read::Decoder;

use super::place::{self, Place, Tail};
use super::unpack::Unpacker;
use super::{damaged, entry, short, Files, Head, KeptLayer};
use crate::fault::Fault;
use crate::limits::Limits;
use crate::store::UNCOMPRESSED;
use crate::tar::{Content, Entry, Kind};

/// Fragments held: copies of small files lead back to earlier ones.
const FRAGMENTS: usize = 8;

type Stream = Decoder<'static, Cursor<Vec<u8>>>;

/// Reads a layer's entries one after another, like [`crate::tar::TarReader`].
pub(crate) struct KeptReader<'a> {
    files: Arc<Files>,
    limits: &'a Limits,
    entries: Stream,
    places: Stream,
    unpacker: Unpacker,
    /// By where they begin, the last used first.
    fragments: Vec<(u64, Vec<u8>)>,
    packed: Vec<u8>,
    file: Option<OpenFile>,
    missing: bool,
    /// Bytes of content given.
    unpacked: u64,
}

/// The file whose content is being read.
struct OpenFile {
    place: Place,
    size: u64,
    position: u64,
    /// The piece at hand: where in the file it begins, and its bytes.
    piece_start: u64,
    piece: Vec<u8>,
    /// Blocks that are hashed, and where the next one lies.
    hashed: usize,
    next: u64,
    hasher: blake3::Hasher,
    tail_hash: [u8; 32],
}

impl<'a> KeptReader<'a> {
    pub(crate) fn open(layer: &KeptLayer, limits: &'a Limits) -> io::Result<KeptReader<'a>> {
        let (head, index) = (&layer.head, &layer.files.index);
        let entries = read_at(index, layer.at, head.entries)?;
        let places = read_at(index, layer.at + u64::from(head.entries), head.places)?;
        if Head::sum(*head, &entries, &places) != head.hash {
            return Err(damaged("the layer index is damaged"));
        }
        Ok(KeptReader {
            files: layer.files.clone(),
            limits,
            entries: Decoder::with_buffer(Cursor::new(entries))?,
            places: Decoder::with_buffer(Cursor::new(places))?,
            unpacker: Unpacker::new(layer.files.method)?,
            fragments: Vec::new(),
            packed: Vec::new(),
            file: None,
            missing: false,
            unpacked: 0,
        })
    }

    /// The next entry; `None` at the layer's end. A content that was read is compared with its hash here.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        if let Some(file) = self.file.take() {
            file.check().map_err(Fault::Kept)?;
        }
        self.missing = false;
        let next = entry::read(&mut self.entries, self.limits.extended_header).map_err(Fault::Kept)?;
        let Some(entry) = next else { return Ok(None) };
        if entry.kind == Kind::File && entry.size > 0 {
            if entry.size > self.limits.file_size {
                return Err(crate::error::LimitKind::FileSize(self.limits.file_size).into());
            }
            let block_size = u64::from(self.files.block_size);
            let place = place::read(&mut self.places, entry.size, block_size).map_err(Fault::Kept)?;
            self.missing = place.is_none();
            self.file = place.map(|place| OpenFile::new(place, entry.size));
        }
        Ok(Some(entry))
    }

    /// Whether the last entry has content that is not in the image.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing
    }

    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Brings the piece at the file's position in.
    fn load(&mut self, file: &mut OpenFile) -> io::Result<()> {
        let block_size = u64::from(self.files.block_size);
        let number = usize::try_from(file.position / block_size).map_err(|_| damaged("too many blocks"))?;
        file.piece_start = number as u64 * block_size;
        let want = block_size.min(file.size - file.piece_start) as usize;
        let Some(&word) = file.place.words.get(number) else {
            return self.load_tail(file, want);
        };
        file.hash_holes(number)?;
        file.piece.clear();
        if word == 0 {
            file.piece.resize(want, 0);
            return file.hash_holes(number + 1);
        }
        let stored = self.read_block(file.next, word)?;
        file.next += stored as u64;
        file.hasher.update(&word.to_le_bytes()).update(blake3::hash(&self.packed).as_bytes());
        file.hashed = number + 1;
        self.unpack(word, want, &mut file.piece)?;
        match file.piece.len() == want {
            true => Ok(()),
            false => Err(damaged("a block is damaged")),
        }
    }

    /// What a fragment has of the file.
    fn load_tail(&mut self, file: &mut OpenFile, want: usize) -> io::Result<()> {
        let Tail { start, word, offset } = file.place.tail.ok_or_else(|| damaged("no tail"))?;
        let known = self.fragments.iter().position(|(at, _)| *at == start);
        match known {
            Some(at) => self.fragments[..=at].rotate_right(1),
            None => {
                self.read_block(start, word)?;
                let mut fragment = Vec::new();
                self.unpack(word, self.files.block_size as usize, &mut fragment)?;
                self.fragments.insert(0, (start, fragment));
                self.fragments.truncate(FRAGMENTS);
            }
        }
        let from = offset as usize;
        let part = from.checked_add(want).and_then(|to| self.fragments[0].1.get(from..to));
        file.piece.clear();
        file.piece.extend_from_slice(part.ok_or_else(|| damaged("a fragment is damaged"))?);
        file.tail_hash = *blake3::hash(&file.piece).as_bytes();
        Ok(())
    }

    /// Reads a block as it is stored; its length there.
    fn read_block(&mut self, at: u64, word: u32) -> io::Result<usize> {
        let len = (word & (UNCOMPRESSED - 1)) as usize;
        if word >= UNCOMPRESSED << 1 || len == 0 || len > self.files.block_size as usize {
            return Err(damaged("a block has an impossible size"));
        }
        self.packed.resize(len, 0);
        self.files.image.read_exact_at(&mut self.packed, at)?;
        Ok(len)
    }

    /// Unpacks the block just read.
    fn unpack(&mut self, word: u32, max: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if word & UNCOMPRESSED == 0 {
            return self.unpacker.unpack(&self.packed, max, out);
        }
        out.clear();
        out.extend_from_slice(&self.packed);
        Ok(())
    }

    fn fill_from(&mut self, file: &mut OpenFile, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            if file.piece_left() == 0 {
                self.load(file)?;
            }
            let from = (file.position - file.piece_start) as usize;
            let n = file.piece_left().min(buf.len());
            buf[..n].copy_from_slice(&file.piece[from..from + n]);
            file.position += n as u64;
            self.unpacked += n as u64;
            buf = &mut buf[n..];
        }
        Ok(())
    }
}

impl Content for KeptReader<'_> {
    fn hole_ahead(&mut self) -> u64 {
        let block_size = u64::from(self.files.block_size);
        let Some(file) = self.file.as_ref().filter(|file| file.piece_left() == 0) else { return 0 };
        let first = (file.position / block_size) as usize;
        let words = file.place.words.get(first..).unwrap_or_default();
        let holes = words.iter().take_while(|word| **word == 0).count();
        let end = ((first + holes) as u64 * block_size).min(file.size);
        end.saturating_sub(file.position)
    }

    fn skip_hole(&mut self, bytes: u64) {
        if let Some(file) = &mut self.file {
            file.position += bytes;
            self.unpacked += bytes;
        }
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), Fault> {
        let Some(mut file) = self.file.take() else {
            return Err(Fault::Kept(damaged("the content is not there")));
        };
        let result = self.fill_from(&mut file, buf).map_err(Fault::Kept);
        self.file = Some(file);
        result
    }
}

impl OpenFile {
    fn new(place: Place, size: u64) -> OpenFile {
        OpenFile {
            next: place.start,
            place,
            size,
            position: 0,
            piece_start: 0,
            piece: Vec::new(),
            hashed: 0,
            hasher: blake3::Hasher::new(),
            tail_hash: [0; 32],
        }
    }

    /// Bytes of the piece at hand from the position on.
    fn piece_left(&self) -> usize {
        let end = self.piece_start + self.piece.len() as u64;
        if (self.piece_start..end).contains(&self.position) {
            (end - self.position) as usize
        } else {
            0
        }
    }

    /// Hashes blocks up to `number`, which were stepped over as holes.
    fn hash_holes(&mut self, number: usize) -> io::Result<()> {
        while self.hashed < number {
            if self.place.words[self.hashed] != 0 {
                return Err(damaged("a block was stepped over"));
            }
            self.hasher.update(&0u32.to_le_bytes());
            self.hashed += 1;
        }
        Ok(())
    }

    /// Compares what was read with the hash it had when it was stored. Nothing read: nothing to compare.
    fn check(mut self) -> io::Result<()> {
        if self.position == 0 {
            return Ok(());
        }
        let hash = if self.place.words.is_empty() {
            self.tail_hash
        } else {
            self.hash_holes(self.place.words.len())?;
            self.hasher.update(&self.size.to_le_bytes()).update(&self.tail_hash);
            *self.hasher.finalize().as_bytes()
        };
        match self.position == self.size && short(&hash) == self.place.hash {
            true => Ok(()),
            false => Err(damaged("the content is not what was stored")),
        }
    }
}

fn read_at(file: &File, at: u64, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
