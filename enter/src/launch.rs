//! One build, start to end: observe, decide, act (DESIGN 1). Runs on the builder thread.

use std::os::fd::OwnedFd;

use grus_core::image::ImageMeta;
use grus_core::plan::{decide, How, Launch, Opener};
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
use crate::rootfs::Tree;
use crate::ruling::ruling;
use crate::sources::Sources;
use crate::timing::Clock;
use crate::upper::Admitted;
use crate::verify::verify;
use crate::volatile::Volatile;
use crate::{fuse, loopdev, repository};

/// Builds the container. `follow` brings the thread to the caller's mount namespace; `progress` is told each phase,
/// and the process id of an image's server while it could be waited for.
pub(crate) fn container(
    inputs: &Inputs,
    deadline: &Deadline,
    follow: impl FnOnce() -> Result<(), Failure>,
    progress: impl Fn(Phase, Option<Pid>),
) -> Result<Container, Failure> {
    let mut clock = Clock::start(Phase::Credentials);
    let credentials = Credentials::of(inputs.uid, inputs.gid, &inputs.gids).during(Phase::Credentials)?;
    clock.enter(Phase::Handover);
    follow()?;
    progress(Phase::Image, None);
    clock.enter(Phase::Image);
    let (image, meta) = open(inputs, &credentials)?;
    let how = image.how(inputs.image.as_path(), &inputs.site)?;
    progress(Phase::Mount, None);
    clock.enter(Phase::Mount);
    let server = std::cell::Cell::new(None);
    let (mount, watch) = mount(inputs, &image, how, |pid| {
        server.set(Some(pid));
        progress(Phase::Mount, Some(pid));
    })?;
    progress(Phase::Plan, server.get());
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
    progress(Phase::Rootfs, server.get());
    let gids = std::iter::once(inputs.gid).chain(inputs.gids.iter().copied()).collect();
    let who = Admitted { uid: inputs.uid, gids, deadline: deadline.clone() };
    let volatile = Volatile { size: inputs.site.volatile.size.clone(), who };
    let save = inputs.request.save.is_some();
    let act = Act { plan: &plan, image: mount, sources: &sources, volatile, save };
    let (namespace, saved) = apply(act, &mut clock)?;
    progress(Phase::Verify, server.get());
    clock.enter(Phase::Verify);
    verify(&plan, inputs)?;
    Ok(Container { namespace, plan, ruling, meta, timings: clock.stop(), server: watch, saved })
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
            let owner = fuse::Owner { uid: inputs.uid, gid: inputs.gid, gids: &inputs.gids };
            let program = &inputs.site.security.squashfuse;
            fuse::mount(&image.file, program, &owner, started).map(|(mount, watch)| (mount, Some(watch)))
        }
    }
}
