//! One build, start to end: observe, decide, act (DESIGN 1). Runs on the builder thread.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use grus_core::image::ImageMeta;
use grus_core::plan::{decide, How, Launch, LaunchPlan, Op, Opener};
use grus_core::refusal::printable;
use rustix::process::Pid;

use crate::apply::{apply, Act};
use crate::builder::Inputs;
use crate::call::During;
use crate::container::Container;
use crate::credentials::Credentials;
use crate::deadline::Deadline;
use crate::failure::{Failure, Phase};
use crate::image::Image;
use crate::own::Maker;
use crate::rootfs::Tree;
use crate::ruling::ruling;
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
    inputs: &Inputs,
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
    let (image, meta) = open(inputs, &credentials)?;
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
    let user = (inputs.uid, inputs.gid);
    let act = Act { plan: &plan, image: mount, sources: &sources, own, user, volatile };
    let namespace = apply(act, &mut clock)?;
    progress(Phase::Verify, &pids.borrow());
    clock.enter(Phase::Verify);
    verify(&plan, inputs)?;
    let servers = maker.servers.into_inner();
    Ok(Container { namespace, plan, ruling, meta, timings: clock.stop(), servers })
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

/// Opens the image and its metadata as the user.
fn open(inputs: &Inputs, credentials: &Credentials) -> Result<(Image, Option<ImageMeta>), Failure> {
    credentials.switch(Opener::User).during(Phase::Credentials)?;
    let opened = Image::open(inputs.image.as_path());
    let meta = repository::meta_beside(inputs.image.as_path());
    credentials.switch(Opener::Site).during(Phase::Credentials)?;
    let (image, meta) = (opened?, meta?);
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
