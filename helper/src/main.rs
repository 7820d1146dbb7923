//! `grus`, the daemonless program of Grus.

fn main() {}
