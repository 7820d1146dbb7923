//! The decision itself: what is wanted against what image and host have.

use super::binds::wanted;
use super::client;
use super::draft::Draft;
use super::modules::modules;
use super::seen::Known;
use super::tasks::{entrypoint, network_warnings, remaps_root};
use super::{Host, How, Job, LaunchPlan, Rootfs};
use crate::cdi::Registry;
use crate::environment::{self, Edits, OfDevices, Rules};
use crate::identity::{group, passwd, MAX_DATABASE};
use crate::image::ImageConfig;
use crate::module;
use crate::mount::check_scratch;
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::site::Site;
use crate::swap::Swap;

/// What a decision is made from.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What the user asks for.
    pub request: &'a Request,
    /// The image file.
    pub image: &'a AbsPath,
    /// How it will be mounted.
    pub how: How,
    /// Its configuration.
    pub config: &'a ImageConfig,
    /// The site's choices.
    pub site: &'a Site,
    /// The job.
    pub job: &'a Job,
    /// What of the host's MPI stack replaces the image's.
    pub swap: Option<&'a Swap>,
    /// The node's devices, where the launch must know them ([`super::wants_devices`]).
    pub devices: Option<&'a Registry>,
}

/// Decides the plan, or refuses with the way out.
pub fn decide(launch: &Launch, rootfs: &dyn Rootfs, host: &dyn Host) -> Result<LaunchPlan, Refusal> {
    // A container that is kept may have been changed since.
    let known =
        Known { rootfs, seen: launch.swap.filter(|_| launch.request.name.is_none()).map(|swap| &swap.seen) };
    let mut draft = Draft::new(&known, host);
    let client = client::client(launch, &known, host, &mut draft.warnings)?;
    let modules = modules(launch.request, launch.site, launch.swap, &known, host)?;
    let wanted = wanted(launch, client.as_ref(), &modules)?;
    check_scratch(&launch.site.scratch, wanted.iter().map(|wanted| &wanted.mount))?;
    let writable =
        launch.request.name.is_some() || launch.request.writable.unwrap_or(launch.site.container.writable);
    for dir in &launch.request.volatile {
        draft.volatile(dir, &wanted, writable)?;
    }
    for mount in &wanted {
        draft.mount(mount)?;
    }
    let swap = draft.stack(launch, &modules)?;
    if let Some(client) = &client {
        draft.client(client, launch)?;
    }
    let (user, remap_root) = (&launch.job.user, remaps_root(launch));
    let devices = draft.devices(launch)?;
    draft.text("/etc/passwd", MAX_DATABASE, |image| {
        let own = client.as_ref().map(|client| client.accounts(image));
        Some(passwd(own.as_deref().unwrap_or(image), user, remap_root).into_bytes())
    })?;
    draft.text("/etc/group", MAX_DATABASE, |image| Some(group(image, user, remap_root).into_bytes()))?;
    let workdir = draft.workdir(launch)?;
    let entrypoint = entrypoint(launch, &draft)?;
    draft.warnings.extend(network_warnings(launch));
    draft.mounts.sort_by_key(|op| op.destination().depth());
    let rules = module::rules(&modules, &launch.site.environment);
    Ok(LaunchPlan {
        image: launch.image.clone(),
        how: launch.how,
        writable,
        skeleton: draft.skeleton.into_values().collect(),
        mounts: draft.mounts,
        environment: environment(launch, swap, &devices.environment, &rules, client.is_some()),
        workdir,
        remap_root,
        namespaces: launch.request.namespaces.unwrap_or_default(),
        entrypoint,
        stack: swap.map(|swap| swap.stack.clone()),
        check: swap.filter(|_| launch.site.mpi.verify).and_then(|swap| swap.check.clone()),
        modules: modules.iter().map(|active| active.name.as_str().to_owned()).collect(),
        devices: devices.shown,
        warnings: draft.warnings,
    })
}

/// Changes to the environment by the site's `rules`; with the host's Slurm commands, where there are some, at the end of
/// PATH.
fn environment(
    launch: &Launch,
    swap: Option<&Swap>,
    devices: &OfDevices,
    rules: &Rules,
    client: bool,
) -> Edits {
    let job = &launch.job.environment;
    let mut edits = environment::decide(launch.config, swap, devices, rules, job, &launch.request.env);
    if let (true, Some(path)) = (client, edits.set.get_mut("PATH")) {
        *path = client::after(path);
    }
    edits
}
