//! Containers that outlive a step (`--container-name=NAME`, docs/adr/0010).
//!
//! The first step that gives a name makes a *base*: a mount namespace whose root is the image, whole and writable, and
//! which nothing is in. It is pinned by a bind of its file, as ip-netns(8) does. Every step, that one too, clones the
//! root out of the base and builds its own container over the clone. So all have the same file system, mounted once,
//! and each has mounts of its own; it does not matter which of them run.

mod outlive;
mod place;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use grus_core::kept::{missing, taken, Kept, Taker};
use grus_core::name::{Name, NameMode};
use grus_core::path::AbsPath;
use grus_core::plan::How;
use grus_core::refusal::printable;
use grus_core::request::Resolved;
use grus_core::Refusal;
use rustix::fs::OFlags;

use crate::apply::{bare, Root};
use crate::builder::Inputs;
use crate::call::{clone_tree, open_own, During};
use crate::deadline::Deadline;
use crate::failure::{Failure, Phase};
use crate::launch::Ground;
use crate::mount_namespace::{enter, here, join, within};
use crate::server::{runs, Served};
use crate::sys::unshare;
use crate::volatile::Volatile;
use place::{Jobs, Slot};

/// How long after the last step that was in one of its containers a job counts as over whose end was missed. Nothing on a
/// node says for certain that a job without a step there is over.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A name that a step asks for, on this node.
#[derive(Debug)]
pub(crate) struct Keeper<'a> {
    name: &'a str,
    mode: NameMode,
    jobs: Jobs,
    job: OwnedFd,
    /// The namespace that containers are pinned in: slurmstepd's own, whatever the job's.
    home: OwnedFd,
}

impl<'a> Keeper<'a> {
    /// For a request that names a container to keep. Call it in the namespace that containers are pinned in.
    pub fn of(inputs: &'a Inputs, deadline: &Deadline) -> Result<Option<Self>, Failure> {
        let Some(Name::Kept { name, mode }) = &inputs.request.name else { return Ok(None) };
        let node = inputs.node.as_deref().unwrap_or_default();
        let jobs = Jobs::open(&inputs.site.named.dir, node, inputs.step.job)?;
        let job = jobs.job(deadline).during(Phase::Kept)?;
        // setns(2) refuses a mount namespace to a thread that shares root and directory with others.
        unshare(false).during(Phase::Kept)?;
        let home = here().during(Phase::Kept)?;
        Ok(Some(Self { name, mode: *mode, jobs, job, home }))
    }

    /// The container, made with `image` if it is not there.
    pub fn take(
        &self,
        inputs: &Inputs,
        volatile: impl FnOnce() -> Result<Volatile, Failure>,
        deadline: &Deadline,
        image: impl FnOnce() -> Result<Ground, Failure>,
    ) -> Result<Ground, Failure> {
        let slot = Slot::open(&self.job, self.name, deadline).during(Phase::Kept)?;
        place::used(&self.job);
        let back = here().during(Phase::Kept)?;
        let found = slot.kept().during(Phase::Kept)?.filter(|(kept, _)| !kept.is_stale(inputs.step.restart));
        if let Some((kept, base)) = found {
            let broken = kept.server.is_some_and(|server| !runs(server));
            match (self.mode, broken) {
                (NameMode::Create, false) => return Err(taken(self.name, &kept).into()),
                // Made anew, as the refusal below says.
                (NameMode::Create, true) => {}
                (NameMode::Auto | NameMode::Exec, broken) => {
                    kept.admit(&self.taker(inputs))?;
                    match broken {
                        true => return Err(self.broken(&kept).into()),
                        false => return ground(kept, &base, &back),
                    }
                }
            }
        }
        if self.mode == NameMode::Exec || inputs.request.image.is_none() {
            return Err(missing(self.name, self.mode == NameMode::Exec).into());
        }
        self.forget(inputs);
        within(&self.home, &back, || slot.clear()).during(Phase::Kept)?;
        let made = image()?;
        let (kept, base) = self.make(inputs, made, volatile()?, &slot, &back)?;
        if deadline.passed() {
            // Nobody waits any more, and the job may be over.
            within(&self.home, &back, || slot.clear()).during(Phase::Kept)?;
        }
        ground(kept, &base, &back)
    }

    fn taker<'t>(&'t self, inputs: &'t Inputs) -> Taker<'t> {
        let (asked, shown) = match (&inputs.request.image, &inputs.request.resolved) {
            (Some(_), Some(resolved)) => (Some(resolved), resolved.path.as_str()),
            _ => (None, ""),
        };
        Taker { uid: inputs.uid, name: self.name, asked, shown }
    }

    /// Makes the base and pins it. The note comes last: what has none was not finished.
    fn make(
        &self,
        inputs: &Inputs,
        made: Ground,
        volatile: Volatile,
        slot: &Slot,
        back: &OwnedFd,
    ) -> Result<(Kept, OwnedFd), Failure> {
        let Ground { root: Root::Image(image) | Root::Kept(image), meta, server, image: path, .. } = made;
        let base = bare(image, volatile);
        enter(back).during(Phase::Kept)?;
        let base = base?;
        let asked = inputs.request.resolved.clone();
        let kept = Kept {
            uid: inputs.uid,
            restart: inputs.step.restart,
            step: inputs.step.step,
            asked: asked.unwrap_or(Resolved { path: path.clone(), digest: None }),
            image: path,
            meta,
            server: server.map(|served| served.server),
        };
        within(&self.home, back, || {
            slot.pin_namespace(&base)?;
            slot.note(&kept)
        })
        .during(Phase::Kept)?;
        // Once it is noted: the job's end must find what outlives its steps.
        if let Some(server) = kept.server {
            within(&self.home, back, || {
                outlive::outlive_step(server);
                Ok(())
            })
            .during(Phase::Kept)?;
        }
        Ok((kept, base))
    }

    fn broken(&self, kept: &Kept) -> Refusal {
        let name = printable(self.name);
        Refusal::user(format!(
            "container '{name}' is broken: squashfuse_ll, which served its image {} on this node, has ended",
            kept.shown()
        ))
        .hint(format!(
            "it was killed or ran out of memory; --container-name={name}:create makes the container anew"
        ))
    }

    /// Takes away what jobs have left whose end this node has missed: no process of theirs, and no step for weeks.
    /// A failure is no concern of this job's.
    fn forget(&self, inputs: &Inputs) {
        let Some(node) = &inputs.node else { return };
        for (job, age) in self.jobs.others() {
            if age > FORGOTTEN && !crate::running::any_of(job) {
                let _ = here().and_then(|back| {
                    within(&self.home, &back, || {
                        match Jobs::existing(inputs.site.named.dir.as_path(), node, job) {
                            Ok(Some(over)) => over.remove(),
                            Ok(None) | Err(_) => Ok(()),
                        }
                    })
                });
            }
        }
    }
}

/// The end of a job on a node: takes away what it kept. Where the caller is in another mount namespace than slurmd
/// (job_container/tmpfs), `slurmd` is the file of that one's.
pub fn remove(dir: &AbsPath, node: &str, job: u32, slurmd: Option<&Path>) -> Result<(), Failure> {
    let work = || {
        slurmd.map(join).transpose().during(Phase::Kept)?;
        match Jobs::existing(dir.as_path(), node, job)? {
            Some(jobs) => jobs.remove().during(Phase::Kept),
            None => Ok(()),
        }
    };
    // A thread, since the caller's own root and directory are not ours to change.
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or(Ok(()))
}

/// The root of a base, cloned.
fn ground(kept: Kept, base: &OwnedFd, back: &OwnedFd) -> Result<Ground, Failure> {
    let root = within(base, back, || {
        let root = open_own("/", OFlags::PATH | OFlags::DIRECTORY)?;
        clone_tree(root.as_fd(), false, Path::new("/"))
    })
    .during(Phase::Kept)?;
    let served = kept.server.map(|server| Served::noted("the image", server));
    let server = served.transpose().during(Phase::Kept)?.flatten();
    let how = if kept.server.is_some() { How::Fuse } else { How::Kernel };
    Ok(Ground { root: Root::Kept(root), image: kept.image, how, meta: kept.meta, server, cache: None })
}
