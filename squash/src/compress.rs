//! Owns compression of single blocks, for data and tables alike. The same bytes always give the same
//! result, on any thread, after any other block.

use std::io;

use crate::error::Error;
use crate::options::Compression;

/// Levels up to this one reuse a zstd context. Above, zstd salts its row hash by the number of earlier
/// uses (ZSTD_advanceHashSalt), so the result could depend on what a thread did before; there a new
/// context costs little against the work.
const ZSTD_REUSE_LEVEL: i32 = 3;

/// A compressor for one thread.
pub(crate) enum Compressor {
    Zstd { level: i32, context: Option<zstd::bulk::Compressor<'static>> },
    Lz4,
    Gzip(flate2::Compress),
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Result<Compressor, Error> {
        Ok(match compression {
            Compression::Zstd { level } if (1..=22).contains(&level) => {
                Compressor::Zstd { level, context: None }
            }
            Compression::Zstd { level } => {
                return Err(Error::Options(format!(
                    "zstd has no level {level}\nhint: use 1 (fast) to 22 (small)"
                )));
            }
            Compression::Lz4 => Compressor::Lz4,
            Compression::Gzip { level } if (1..=9).contains(&level) => {
                Compressor::Gzip(flate2::Compress::new(flate2::Compression::new(level), true))
            }
            Compression::Gzip { level } => {
                return Err(Error::Options(format!(
                    "gzip has no level {level}\nhint: use 1 (fast) to 9 (small)"
                )));
            }
        })
    }

    /// Compresses `input` into `output`. False if that does not make it smaller; `output` is then useless.
    pub(crate) fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> io::Result<bool> {
        output.clear();
        match self {
            Compressor::Zstd { level, context } => {
                let mut zstd = match context.take() {
                    Some(zstd) => zstd,
                    None => zstd::bulk::Compressor::new(*level)?,
                };
                output.reserve(zstd::zstd_safe::compress_bound(input.len()));
                zstd.compress_to_buffer(input, output)?;
                if *level <= ZSTD_REUSE_LEVEL {
                    *context = Some(zstd);
                }
            }
            Compressor::Lz4 => {
                // Less than the worst case would be refused, not cut.
                output.resize(lz4_flex::block::get_maximum_output_size(input.len()), 0);
                let n = lz4_flex::block::compress_into(input, output).map_err(io::Error::other)?;
                output.truncate(n);
            }
            Compressor::Gzip(zlib) => {
                zlib.reset();
                output.reserve(input.len());
                let status = zlib.compress_vec(input, output, flate2::FlushCompress::Finish)?;
                if status != flate2::Status::StreamEnd {
                    return Ok(false);
                }
            }
        }
        Ok(output.len() < input.len())
    }
}

/// SquashFS's number for the method, and the options block that goes with it (empty: none). LZ4's is
/// mandatory; the others' are for `unsquashfs -s` to show.
pub(crate) fn format_options(compression: Compression) -> (u16, Vec<u8>) {
    match compression {
        Compression::Gzip { level } => {
            // Level, window bits, strategies (0: default only).
            let mut block = level.to_le_bytes().to_vec();
            block.extend([15, 0, 0, 0]);
            (1, block)
        }
        Compression::Lz4 => (5, [1u32.to_le_bytes(), 0u32.to_le_bytes()].concat()),
        Compression::Zstd { level } => (6, level.to_le_bytes().to_vec()),
    }
}
