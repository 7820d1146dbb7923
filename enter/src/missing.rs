//! Mount points and links that a plan wants in a root that the user can change.
//!
//! The root may be in use by others while this works, so each name is found anew inside it, and one that has come
//! to be there is taken as it is. What is made belongs to the user, as all else in the root can be changed by him.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use grus_core::path::AbsPath;
use grus_core::plan::{Kind, Made, Make};
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::call::{attach, clone_tree, make_in, open_in, stat, Broken, Called};
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

/// One that has come to be there is taken as it is.
fn entry(root: &OwnedFd, path: &AbsPath, make: &Make, owner: (u32, u32)) -> Called<()> {
    match make_in(root.as_fd(), path, make, owner, path) {
        Err(Broken { errno: Errno::EXIST, .. }) => Ok(()),
        made => made,
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
