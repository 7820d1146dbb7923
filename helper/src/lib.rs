//! The parts of the `grus` program; `main.rs` only calls [`cli::main`].
//!
//! A command ([`command`]) reads its arguments, asks the [`context`] for site and repository, and works with
//! [`registry`] or [`archive`] (where an image comes from), [`build`] (layers to an image) and [`repository`]
//! (where it is kept). Every failure is a [`failure::Failure`], printed once, in [`cli`].
#![forbid(unsafe_code)]

pub mod archive;
pub mod build;
pub mod cli;
pub mod command;
pub mod context;
pub mod digest;
pub mod doctor;
pub mod export;
pub mod facts;
pub mod failure;
pub mod history;
pub mod host;
pub mod image;
pub mod interrupt;
pub mod oci;
pub mod output;
pub mod progress;
pub mod prompt;
pub mod registry;
pub mod repository;
pub mod reuse;
pub mod save;
pub mod section;
pub mod signature;
pub mod steps;
pub mod template;
pub mod tree;
pub mod unpacked;
pub mod valid;
