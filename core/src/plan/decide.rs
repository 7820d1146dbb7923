//! The decision itself: what is wanted against what image and host have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::binds::wanted;
use super::client;
use super::draft::Draft;
use super::modules::modules;
use super::seen::Known;
use super::tasks::{entrypoint, network_warnings, remaps_root};
use super::{Host, How, Job, LaunchPlan, Rootfs};
use crate::cdi::Registry;
use crate::environment::{self, Asked, Edits, OfDevices, Rules};
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
    /// Whether `job.environment` is that of one of several tasks, each with numbers of its own for GPUs: then none is
    /// hidden, for what numbers the others were told is not known.
    pub one_task_of_several: bool,
}

/// What a container brings into the environment of every task, beside its image and what each task asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerEnvironment {
    /// By its devices.
    pub devices: OfDevices,
    /// By the site and its modules.
    pub rules: Rules,
    /// The host's Slurm commands are there.
    pub client: bool,
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
    let brought = ContainerEnvironment {
        devices: devices.environment,
        rules: module::rules(&modules, &launch.site.environment),
        client: client.is_some(),
    };
    Ok(LaunchPlan {
        image: launch.image.clone(),
        how: launch.how,
        writable,
        skeleton: draft.skeleton.into_values().collect(),
        mounts: draft.mounts,
        environment: brought.environment(launch.config, swap, &launch.job.environment, &launch.request.env),
        brought,
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

impl ContainerEnvironment {
    /// Changes to the environment of one task, which is `job` outside; with the host's Slurm commands, where there are
    /// some, at the end of PATH.
    pub fn environment(
        &self,
        image: &ImageConfig,
        swap: Option<&Swap>,
        job: &BTreeMap<String, String>,
        asked: &Asked,
    ) -> Edits {
        let mut edits = environment::decide(image, swap, &self.devices, &self.rules, job, asked);
        if let (true, Some(path)) = (self.client, edits.set.get_mut("PATH")) {
            *path = client::after(path);
        }
        edits
    }
}
