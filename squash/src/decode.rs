//! Owns the way from a layer's blob to its tar stream: magic numbers, gzip and zstd, counting, reading
//! ahead. It refuses other compressions and streams that unpack out of all proportion.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use crossbeam_channel::{bounded, Receiver, Sender};

use crate::error::{Error, LimitKind};
use crate::limits::Limits;
use crate::source::LayerSource;

/// Compressed input is read in pieces of this size.
const INPUT_BUFFER: usize = 128 << 10;
/// Unpacked data passes through a buffer of this size; larger reads go around it.
const OUTPUT_BUFFER: usize = 64 << 10;
/// Pieces a read-ahead thread may be in front, of [`AHEAD_PIECE`] bytes each.
const AHEAD_PIECES: usize = 8;
const AHEAD_PIECE: usize = 256 << 10;
/// Largest zstd window accepted, as `zstd -d` does without --long: 2^27 bytes.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What is known of a stream while it is read.
#[derive(Default)]
pub(crate) struct Counters {
    compressed: AtomicU64,
    unpacked: AtomicU64,
    source_failed: AtomicBool,
}

impl Counters {
    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked.load(Ordering::Relaxed)
    }

    pub(crate) fn source_failed(&self) -> bool {
        self.source_failed.load(Ordering::Relaxed)
    }
}

/// The tar stream of a layer. With `ahead`, a thread of its own reads and decompresses, at most 2 MiB
/// in front. That thread ends with the stream, at the latest when its current read returns.
pub(crate) fn open(
    source: &dyn LayerSource,
    limits: &Limits,
    ahead: bool,
) -> Result<(Box<dyn BufRead + Send>, Arc<Counters>), Error> {
    let failed = |source_error| Error::Source { layer: source.name(), source: source_error };
    let counters = Arc::new(Counters::default());
    let opened = source.open().map_err(failed)?;
    let (method, metered) = unpack(opened, limits.ratio, counters.clone()).map_err(failed)?;
    if let Method::Other(method) = method {
        return Err(Error::Compression { layer: source.name(), method });
    }
    let stream: Box<dyn BufRead + Send> = if ahead {
        Box::new(ReadAhead::start(metered))
    } else {
        Box::new(BufReader::with_capacity(OUTPUT_BUFFER, metered))
    };
    Ok((stream, counters))
}

/// Undoes the compression of a stream that is no layer, or that holds layers. Reading fails with a [`LimitKind::Ratio`]
/// in the error where it unpacks out of all proportion, as a layer does. What has another compression comes as it is.
pub fn decompress(from: Box<dyn Read + Send>) -> io::Result<(Method, Box<dyn Read + Send>)> {
    let (method, metered) = unpack(from, Limits::default().ratio, Arc::default())?;
    Ok((method, Box::new(metered)))
}

fn unpack(from: Box<dyn Read + Send>, ratio: u64, counters: Arc<Counters>) -> io::Result<(Method, Meter)> {
    let mut tap = Tap { inner: from, counters: counters.clone() };
    let magic = read_magic(&mut tap)?;
    let method = method(&magic);
    let rest = Cursor::new(magic).chain(tap);
    let inner: Box<dyn Read + Send> = match method {
        Method::Plain | Method::Other(_) => Box::new(rest),
        Method::Gzip => {
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(INPUT_BUFFER, rest)))
        }
        Method::Zstd => {
            let input = BufReader::with_capacity(INPUT_BUFFER, rest);
            let mut zstd = zstd::stream::read::Decoder::with_buffer(input)?;
            zstd.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(zstd)
        }
    };
    Ok((method, Meter { inner, counters, ratio }))
}

/// What a stream is compressed with, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// With nothing that is known here.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// With what is not read here: its name, which is that of its tool, too.
    Other(&'static str),
}

fn method(magic: &[u8]) -> Method {
    match magic {
        [0x1f, 0x8b, ..] => Method::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Method::Zstd,
        // A zstd stream may begin with a skippable frame (RFC 8878, 3.1.2), as zstd:chunked layers do not
        // but eStargz-like tools may.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Method::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => Method::Other("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Method::Other("xz"),
        _ => Method::Plain,
    }
}

fn read_magic(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut magic = Vec::with_capacity(6);
    from.take(6).read_to_end(&mut magic)?;
    Ok(magic)
}

/// Counts what the source gives and remembers whether it was the source that failed.
struct Tap {
    inner: Box<dyn Read + Send>,
    counters: Arc<Counters>,
}

impl Read for Tap {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buf) {
            Ok(n) => {
                self.counters.compressed.fetch_add(n as u64, Ordering::Relaxed);
                Ok(n)
            }
            Err(e) => {
                if e.kind() != io::ErrorKind::Interrupted {
                    self.counters.source_failed.store(true, Ordering::Relaxed);
                }
                Err(e)
            }
        }
    }
}

/// Counts what comes out and judges the ratio.
struct Meter {
    inner: Box<dyn Read + Send>,
    counters: Arc<Counters>,
    ratio: u64,
}

impl Read for Meter {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let unpacked = self.counters.unpacked.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        if unpacked > Limits::RATIO_FREE {
            let compressed = self.counters.compressed.load(Ordering::Relaxed);
            if unpacked / self.ratio.max(1) > compressed {
                return Err(io::Error::other(LimitKind::Ratio(self.ratio)));
            }
        }
        Ok(n)
    }
}

/// Reads on a thread of its own, a bounded number of pieces in front.
struct ReadAhead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    spent: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl ReadAhead {
    fn start(mut from: Meter) -> ReadAhead {
        let (to_reader, pieces) = bounded(AHEAD_PIECES);
        let (spent, free) = bounded::<Vec<u8>>(AHEAD_PIECES + 2);
        std::thread::spawn(move || loop {
            let mut piece = free.try_recv().unwrap_or_default();
            let result = fill(&mut from, &mut piece);
            let last = result.is_err() || piece.is_empty();
            if to_reader.send(result.map(|()| piece)).is_err() || last {
                return;
            }
        });
        ReadAhead { pieces, spent, piece: Vec::new(), at: 0, ended: false }
    }
}

/// Fills `piece` to [`AHEAD_PIECE`] bytes; fewer only at the end, or before an error (which comes again).
fn fill(from: &mut impl Read, piece: &mut Vec<u8>) -> io::Result<()> {
    piece.resize(AHEAD_PIECE, 0);
    let mut have = 0;
    while have < AHEAD_PIECE {
        match from.read(&mut piece[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    piece.truncate(have);
    Ok(())
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            let next = self.pieces.recv().unwrap_or_else(|_| Err(io::Error::other("the decoder stopped")));
            self.ended = next.as_ref().map_or(true, Vec::is_empty);
            let spent = std::mem::replace(&mut self.piece, next?);
            self.at = 0;
            // Full or gone: the piece is freed instead.
            let _ = self.spent.try_send(spent);
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let n = have.len().min(buf.len());
        buf[..n].copy_from_slice(&have[..n]);
        self.consume(n);
        Ok(n)
    }
}
