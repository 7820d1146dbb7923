//! Whose permissions are in force on this thread.
//!
//! Linux keeps identity per thread; libc's setuid(2) hides that by changing all threads at once (nptl(7)). These are
//! the kernel's own calls, which change this thread only. Real and saved user id stay root's throughout: root can be
//! regained, and the user cannot signal or trace the thread.

use std::cell::Cell;

use grus_core::plan::Opener;
use rustix::process::{getegid, geteuid, Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::call::{Broken, Called};

/// Switches the calling thread between root and one user.
#[derive(Debug)]
pub(crate) struct Credentials {
    uid: Uid,
    gid: Gid,
    gids: Vec<Gid>,
    now: Cell<Opener>,
    /// Whether there is a root to switch to.
    root: bool,
}

impl Credentials {
    /// Makes the thread root, whatever it was before: a setuid(2) of libc's may have reached it.
    pub fn of(uid: u32, gid: u32, gids: &[u32]) -> Called<Self> {
        let gids = gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let new = Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            gids,
            now: Cell::new(Opener::User),
            root: true,
        };
        new.switch(Opener::Site)?;
        Ok(new)
    }

    /// Those of a user without root's rights, which are in force throughout: what the site names is opened with them,
    /// too.
    pub fn unchanging() -> Self {
        let (uid, gid) = (geteuid(), getegid());
        Self { uid, gid, gids: vec![], now: Cell::new(Opener::User), root: false }
    }

    /// Puts the permissions of `who` in force.
    pub fn switch(&self, who: Opener) -> Called<()> {
        if self.now.get() == who || !self.root {
            return Ok(());
        }
        // The user id first when rising, last when falling: groups can be changed with CAP_SETGID only, which comes
        // and goes with an effective user id of 0 (capabilities(7)).
        match who {
            Opener::Site => {
                effective_user(Uid::ROOT)?;
                effective_group(Gid::ROOT)?;
                groups(&[])?;
            }
            Opener::User => {
                groups(&self.gids)?;
                effective_group(self.gid)?;
                effective_user(self.uid)?;
            }
        }
        self.now.set(who);
        Ok(())
    }
}

fn effective_user(uid: Uid) -> Called<()> {
    let broken = |e| Broken::new(format!("setresuid(-1, {}, -1)", uid.as_raw()), e);
    set_thread_res_uid(None::<Uid>, Some(uid), None::<Uid>).map_err(broken)?;
    match geteuid() == uid {
        true => Ok(()),
        false => Err(broken(rustix::io::Errno::PERM)),
    }
}

fn effective_group(gid: Gid) -> Called<()> {
    let broken = |e| Broken::new(format!("setresgid(-1, {}, -1)", gid.as_raw()), e);
    set_thread_res_gid(None::<Gid>, Some(gid), None::<Gid>).map_err(broken)?;
    match getegid() == gid {
        true => Ok(()),
        false => Err(broken(rustix::io::Errno::PERM)),
    }
}

fn groups(gids: &[Gid]) -> Called<()> {
    set_thread_groups(gids).map_err(|e| Broken::new(format!("setgroups({} groups)", gids.len()), e))
}
