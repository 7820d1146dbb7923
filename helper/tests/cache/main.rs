//! Images as the cache of their layers, and pulls that break off: from a counting server and from docker-registry.
#![allow(missing_docs)] // a test is read, not called

#[allow(dead_code)]
#[path = "../cli/archives.rs"]
mod archives;
#[allow(dead_code)]
#[path = "../registry/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "../cli/support.rs"]
mod support;
#[path = "../cli/tmpfs.rs"]
mod tmpfs;

mod full;
mod images;
mod kills;
mod sharing;
