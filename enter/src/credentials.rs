//! Whose permissions are in force on this thread.
//!
//! Linux keeps identity per thread; libc's setuid(2) hides that by changing all threads at once (nptl(7)). These are
//! the kernel's own calls, which change this thread only. Real and saved user id stay root's throughout: root can be
//! regained, and the user cannot signal or trace the thread.
//!
//! But libc's calls reach this thread, too, and Slurm makes them once it waits for the build no more. From then on nobody
//! knows whose permissions are in force, and nothing that was opened with them counts.

use std::cell::Cell;

use grus_core::plan::Opener;
use rustix::process::{getegid, geteuid, Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::call::{Broken, Called};
use crate::deadline::Deadline;

/// Switches the calling thread between root and one user.
#[derive(Debug)]
pub(crate) struct Credentials {
    uid: Uid,
    gid: Gid,
    gids: Vec<Gid>,
    now: Cell<Opener>,
    /// Until when there is a root to switch to. None: there is none.
    root: Option<Deadline>,
}

impl Credentials {
    /// Makes the thread root, whatever it was before: a setuid(2) of libc's may have reached it.
    pub fn of(uid: u32, gid: u32, gids: &[u32], deadline: &Deadline) -> Called<Self> {
        let gids = gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let new = Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            gids,
            now: Cell::new(Opener::User),
            root: Some(deadline.clone()),
        };
        new.switch(Opener::Site)?;
        Ok(new)
    }

    /// Those of a user without root's rights, which are in force throughout: what the site names is opened with them,
    /// too.
    pub fn unchanging() -> Self {
        let (uid, gid) = (geteuid(), getegid());
        Self { uid, gid, gids: vec![], now: Cell::new(Opener::User), root: None }
    }

    /// Puts the permissions of `who` in force. Fails where those in force before, or these, are not what they seem, as
    /// the build has been given up: to be asked before what was opened with them is used.
    pub fn switch(&self, who: Opener) -> Called<()> {
        let Some(deadline) = &self.root else { return Ok(()) };
        if self.now.get() != who {
            self.change(who)?;
        }
        deadline.wanted()
    }

    fn change(&self, who: Opener) -> Called<()> {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;

    /// Slurm's seteuid(0) after a build that took too long makes the builder root in the middle of the user's work.
    #[test]
    fn what_was_opened_after_the_build_was_given_up_does_not_count() {
        if !geteuid().is_root() {
            return println!("skipped: not root");
        }
        let abandoned = Arc::new(AtomicBool::new(false));
        let deadline = Deadline::new(Instant::now() + Duration::from_secs(60), Arc::clone(&abandoned));
        let work = move || {
            let credentials = Credentials::of(4321, 4322, &[4322], &deadline).expect("root may");
            let open = || std::fs::File::open("/etc/shadow").map_err(|e| Broken::io("open", &e));
            let sources = crate::sources::Sources::new(&credentials);
            let as_user = sources.as_user(open);
            let as_root = sources.as_user(|| {
                abandoned.store(true, Ordering::SeqCst);
                // As libc's handler does it, in this thread.
                effective_user(Uid::ROOT)?;
                open()
            });
            let later = [Opener::User, Opener::Site, Opener::Site].map(|who| credentials.switch(who));
            (as_user, as_root, later)
        };
        let (as_user, as_root, later) = std::thread::spawn(work).join().expect("no panic");
        assert_eq!(as_user.expect_err("it is root's").errno, rustix::io::Errno::ACCESS);
        assert_eq!(as_root.expect_err("nobody waits").errno, rustix::io::Errno::TIMEDOUT);
        assert!(later.iter().all(Result::is_err));
    }
}
