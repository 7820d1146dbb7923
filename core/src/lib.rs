//! The decisions of Grus (docs/architecture.md, *decide*): what a user typed, what the site allows and what an image
//! contains become a [`plan::LaunchPlan`]. Nothing here touches a file, the network, the clock or the
//! environment; every input is an argument, so every rule can be tested as a value.
//!
//! Data's way: option text -> [`options`] -> [`request::Request`] -> (image metadata + [`plan::Rootfs`] +
//! [`plan::Host`] facts) -> [`plan::decide`] -> [`plan::LaunchPlan`].
#![forbid(unsafe_code)]

pub mod cdi;
pub mod csv;
pub mod digest;
pub mod elf;
pub mod environment;
pub mod identity;
pub mod image;
pub mod kept;
pub mod ldcache;
pub mod manual;
pub mod module;
pub mod mount;
pub mod name;
pub mod options;
pub mod path;
pub mod plan;
pub mod platform;
pub mod reference;
pub mod refusal;
pub mod repository;
pub mod request;
pub mod running;
pub mod saving;
pub mod server;
pub mod signature;
pub mod site;
mod site_keys;
pub mod stack;
pub mod swap;

pub use refusal::Refusal;
