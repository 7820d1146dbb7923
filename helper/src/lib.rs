//! The parts of the `grus` program. `main.rs` only calls [`cli::main`].
#![forbid(unsafe_code)]

pub mod oci;
pub mod registry;
pub mod verify;
