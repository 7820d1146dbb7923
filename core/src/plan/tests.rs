//! Golden plans: a table of launches, each against a stand-in tree, each with its plan as text under
//! `core/tests/golden`. `GRUS_GOLDEN=1 cargo test -p grus-core` rewrites them; review reads the diff.
use super::*;
