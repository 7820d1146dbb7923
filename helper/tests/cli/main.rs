//! `grus` as a user meets it: the program is run, its output and the repository are looked at.

mod archives;
mod concurrent;
mod disk;
mod help;
mod hostile;
mod import;
mod plan;
mod pull;
mod repository;
mod support;
mod tidy;
