//! What is mounted below a source, as far as a clone of the source would lack it.
//!
//! A mount may be there to hide what it covers: a job's own /tmp (job_container/tmpfs), a tmpfs over a directory that
//! is nobody's business. To users the kernel refuses a clone without it (mount_namespaces(7), 'locked together'); root,
//! who clones here for them, it does not. So this is the same rule once more, for what is the user's word.

use std::os::fd::OwnedFd;
use std::path::Path;

use grus_core::refusal::printable;
use grus_core::Refusal;
use rustix::fs::{statx, AtFlags, StatxFlags};

use crate::call::{shown, Broken, Called, During};
use crate::failure::{Failure, Phase};
use crate::trust::path_of;

/// The mark of a mount that the kernel does not clone.
const UNBINDABLE: &str = "unbindable";

/// The mounts of this thread's namespace, as proc_pid_mountinfo(5) lists them.
#[derive(Debug)]
pub(crate) struct Mounts(String);

impl Mounts {
    /// As they are now.
    pub fn read() -> Called<Self> {
        const FILE: &str = "/proc/thread-self/mountinfo";
        // A mount point's name may be any bytes; what is not UTF-8 stays different from what is.
        let bytes = std::fs::read(FILE).map_err(|e| Broken::io(format!("read({FILE})"), &e))?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Refuses a bind that would show what a mount hides. What comes later than this look is cloned with its source in
    /// any case: this tells the user what cannot be had.
    pub fn admit(&self, source: &OwnedFd, name: &Path, recursive: bool) -> Result<(), Failure> {
        let Some(point) = self.lacking(source, recursive).during(Phase::Sources)? else { return Ok(()) };
        let (name, point) = (shown(name), printable(&point));
        Err(match recursive {
            false => {
                Refusal::user(format!("cannot bind {name} alone: something is mounted below it, on {point}"))
                    .hint(
                        "leave 'recursive=false' ('norec', 'bind') out: what is mounted there comes with it",
                    )
            }
            true => Refusal::user(format!("cannot bind {name}: what is mounted on {point} cannot be cloned"))
                .hint("it is an unbindable mount; bind the directories beside it one by one"),
        }
        .into())
    }

    /// A mount point below the source that its clone would lack: any of its own mount; where all are cloned, one that
    /// is unbindable, which the kernel leaves out.
    fn lacking(&self, source: &OwnedFd, recursive: bool) -> Called<Option<String>> {
        // As a rule there is none at all.
        if recursive && !self.0.contains(UNBINDABLE) {
            return Ok(None);
        }
        // Asks the kernel, not the file system, which could hang.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let own =
            statx(source, c"", flags, StatxFlags::MNT_ID).map_err(|e| Broken::new("statx(source)", e))?;
        let path = escaped(&path_of(source)?);
        let found = self.0.lines().filter_map(Line::of).find(|line| {
            line.is_below(&path)
                && if recursive { line.unbindable } else { line.parent == Some(own.stx_mnt_id) }
        });
        Ok(found.map(|line| line.point.to_owned()))
    }
}

/// What counts of a line.
struct Line<'a> {
    parent: Option<u64>,
    point: &'a str,
    unbindable: bool,
}

impl<'a> Line<'a> {
    /// `ID PARENT DEVICE ROOT POINT OPTIONS [TAG...] - ...`
    fn of(line: &'a str) -> Option<Self> {
        let mut fields = line.split(' ').skip(1);
        let parent = fields.next()?.parse().ok();
        let point = fields.nth(2)?;
        let unbindable = fields.skip(1).take_while(|tag| *tag != "-").any(|tag| tag == UNBINDABLE);
        Some(Self { parent, point, unbindable })
    }

    fn is_below(&self, directory: &str) -> bool {
        let directory = directory.strip_suffix('/').unwrap_or(directory);
        self.point.strip_prefix(directory).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
    }
}

/// As the kernel writes a path there.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars().fold(String::with_capacity(text.len()), |all, c| match c {
        ' ' | '\t' | '\n' | '\\' => all + &format!("\\{:03o}", u32::from(c)),
        c => all + c.encode_utf8(&mut [0; 4]),
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::OFlags;

    use super::*;
    use crate::call::{open, open_own};

    #[test]
    fn mounts_below_are_found_by_the_mount_they_are_on() {
        let root = open_own("/", OFlags::PATH).expect("a root");
        let mounts = Mounts::read().expect("it can be read");
        assert!(mounts.lacking(&root, false).expect("calls work").is_some(), "/proc at least");
        let proc = open(Path::new("/proc/self"), OFlags::PATH).expect("it is there");
        assert_eq!(mounts.lacking(&proc, false), Ok(None));
        // Of another mount: what covers it there is not on this one.
        assert_eq!(Mounts("7 0 0:1 / /etc rw - x x rw".into()).lacking(&root, false), Ok(None));
        let hidden = Mounts("7 0 0:1 / /a/b rw shared:3 unbindable - x x rw".into());
        assert_eq!(hidden.lacking(&root, true), Ok(Some("/a/b".into())));
        assert_eq!(Mounts("7 0 0:1 / /a/b rw - x unbindable rw".into()).lacking(&root, true), Ok(None));
    }

    #[test]
    fn names_are_compared_as_the_kernel_writes_them() {
        let line = Line::of(r"7 1 0:1 / /a\040b/c rw - x x rw").expect("a line");
        assert!(line.is_below(&escaped(Path::new("/a b"))) && line.is_below("/"));
        for path in ["/a b/c", "/a b/c/d", "/a", "/a b/", "/A b"] {
            assert_eq!(line.is_below(&escaped(Path::new(path))), path == "/a b/", "{path}");
        }
    }
}
