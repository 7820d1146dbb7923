//! Finding a path in an image's tree as the kernel will (path_resolution(7)), links followed inside the root.

use crate::path::AbsPath;
use crate::plan::{Entry, Kind, Rootfs};
use crate::refusal::Refusal;

/// Most links followed in one path, the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// The path without links. Its last components may not exist.
    pub path: AbsPath,
    /// What is there.
    pub entry: Option<Entry>,
}

/// Whether the image has something at `path`, links followed. What cannot be told counts as something.
pub fn exists(rootfs: &dyn Rootfs, path: &AbsPath) -> bool {
    !locate(rootfs, path).is_ok_and(|located| located.entry.is_none())
}

/// Follows `path` in `rootfs`. A name below something that is not a directory is refused.
pub(super) fn locate(rootfs: &dyn Rootfs, path: &AbsPath) -> Result<Located, Refusal> {
    let refuse = |why: &str| {
        Err(Refusal::image(format!("{path} cannot be used as a mount point in the image: {why}"))
            .hint("choose another destination"))
    };
    let mut left: Vec<String> = path.components().rev().map(str::to_owned).collect();
    let mut at = AbsPath::root();
    let mut entry = rootfs.entry(&at)?;
    let mut links = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at = at.parent().unwrap_or_else(AbsPath::root);
                entry = rootfs.entry(&at)?;
                continue;
            }
            _ => {}
        }
        if entry.as_ref().is_some_and(|e| e.kind != Kind::Directory) {
            return refuse(&format!("{at} is not a directory"));
        }
        let next = at.join(&name);
        let found = if entry.is_some() { rootfs.entry(&next)? } else { None };
        match found {
            Some(Entry { kind: Kind::Symlink, target: Some(target), .. }) => {
                links += 1;
                if links > MAX_LINKS || target.len() > crate::path::MAX_PATH {
                    return refuse("too many symbolic links");
                }
                if target.starts_with('/') {
                    at = AbsPath::root();
                    entry = rootfs.entry(&at)?;
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
            found => {
                at = next;
                entry = found;
            }
        }
    }
    Ok(Located { path: at, entry })
}
