//! The laboratory: a real Slurm, a real registry, real images and an ordinary user, brought up in a second on
//! one machine and taken away without a trace. Tests, `ci/demo` and the benches stand on it.
//!
//! It owns what it starts and nothing else: every process is stopped by its recorded pid and start time, every
//! file lies under the lab's own directory, and nothing in `/etc` is read or written but the user database.
//! It needs root and the packages of `ci/packages`.

pub mod account;
mod bringup;
mod builder;
pub mod cluster;
pub mod command;
mod conf;
pub mod daemon;
pub mod images;
pub mod installation;
pub mod job;
pub mod leaks;
mod machine;
pub mod registry;
mod stacks;

pub use account::Account;
pub use builder::ClusterBuilder;
pub use cluster::Cluster;
pub use command::{Cmd, Output};
pub use images::ImageStore;
pub use job::{Job, JobEnd};
pub use leaks::Snapshot;
pub use machine::Fuse;
pub use registry::{Registry, RegistryBuilder};
