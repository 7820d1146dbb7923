//! Devices in a plan: what the files of the node's devices say of the chosen ones, carried out like any other mount.
//!
//! The container shares the node's /dev, so most nodes are there already; what is added is the driver's files, their
//! links, the loader's cache, and variables. Sources are opened as the user: what a file names that a user cannot reach
//! stays out of reach. A device that somebody asked for is had whole, or the launch is refused; one that Slurm's grant
//! brings is had as far as it can be, and a warning tells the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::Launch;
use super::draft::{below, Draft};
use super::resolve::locate;
use super::{Kind, Op, Opener};
use crate::cdi::{
    choose, effects, BindMount, Capabilities, Chosen, Edits, Effects, Gpus, Grant, Node, Pick, Question,
    Registry,
};
use crate::environment::OfDevices;
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::site::Site;

/// Variables by which images say what they want of NVIDIA's.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";
/// There where NVIDIA's driver is loaded.
const NVIDIA_CONTROL: &str = "/dev/nvidiactl";

/// Whether a launch must know the node's devices. Others read no file of them.
pub fn wants_devices(request: &Request, site: &Site, environment: &BTreeMap<String, String>) -> bool {
    let gpus = request.gpu.unwrap_or(site.container.gpu);
    let given = || Grant::of(environment).is_some();
    !request.devices.is_empty() || request.gpu == Some(Gpus::All) || gpus != Gpus::None && given()
}

/// What devices bring beyond mounts.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Of the tasks' environment.
    pub environment: OfDevices,
    /// What the container has, a line each.
    pub shown: Vec<String>,
}

/// What cannot be had: a refusal where it must be, else told at the end in one line.
pub(super) struct Trouble {
    required: bool,
    told: Vec<String>,
}

impl Trouble {
    /// Something that the node does not have as its files of devices say.
    pub fn meet(&mut self, what: String) -> Result<(), Refusal> {
        let hint = "the node's files of devices may be older than its driver; the administrator makes them anew, for \
                    example by 'nvidia-ctk cdi generate'";
        self.or_refuse(Refusal::site(what).hint(hint))
    }

    /// Something that the image cannot load.
    pub fn misfit(&mut self, what: String) -> Result<(), Refusal> {
        let hint =
            "use an image with a newer C library, or --container-gpu=auto, which leaves such files out";
        self.or_refuse(Refusal::image(what).hint(hint))
    }

    fn or_refuse(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        let what = refusal.what.clone();
        match self.required {
            true => Err(refusal),
            false => {
                self.told.push(what);
                Ok(())
            }
        }
    }

    fn warning(&self) -> Option<String> {
        let more = match self.told.len() {
            0 | 1 => String::new(),
            n => format!(", and {} more", n - 1),
        };
        self.told.first().map(|first| format!("{first}{more}"))
    }
}

impl Draft<'_> {
    /// Plans the launch's devices, after all mounts that others want.
    pub fn devices(&mut self, launch: &Launch) -> Result<Devices, Refusal> {
        let Some(registry) = launch.devices else { return Ok(Devices::default()) };
        let grant = Grant::of(&launch.job.environment)
            .map(|grant| Grant { local: grant.local && !launch.one_task_of_several, ..grant });
        let said = launch.request.gpu == Some(Gpus::All);
        let visible = variable(launch, VISIBLE);
        let chosen = choose(&Question {
            registry,
            gpus: launch.request.gpu.unwrap_or(launch.site.container.gpu),
            said,
            asked: &launch.request.devices,
            grant: grant.as_ref(),
            environment: &launch.job.environment,
            visible: visible.as_deref(),
        })
        .map_err(|refusal| with_problem(refusal, registry))?;
        self.told_of_choice(&chosen, registry, grant.as_ref());
        for path in &chosen.nodes {
            self.asked_node(path, &chosen)?;
        }
        let mut devices = self.carry_out(launch, &chosen)?;
        for node in &chosen.hidden {
            self.hide(node)?;
        }
        devices.shown.extend(chosen.nodes.iter().map(|path| path.to_string()));
        Ok(devices)
    }

    /// What the choice itself has to say.
    fn told_of_choice(&mut self, chosen: &Chosen, registry: &Registry, grant: Option<&Grant>) {
        self.warnings.extend(chosen.warnings.iter().cloned());
        self.warnings.extend(registry.problems().iter().take(3).cloned());
        let loaded =
            || AbsPath::parse(NVIDIA_CONTROL).is_ok_and(|p| self.host.source(&p, Opener::User).is_ok());
        if grant.is_some() && registry.files().next().is_none() && loaded() {
            let why = "Slurm gave a GPU of NVIDIA's, and no file of this node describes it, so its driver is not in \
                       the container; the administrator runs 'nvidia-ctk cdi generate' on the node";
            self.warnings.push(why.into());
        }
    }

    /// The edits of all picks: what is common to a file once, then each device's.
    fn carry_out(&mut self, launch: &Launch, chosen: &Chosen) -> Result<Devices, Refusal> {
        let mut devices = Devices::default();
        let mut all: Vec<(&Pick, &Edits)> = vec![];
        for pick in &chosen.picks {
            if !all.iter().any(|(_, edits)| std::ptr::eq(*edits, &pick.spec.edits)) {
                all.push((pick, &pick.spec.edits));
            }
            all.extend(pick.device.iter().map(|device| (pick, &device.edits)));
            let name = pick.device.map_or("none", |device| device.name.as_str());
            devices.shown.push(format!("{}={name} of {}", pick.spec.kind, pick.path));
        }
        let mut trouble = Trouble { required: chosen.picks.iter().any(|pick| pick.required), told: vec![] };
        for (_, edits) in &all {
            for node in &edits.nodes {
                self.node(node, &mut trouble)?;
            }
            devices.environment.set.extend(edits.env.iter().cloned());
        }
        let effects = effects(all.iter().flat_map(|(_, edits)| &edits.hooks));
        let capabilities = Capabilities::of(variable(launch, CAPABILITIES).as_deref());
        let wanted = all.iter().flat_map(|(pick, edits)| {
            let nvidia = pick.spec.kind.to_string().starts_with("nvidia.com/");
            edits.mounts.iter().filter(|m| !nvidia || capabilities.want(&m.source)).collect::<Vec<_>>()
        });
        let wanted: Vec<&BindMount> = wanted.collect();
        if !wanted.is_empty() || effects != Effects::default() {
            self.driver(&wanted, &effects, &mut trouble, &mut devices)?;
        }
        self.warnings.extend(trouble.warning());
        self.warnings.extend(effects.unknown.iter().map(|hook| format!("hooks are never run: {hook}")));
        self.told_of_edits(launch, &all);
        Ok(devices)
    }

    /// Groups that the user would have to be in, and fields that have no meaning here.
    fn told_of_edits(&mut self, launch: &Launch, all: &[(&Pick, &Edits)]) {
        let groups = &launch.job.user.groups;
        let gids: BTreeSet<u32> = all.iter().flat_map(|(_, edits)| edits.gids.iter().copied()).collect();
        for gid in gids.into_iter().filter(|gid| !groups.iter().any(|group| group.gid == *gid)) {
            let why = "a device is for members of group";
            self.warnings.push(format!("{why} {gid}, in which the user is not; no group is given here"));
        }
        let ignored: BTreeSet<&str> =
            all.iter().flat_map(|(_, edits)| edits.ignored.iter().copied()).collect();
        self.warnings
            .extend(ignored.into_iter().map(|name| format!("{name} of a device's file has no effect")));
    }

    /// One file or directory; whether it comes.
    pub(super) fn bring(&mut self, mount: &BindMount, trouble: &mut Trouble) -> Result<bool, Refusal> {
        let kind = match self.host.source(&mount.source, Opener::User) {
            Ok(kind) => kind,
            Err(why) => {
                trouble.meet(format!("{} of the device's driver: {why}", mount.source))?;
                return Ok(false);
            }
        };
        let at = locate(self.rootfs, &mount.destination)?.path;
        if self.shows(&at, &mount.source) {
            return Ok(true);
        }
        // What the user mounts there is the user's choice.
        if self.mounts.iter().any(|op| *op.destination() == at) {
            return Ok(false);
        }
        let destination = match self.place(&mount.destination, kind == Kind::Directory) {
            Ok(destination) => destination,
            Err(refusal) => {
                trouble.meet(refusal.what)?;
                return Ok(false);
            }
        };
        self.mounts.push(Op::Bind {
            source: mount.source.clone(),
            destination,
            recursive: mount.recursive,
            readonly: mount.readonly,
            noexec: mount.noexec,
            devices: kind == Kind::Device && !mount.nodev,
            opener: Opener::User,
        });
        Ok(true)
    }

    /// Whether a mount shows `source` of the host at `at`.
    pub(super) fn shows(&self, at: &AbsPath, source: &AbsPath) -> bool {
        match self.around(at) {
            Some(Op::Bind { source: from, destination, .. }) => below(at, destination, from) == *source,
            _ => false,
        }
    }

    /// A device's node. The container's /dev is the host's, so it is there unless it has another name here.
    fn node(&mut self, node: &Node, trouble: &mut Trouble) -> Result<(), Refusal> {
        let mount = BindMount {
            source: node.host.clone(),
            destination: node.path.clone(),
            recursive: false,
            readonly: false,
            noexec: false,
            nodev: false,
        };
        match self.host.source(&node.host, Opener::User) {
            Ok(Kind::Device) => {
                if let Err(why) = self.host.usable(&node.host) {
                    return trouble.meet(format!("device node {}: {why}", node.host));
                }
                self.bring(&mount, trouble).map(|_| ())
            }
            Ok(_) => trouble.meet(format!("device node {}: it is no device", node.host)),
            Err(why) => trouble.meet(format!("device node {}: {why}", node.host)),
        }
    }

    /// A device node that was asked for by its path.
    fn asked_node(&mut self, path: &AbsPath, chosen: &Chosen) -> Result<(), Refusal> {
        let refuse = |why: String| {
            Refusal::user(format!("--container-device={path}: {why}"))
                .hint("name a device node that you may open on every node of the job")
        };
        if chosen.hidden.iter().any(|node| node.host == *path) {
            return Err(refuse("it is of a GPU that Slurm did not give this step".into())
                .hint("ask Slurm for it, with --gpus or --gres"));
        }
        match self.host.source(path, Opener::User).map_err(|why| refuse(why.to_string()))? {
            Kind::Device => self.host.usable(path).map_err(|why| refuse(why.to_string()))?,
            _ => return Err(refuse("it is no device node".into())),
        }
        let mut trouble = Trouble { required: true, told: vec![] };
        self.node(&Node { path: path.clone(), host: path.clone() }, &mut trouble)
    }

    /// Covers a node of the shared /dev by itself, as a mount on which device nodes cannot be opened (mount(2),
    /// MS_NODEV).
    fn hide(&mut self, node: &Node) -> Result<(), Refusal> {
        let at = locate(self.rootfs, &node.host)?.path;
        if self.host.source(&node.host, Opener::User) == Ok(Kind::Device) && self.shows(&at, &node.host) {
            self.mounts.push(Op::Bind {
                source: node.host.clone(),
                destination: at,
                recursive: false,
                readonly: true,
                noexec: false,
                devices: false,
                opener: Opener::User,
            });
        }
        Ok(())
    }
}

/// A refusal with the file that may be the reason of it.
fn with_problem(mut refusal: Refusal, registry: &Registry) -> Refusal {
    if let Some(problem) = registry.problems().first() {
        refusal.what.push_str(&format!("; {problem}"));
    }
    refusal
}

/// A variable as the image has it, or as the user sets it.
fn variable(launch: &Launch, name: &str) -> Option<String> {
    match launch.request.env.get(name) {
        Some(Some(value)) => Some(value.clone()),
        Some(None) => launch.job.environment.get(name).cloned(),
        None => launch.config.environment().filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()).last(),
    }
}
