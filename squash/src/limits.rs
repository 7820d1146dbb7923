//! Owns the ceilings that stop an image made to exhaust memory, disk or time. They are checked while
//! the layers stream, so a bomb costs no more than the ceiling it hits. It refuses nothing itself.

/// Ceilings for one conversion. The defaults are far above any real image; a site may lower them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries in all layers together, whiteouts included. Directories that are made because paths lead through
    /// them are refused where the image has more entries than this. Default: 2 million; each takes about 350
    /// bytes of memory.
    pub entries: u64,
    /// Bytes of all regular files of all layers together, holes counted. Default: 2 TiB.
    pub total_size: u64,
    /// Bytes of one regular file, holes counted. Default: 1 TiB.
    pub file_size: u64,
    /// Bytes of memory held for paths, link targets and xattrs of all layers. Default: 512 MiB.
    pub metadata_size: u64,
    /// Bytes of one path component. Default and maximum: 255 (NAME_MAX).
    pub name_length: usize,
    /// Bytes of one path or link target. Default and maximum: 4095 (PATH_MAX without its NUL; the
    /// kernel refuses longer symlinks in SquashFS).
    pub path_length: usize,
    /// Components of one path. Default: 512.
    pub path_depth: usize,
    /// Bytes of one extended attribute's value. Default and maximum: 65536 (XATTR_SIZE_MAX).
    pub xattr_value: usize,
    /// Bytes of all PAX and GNU long name headers of one entry, and of all global PAX headers of one layer.
    /// Default: 1 MiB, as Go's archive/tar has it for one header: what Docker can read passes, if it was not
    /// made to do harm.
    pub extended_header: u64,
    /// Data segments of one sparse file. Default: 1 million.
    pub sparse_segments: usize,
    /// Bytes a layer may unpack to for each compressed byte, judged once it has given
    /// [`Limits::RATIO_FREE`] bytes. Default: 2000 (gzip cannot pass 1032).
    pub ratio: u64,
}

impl Limits {
    /// Unpacked bytes of a layer below which its ratio is not judged: 1 GiB.
    pub const RATIO_FREE: u64 = 1 << 30;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 2_000_000,
            total_size: 2 << 40,
            file_size: 1 << 40,
            metadata_size: 512 << 20,
            name_length: 255,
            path_length: 4095,
            path_depth: 512,
            xattr_value: 65536,
            extended_header: 1 << 20,
            sparse_segments: 1_000_000,
            ratio: 2000,
        }
    }
}
