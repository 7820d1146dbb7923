//! A container without root (`grus run`): observed, decided and acted out as on a node, by an ordinary user.
//!
//! Two user namespaces take root's place. In the outer one the user is root, and what belongs to root in the image is
//! the user's; there everything is mounted. In the inner one the user is the user again (or root, where asked for), and
//! has no right over those mounts. The calling process, which must have one thread, is in the container afterwards, and
//! is to become the program: nobody has to wait for it or clean up after it.
//!
//! What differs from a node: images are served by squashfuse or, where there is no FUSE, unpacked; there are no loop
//! devices, so that directories on disk are in memory; nobody but the user has an id.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Instant;

use grus_core::cdi::{Grant, Registry};
use grus_core::image::ImageMeta;
use grus_core::plan::{decide, How, Launch, LaunchPlan, Op};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{set_no_new_privs, UnshareFlags};
use sha2::Digest as _;

use self::shared::{turn, Told, Turn};
use crate::apply::{apply, Act, Root};
use crate::builder::Inputs;
use crate::call::{clone_tree, open, open_own, Broken, Called, During};
use crate::cdi;
use crate::container::Timings;
use crate::credentials::Credentials;
use crate::deadline::Deadline;
use crate::failure::{Failed, Failure, Phase};
use crate::filter::faked;
use crate::fuse::{self, Owner};
use crate::image::Image;
use crate::loopdev::IMAGE;
use crate::namespaces::{move_to_own, own as own_namespaces, refused};
use crate::own::Maker;
use crate::repository;
use crate::rootfs::Tree;
use crate::sources::Sources;
use crate::storage::Storage;
use crate::sys::{confine, filter_calls, set_host_name};
use crate::timing::Clock;
use crate::verify::{verify, Node};
use crate::volatile::Volatile;

mod running;
mod shared;

pub use running::{join, running, Running};

/// What the calling process is in.
#[derive(Debug)]
pub struct Inside {
    /// What was acted out: environment, working directory and ENTRYPOINT are for the caller.
    pub plan: LaunchPlan,
    /// The image's metadata, where it has some.
    pub meta: Option<ImageMeta>,
    /// How long it took.
    pub timings: Timings,
    /// What the program is to inherit that this process becomes.
    pub held: shared::Held,
}

/// How `grus run` differs from a step, beyond the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own<'a> {
    /// A host name; needs a UTS namespace of the container's own in the request.
    pub hostname: Option<&'a str>,
    /// What names the launch whose ranks on this host have one container; None: a container of its own.
    pub launch: Option<&'a str>,
}

/// The image's tree as files, where there is no FUSE.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Its directory, which must be the user's.
    pub dir: PathBuf,
    /// The file of its lock, of which the caller has a share (flock(2)).
    pub lock: PathBuf,
}

/// Moves the calling process into the container, for good. `unpack` is called where there is no FUSE, with the reason.
///
/// The ruling of the request holds as it is: whoever calls has made it here.
pub fn enter<E: From<Failure>>(
    inputs: &Inputs,
    own: Own<'_>,
    unpack: impl FnOnce(&str) -> Result<Unpacked, E>,
) -> Result<Inside, E> {
    let mut clock = Clock::start(Phase::Image);
    let path = inputs.image.as_path();
    let image = Image::open(path)?;
    // What the site says of users' images holds here, too; a kernel mounts none for a user.
    image.admitted(path, &inputs.site)?;
    let meta = repository::meta_beside(path).map_err(Failure::from)?;
    // While root's files can still be told from others.
    let devices = cdi::wanted(inputs);
    clock.enter(Phase::Join);
    let shared = own.launch.map(|launch| key(inputs, launch, devices.is_some()));
    let (lead, alone) = match shared.map(|key| turn(&key, inputs.uid)) {
        Some(Turn::Joined(told, held)) => {
            let lock = told.lock.clone();
            let plan = joined(inputs, *told, meta.as_ref())?;
            let held = held.and_tell(&plan, lock).during(Phase::Join)?;
            return Ok(Inside { plan, meta, timings: clock.stop(), held });
        }
        Some(Turn::Lead(lead)) => (Some(lead), None),
        Some(Turn::Alone(why)) => (None, Some(format!("not in one container with the other ranks: {why}"))),
        None => (None, None),
    };
    clock.enter(Phase::Namespace);
    let task = open_own("/proc/thread-self", OFlags::PATH | OFlags::DIRECTORY).during(Phase::Namespace)?;
    move_to_own(&task, (0, 0), (inputs.uid, inputs.gid), UnshareFlags::NEWNS)
        .map_err(|broken| refused(&broken, "no container", "run it in a job"))?;
    clock.enter(Phase::Mount);
    let mut lock = None;
    let (mount, how) =
        match fuse::mount(&image.file, &inputs.site.security.squashfuse, &Owner::of_namespace(), |_| ()) {
            Ok((mount, _)) => (mount, How::Fuse),
            Err(failure) => match fuse::unavailable(&failure) {
                Some(why) => {
                    let tree = unpack(&why)?;
                    lock = Some(tree.lock);
                    (unpacked(&tree.dir).during(Phase::Mount)?, How::Unpacked)
                }
                None => return Err(as_user(failure).into()),
            },
        };
    let ground = Ground { mount, how, meta: meta.as_ref(), devices };
    let mut plan = act(inputs, &task, own, ground, &mut clock).map_err(as_user)?;
    plan.warnings.extend(alone);
    let held = match lead {
        Some(lead) => lead.done(&plan, lock),
        None => shared::Held::default().and_tell(&plan, lock),
    };
    Ok(Inside { plan, meta, timings: clock.stop(), held: held.during(Phase::Join)? })
}

/// Joined ranks see one container, so all that it is made from is in its key. Variables are each rank's own; GPUs that
/// Slurm names to each rank are its own, too, and then so is the container.
fn key(inputs: &Inputs, launch: &str, devices: bool) -> String {
    let mut request = inputs.request.clone();
    request.env.clear();
    let grant =
        Grant::of(&inputs.job.environment).filter(|_| devices).map(|grant| (grant.indices, grant.ids));
    let request = serde_json::to_string(&request).ok();
    let made_of = (launch, inputs.uid, &inputs.image, &inputs.job.workdir, request, grant);
    let hash = sha2::Sha256::digest(format!("{made_of:?}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A rank in the container of another one: what is its own is decided anew.
fn joined(inputs: &Inputs, told: Told, meta: Option<&ImageMeta>) -> Result<LaunchPlan, Failure> {
    no_more_rights(told.remap_root)?;
    let config = meta.map(|meta| meta.config.clone()).unwrap_or_default();
    let swap = inputs.request.ruling.as_ref().map(|ruling| &ruling.swap);
    let job = &inputs.job.environment;
    let environment = told.brought.environment(&config, swap, job, &inputs.request.env);
    let plan = LaunchPlan::of_joined(inputs.image.clone(), environment, told.workdir);
    Ok(LaunchPlan { remap_root: told.remap_root, entrypoint: told.entrypoint, ..plan })
}

/// What the container's root is made of.
struct Ground<'a> {
    mount: OwnedFd,
    how: How,
    meta: Option<&'a ImageMeta>,
    devices: Option<Registry>,
}

/// The directory of an unpacked image as a mount like any image's.
fn unpacked(dir: &std::path::Path) -> Called<OwnedFd> {
    let dir_fd = open(dir, OFlags::PATH | OFlags::DIRECTORY)?;
    let tree = clone_tree(dir_fd.as_fd(), false, dir)?;
    confine(tree.as_fd(), IMAGE, "the unpacked image")?;
    Ok(tree)
}

/// Decides and acts, as root of the outer namespace, and becomes the user again.
fn act(
    inputs: &Inputs,
    task: &OwnedFd,
    own: Own<'_>,
    ground: Ground<'_>,
    clock: &mut Clock,
) -> Result<LaunchPlan, Failure> {
    clock.enter(Phase::Plan);
    let credentials = Credentials::unchanging();
    let sources = Sources::new(&credentials);
    let config = ground.meta.map(|meta| meta.config.clone()).unwrap_or_default();
    let tree = Tree::new(&ground.mount);
    let launch = Launch {
        request: &inputs.request,
        image: &inputs.image,
        how: ground.how,
        config: &config,
        site: &inputs.site,
        job: &inputs.job,
        swap: inputs.request.ruling.as_ref().map(|ruling| &ruling.swap),
        devices: ground.devices.as_ref(),
        one_task_of_several: own.launch.is_some(),
    };
    let mut plan = decide(&launch, &tree, &sources)?;
    plan.warnings.extend(in_memory(&plan));
    clock.enter(Phase::Own);
    let never = Deadline::new(Instant::now() + DAY, Arc::new(AtomicBool::new(false)));
    let own_mounts = Maker::rootless(&inputs.site, &sources, &never).make_all(&plan)?;
    clock.enter(Phase::Volatile);
    let any = plan.can_change();
    let storage = any.then(|| Storage::memory(inputs.site.volatile.size)).transpose()?;
    let volatile = Volatile { size: inputs.site.volatile.size, storage, who: None };
    own_namespaces(plan.namespaces)?;
    own.hostname.map_or(Ok(()), set_host_name).during(Phase::Namespace)?;
    let node = Node::open()?;
    let act = Act {
        plan: &plan,
        root: Root::Image(ground.mount),
        sources: &sources,
        own: own_mounts,
        user: (0, 0),
        volatile,
        save: false,
    };
    // Everything is made with the modes that are planned; the program has the caller's mask again.
    let mask = rustix::process::umask(Mode::empty());
    apply(act, clock)?;
    rustix::process::umask(mask);
    clock.enter(Phase::Join);
    become_user(inputs, task, plan.remap_root)?;
    clock.enter(Phase::Verify);
    verify(&plan, &node, &inputs.job.environment, None)?;
    Ok(plan)
}

/// Longer than anything here may take; whoever waits has a terminal or a time limit.
const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// From root of the outer namespace to the user of the inner one.
fn become_user(inputs: &Inputs, task: &OwnedFd, remap_root: bool) -> Result<(), Failure> {
    let inside = if remap_root { (0, 0) } else { (inputs.uid, inputs.gid) };
    move_to_own(task, inside, (0, 0), UnshareFlags::empty()).during(Phase::Join)?;
    no_more_rights(remap_root)
}

/// The last step before the program.
fn no_more_rights(remap_root: bool) -> Result<(), Failure> {
    set_no_new_privs(true).map_err(|e| Broken::new("prctl(PR_SET_NO_NEW_PRIVS)", e)).during(Phase::Join)?;
    match remap_root {
        true => filter_calls(&mut faked()).during(Phase::Join),
        false => Ok(()),
    }
}

/// What the user asked to have on disk.
fn in_memory(plan: &LaunchPlan) -> Vec<String> {
    let scratch = plan.mounts.iter().filter(|op| matches!(op, Op::Scratch { .. }));
    scratch
        .map(|op| format!("{} is in memory: without root there is no scratch on disk", op.destination()))
        .collect()
}

/// The words for who is not root, where those for root would mislead.
fn as_user(failure: Failure) -> Failure {
    let Failure::Failed(failed) = failure else { return failure };
    let is = |errno: Errno| failed.errno == Some(errno.raw_os_error());
    if !is(Errno::PERM) && !is(Errno::ACCESS) {
        return Failure::Failed(failed);
    }
    let advice =
        "this host does not let users mount in a user namespace (AppArmor, SELinux or seccomp); ask the \
                  administrator, or run it in a job";
    Failure::Failed(Failed { advice: Some(advice.into()), ..failed })
}
