//! One build, start to end: observe, decide, act (DESIGN 1). Runs on the builder thread.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use grus_core::image::ImageMeta;
use grus_core::path::AbsPath;
use grus_core::plan::{decide, How, Launch, LaunchPlan, Op, Opener};
use grus_core::refusal::printable;
use grus_core::request::Image as Asked;
use rustix::process::Pid;

use crate::apply::{apply, Act};
use crate::builder::Inputs;
use crate::call::During;
use crate::container::Container;
use crate::credentials::Credentials;
use crate::deadline::Deadline;
use crate::failure::{Failure, Phase};
use crate::image::Image;
use crate::namespaces::{own as own_namespaces, root_of_its_own};
use crate::node_ruling::ruling;
use crate::own::Maker;
use crate::rootfs::Tree;
use crate::sources::Sources;
use crate::storage::Storage;
use crate::timing::Clock;
use crate::upper::Admitted;
use crate::verify::verify;
use crate::volatile::Volatile;
use crate::{fuse, loopdev, repository};

/// Builds the container. `follow` brings the thread to the caller's mount namespace; `progress` is told each phase,
/// and the process ids of servers of SquashFS files while they could be waited for.
pub(crate) fn container(
    mut inputs: Inputs,
    deadline: &Deadline,
    follow: impl FnOnce() -> Result<(), Failure>,
    progress: impl Fn(Phase, &[Pid]),
) -> Result<Container, Failure> {
    let mut clock = Clock::start(Phase::Credentials);
    let credentials = Credentials::of(inputs.uid, inputs.gid, &inputs.gids).during(Phase::Credentials)?;
    clock.enter(Phase::Handover);
    follow()?;
    progress(Phase::Image, &[]);
    clock.enter(Phase::Image);
    let (image, meta) = open(&mut inputs, &credentials)?;
    let inputs = &inputs;
    let how = image.how(inputs.image.as_path(), &inputs.site)?;
    progress(Phase::Mount, &[]);
    clock.enter(Phase::Mount);
    let pids = RefCell::new(vec![]);
    let started = |phase, pid| {
        pids.borrow_mut().push(pid);
        progress(phase, &pids.borrow());
    };
    let (mount, watch) = mount(inputs, &image, how, |pid| started(Phase::Mount, pid))?;
    progress(Phase::Plan, &pids.borrow());
    clock.enter(Phase::Plan);
    let sources = Sources::new(&credentials);
    let config = meta.as_ref().map(|meta| meta.config.clone()).unwrap_or_default();
    let tree = Tree::new(&mount);
    let ruling = ruling(inputs, &credentials, &tree, &config, &name(inputs, meta.as_ref()))?;
    let launch = Launch {
        request: &inputs.request,
        image: &inputs.image,
        how,
        config: &config,
        site: &inputs.site,
        job: &inputs.job,
        swap: ruling.as_ref().map(|ruling| &ruling.swap),
    };
    let plan = decide(&launch, &tree, &sources)?;
    let started = |pid| started(Phase::Own, pid);
    let maker = Maker::of(inputs, &sources, deadline, &started, watch);
    progress(Phase::Own, &pids.borrow());
    clock.enter(Phase::Own);
    let own = maker.make_all(&plan)?;
    let volatile = volatile(inputs, &plan, deadline, &mut clock)?;
    progress(Phase::Rootfs, &pids.borrow());
    // Before the pivot, and the node's own network and IPC are needed no more.
    let root_namespace = plan.remap_root.then(|| root_of_its_own(inputs, &credentials)).transpose()?;
    let others = own_namespaces(plan.namespaces)?;
    let user = (inputs.uid, inputs.gid);
    let act = Act { plan: &plan, image: mount, sources: &sources, own, user, volatile };
    let namespace = apply(act, &mut clock)?;
    progress(Phase::Verify, &pids.borrow());
    clock.enter(Phase::Verify);
    verify(&plan, inputs)?;
    let servers = maker.servers.into_inner();
    let user = root_namespace;
    Ok(Container { namespace, others, user, plan, ruling, meta, timings: clock.stop(), servers })
}

/// How volatile directories are to be made, with a storage if there are any.
fn volatile(
    inputs: &Inputs,
    plan: &LaunchPlan,
    deadline: &Deadline,
    clock: &mut Clock,
) -> Result<Volatile, Failure> {
    clock.enter(Phase::Volatile);
    let any = plan.mounts.iter().any(|op| matches!(op, Op::Volatile { .. }));
    let storage = any.then(|| Storage::new(&inputs.site, deadline)).transpose()?;
    let gids = std::iter::once(inputs.gid).chain(inputs.gids.iter().copied()).collect();
    let who = Admitted { uid: inputs.uid, gids, deadline: deadline.clone() };
    Ok(Volatile { size: inputs.site.volatile.size, storage, who })
}

/// The image's name, for messages.
fn name(inputs: &Inputs, meta: Option<&ImageMeta>) -> String {
    match meta.and_then(|meta| meta.reference.as_ref()) {
        Some(reference) => reference.familiar(),
        None => printable(inputs.image.as_str()),
    }
}

/// Opens the image and its metadata as the user. Submission may have been on a host of another platform: then the
/// image is the one of that name for this node, of which nothing was decided.
fn open(inputs: &mut Inputs, credentials: &Credentials) -> Result<(Image, Option<ImageMeta>), Failure> {
    credentials.switch(Opener::User).during(Phase::Credentials)?;
    let pinned = inputs.image.as_path();
    let found = match &inputs.request.image {
        Some(Asked::Reference(reference)) => repository::for_node(pinned, reference, &inputs.platform),
        _ => repository::meta_beside(pinned).map(|meta| (pinned.to_owned(), meta)),
    };
    let opened = Image::open(found.as_ref().map_or(pinned, |(path, _)| path));
    credentials.switch(Opener::Site).during(Phase::Credentials)?;
    let (image, (path, meta)) = (opened?, found?);
    if path != pinned {
        inputs.image = AbsPath::parse(&path.to_string_lossy())?;
        inputs.request.ruling = None;
    }
    if let Some(meta) = &meta {
        meta.check_platform(&inputs.platform, &name(inputs, Some(meta)))?;
    }
    Ok((image, meta))
}

/// The image's mount, attached nowhere, and a pidfd of its server where it has one.
fn mount(
    inputs: &Inputs,
    image: &Image,
    how: How,
    started: impl FnOnce(Pid),
) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
    match how {
        How::Kernel => {
            let mount = loopdev::mount(&image.file, inputs.image.as_path()).during(Phase::Mount)?;
            Ok((mount, None))
        }
        How::Fuse => {
            let program = &inputs.site.security.squashfuse;
            fuse::mount(&image.file, program, &fuse::Owner::of(inputs), started)
                .map(|(mount, watch)| (mount, Some(watch)))
        }
    }
}
