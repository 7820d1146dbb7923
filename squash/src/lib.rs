//! OCI and Docker image layers in, one SquashFS 4.0 file out, in one pass.
//!
//! Owns: layer compression, the tar format, the meaning of layers (whiteouts, hard links, parents), the
//! SquashFS writer, and the check of SquashFS files that others wrote ([`validate`]). Refuses: the network, privileges, and unpacking anything on disk, so there is no
//! path to traverse and no device or set-uid file to be found half-way.
//!
//! The way of a byte:
//!
//! ```text
//! LayerSource -> decode -> tar -> convert --record--> merge (replay) -> image: tables, superblock
//!                                    `----content---> store: blocks, fragments -> pool -> writer
//! ```
//!
//! `keep` writes, beside the image, what each layer held and where it is in the image; a later conversion
//! takes layers from there, and its bytes are the same as if they had come from their source.
//!
//! Layers are read top first. A file that upper layers hide is skipped; that is only a guess, the replay
//! of all records, bottom up, decides, and a layer is read again if a skipped file is needed after all.
//!
//! Choices where tools differ or formats leave it open:
//! * Names: `..` takes the component before it away; above the root it is refused. Absolute names are
//!   taken from the root.
//! * Parents are resolved through symlinks, inside the root. Missing ones are made, mode 0755, root's. A
//!   file in a parent's place is an error.
//! * A directory in the place of a symlink replaces it (as Docker and umoci do, unlike `tar -h`).
//! * A hard link has its target's metadata; its own header's are ignored.
//! * Times are seconds in 32 bits, set to the nearest possible; fractions are cut off.
//! * Extended attributes in `user.`, `trusted.` and `security.` are kept. `trusted.overlay.*` and
//!   `user.overlay.*` are dropped, as they would steer the overlay an image is mounted under; POSIX ACLs
//!   are dropped, as SquashFS cannot store them. [`Summary`] counts both.
//! * PAX global headers apply to all entries after them (POSIX).
#![forbid(unsafe_code)]

mod check;
mod compress;
mod convert;
mod decode;
mod directory;
mod error;
mod fault;
mod image;
mod keep;
mod layer;
mod limits;
mod merge;
mod options;
mod source;
mod store;
mod tar;

pub use check::{validate, validate_to, Broken, Bytes, Depth, Invalid, Report, Rule};
pub use convert::{convert, convert_reusing};
pub use decode::{decompress, Method};
pub use directory::{DirectorySource, Judge, Verdict};
pub use error::{Error, FormatFault, LimitKind, MergeFault, TarFault};
pub use keep::{KeptImage, KeptLayer, LayerId, Reuse};
pub use limits::Limits;
pub use options::{Compression, Observer, Options, Summary};
pub use source::{FileSource, LayerSource};
