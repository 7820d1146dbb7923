//! Owns layers becoming one tree: names, records, the guess at hidden files, the replay.

pub(crate) mod path;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod shadow;
pub(crate) mod tree;
pub(crate) mod xattrs;
