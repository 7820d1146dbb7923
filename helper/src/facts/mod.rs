//! Owns the library facts of images: read from the SquashFS file without mounting it, and kept beside it as
//! `<hex>.elf.json`. An image without that file is inspected when its facts are first asked for.
//!
//! An image is a stranger's: it is read in a thread of its own, with bounds on what is unpacked, and what
//! breaks the reader is an image that cannot be inspected. Refuses: judging the facts ([`grus_core::swap`]).
//!
//! Known limit: the reader (backhand) refuses images with symbolic links of 256 bytes and more and those with
//! file names that are not UTF-8. Such images run; only nothing of the host's can be proved to fit them.

mod content;
pub(crate) mod reader;
#[cfg(test)]
pub(crate) mod samples;
mod walk;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Once;

use grus_core::digest::Digest;
use grus_core::elf::{ImageFacts, FACTS_VERSION, MAX_FACTS};
use grus_core::refusal::{printable, Refusal};
use grus_core::repository::Layout;

use crate::failure::Failure;
use crate::repository::put;

/// Stack of the reading thread, in bytes: the reader goes down a directory tree by recursion. Only what is used
/// is ever backed by memory.
const STACK: usize = 256 << 20;

/// Name of the reading thread, whose panics are told as what they are: images that cannot be read.
const THREAD: &str = "facts";

/// Reads the facts of the SquashFS file at `image`; `name` is for messages.
pub fn read(image: &Path, name: &str) -> Result<ImageFacts, Failure> {
    guarded(name, || walk::facts(image, name))
}

/// Does `work` on an image where a panic and a deep tree do no harm.
pub fn guarded<T: Send>(name: &str, work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    quiet();
    let done = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(THREAD.into()).stack_size(STACK);
        thread.spawn_scoped(scope, work).map(|running| running.join())
    });
    match done {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(unreadable(name, "its structure breaks the reader").into()),
        Err(e) => Err(Failure::System { what: format!("cannot start a thread: {e}"), hint: None }),
    }
}

/// The facts of an image in a repository, from the file beside it, else by reading the image. They are kept if
/// the repository can be written; where it cannot, the next caller reads the image again.
pub fn known(layout: &Layout, digest: &Digest, name: &str) -> Result<ImageFacts, Failure> {
    if let Some(facts) = stored(&layout.facts(digest)) {
        return Ok(facts);
    }
    let facts = read(&layout.image(digest), name)?;
    // Facts are a convenience of the next look; a repository that others own is the usual reason.
    let _ = keep(layout, digest, &facts);
    Ok(facts)
}

/// The kept facts, if they are sound and of this version.
fn stored(path: &Path) -> Option<ImageFacts> {
    let mut text = vec![];
    File::open(path).ok()?.take(MAX_FACTS as u64 + 1).read_to_end(&mut text).ok()?;
    let facts = ImageFacts::parse(&text, &path.display().to_string()).ok()?;
    (facts.version == FACTS_VERSION).then_some(facts)
}

fn keep(layout: &Layout, digest: &Digest, facts: &ImageFacts) -> Result<(), Failure> {
    let text = facts.to_json();
    if text.len() > MAX_FACTS {
        return Err(unreadable(&digest.to_string(), "it has more libraries than can be kept").into());
    }
    let to = layout.facts(digest);
    // Whoever may read the image may read its facts: they say nothing else.
    let public = fs::metadata(layout.image(digest))
        .is_ok_and(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o004 != 0);
    put(layout, &to, &text, public)
}

fn unreadable(name: &str, why: &str) -> Refusal {
    Refusal::image(format!("image {} cannot be inspected: {}", printable(name), printable(why)))
        .hint("pull or import it again; --container-mpi=image runs it as it is")
}

/// Keeps panics of the reading thread off the screen; all others are told as ever.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(THREAD) {
                others(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_image_that_cannot_be_inspected() {
        let failure = guarded::<()>("app:1", || panic!("hostile")).expect_err("refused");
        assert!(failure.to_string().starts_with("image app:1 cannot be inspected: "), "{failure}");
        assert_eq!(failure.exit_code(), 65);
        assert!(failure.hint().is_some());
    }
}
