//! Owns decompression of single blocks, none of which may unpack to more than it should.

use std::io;

use super::damaged;

/// A decompressor by SquashFS's number of the method.
pub(super) enum Unpacker {
    Zstd(zstd::bulk::Decompressor<'static>),
    Lz4,
    Gzip,
}

impl Unpacker {
    pub(super) fn new(method: u16) -> io::Result<Unpacker> {
        Ok(match method {
            1 => Unpacker::Gzip,
            5 => Unpacker::Lz4,
            6 => Unpacker::Zstd(zstd::bulk::Decompressor::new()?),
            _ => return Err(damaged("unknown compression")),
        })
    }

    /// Unpacks `data` into `out`, to at most `max` bytes.
    pub(super) fn unpack(&mut self, data: &[u8], max: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match self {
            // Vec's buffer may be larger than asked for, so its length is judged by the caller.
            Unpacker::Zstd(zstd) => {
                out.reserve(max);
                zstd.decompress_to_buffer(data, out)?;
            }
            Unpacker::Lz4 => {
                out.resize(max, 0);
                let n = lz4_flex::block::decompress_into(data, out).map_err(io::Error::other)?;
                out.truncate(n);
            }
            Unpacker::Gzip => {
                out.reserve(max);
                let mut zlib = flate2::Decompress::new(true);
                let status = zlib.decompress_vec(data, out, flate2::FlushDecompress::Finish)?;
                if status != flate2::Status::StreamEnd {
                    return Err(damaged("a block is damaged"));
                }
            }
        }
        match out.len() > max {
            true => Err(damaged("a block is too large")),
            false => Ok(()),
        }
    }
}
