//! The `grus` command.
fn main() {}
