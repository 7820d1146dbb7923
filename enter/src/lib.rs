//! Observes and acts (docs/architecture.md): the only part of Grus that mounts.
//!
//! [`Builder`] makes one mount namespace per node and step (ADR 1): it opens image and sources with the user's
//! permissions, asks `core` for the plan, acts the plan out on a thread of its own, and returns a
//! [`Container`], which is one file descriptor. Each task calls [`Container::join`]. When the last task has ended
//! and the descriptor is closed, the kernel takes mounts, loop device and memory away.
//!
//! This crate decides nothing about what is mounted where: that is `core::plan`. It refuses what it
//! cannot do exactly as planned. It writes no log: every error is a value, since after the pivot no log daemon
//! can be reached. `unsafe` is in `sys` only.

pub mod account;
mod apply;
mod below;
mod builder;
mod cache;
mod call;
pub mod cdi;
mod container;
mod credentials;
mod deadline;
mod disk;
mod empty;
mod failure;
mod filter;
mod fuse;
mod image;
mod kept;
mod late;
mod launch;
pub mod library;
mod loopdev;
mod missing;
mod mount_namespace;
mod namespaces;
mod node_ruling;
mod own;
pub mod probe;
mod program;
mod read;
pub mod repository;
mod rootfs;
pub mod rootless;
pub mod rulings;
mod running;
mod saved;
mod saver;
pub mod saving;
mod server;
pub mod site;
mod skeleton;
mod sources;
mod storage;
mod sys;
mod timing;
mod trust;
mod unkillable;
mod upper;
mod validated;
mod verify;
mod volatile;

pub use builder::{Builder, Inputs, StepId, TIME_LIMIT};
pub use container::{Container, Timings, Unsaved};
pub use failure::{Failed, Failure, Phase};
pub use kept::remove as remove_kept;
pub use saver::{Said, Saver};
pub use unkillable::Guard;
