//! Owns the layer index: what each layer of an image held, and where its files' content is in the SquashFS
//! file, so that another image takes a layer from there instead of a registry. The index is written layer
//! by layer, so that of an interrupted conversion the finished layers can be taken, too.
//!
//! It refuses to be believed: a record is used only if its hash is right, and every content is compared with
//! the hash it had when it was stored. A damaged index or image costs a download, never a wrong image. It
//! is no protection against somebody who may write both files; who may do that may write images anyway.
//!
//! The format, integers little-endian: a header of 16 bytes (magic with version, compression, block size),
//! then records, each a head of 64 bytes (see [`Head`]) and two zstd streams: entries as the archive stated
//! them, and for each file with content its place. A file that is cut short ends with the last whole record.

mod entry;
mod place;
mod reader;
mod section;
mod unpack;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::compress::format_options;
use crate::limits::Limits;
use crate::merge::path::{self, Marker};
use crate::options::Compression;

pub(crate) use self::reader::KeptReader;
pub(crate) use self::section::{write, Section, SectionBuilder};
use self::unpack::Unpacker;

/// A layer's name: the SHA-256 of its blob.
pub type LayerId = [u8; 32];

/// Hashes are cut to this: enough against accidents.
pub(crate) type ShortHash = [u8; 16];

/// Magic with the format's version as its last byte.
const MAGIC: [u8; 8] = *b"grslayr\x01";
pub(crate) const HEADER: u64 = 16;
const HEAD: u64 = 64;
const HEAD_MAGIC: u32 = 0x5259_414c;

/// Largest record that is read: 2 million entries of hostile names.
const MAX_RECORD: u64 = 1 << 30;
/// Most records of one index: layers of an image, and second passes.
const MAX_RECORDS: usize = 4096;

/// What a conversion may take from earlier ones, and what it leaves for later ones.
#[derive(Default)]
pub struct Reuse<'a> {
    /// Where the index of the image is written; empty and open for writing. None: no index.
    pub index: Option<&'a File>,
    /// The layers' names, bottom first. A layer without one is neither taken nor indexed.
    pub ids: Vec<LayerId>,
    /// Where each layer may be taken from, bottom first, the best first.
    pub kept: Vec<Vec<KeptLayer>>,
}

/// An image, or the beginning of one, with its index.
pub struct KeptImage {
    files: Arc<Files>,
    heads: Vec<(Head, u64)>,
}

/// A layer that can be taken from an image.
#[derive(Clone)]
pub struct KeptLayer {
    files: Arc<Files>,
    head: Head,
    /// Where its record's streams begin.
    at: u64,
}

struct Files {
    image: File,
    index: File,
    method: u16,
    block_size: u32,
}

/// What precedes a record's streams.
#[derive(Clone, Copy, Debug)]
struct Head {
    entries: u32,
    places: u32,
    /// Files whose content is not in the image, as upper layers hid them.
    missing: u32,
    id: LayerId,
    hash: ShortHash,
}

impl KeptImage {
    /// Opens an image and its index. Records behind a damaged one are not found.
    pub fn open(image: File, index: File) -> io::Result<KeptImage> {
        let mut header = [0; HEADER as usize];
        index.read_exact_at(&mut header, 0)?;
        let (method, block_size) = (u16_at(&header, 8), u32_at(&header, 12));
        if header[..8] != MAGIC || !(4096..=1 << 20).contains(&block_size) || !block_size.is_power_of_two() {
            return Err(damaged("not a layer index of this version"));
        }
        Unpacker::new(method)?;
        let (mut heads, mut at, end) = (Vec::new(), HEADER, index.metadata()?.len());
        let mut bytes = [0; HEAD as usize];
        while end.saturating_sub(at) >= HEAD && heads.len() < MAX_RECORDS {
            index.read_exact_at(&mut bytes, at)?;
            let Some(head) = Head::parse(&bytes).filter(|head| head.len() <= end - at - HEAD) else { break };
            heads.push((head, at + HEAD));
            at += HEAD + head.len();
        }
        Ok(KeptImage { files: Arc::new(Files { image, index, method, block_size }), heads })
    }

    /// The layer, the fullest record first; none if it is not in the image.
    pub fn layers(&self, id: &LayerId) -> Vec<KeptLayer> {
        let mine = self.heads.iter().filter(|(head, _)| head.id == *id);
        let mut found: Vec<KeptLayer> =
            mine.map(|&(head, at)| KeptLayer { files: self.files.clone(), head, at }).collect();
        found.sort_by_key(|layer| layer.head.missing);
        found
    }

    /// How many layers can be taken; one that was read twice counts twice.
    pub fn count(&self) -> usize {
        self.heads.len()
    }
}

impl KeptLayer {
    /// Whether all content is there that `needed` asks for, by place in the layer's record and plain path.
    /// False too for a damaged record.
    pub(crate) fn covers(&self, limits: &Limits, needed: &dyn Fn(u32, &[u8]) -> bool) -> bool {
        let Ok(mut reader) = KeptReader::open(self, limits) else { return false };
        if self.head.missing == 0 {
            return true;
        }
        let (mut place, mut plain) = (0, Vec::new());
        loop {
            let entry = match reader.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let marker = path::plain(&entry.path, limits, &mut plain)
                .ok()
                .and_then(|()| path::marker(&mut plain, entry.kind).ok());
            match marker {
                None => return false,
                Some(Marker::Bookkeeping) => continue,
                Some(Marker::None) if reader.is_missing() && needed(place, &plain) => return false,
                Some(_) => place += 1,
            }
        }
    }
}

impl Head {
    fn parse(bytes: &[u8; HEAD as usize]) -> Option<Head> {
        let mut head = Head {
            entries: u32_at(bytes, 4),
            places: u32_at(bytes, 8),
            missing: u32_at(bytes, 12),
            id: [0; 32],
            hash: [0; 16],
        };
        head.id.copy_from_slice(&bytes[16..48]);
        head.hash.copy_from_slice(&bytes[48..]);
        (u32_at(bytes, 0) == HEAD_MAGIC && head.len() <= MAX_RECORD).then_some(head)
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD as usize);
        for word in [HEAD_MAGIC, self.entries, self.places, self.missing] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.id);
        bytes.extend(self.hash);
        bytes
    }

    /// Bytes of the streams.
    fn len(&self) -> u64 {
        u64::from(self.entries) + u64::from(self.places)
    }

    /// The hash of a record: of its head but for the hash, and of its streams.
    fn sum(self, entries: &[u8], places: &[u8]) -> ShortHash {
        let mut hasher = blake3::Hasher::new();
        let head = self.to_bytes();
        hasher.update(&head[..48]).update(entries).update(places);
        short(hasher.finalize().as_bytes())
    }
}

/// Writes the header of an index.
pub(crate) fn begin(index: &File, compression: Compression, block_size: u32) -> io::Result<()> {
    let mut header = MAGIC.to_vec();
    header.extend(u32::from(format_options(compression).0).to_le_bytes());
    header.extend(block_size.to_le_bytes());
    index.write_all_at(&header, 0)
}

pub(crate) fn short(hash: &[u8; 32]) -> ShortHash {
    let mut cut = [0; 16];
    cut.copy_from_slice(&hash[..16]);
    cut
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
