//! Which devices a container gets: what was asked for by name, and of the GPUs what Slurm gave the step.

use std::collections::{BTreeMap, BTreeSet};

use super::grant::{is_id, Grant, VISIBLE};
use super::name::{Asked, Gpus, Kind, Qualified};
use super::registry::{Found, Registry};
use super::spec::{Device, Node, Spec};
use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};

/// Kinds of devices that Slurm counts as GPUs.
const GPUS: [&str; 5] =
    ["nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu", "intel.com/gaudi", "habana.ai/gaudi"];
/// The kind of which images say what they want.
const NVIDIA: &str = "nvidia.com/gpu";
/// Where IMEX channels are.
const CHANNELS: &str = "/dev/nvidia-caps-imex-channels/";

/// What a choice is made from.
#[derive(Debug)]
pub struct Question<'a> {
    /// What the node has.
    pub registry: &'a Registry,
    /// Which GPUs are wanted.
    pub gpus: Gpus,
    /// Whether the user said so: then it is had, or refused.
    pub said: bool,
    /// Devices that were asked for.
    pub asked: &'a [Asked],
    /// What Slurm gave.
    pub grant: Option<&'a Grant>,
    /// The environment of a task.
    pub environment: &'a BTreeMap<String, String>,
    /// NVIDIA_VISIBLE_DEVICES of the image, or as the user sets it.
    pub visible: Option<&'a str>,
}

/// A device that the container gets; without one, what all of a file's devices need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick<'a> {
    /// The file.
    pub path: &'a AbsPath,
    /// What it describes.
    pub spec: &'a Spec,
    /// The device.
    pub device: Option<&'a Device>,
    /// Whether the launch is refused if it cannot be had.
    pub required: bool,
}

/// What a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// Devices.
    pub picks: Vec<Pick<'a>>,
    /// Device nodes that were asked for by their paths.
    pub nodes: Vec<&'a AbsPath>,
    /// Device nodes of other GPUs, which are hidden.
    pub hidden: Vec<&'a Node>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl<'a> Chosen<'a> {
    fn pick(&mut self, found: Found<'a>, required: bool) {
        let Found { path, spec, device } = found;
        match self.picks.iter_mut().find(|p| std::ptr::eq(p.spec, spec) && p.device == Some(device)) {
            Some(there) => there.required |= required,
            None => self.picks.push(Pick { path, spec, device: Some(device), required }),
        }
    }
}

/// Chooses, or refuses what was asked for and cannot be had.
pub fn choose<'a>(q: &Question<'a>) -> Result<Chosen<'a>, Refusal> {
    let mut chosen = Chosen::default();
    for asked in q.asked {
        match asked {
            Asked::Node(path) => chosen.nodes.push(path),
            Asked::Named(name) => {
                for found in q.named(name)? {
                    chosen.pick(found, true);
                }
            }
        }
    }
    match q.automatic(&mut chosen) {
        Ok(()) => {}
        Err(why) if q.said => {
            return Err(Refusal::user(format!("--container-gpu=all: {why}")).hint(
                "'grus host scan' on the node shows its devices; --container-gpu=auto takes what there is",
            ))
        }
        Err(why) => chosen.warnings.push(format!("no GPU in the container: {why}")),
    }
    chosen.hidden = q.hidden(&chosen);
    Ok(chosen)
}

impl<'a> Question<'a> {
    /// The devices that a name stands for. Of GPUs no more than what Slurm gave.
    fn named(&self, name: &Qualified) -> Result<Vec<Found<'a>>, Refusal> {
        let refuse = |why: String| {
            Refusal::user(format!("--container-device={name}: {why}"))
                .hint("'grus host scan' on the node shows its devices")
        };
        let gated =
            self.grant.filter(|_| is_gpu(&name.kind) && !self.registry.devices(&name.kind).is_empty());
        let Some(grant) = gated else {
            return self.registry.find(&name.kind, &name.name).map(|found| vec![found]).map_err(refuse);
        };
        let granted = self.granted(&name.kind, grant).map_err(&refuse)?;
        if name.name == "all" {
            return Ok(granted);
        }
        let found = self.registry.find(&name.kind, &name.name).map_err(&refuse)?;
        // The same device may have several names.
        match granted.iter().any(|g| g.device.edits.nodes == found.device.edits.nodes) {
            true => Ok(vec![found]),
            false => {
                let names: Vec<String> = granted.iter().map(|g| Registry::name(g).to_string()).collect();
                Err(refuse(format!("Slurm gave this step {}", names.join(", ")))
                    .hint("ask Slurm for it, with --gpus or --gres"))
            }
        }
    }

    /// GPUs that nobody named. The reason why there is none where there should be one.
    fn automatic(&self, chosen: &mut Chosen<'a>) -> Result<(), String> {
        let named = self.asked.iter().any(|a| matches!(a, Asked::Named(name) if is_gpu(&name.kind)));
        match (self.gpus, self.grant) {
            (Gpus::All, None) if self.said => self.whole_node(chosen),
            (Gpus::None, _) | (Gpus::Auto | Gpus::All, None) => Ok(()),
            (Gpus::Auto, _) if named => Ok(()),
            (Gpus::Auto | Gpus::All, Some(grant)) => {
                let Some(kind) = self.kind()? else {
                    return if self.said { Err("this node describes no GPU".into()) } else { Ok(()) };
                };
                let mut granted = self.granted(kind, grant)?;
                if self.gpus == Gpus::Auto && kind.to_string() == NVIDIA {
                    match self.visible {
                        None | Some("all") => {}
                        Some("void" | "") => return Ok(()),
                        Some("none") => {
                            let driver = granted.first().map(|f| (f.path, f.spec));
                            let pick = |(path, spec)| Pick { path, spec, device: None, required: self.said };
                            chosen.picks.extend(driver.map(pick));
                            return Ok(());
                        }
                        Some(list) => granted = self.of_list(kind, granted, list)?,
                    }
                }
                granted.into_iter().for_each(|found| chosen.pick(found, self.said));
                Ok(())
            }
        }
    }

    /// Every GPU: where Slurm keeps no account of them, the device nodes' own permissions decide who may use them.
    fn whole_node(&self, chosen: &mut Chosen<'a>) -> Result<(), String> {
        for kind in self.registry.kinds().into_iter().filter(|kind| is_gpu(kind)) {
            match self.registry.find(kind, "all") {
                Ok(all) => chosen.pick(all, self.said),
                Err(_) => self.registry.devices(kind).into_iter().for_each(|f| chosen.pick(f, self.said)),
            }
        }
        match chosen.picks.is_empty() {
            true => Err("this node describes no GPU".into()),
            false => Ok(()),
        }
    }

    /// The kind of GPU that Slurm gave: the node's only one, or the one whose variable Slurm set.
    fn kind(&self) -> Result<Option<&'a Kind>, String> {
        let all: Vec<&Kind> = self.registry.kinds().into_iter().filter(|kind| is_gpu(kind)).collect();
        let told = |kind: &&&Kind| {
            let name = kind.to_string();
            VISIBLE.iter().any(|(of, variable)| *of == name && self.environment.contains_key(*variable))
        };
        match all.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            several => match several.iter().filter(told).collect::<Vec<_>>().as_slice() {
                [one] => Ok(Some(**one)),
                _ => {
                    let names: Vec<String> = several.iter().map(|kind| kind.to_string()).collect();
                    Err(format!(
                        "this node has {}, and Slurm does not say which it gave; name devices by --container-device",
                        names.join(" and ")
                    ))
                }
            },
        }
    }

    /// The devices of a kind that Slurm gave.
    fn granted(&self, kind: &Kind, grant: &Grant) -> Result<Vec<Found<'a>>, String> {
        let ids: Result<Vec<_>, _> = grant.ids.iter().map(|id| self.registry.find(kind, id)).collect();
        if let Some(by_id) = ids.ok().filter(|ids| !ids.is_empty()) {
            return Ok(by_id);
        }
        let devices = self.registry.devices(kind);
        let one = |index: &u32| {
            by_index(&devices, *index).ok_or_else(|| {
                let names: Vec<&str> = devices.iter().map(|d| d.device.name.as_str()).collect();
                format!("Slurm gave this step GPU {index}, and this node has {kind} {}", names.join(", "))
            })
        };
        grant.indices.iter().map(one).collect()
    }

    /// Those of `granted` that a list of numbers and names holds.
    fn of_list(&self, kind: &Kind, granted: Vec<Found<'a>>, list: &str) -> Result<Vec<Found<'a>>, String> {
        let devices = self.registry.devices(kind);
        let meant = |word: &str| match is_id(word) {
            true => self.registry.find(kind, word).ok(),
            false => word.parse().ok().and_then(|index| by_index(&devices, index)),
        };
        let wanted: Vec<Found> = list.split(',').filter_map(|word| meant(word.trim())).collect();
        let is = |a: &Found, b: &Found| a.device.edits.nodes == b.device.edits.nodes;
        let kept: Vec<Found> =
            granted.into_iter().filter(|g| wanted.iter().any(|wanted| is(wanted, g))).collect();
        match kept.is_empty() {
            true => Err(format!("NVIDIA_VISIBLE_DEVICES={} names none that Slurm gave", printable(list))),
            false => Ok(kept),
        }
    }

    /// The nodes of GPUs of the kinds chosen that are not among them. Only where Slurm gave some and nothing is
    /// renumbered by it.
    fn hidden(&self, chosen: &Chosen<'a>) -> Vec<&'a Node> {
        if !self.grant.is_some_and(|grant| grant.local) {
            return vec![];
        }
        let gpus: Vec<&Pick> =
            chosen.picks.iter().filter(|p| p.device.is_some() && is_gpu(&p.spec.kind)).collect();
        let own = gpus
            .iter()
            .flat_map(|p| p.spec.edits.nodes.iter().chain(p.device.iter().flat_map(|d| &d.edits.nodes)));
        let own: BTreeSet<&AbsPath> = own.map(|node| &node.host).collect();
        let kinds: BTreeSet<&Kind> = gpus.iter().map(|p| &p.spec.kind).collect();
        let mut hidden: BTreeMap<&AbsPath, &Node> = BTreeMap::new();
        for found in kinds.into_iter().flat_map(|kind| self.registry.devices(kind)) {
            // Channels for memory across nodes are given by Slurm to jobs, not with a GPU (switch/nvidia_imex).
            let channel = |node: &Node| node.host.as_str().starts_with(CHANNELS);
            let shared = |node: &&Node| {
                own.contains(&node.host) || found.spec.edits.nodes.contains(node) || channel(node)
            };
            hidden.extend(found.device.edits.nodes.iter().filter(|n| !shared(n)).map(|n| (&n.host, n)));
        }
        hidden.into_values().collect()
    }
}

impl Registry {
    /// The whole name of the GPU that is called by this number or name; the reason why it cannot be told.
    pub fn gpu(&self, word: &str) -> Result<Qualified, String> {
        let kinds: Vec<&Kind> = self.kinds().into_iter().filter(|kind| is_gpu(kind)).collect();
        let kind = match kinds.as_slice() {
            [] => return Err("this node describes no GPU".into()),
            [one] => *one,
            several => {
                let names: Vec<String> = several.iter().map(|kind| kind.to_string()).collect();
                return Err(format!("this node has {}", names.join(" and ")));
            }
        };
        let by_index = word.parse().ok().and_then(|index| by_index(&self.devices(kind), index));
        by_index.map_or_else(|| self.find(kind, word), Ok).map(|found| Self::name(&found))
    }
}

fn is_gpu(kind: &Kind) -> bool {
    GPUS.contains(&kind.to_string().as_str())
}

/// The device of a number: the one that is called so; else, as with MIG instances and names made of addresses, the one
/// at this place. A device with several names counts once.
fn by_index<'a>(devices: &[Found<'a>], index: u32) -> Option<Found<'a>> {
    let mig = devices.iter().any(|d| d.device.name.contains(':'));
    let names = [index.to_string(), format!("gpu{index}")];
    let called = devices.iter().find(|d| names.contains(&d.device.name)).filter(|_| !mig);
    if called.is_some() {
        return called.copied();
    }
    let numbered = |d: &&Found| d.device.name.parse::<u32>().is_ok();
    if !mig && devices.iter().any(|d| numbered(&d)) {
        return None;
    }
    let mut once: Vec<&Found> = vec![];
    for device in devices {
        if !once.iter().any(|o| o.device.edits.nodes == device.device.edits.nodes) {
            once.push(device);
        }
    }
    once.get(index as usize).map(|found| **found)
}
