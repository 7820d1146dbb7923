//! Owns the look at this host's MPI stacks: `grus host scan`. Files are read, never run: the scan is root's.
//!
//! [`discover`](mod@discover) finds MPI libraries, `closure` what they need by the loader's rules,
//! `surroundings` what they open at run time, `version` their names for people, `profile` puts it together;
//! `devices` lists what CDI files describe.
//! Refuses: judging whether a stack fits an image ([`grus_core::swap`]); writing anything.

mod closure;
mod devices;
mod discover;
mod file;
mod profile;
mod surroundings;
mod version;

pub use devices::devices;
pub use discover::{discover, Seed};
pub use profile::{families, profile, Scanned};
