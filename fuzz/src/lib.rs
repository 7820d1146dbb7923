//! What hostile bytes are put through: one function for each kind of them. A target may see any error; it panics where
//! Grus would, and where two things disagree that must not: what was printed and what is read of it, our reader and
//! another's.
//!
//! To add one: a function, a line in [`TARGETS`], and some good inputs in `corpus/NAME`. The ordinary tests and `ci/fuzz`
//! find it there.

mod binary;
#[path = "../../squash/tests/fixture/mod.rs"]
mod fixture;
mod images;
mod text;

/// Bytes' way through a part of Grus.
pub struct Target {
    /// Its name, and its corpus's.
    pub name: &'static str,
    /// The way.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "tar", run: images::tar },
    Target { name: "merge", run: images::merge },
    Target { name: "squashfs", run: images::squashfs },
    Target { name: "manifest", run: text::document },
    Target { name: "options", run: text::options },
    Target { name: "request", run: text::request },
    Target { name: "mounts", run: text::mounts },
    Target { name: "reference", run: text::reference },
    Target { name: "site", run: text::site },
    Target { name: "stack", run: text::stack },
    Target { name: "cdi", run: text::cdi },
    Target { name: "policy", run: text::policy },
    Target { name: "elf", run: binary::elf },
    Target { name: "ldcache", run: binary::ldcache },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Fails where a message would move a terminal's cursor, or take more than a line.
fn printable(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
