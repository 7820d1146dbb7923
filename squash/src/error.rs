//! Owns the reasons a conversion can fail, each worded for the user.

use std::fmt;
use std::io;

/// Why a conversion failed. Nothing of the output is usable then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The layer's source failed: network, disk, or a digest that does not match.
    #[error("cannot read layer {layer}: {source}")]
    Source {
        /// Name of the layer.
        layer: String,
        /// What its reader said.
        source: io::Error,
    },
    /// The compressed stream is damaged or cut short.
    #[error("layer {layer} is damaged: {source}")]
    Decompress {
        /// Name of the layer.
        layer: String,
        /// What the decompressor said.
        source: io::Error,
    },
    /// The layer is compressed in a way no image format allows.
    #[error("layer {layer} is compressed with {method}\nhint: gzip, zstd and plain tar can be read")]
    Compression {
        /// Name of the layer.
        layer: String,
        /// The method, by its magic number.
        method: &'static str,
    },
    /// The archive itself is not in order.
    #[error("layer {layer}{}: {what}", At(.path))]
    Tar {
        /// Name of the layer.
        layer: String,
        /// Entry in question, empty if before the first.
        path: String,
        /// What is wrong with it.
        what: TarFault,
    },
    /// A ceiling of [`crate::Limits`] was passed.
    #[error("layer {layer}{}: {limit}", At(.path))]
    Limit {
        /// Name of the layer.
        layer: String,
        /// Entry in question, empty where none is to blame.
        path: String,
        /// The ceiling.
        limit: LimitKind,
    },
    /// The layers do not fit together.
    #[error("layer {layer}, {path}: {what}")]
    Merge {
        /// Name of the layer.
        layer: String,
        /// Entry in question.
        path: String,
        /// What does not fit.
        what: MergeFault,
    },
    /// SquashFS cannot hold the image.
    #[error("SquashFS cannot hold this image: {0}")]
    Format(FormatFault),
    /// A layer read for the second time was not the same as at first.
    #[error("layer {layer} changed while it was read")]
    Changed {
        /// Name of the layer.
        layer: String,
    },
    /// A layer that was to be taken from an earlier image cannot be: that image, or its index, is damaged.
    #[error("layer {layer} cannot be taken from the image that has it: {source}")]
    Kept {
        /// Name of the layer.
        layer: String,
        /// What is wrong.
        source: io::Error,
    },
    /// The output file could not be written.
    #[error("cannot write the image: {0}")]
    Write(io::Error),
    /// A setting is out of its range.
    #[error("{0}")]
    Options(String),
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Prints `, PATH` for a path that is known.
struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, ", {}", self.0)
        }
    }
}

/// What is wrong with an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarFault {
    /// The stream has no bytes at all.
    #[error("the stream is empty")]
    Empty,
    /// The stream ends inside a header or a file.
    #[error("the archive is cut short")]
    Truncated,
    /// Neither a header nor the end marker where one must be.
    #[error("not a tar header (checksum does not match)")]
    Checksum,
    /// A number field or record holds no number, or one out of range.
    #[error("bad number in field {0}")]
    Number(&'static str),
    /// A PAX record is not `LENGTH KEY=VALUE`.
    #[error("bad PAX record")]
    Pax,
    /// The map of a sparse file contradicts itself or the file's size.
    #[error("bad map of a sparse file")]
    Sparse,
    /// A name that no file can have: empty, NUL inside, or climbing above the root by `..`.
    #[error("name not possible in an image: {0}")]
    Name(&'static str),
    /// An entry type nobody defines for images.
    #[error("unknown entry type {0:?}")]
    Type(char),
}

/// A ceiling that was passed. The number is the ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the sentences say it
pub enum LimitKind {
    #[error("more than {0} entries")]
    Entries(u64),
    #[error("files of more than {0} bytes in total")]
    TotalSize(u64),
    #[error("file of more than {0} bytes")]
    FileSize(u64),
    #[error("paths, link targets and attributes of more than {0} bytes in total")]
    MetadataSize(u64),
    #[error("name longer than {0} bytes")]
    NameLength(usize),
    #[error("path or link target longer than {0} bytes")]
    PathLength(usize),
    #[error("path of more than {0} components")]
    PathDepth(usize),
    #[error("extended attribute of more than {0} bytes")]
    XattrValue(usize),
    #[error("extended headers of more than {0} bytes")]
    ExtendedHeader(u64),
    #[error("sparse file of more than {0} segments")]
    SparseSegments(usize),
    #[error("unpacks to more than {0} times its size")]
    Ratio(u64),
}

/// How layers contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeFault {
    /// A component of the path is a file.
    #[error("a parent of it is not a directory")]
    ParentNotDirectory,
    /// Symlinks in the path lead in a circle.
    #[error("too many symbolic links on the way to it")]
    SymlinkLoop,
    /// A parent that is not there and cannot be made: its name, from a symlink, is over 255 bytes, or
    /// the tree would get deeper than [`crate::Limits::path_depth`].
    #[error("a parent of it cannot be made: name too long, or too deep")]
    ParentImpossible,
    /// Parents that no layer has an entry for: with them the image would have more entries than
    /// [`crate::Limits::entries`].
    #[error("with the directories above it the image has more than {0} entries")]
    TooManyParents(u64),
    /// A hard link to a name that no layer so far has made.
    #[error("hard link to a name that does not exist")]
    LinkTargetMissing,
    /// A hard link to a directory.
    #[error("hard link to a directory")]
    LinkToDirectory,
    /// The root of the image is something else than a directory.
    #[error("the root is not a directory")]
    RootNotDirectory,
}

/// What SquashFS has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatFault {
    /// The id table counts in 16 bits.
    #[error("more than 65535 different user and group ids")]
    Ids,
    /// A table or directory listing passes 4 GiB.
    #[error("a table of more than 4 GiB")]
    Table,
}
