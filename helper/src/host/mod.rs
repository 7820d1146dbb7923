//! Owns the look at this host's MPI stacks and fabrics: `grus host scan`. Files are read, never run, for the scan is root's, but
//! for the one program that an administrator asks for.
//!
//! [`discover`](mod@discover) finds MPI libraries and libfabrics, `closure` what they need by the loader's rules,
//! `surroundings` what they open at run time, `version` their names for people, `profile` puts it together;
//! `devices` lists what CDI files describe, `legacy` asks NVIDIA's older program for such a description.
//! Refuses: judging whether a stack fits an image ([`grus_core::swap`]); writing anything.

mod closure;
mod devices;
mod discover;
mod file;
mod legacy;
mod profile;
mod surroundings;
mod version;

pub use devices::devices;
pub use discover::{discover, discover_fabric, Seed};
pub use legacy::described;
pub use profile::{families, profile, Scanned};
