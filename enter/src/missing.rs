//! Mount points and links that a plan wants in a root that the user can change.
//!
//! The root may be in use by others while this works, so each name is found anew inside it, and one that has come
//! to be there is taken as it is. What is made belongs to the user, as all else in the root can be changed by him.

use std::os::fd::{AsFd, OwnedFd};

use grus_core::path::AbsPath;
use grus_core::plan::{Kind, Made, Make, Opener};
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::apply::find;
use crate::call::{attach, clone_tree, make_in, open_in, stat, Broken, Called, During};
use crate::failure::{Failure, Phase};
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
/// it is opened as the user, and shown with what is mounted in it: a mount may be there to hide what it covers.
pub(crate) fn links(root: &OwnedFd, skeleton: &[Made], sources: &Sources<'_>) -> Result<(), Failure> {
    for made in skeleton {
        let Make::Link(target) = &made.make else { continue };
        let (tree, make) = shown_at(root, target, sources).during(Phase::Binds)?;
        let place = match find(root, &made.path, Opener::User, sources)? {
            Some(found) => found,
            None => {
                entry(root, &made.path, &make, (0, 0)).during(Phase::Binds)?;
                let gone = || Broken::new(format!("mount on {}", made.path), Errno::NOENT);
                find(root, &made.path, Opener::User, sources)?.ok_or_else(|| gone().during(Phase::Binds))?
            }
        };
        attach(tree.as_fd(), place.as_fd(), made.path.as_path()).during(Phase::Binds)?;
    }
    Ok(())
}

/// A copy of what a link leads to, and what it is shown on.
fn shown_at(root: &OwnedFd, target: &AbsPath, sources: &Sources<'_>) -> Called<(OwnedFd, Make)> {
    let path = target.as_path();
    let file = sources.as_user(|| open_in(root.as_fd(), path, OFlags::PATH, ResolveFlags::empty()))?;
    let directory = kind(&stat(&file, path)?) == Kind::Directory;
    let make = if directory { Make::Directory } else { Make::File };
    Ok((clone_tree(file.as_fd(), true, path)?, make))
}
