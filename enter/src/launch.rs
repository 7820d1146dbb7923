//! One build, start to end: observe, decide, act (docs/architecture.md). Runs on the builder thread.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use grus_core::image::ImageMeta;
use grus_core::name::Name;
use grus_core::path::AbsPath;
use grus_core::plan::{decide, How, Launch, LaunchPlan, Op, Opener};
use grus_core::refusal::printable;
use grus_core::request::Image as Asked;
use grus_core::server::Server;

use crate::apply::{apply, Act, Root};
use crate::builder::Inputs;
use crate::cache::{self, Answer};
use crate::call::During;
use crate::container::{Container, Unsaved};
use crate::credentials::Credentials;
use crate::deadline::Deadline;
use crate::failure::{Failure, Phase};
use crate::image::Image;
use crate::kept::Keeper;
use crate::late::Late;
use crate::mount_namespace::here;
use crate::namespaces::{own as own_namespaces, root_of_its_own};
use crate::node_ruling::ruling;
use crate::own::Maker;
use crate::rootfs::Tree;
use crate::running::{self, Joined};
use crate::server::{kill, Served};
use crate::sources::Sources;
use crate::storage::Storage;
use crate::timing::Clock;
use crate::upper::Admitted;
use crate::verify::{verify, Node};
use crate::volatile::Volatile;
use crate::{cdi, fuse, repository, saving};

/// What a container's root is made of, and what is known of it.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The root.
    pub root: Root,
    /// The image's file.
    pub image: AbsPath,
    /// How it is mounted.
    pub how: How,
    /// Its metadata, where it has some.
    pub meta: Option<ImageMeta>,
    /// What serves it, where anything does.
    pub server: Option<Served>,
    /// What the node's cache said, where it was asked.
    pub cache: Option<String>,
}

/// How far a build is, told to whoever waits for it.
struct Progress<'a, T> {
    tell: T,
    /// Servers of SquashFS files that could be waited for, and end with a launch that takes too long.
    servers: RefCell<Vec<Server>>,
    /// What sets this thread free of them.
    late: RefCell<Option<Late>>,
    deadline: &'a Deadline,
    uid: u32,
}

impl<T: Fn(Phase, &[Server])> Progress<'_, T> {
    /// Begins something, unless nobody waits for it any more.
    fn at(&self, phase: Phase) -> Result<(), Failure> {
        (self.tell)(phase, &self.servers.borrow());
        self.deadline.wanted().during(phase)
    }

    fn enter(&self, phase: Phase, clock: &mut Clock) -> Result<(), Failure> {
        clock.enter(phase);
        self.at(phase)
    }

    fn started(&self, phase: Phase, served: &Served) {
        self.servers.borrow_mut().push(served.server);
        (self.tell)(phase, &self.servers.borrow());
        self.waits_for(served);
    }

    /// The launch has failed: a server that its user has stopped would not see that nothing is mounted any more.
    fn end_servers(&self) {
        self.servers.take().into_iter().for_each(kill);
    }

    /// Its answers may be waited for. What fails here fails once more where the guard is made, and is told.
    fn waits_for(&self, served: &Served) {
        let mut late = self.late.borrow_mut();
        if late.is_none() {
            *late = Late::watch(self.deadline, self.uid).ok();
        }
        let _ = late.as_ref().map(|late| late.add(served));
    }
}

/// Builds the container. `follow` brings the thread to the caller's mount namespace; `progress` is told each phase,
/// and the servers of SquashFS files while they could be waited for.
pub(crate) fn container(
    inputs: Inputs,
    deadline: &Deadline,
    follow: impl FnOnce() -> Result<(), Failure>,
    progress: impl Fn(Phase, &[Server]),
) -> Result<Container, Failure> {
    let clock = Clock::start(Phase::Credentials);
    let Inputs { uid, gid, gids, .. } = &inputs;
    let credentials = Credentials::of(*uid, *gid, gids, deadline).during(Phase::Credentials)?;
    if let Some(Name::OfStep { job, step }) = inputs.request.name {
        return running::join(&inputs, job, step, clock);
    }
    let progress = Progress {
        tell: progress,
        servers: RefCell::default(),
        late: RefCell::default(),
        deadline,
        uid: inputs.uid,
    };
    let made = anew(inputs, &credentials, follow, clock, &progress);
    if made.is_err() {
        progress.end_servers();
    }
    made
}

/// Builds one that is not another step's.
fn anew(
    mut inputs: Inputs,
    credentials: &Credentials,
    follow: impl FnOnce() -> Result<(), Failure>,
    mut clock: Clock,
    progress: &Progress<'_, impl Fn(Phase, &[Server])>,
) -> Result<Container, Failure> {
    let deadline = progress.deadline;
    progress.at(Phase::Kept)?;
    let keeper = Keeper::of(&inputs, deadline)?;
    clock.enter(Phase::Handover);
    follow()?;
    if let Some(file) = &inputs.request.save {
        progress.at(Phase::Save)?;
        can_save_to(file, credentials)?;
    }
    let ground = match keeper {
        None => image(&inputs, credentials, &mut clock, progress)?,
        Some(keeper) => {
            progress.enter(Phase::Kept, &mut clock)?;
            let image = || image(&inputs, credentials, &mut clock, progress);
            let kept = keeper.take(&inputs, || volatile(&inputs, true, deadline), deadline, image)?;
            // Its server is for all steps, and does not end with this one, unless it keeps this thread waiting.
            let _ = kept.server.as_ref().map(|served| progress.waits_for(served));
            progress.servers.take();
            kept
        }
    };
    if ground.image != inputs.image {
        // Nothing was decided of this one.
        inputs.image = ground.image.clone();
        inputs.request.ruling = None;
        inputs.request.module_ruling = None;
    }
    on(ground, &inputs, credentials, clock, progress)
}

/// Builds the container on its ground.
fn on(
    ground: Ground,
    inputs: &Inputs,
    credentials: &Credentials,
    mut clock: Clock,
    progress: &Progress<'_, impl Fn(Phase, &[Server])>,
) -> Result<Container, Failure> {
    let Ground { root, how, meta, server, cache, .. } = ground;
    let deadline = progress.deadline;
    progress.enter(Phase::Plan, &mut clock)?;
    let (sources, tree) = (Sources::new(credentials), Tree::new(root.mount()));
    let config = meta.as_ref().map(|meta| meta.config.clone()).unwrap_or_default();
    let ruling = ruling(inputs, credentials, (&tree, &sources), &config, &name(inputs, meta.as_ref()))?;
    let devices = cdi::wanted(inputs);
    let launch = Launch {
        request: &inputs.request,
        image: &inputs.image,
        how,
        config: &config,
        site: &inputs.site,
        job: &inputs.job,
        swap: ruling.as_ref().map(|ruling| &ruling.swap),
        devices: devices.as_ref(),
        one_task_of_several: false,
    };
    let plan = decide(&launch, &tree, &sources)?;
    let started = |served: &Served| progress.started(Phase::Own, served);
    let maker = Maker::of(inputs, &sources, deadline, &started, server);
    progress.enter(Phase::Own, &mut clock)?;
    let own = maker.make_all(&plan)?;
    clock.enter(Phase::Volatile);
    let volatile = volatile(inputs, changes(&plan, &root), deadline)?;
    progress.at(Phase::Rootfs)?;
    // Before the pivot, and the node's own network and IPC are needed no more.
    let user = plan.remap_root.then(|| root_of_its_own(inputs, credentials)).transpose()?;
    let (node, others) = (Node::open()?, own_namespaces(plan.namespaces)?);
    let (ids, view) = ((inputs.uid, inputs.gid), view(inputs)?);
    let act = Act { plan: &plan, root, sources: &sources, own, user: ids, volatile, save: view.is_some() };
    let (namespace, tree) = apply(act, &mut clock)?;
    progress.enter(Phase::Verify, &mut clock)?;
    verify(&plan, &node, &inputs.job.environment, fuse::Owner::of(inputs).identity)?;
    let servers = maker.servers.into_inner();
    let joined = Joined { namespace: &namespace, others: &others, user: user.as_ref(), servers: &servers };
    let told = running::told(inputs, &plan, joined).during(Phase::Verify)?;
    Ok(Container {
        namespace,
        others,
        user,
        saved: view.map(|view| Unsaved { tree, view }),
        plan,
        ruling,
        meta,
        timings: clock.stop(),
        cache,
        seccomp: inputs.site.security.seccomp,
        servers,
        uid: inputs.uid,
        told,
    })
}

/// The mount namespace that image and sources were opened in, for what saves the container.
fn view(inputs: &Inputs) -> Result<Option<OwnedFd>, Failure> {
    inputs.request.save.is_some().then(here).transpose().during(Phase::Save)
}

/// Judges where the container is to be saved: as the user, and from where image and sources are opened.
fn can_save_to(file: &AbsPath, credentials: &Credentials) -> Result<(), Failure> {
    credentials.switch(Opener::User).during(Phase::Credentials)?;
    let judged = saving::check(file.as_path());
    credentials.switch(Opener::Site).during(Phase::Credentials)?;
    Ok(judged?)
}

/// Whether the plan makes something of the image writable; a root that is kept is so already.
fn changes(plan: &LaunchPlan, root: &Root) -> bool {
    let whole = plan.writable && matches!(root, Root::Image(_));
    whole || plan.mounts.iter().any(|op| matches!(op, Op::Volatile { .. }))
}

/// How directories are made writable for this user, with a storage if there are any.
fn volatile(inputs: &Inputs, any: bool, deadline: &Deadline) -> Result<Volatile, Failure> {
    let storage = any.then(|| Storage::new(&inputs.site, deadline)).transpose()?;
    let gids = std::iter::once(inputs.gid).chain(inputs.gids.iter().copied()).collect();
    let who = Admitted { uid: inputs.uid, gids, deadline: deadline.clone() };
    Ok(Volatile { size: inputs.site.volatile.size, storage, who: Some(who) })
}

/// The image, opened and mounted.
fn image(
    inputs: &Inputs,
    credentials: &Credentials,
    clock: &mut Clock,
    progress: &Progress<'_, impl Fn(Phase, &[Server])>,
) -> Result<Ground, Failure> {
    progress.enter(Phase::Image, clock)?;
    let (path, image, meta) = open(inputs, credentials)?;
    let by = fuse::Owner::of(inputs);
    let how = image.how(path.as_path(), &inputs.site, &by)?;
    progress.enter(Phase::Cache, clock)?;
    let (image, how, cache) = cached(image, how, inputs, progress.deadline);
    progress.enter(Phase::Mount, clock)?;
    let (mount, server) = image.mount(how, path.as_path(), &inputs.site, &by, Phase::Mount, |started| {
        progress.started(Phase::Mount, started);
    })?;
    Ok(Ground { root: Root::Image(mount), image: path, how, meta, server, cache })
}

/// The node's copy of an image that would else be served, where there is one or one can be made.
fn cached(image: Image, how: How, inputs: &Inputs, deadline: &Deadline) -> (Image, How, Option<String>) {
    if how != How::Fuse {
        return (image, how, None);
    }
    match cache::copy_of(&image.file, &inputs.site, inputs.uid, deadline) {
        Some(Answer::Copy(file, told)) => (Image { file }, How::Cached, Some(told.into())),
        Some(Answer::None(why)) => (image, how, Some(why)),
        None => (image, how, None),
    }
}

/// The image's name, for messages.
fn name(inputs: &Inputs, meta: Option<&ImageMeta>) -> String {
    match meta.and_then(|meta| meta.reference.as_ref()) {
        Some(reference) => reference.familiar(),
        None => printable(inputs.image.as_str()),
    }
}

/// Opens the image and its metadata as the user. Submission may have been on a host of another platform: then the
/// image is the one of that name for this node.
fn open(inputs: &Inputs, credentials: &Credentials) -> Result<(AbsPath, Image, Option<ImageMeta>), Failure> {
    credentials.switch(Opener::User).during(Phase::Credentials)?;
    let pinned = inputs.image.as_path();
    let found = match &inputs.request.image {
        Some(Asked::Reference(reference)) => repository::for_node(pinned, reference, &inputs.platform),
        _ => repository::meta_beside(pinned).map(|meta| (pinned.to_owned(), meta)),
    };
    let opened = Image::open(found.as_ref().map_or(pinned, |(path, _)| path));
    credentials.switch(Opener::Site).during(Phase::Credentials)?;
    let (image, (path, meta)) = (opened?, found?);
    if let Some(meta) = &meta {
        meta.check_platform(&inputs.platform, &name(inputs, Some(meta)))?;
    }
    Ok((AbsPath::parse(&path.to_string_lossy())?, image, meta))
}
