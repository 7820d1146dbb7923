//! `grus` as a user meets it: the program is run, its output and the repository are looked at.

mod archives;
mod commands;
mod completion;
mod concurrent;
mod devices;
mod disk;
mod doctor;
mod explain;
mod export;
mod help;
mod hostile;
mod import;
mod lists;
mod modules;
mod mpi;
mod plan;
mod pull;
mod repository;
mod ruling;
mod save;
mod scan;
#[allow(dead_code)] // other tests use the rest
#[path = "../registry/server.rs"]
mod server;
mod signatures;
mod simple_signing;
mod support;
mod tidy;
#[allow(dead_code)] // other tests use the rest
mod tmpfs;
mod verify;
mod web;
