//! Owns what a caller may choose about a conversion and what it is told during and after it.

use crate::limits::Limits;

/// How data and tables are compressed. Where compression does not help a block, it is stored as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard, level 1 to 22. Kernels from 4.14 read it.
    Zstd {
        /// 1 (fast, the default) to 22 (small).
        level: i32,
    },
    /// LZ4, for storage faster than decompression. Kernels from 3.19 read it.
    Lz4,
    /// zlib, level 1 to 9. Every kernel and tool reads it.
    Gzip {
        /// 1 (fast) to 9 (small).
        level: u32,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Zstd { level: 1 }
    }
}

/// Settings of one conversion. The same layers with the same settings give the same bytes, whatever
/// [`Options::workers`] is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compression of data and tables.
    pub compression: Compression,
    /// Bytes of a data block: a power of two from 4096 to 1048576. Default: 131072.
    pub block_size: u32,
    /// Threads that compress. 0, the default: one per available core, at most 16 (a single
    /// decoder cannot feed more).
    pub workers: usize,
    /// Later modification times are set back to this (seconds since 1970), as SOURCE_DATE_EPOCH
    /// asks. Default: none.
    pub clamp_mtime: Option<u32>,
    /// Creation time of the file system, and modification time of directories that no layer has an
    /// entry for (seconds since 1970). Default: the newest modification time in any layer.
    pub default_time: Option<u32>,
    /// Ceilings against hostile images.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            compression: Compression::default(),
            block_size: 128 << 10,
            workers: 0,
            clamp_mtime: None,
            default_time: None,
            limits: Limits::default(),
        }
    }
}

/// What the caller is told while a conversion runs. Every method has a default that does nothing, so
/// `&()` is an observer. Called from the converting thread only, often: keep it cheap.
pub trait Observer: Sync {
    /// Layer `layer` (index, bottom = 0) is being read. Layers are read top first; one may be read
    /// again (`again`) if data that looked hidden turned out to be needed.
    fn layer_started(&self, layer: usize, again: bool) {
        let _ = (layer, again);
    }

    /// The layer that was just started is not read from its source, but from an earlier image.
    fn layer_reused(&self, layer: usize) {
        let _ = layer;
    }

    /// `unpacked` bytes of tar and `files` regular files of this layer were read so far.
    fn progress(&self, layer: usize, unpacked: u64, files: u64) {
        let _ = (layer, unpacked, files);
    }

    /// The layer's stream was read to its end without error.
    fn layer_finished(&self, layer: usize) {
        let _ = layer;
    }

    /// Asked between blocks; true ends the conversion with [`crate::Error::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

impl Observer for () {}

/// What a conversion made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file, padding to 4 KiB included.
    pub size: u64,
    /// Inodes in the file system.
    pub inodes: u64,
    /// Regular files (inodes, not names) in the file system, and their bytes, holes counted.
    pub files: u64,
    /// Bytes of those files.
    pub file_bytes: u64,
    /// Bytes of tar read, all layers and passes, but for layers taken from earlier images.
    pub unpacked: u64,
    /// Bytes of files that upper layers hide and that were therefore not compressed.
    pub hidden_bytes: u64,
    /// Bytes of files found to be copies of other files.
    pub duplicate_bytes: u64,
    /// Bytes of files that were compressed, then hidden by something that came later. They stay in
    /// the file unused; usually 0.
    pub dead_bytes: u64,
    /// Layers that had to be read a second time.
    pub second_passes: u64,
    /// Layers, and second passes, that were taken from earlier images.
    pub reused: u64,
    /// POSIX ACLs left out: SquashFS stores user, trusted and security attributes only.
    pub dropped_acls: u64,
    /// Attributes left out for other reasons: foreign namespaces, and overlayfs' own (`*.overlay.*`),
    /// which would steer the overlay that the image is later mounted under.
    pub dropped_xattrs: u64,
}
