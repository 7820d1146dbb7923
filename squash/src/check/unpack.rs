//! Owns unpacking of single blocks, into no more room than it is given. It refuses compressions that no library
//! under Grus's licences reads: lzo, and lzma, which the kernel does not know either.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

/// One of the compressions of SquashFS 4.0 that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Gzip,
    Xz,
    Lz4,
    Zstd,
}

/// All compressions of the format, by their number; those that cannot be read have their name only.
pub(super) const METHODS: [(&str, Option<Method>); 6] = [
    ("gzip", Some(Method::Gzip)),
    ("lzma", None),
    ("lzo", None),
    ("xz", Some(Method::Xz)),
    ("lz4", Some(Method::Lz4)),
    ("zstd", Some(Method::Zstd)),
];

/// Memory that the xz decoder takes beside its dictionary, in KiB (lzma-rust2, `get_memory_usage`).
const XZ_STATE: u32 = 104;

/// Unpacks blocks, one after the other.
pub(super) enum Unpacker {
    Gzip(Box<Decompress>),
    /// With the largest dictionary that the kernel would set up, in bytes (fs/squashfs/xz_wrapper.c).
    Xz(u32),
    Lz4,
    /// With the largest window that the kernel makes room for, in bytes (fs/squashfs/zstd_wrapper.c).
    Zstd {
        zstd: zstd::bulk::Decompressor<'static>,
        window: u32,
    },
}

impl Unpacker {
    pub(super) fn new(method: Method, dictionary: u32) -> std::io::Result<Unpacker> {
        Ok(match method {
            Method::Gzip => Unpacker::Gzip(Box::new(Decompress::new(true))),
            Method::Xz => Unpacker::Xz(dictionary),
            Method::Lz4 => Unpacker::Lz4,
            Method::Zstd => Unpacker::Zstd { zstd: zstd::bulk::Decompressor::new()?, window: dictionary },
        })
    }

    /// Unpacks `packed`, all of it, into `out`; how many bytes that gives, or why it cannot be.
    pub(super) fn unpack(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, String> {
        match self {
            Unpacker::Gzip(zlib) => {
                zlib.reset(true);
                let status = zlib.decompress(packed, out, FlushDecompress::Finish);
                match status.map_err(|e| e.to_string())? {
                    Status::StreamEnd if zlib.total_in() == packed.len() as u64 => {
                        Ok(zlib.total_out() as usize)
                    }
                    Status::StreamEnd => Err("something follows the compressed bytes".into()),
                    Status::Ok | Status::BufError => Err("it does not end".into()),
                }
            }
            Unpacker::Xz(dictionary) => {
                // The kernel's decoder knows no check but CRC32 (lib/xz/xz_dec_stream.c); its number is in the header.
                if packed.get(7).is_none_or(|check| *check > 1) {
                    return Err("the kernel does not know its kind of check".into());
                }
                let limit = (*dictionary >> 10).saturating_add(XZ_STATE);
                xz(lzma_rust2::XzReader::new_mem_limit(packed, false, limit), out)
            }
            Unpacker::Lz4 => lz4_flex::block::decompress_into(packed, out).map_err(|e| e.to_string()),
            Unpacker::Zstd { zstd, window } => {
                // The kernel ends with the first frame (fs/squashfs/zstd_wrapper.c); the library would go on.
                if zstd::zstd_safe::find_frame_compressed_size(packed) != Ok(packed.len()) {
                    return Err("it is not one frame".into());
                }
                if zstd_window(packed).is_some_and(|wanted| wanted > u64::from(*window)) {
                    return Err("its window is larger than the kernel's".into());
                }
                zstd.decompress_to_buffer(packed, out).map_err(|e| e.to_string())
            }
        }
    }
}

/// The window that a zstd frame states (RFC 8878, 3.1.1.1). None where it is as long as the content, which fits.
fn zstd_window(packed: &[u8]) -> Option<u64> {
    let single_segment = packed.get(4)? & 0x20 != 0;
    let descriptor = packed.get(5).filter(|_| !single_segment)?;
    let base = 1u64 << (10 + (descriptor >> 3));
    Some(base + base / 8 * u64::from(descriptor & 7))
}

fn xz(mut reader: lzma_rust2::XzReader<&[u8]>, out: &mut [u8]) -> Result<usize, String> {
    let mut have = 0;
    loop {
        let mut one = [0];
        let full = have == out.len();
        let room = if full { &mut one[..] } else { &mut out[have..] };
        match reader.read(room).map_err(|e| e.to_string())? {
            0 if reader.inner().is_empty() => return Ok(have),
            0 => return Err("something follows the compressed bytes".into()),
            _ if full => return Err("it does not end".into()),
            more => have += more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel reads the first frame only: what follows it would be seen by the validator alone.
    #[test]
    fn a_block_of_zstd_is_one_frame() {
        let frame = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("zstd");
        let (one, two) = (frame(&[1; 100]), frame(&[2; 50]));
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
        let mut zstd = Unpacker::new(Method::Zstd, 8192).expect("zstd");
        let mut unpack = |parts: &[&[u8]]| zstd.unpack(&parts.concat(), &mut [0; 8192]);
        assert_eq!(unpack(&[&one]), Ok(100));
        for parts in [&[&one[..], &two][..], &[&one, &skippable], &[&skippable, &one], &[&one, &[0]]] {
            assert_eq!(unpack(parts), Err("it is not one frame".into()));
        }
    }
}
