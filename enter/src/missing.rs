//! Mount points and links that a plan wants in a root that the user can change.
//!
//! The root may be in use by others while this works, so each name is found anew inside it, and one that has come
//! to be there is taken as it is. What is made belongs to the user, as all else in the root can be changed by him.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use grus_core::path::AbsPath;
use grus_core::plan::{Kind, Made, Make};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::call::{attach, clone_tree, open_in, stat, Broken, Called, OWN};
use crate::rootfs::kind;
use crate::sources::Sources;

/// Makes the directories and files, parents first; links are for later ([`links`]).
pub(crate) fn make(root: &OwnedFd, skeleton: &[Made], owner: (u32, u32)) -> Called<()> {
    for made in skeleton {
        if !matches!(made.make, Make::Link(_)) {
            entry(root, &made.path, &made.make, owner)?;
        }
    }
    Ok(())
}

fn entry(root: &OwnedFd, path: &AbsPath, make: &Make, (uid, gid): (u32, u32)) -> Called<()> {
    let Some(above) = path.parent() else { return Ok(()) };
    let Some(name) = path.components().next_back().and_then(|name| CString::new(name).ok()) else {
        return Ok(());
    };
    let broken = |call: &str, e| Broken::new(format!("{call}({path})"), e);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let dir = open_in(root.as_fd(), above.as_path(), flags, OWN)?;
    let made = match make {
        Make::Directory => rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755)),
        Make::File | Make::Link(_) => {
            rustix::fs::mknodat(&dir, &name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        }
    };
    match made {
        Ok(()) => {
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(&dir, &name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| broken("fchownat", e))
        }
        Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(broken("mkdirat", e)),
    }
}

/// Shows each link's target in its place by a bind, once all else is mounted. A link would stay in the root for
/// others who have it, and dangle there: the host's libraries are this step's alone. Which target is a user's word, so
/// it is opened as the user.
pub(crate) fn links(root: &OwnedFd, skeleton: &[Made], sources: &Sources<'_>) -> Called<()> {
    for made in skeleton {
        let Make::Link(target) = &made.make else { continue };
        let (tree, make) = {
            let target_as_user =
                || open_in(root.as_fd(), target.as_path(), OFlags::PATH, ResolveFlags::empty());
            let file = sources.as_user(target_as_user)?;
            let directory = kind(&stat(&file, target.as_path())?) == Kind::Directory;
            let make = if directory { Make::Directory } else { Make::File };
            (clone_tree(file.as_fd(), false, target.as_path())?, make)
        };
        let find = |path: &Path| open_in(root.as_fd(), path, OFlags::PATH, ResolveFlags::empty());
        let place = match find(made.path.as_path()) {
            Err(Broken { errno: Errno::NOENT, .. }) => {
                entry(root, &made.path, &make, (0, 0))?;
                find(made.path.as_path())?
            }
            found => found?,
        };
        attach(tree.as_fd(), place.as_fd(), made.path.as_path())?;
    }
    Ok(())
}
