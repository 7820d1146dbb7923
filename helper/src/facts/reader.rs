//! How the reader (backhand) opens images, and what it says of those that it cannot read. Its own decoder of xz is in C;
//! here it has the validator's, which is in Rust (lzma-rust2).

use std::fs::File;
use std::io::{BufReader, Read};

use backhand::compression::{CompressionAction, Compressor, DefaultCompressor};
use backhand::kind::Kind;
use backhand::{BackhandError, FilesystemCompressor, FilesystemReader, Squashfs, SuperBlock};

/// Largest block of SquashFS, in bytes: no dictionary is larger, and nothing unpacks to more.
const LARGEST: u64 = 1 << 20;

/// Memory for the decoder of xz: the largest dictionary, and what it takes beside (lzma-rust2, `get_memory_usage`), in KiB.
const MEMORY: u32 = 1024 + 104;

/// Opens the image in `file`, its listings unread.
pub fn squashfs(file: File) -> Result<Squashfs<'static>, BackhandError> {
    Squashfs::from_reader_with_offset_and_kind(BufReader::new(file), 0, Kind::new_v4(&Unpacker))
}

/// Opens the image in `file`.
pub fn filesystem(file: File) -> Result<FilesystemReader<'static>, BackhandError> {
    squashfs(file)?.into_filesystem_reader()
}

/// Unpacks blocks of all compressions that images can have here.
#[derive(Clone, Copy, Debug)]
pub struct Unpacker;

impl CompressionAction for Unpacker {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(&self, packed: &[u8], out: &mut Vec<u8>, how: Compressor) -> Result<(), BackhandError> {
        if how != Compressor::Xz {
            return DefaultCompressor.decompress(packed, out, how);
        }
        let xz = lzma_rust2::XzReader::new_mem_limit(packed, false, MEMORY);
        let more = xz.take(LARGEST + 1).read_to_end(out)?;
        match more as u64 > LARGEST {
            true => Err(BackhandError::CorruptedOrInvalidSquashfs),
            false => Ok(()),
        }
    }

    fn compress(
        &self,
        bytes: &[u8],
        how: FilesystemCompressor,
        block_size: u32,
    ) -> Result<Vec<u8>, BackhandError> {
        DefaultCompressor.compress(bytes, how, block_size)
    }
}

/// Why an image cannot be read. The reader itself has no words for it.
pub fn told(error: &BackhandError) -> &'static str {
    match error {
        BackhandError::UnsupportedCompression(_) => "its compression cannot be read",
        _ => "it is damaged, or has a symbolic link of 256 bytes or more, which cannot be read yet",
    }
}

/// The way out, where that is not to get the image again.
pub fn way_out(error: &BackhandError) -> Option<&'static str> {
    matches!(error, BackhandError::UnsupportedCompression(_))
        .then_some("make it again with another one: mksquashfs -comp zstd, lz4, gzip or xz")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use backhand::InnerNode;

    use super::*;
    use crate::facts::samples::image;

    /// More than a block, and an end that is kept with others'.
    fn content() -> Vec<u8> {
        (0..50_000u32).flat_map(u32::to_le_bytes).collect()
    }

    fn fill(tree: &Path) {
        fs::write(tree.join("data"), content()).expect("write");
    }

    fn opened(image: &Path) -> Result<FilesystemReader<'static>, BackhandError> {
        filesystem(File::open(image).expect("an image"))
    }

    #[test]
    fn images_of_all_compressions_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        for compression in ["gzip", "lz4", "zstd", "xz"] {
            let system = opened(&image(dir.path(), compression, compression, fill)).expect(compression);
            let data = system.files().find(|node| node.fullpath == Path::new("/data")).expect("the file");
            let InnerNode::File(file) = &data.inner else { panic!("it is a file") };
            let mut read = vec![];
            system.file(file).reader().read_to_end(&mut read).expect(compression);
            assert!(read == content(), "{compression}");
        }
    }

    #[test]
    fn a_compression_that_cannot_be_read_is_told_with_the_way_out() {
        let error = Unpacker.decompress(b"", &mut vec![], Compressor::Lzo).expect_err("refused");
        assert_eq!(told(&error), "its compression cannot be read");
        assert!(way_out(&error).is_some_and(|hint| hint.contains("mksquashfs -comp zstd")));
    }

    #[test]
    fn damaged_xz_and_xz_of_too_much_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let zeros = dir.path().join("zeros");
        fs::write(&zeros, vec![0; 2 << 20]).expect("write");
        let packed = Command::new("xz").args(["--stdout", "--check=crc32", "-0"]).arg(&zeros).output();
        let packed = packed.expect("xz runs").stdout;
        for bytes in [&packed[..], &packed[..packed.len() / 2], b"no xz", b""] {
            let mut out = vec![];
            let done = Unpacker.decompress(bytes, &mut out, Compressor::Xz);
            assert!(done.is_err() && out.len() as u64 <= LARGEST + 1, "{} bytes", bytes.len());
        }
    }
}
