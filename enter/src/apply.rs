//! Acting a plan out: from an image's mount and opened sources to a mount namespace with the container as its root.
//!
//! Every step is one to three system calls; the order is explained where it matters. Nothing here knows on whose
//! behalf it runs: identity was settled before, so the same steps serve root and, in a user namespace, a user.

use std::os::fd::{AsFd, OwnedFd};

use grus_core::path::AbsPath;
use grus_core::plan::{Host, Kind, LaunchPlan, Op, Opener};
use grus_core::Refusal;
use rustix::fs::{statx, AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use crate::below::Mounts;
use crate::call::{
    attach, clone_tree, new_dir, new_mount, open_in, open_own, shown, stat, Broken, Called, During, PLAIN,
};
use crate::empty::Empty;
use crate::failure::{reason, Failure, Phase};
use crate::loopdev::IMAGE;
use crate::rootfs::kind;
use crate::saved::Saved;
use crate::skeleton::Skeleton;
use crate::sources::Sources;
use crate::sys::{confine, unshare};
use crate::timing::Clock;
use crate::volatile::{Layers, Volatile};
use crate::{missing, mount_namespace};

/// Size of the private tmpfs: texts (two of at most a little over a MiB, and a loader's cache of at most a little
/// over 16) and empty mount points.
const SCRATCH_SIZE: &str = "size=32m";

/// What a plan is acted out on.
#[derive(Debug)]
pub(crate) struct Act<'a> {
    /// The plan.
    pub plan: &'a LaunchPlan,
    /// What the container's root is made of.
    pub root: Root,
    /// Sources, opened while deciding.
    pub sources: &'a Sources<'a>,
    /// What was made for the plan's mounts, as [`crate::own::Maker`] returns it.
    pub own: Vec<Option<OwnedFd>>,
    /// User and group whose they are.
    pub user: (u32, u32),
    /// How volatile directories are made.
    pub volatile: Volatile,
    /// Whether the tree is to be kept for saving.
    pub save: bool,
}

/// What a root is made of; mounted and attached nowhere.
#[derive(Debug)]
pub(crate) enum Root {
    /// The image.
    Image(OwnedFd),
    /// A writable container that outlives the step; changes to it are seen by all who have it.
    Kept(OwnedFd),
}

impl Root {
    /// The mount.
    pub fn mount(&self) -> &OwnedFd {
        match self {
            Root::Image(mount) | Root::Kept(mount) => mount,
        }
    }
}

/// Acts the plan out on the calling thread, which is in the new namespace afterwards and fit for nothing else.
/// Returns the namespace, and the tree to save where one is wanted and differs from the image.
pub(crate) fn apply(act: Act<'_>, clock: &mut Clock) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
    clock.enter(Phase::Sources);
    let mut clones = clones(act.plan, act.sources)?.into_iter();
    clock.enter(Phase::Namespace);
    let namespace = new_namespace().during(Phase::Namespace)?;
    clock.enter(Phase::Rootfs);
    let scratch = Scratch::new().during(Phase::Rootfs)?;
    let save = act.save && act.plan.can_change();
    let image = match &act.root {
        // The root that is made of it has mount points and links that no image is to have.
        Root::Image(image) if save && !act.plan.writable => Some(image.try_clone()),
        Root::Image(_) | Root::Kept(_) => None,
    };
    let image = image.transpose().map_err(|e| Broken::io("dup(image)", &e)).during(Phase::Rootfs)?;
    let mut volatile = act.volatile.at(&scratch);
    let mut empty = Empty::of(act.user.0, act.user.1);
    let root = rootfs(act.root, act.plan, act.user, &scratch, &mut volatile)?;
    let saved = save.then(|| Saved::new(image.as_ref().unwrap_or(&root), &scratch)).transpose();
    let saved = saved.during(Phase::Rootfs)?;
    clock.enter(Phase::Binds);
    for (op, own) in act.plan.mounts.iter().zip(act.own) {
        match op {
            Op::Bind { .. } => {
                // One clone was made for each bind, in the same order.
                let Some(tree) = clones.next() else { continue };
                place(&root, &tree, op, act.plan, act.sources)?;
            }
            Op::Text { content, executable, .. } => {
                let text = scratch.text(content, *executable).during(Phase::Binds)?;
                place(&root, &text, op, act.plan, act.sources)?;
            }
            Op::Volatile { destination } => {
                clock.enter(Phase::Volatile);
                let overlay = volatile.make(&root, destination)?;
                if let Some(saved) = &saved {
                    saved.add(&overlay, destination).during(Phase::Volatile)?;
                }
                clock.enter(Phase::Binds);
            }
            Op::Squashfs { .. } | Op::Tmpfs { .. } | Op::Scratch { .. } => {
                let Some(tree) = own else { continue };
                place(&root, &tree, op, act.plan, act.sources)?;
                empty.add(op, tree);
            }
            Op::Make { destination, make } => {
                empty.make(destination, make).during(Phase::Binds)?;
            }
        }
    }
    empty.close().during(Phase::Binds)?;
    if act.plan.writable {
        missing::links(&root, &act.plan.skeleton, act.sources)?;
    }
    let saved = saved.map(Saved::keep).transpose().during(Phase::Rootfs)?;
    clock.enter(Phase::Pivot);
    pivot(&root).during(Phase::Pivot)?;
    Ok((namespace, saved))
}

/// The container's root, attached in this namespace, with its mount points.
fn rootfs(
    ground: Root,
    plan: &LaunchPlan,
    user: (u32, u32),
    scratch: &Scratch,
    volatile: &mut Layers<'_>,
) -> Result<OwnedFd, Failure> {
    let root = match ground {
        Root::Image(image) if !plan.writable => return root(plan, image, scratch).during(Phase::Rootfs),
        Root::Image(image) => whole(image, scratch, volatile)?,
        Root::Kept(kept) => {
            let place = new_dir(scratch.dir.as_fd(), c"root").during(Phase::Rootfs)?;
            attach(kept.as_fd(), place.as_fd(), "/".as_ref()).during(Phase::Rootfs)?;
            kept
        }
    };
    missing::make(&root, &plan.skeleton, user).during(Phase::Rootfs)?;
    Ok(root)
}

/// A namespace whose root is the whole of `image`, writable, and nothing else. The calling thread is in it afterwards.
pub(crate) fn bare(image: OwnedFd, volatile: Volatile) -> Result<OwnedFd, Failure> {
    let namespace = new_namespace().during(Phase::Namespace)?;
    let scratch = Scratch::new().during(Phase::Rootfs)?;
    let mut volatile = volatile.at(&scratch);
    let root = whole(image, &scratch, &mut volatile)?;
    pivot(&root).during(Phase::Pivot)?;
    Ok(namespace)
}

/// The whole of the image, writable, attached in this namespace.
fn whole(image: OwnedFd, scratch: &Scratch, volatile: &mut Layers<'_>) -> Result<OwnedFd, Failure> {
    let lower = new_dir(scratch.dir.as_fd(), c"image").during(Phase::Rootfs)?;
    attach(image.as_fd(), lower.as_fd(), "image".as_ref()).during(Phase::Rootfs)?;
    let overlay = volatile.whole(&image)?;
    let place = new_dir(scratch.dir.as_fd(), c"root").during(Phase::Rootfs)?;
    attach(overlay.as_fd(), place.as_fd(), "/".as_ref()).during(Phase::Rootfs)?;
    Ok(overlay)
}

/// Clones every source, with all that is mounted below it; a site's may be without.
///
/// Before the new namespace is made: open_tree(2) clones only mounts of the caller's own namespace, and these
/// descriptors are of the old one. The clones are attached nowhere, so nothing on the host sees them.
fn clones(plan: &LaunchPlan, sources: &Sources<'_>) -> Result<Vec<OwnedFd>, Failure> {
    let mut clones = vec![];
    let mut below = None;
    for op in &plan.mounts {
        let Op::Bind { source, recursive, readonly, noexec, devices, opener, .. } = op else { continue };
        let users = *opener == Opener::User;
        let directory = sources.source(source, *opener) == Ok(Kind::Directory);
        let tree = sources.with(source, *opener, |fd| {
            if users && directory {
                let mounts = match below.take() {
                    Some(mounts) => mounts,
                    None => Mounts::read().during(Phase::Sources)?,
                };
                below.insert(mounts).admit(fd, source.as_path(), *recursive)?;
            }
            clone_tree(fd.as_fd(), *recursive || users, source.as_path()).during(Phase::Sources)
        });
        let not_opened = || Broken::new(format!("bind {source}: not opened"), Errno::BADF);
        let tree = tree.unwrap_or_else(|| Err(not_opened().during(Phase::Sources)))?;
        let mut set = MountAttrFlags::MOUNT_ATTR_NOSUID;
        set.set(MountAttrFlags::MOUNT_ATTR_NODEV, !devices);
        set.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *readonly);
        set.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, *noexec);
        confine(tree.as_fd(), set, source.as_str()).during(Phase::Sources)?;
        clones.push(tree);
    }
    Ok(clones)
}

/// A namespace of its own for this thread. It starts as a copy of the host's mounts, made slaves at once, so that
/// nothing done from here on is passed on to the host (mount_namespaces(7)).
fn new_namespace() -> Called<OwnedFd> {
    unshare(true)?;
    rustix::process::umask(Mode::empty());
    let host = open_own("/", OFlags::PATH | OFlags::DIRECTORY)?;
    confine(host.as_fd(), MountAttrFlags::empty(), "/")?;
    // Opened now: after the pivot this path leads through the container's /proc, if it has one.
    mount_namespace::here()
}

/// The private tmpfs that holds what Grus makes for a container. Like the copy of the host's tree, it is no longer
/// reachable by path once the container's root is the root.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Its root.
    pub dir: OwnedFd,
    texts: std::cell::Cell<u32>,
}

impl Scratch {
    fn new() -> Called<Self> {
        let (key, size) = SCRATCH_SIZE.split_once('=').unwrap_or_default();
        let dir = new_mount("tmpfs", &[("source", "grus"), (key, size), ("mode", "0755")], PLAIN)?;
        // Overlays take their layers by path, and only mounts of this namespace. It goes over /dev, a directory
        // that every node has and that nothing needs from here on. Not over the root: it would then be what the
        // last umount takes off.
        let place = open_own("/dev", OFlags::PATH | OFlags::DIRECTORY)?;
        attach(dir.as_fd(), place.as_fd(), "/dev".as_ref())?;
        Ok(Self { dir, texts: 0.into() })
    }

    /// A text as a file of its own, read-only, attached nowhere.
    fn text(&self, content: &[u8], executable: bool) -> Called<OwnedFd> {
        use std::io::Write;
        let number = self.texts.get();
        self.texts.set(number + 1);
        let name = format!("text{number}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o555 } else { 0o444 });
        let fd = rustix::fs::openat(&self.dir, &name, flags, mode)
            .map_err(|e| Broken::new(format!("openat({name}, O_CREAT)"), e))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(content)
            .map_err(|e| Broken::io(format!("write({name}, {} bytes)", content.len()), &e))?;
        let tree = clone_tree(file.as_fd(), false, name.as_ref())?;
        confine(tree.as_fd(), PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY, &name)?;
        Ok(tree)
    }

    /// Makes this the working directory, for a call that takes relative paths.
    pub fn enter(&self) -> Called<()> {
        rustix::process::fchdir(&self.dir).map_err(|e| Broken::new("fchdir(scratch)", e))
    }
}

/// The container's root: the image, or where it lacks mount points an overlay that adds them. Read-only.
fn root(plan: &LaunchPlan, image: OwnedFd, scratch: &Scratch) -> Called<OwnedFd> {
    let place = new_dir(scratch.dir.as_fd(), c"root")?;
    if plan.skeleton.is_empty() {
        attach(image.as_fd(), place.as_fd(), plan.image.as_path())?;
        return Ok(image);
    }
    let lower = new_dir(scratch.dir.as_fd(), c"image")?;
    attach(image.as_fd(), lower.as_fd(), plan.image.as_path())?;
    let mut skeleton = Skeleton::new(new_dir(scratch.dir.as_fd(), c"missing")?);
    plan.skeleton.iter().try_for_each(|made| skeleton.make(made))?;
    scratch.enter()?;
    // Two lower layers and no upper one: nothing can be written. No redirect or metacopy that an image might hold
    // is followed (overlayfs.rst, 'redirect_dir', 'metacopy').
    let options = [
        ("source", "grus"),
        ("lowerdir", "missing:image"),
        ("redirect_dir", "nofollow"),
        ("metacopy", "off"),
        ("index", "off"),
        ("xino", "off"),
    ];
    let overlay = new_mount("overlay", &options, IMAGE)?;
    attach(overlay.as_fd(), place.as_fd(), "/".as_ref())?;
    Ok(overlay)
}

/// Mounts `tree` on the operation's destination.
fn place(
    root: &OwnedFd,
    tree: &OwnedFd,
    op: &Op,
    plan: &LaunchPlan,
    sources: &Sources<'_>,
) -> Result<(), Failure> {
    let path = op.destination().as_path();
    let broken = |errno| Broken::new(format!("mount on {}", op.destination()), errno).during(Phase::Binds);
    let on = find(root, op.destination(), whose(op, plan), sources)?.ok_or_else(|| broken(Errno::NOENT))?;
    let directory = |fd: &OwnedFd| stat(fd, path).map(|status| kind(&status) == Kind::Directory);
    if directory(&on).during(Phase::Binds)? != directory(tree).during(Phase::Binds)? {
        return Err(broken(Errno::NOTDIR));
    }
    attach(tree.as_fd(), on.as_fd(), path).during(Phase::Binds)
}

/// Whose word a destination is: the site's, if the mount and all that it lies in are.
fn whose(op: &Op, plan: &LaunchPlan) -> Opener {
    let sites = |op: &Op| {
        matches!(op, Op::Bind { opener: Opener::Site, .. } | Op::Squashfs { opener: Opener::Site, .. })
    };
    let mut around = plan.mounts.iter().filter(|other| op.destination().is_within(other.destination()));
    match around.all(sites) {
        true => Opener::Site,
        false => Opener::User,
    }
}

/// Finds a place to mount on anew inside the rootfs, whatever links lead there: nothing outside of it can be covered
/// (openat2(2), RESOLVE_IN_ROOT), nor the whole of it, as tasks would have that for their root. In another mount, a
/// user's links may lead to what the user must not know of: there it is found with the rights of `whose` word it is.
/// None: there is no such name.
pub(crate) fn find(
    root: &OwnedFd,
    path: &AbsPath,
    whose: Opener,
    sources: &Sources<'_>,
) -> Result<Option<OwnedFd>, Failure> {
    let refuse = |why: &str, hint: &str| {
        Err(Refusal::user(format!("cannot mount on {}: {why}", shown(path.as_path()))).hint(hint).into())
    };
    let open = |more| open_in(root.as_fd(), path.as_path(), OFlags::PATH, more);
    let found = match open(ResolveFlags::NO_XDEV) {
        Err(Broken { errno: Errno::XDEV, .. }) => match whose {
            Opener::User => sources.as_user(|| open(ResolveFlags::empty())),
            Opener::Site => open(ResolveFlags::empty()),
        },
        found => found,
    };
    match found {
        Ok(on) if id(&on).during(Phase::Binds)? == id(root).during(Phase::Binds)? => {
            refuse("it leads to '/', and nothing can be mounted there", "choose another destination")
        }
        Ok(on) => Ok(Some(on)),
        Err(Broken { errno: Errno::NOENT, .. }) => Ok(None),
        Err(Broken { errno: Errno::ACCESS, .. }) => refuse(
            &reason(Errno::ACCESS),
            "what is in a mount is found with your own permissions; choose another destination",
        ),
        Err(broken) => Err(broken.during(Phase::Binds)),
    }
}

/// Which mount a place is in, and which file it is. Asks the kernel, not the file system, which could hang.
fn id(place: &OwnedFd) -> Called<(u64, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(place, c"", flags, StatxFlags::MNT_ID | StatxFlags::INO)
        .map_err(|e| Broken::new("statx(place)", e))?;
    Ok((status.stx_mnt_id, status.stx_ino))
}

/// Makes the rootfs the root, and lets go of everything else.
fn pivot(root: &OwnedFd) -> Called<()> {
    rustix::process::fchdir(root).map_err(|e| Broken::new("fchdir(rootfs)", e))?;
    // The old root ends up on top of the new one, at the same place, from where it is taken off: no directory
    // for it is needed (pivot_root(2), NOTES).
    rustix::process::pivot_root(c".", c".").map_err(|e| Broken::new("pivot_root(., .)", e))?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)
        .map_err(|e| Broken::new("umount2(., MNT_DETACH)", e))?;
    // A task that joins starts at `/` of this namespace: never hand out one whose `/` is the host's.
    let (wanted, found) = (stat(root, "rootfs".as_ref())?, stat(open_own("/", OFlags::PATH)?, "/".as_ref())?);
    match (wanted.st_dev, wanted.st_ino) == (found.st_dev, found.st_ino) {
        true => Ok(()),
        false => Err(Broken::new("the root is not the container's", Errno::XDEV)),
    }
}
