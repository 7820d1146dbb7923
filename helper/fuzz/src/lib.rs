//! The fuzz target, where the corpus test finds it too.

pub mod targets;
