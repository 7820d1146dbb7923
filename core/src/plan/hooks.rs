//! A device's driver in a plan: its files, and what hooks of its makers would do with them in a container. Nothing is run;
//! links come into the layer over the image, the loader's cache is written anew.

use std::collections::{BTreeMap, BTreeSet};

use super::devices::{Devices, Trouble};
use super::draft::Draft;
use super::driver::{compatibility, Loader};
use super::resolve::locate;
use super::seen::CACHE;
use super::{Kind, Make, Op, Opener};
use crate::cdi::{BindMount, Effects};
use crate::elf::Object;
use crate::ldcache::{self, Cache, Entry, MAX_CACHE};
use crate::path::AbsPath;
use crate::refusal::Refusal;

/// What NVIDIA's driver was loaded with; its library makes and changes device nodes unless this says no.
const PARAMS: &str = "/proc/driver/nvidia/params";
const MAX_PARAMS: usize = 64 << 10;

/// A library of a driver that is mounted.
struct Library<'a> {
    mount: &'a BindMount,
    object: Object,
}

impl Draft<'_> {
    /// The driver's files, and what its hooks would make of them.
    pub(super) fn driver(
        &mut self,
        wanted: &[&BindMount],
        effects: &Effects,
        trouble: &mut Trouble,
        devices: &mut Devices,
    ) -> Result<(), Refusal> {
        let (mut cache, own) = self.cache()?;
        let loader = Loader::of(self.rootfs, &cache);
        let mut libraries = vec![];
        for mount in wanted {
            let object = self.host.library(&mount.source, Opener::User);
            if let Some(why) = object.as_ref().and_then(|object| loader.lacks(object)) {
                trouble.misfit(format!("{} does not fit the image: it needs {why}", mount.source))?;
                continue;
            }
            if self.bring(mount, trouble)? {
                libraries.extend(object.map(|object| Library { mount, object }));
            }
        }
        self.links(effects, &libraries, trouble)?;
        let mut entries = entries(&libraries, &effects.folders);
        if let Some((root, driver)) = &effects.compat {
            if let Some(newer) = compatibility(self.rootfs, root, *driver) {
                devices.shown.push(format!("CUDA of {}, newer than the node's driver {driver}", newer.dir));
                let flags = ldcache::flags(&newer.machine).unwrap_or_default();
                let named = newer.names.iter().map(|name| entry(name, &newer.dir, flags));
                entries.retain(|e| e.flags != flags || !newer.names.contains(&e.name));
                entries.extend(named);
            }
        }
        if !entries.is_empty() {
            // musl's loader knows no cache.
            match loader.is_musl() || own == Place::Covered {
                true => devices.environment.library_path = dirs(&entries),
                false => {
                    cache.replace(entries);
                    self.write_cache(&own, cache.write())?;
                }
            }
        }
        if effects.device_files {
            self.params()?;
        }
        Ok(())
    }

    /// Whether the container has something at this path: the image's, or a mount's.
    fn has(&self, path: &AbsPath) -> Result<bool, Refusal> {
        let located = locate(self.rootfs, path)?;
        let mounted = |op: &Op| located.path.is_within(op.destination());
        Ok(located.entry.is_some() || self.mounts.iter().any(mounted))
    }

    /// Links that hooks would make, and one for each library's SONAME. Each leads to the file itself: in a root that can
    /// be changed they are binds.
    fn links(
        &mut self,
        effects: &Effects,
        libraries: &[Library],
        trouble: &mut Trouble,
    ) -> Result<(), Refusal> {
        let mut links: BTreeMap<AbsPath, AbsPath> = BTreeMap::new();
        for Library { mount, object } in libraries {
            let dir = mount.destination.parent().unwrap_or_else(AbsPath::root);
            let soname = object.soname.as_deref().filter(|name| is_file_name(name));
            if let Some(soname) = soname.filter(|_| effects.folders.contains(&dir)) {
                links.insert(dir.join(soname), mount.destination.clone());
            }
        }
        links.extend(effects.links.iter().cloned());
        let files: BTreeSet<AbsPath> = libraries.iter().map(|l| l.mount.destination.clone()).collect();
        for (link, target) in links.iter().filter(|(link, _)| !files.contains(link)) {
            let (Some(above), Some(name)) = (link.parent(), link.components().next_back()) else { continue };
            let at = locate(self.rootfs, &above)?.path.join(name);
            let directory = self.rootfs.entry(&at)?.is_some_and(|entry| entry.kind == Kind::Directory);
            let covered = self.around(&at).is_some() || self.mounts.iter().any(|op| *op.destination() == at);
            let target = followed(target, &links);
            // Nodes below /dev, and links to them, are the host's; and what was left out has no links.
            if self.shows(&at, link) || !self.has(&target)? {
                continue;
            }
            let why = match (directory, covered) {
                (true, _) => Some("the image has a directory there".to_owned()),
                (_, true) => Some("it lies below a mount".to_owned()),
                _ => self.make(&at, Make::Link(target)).err().map(|refusal| refusal.what),
            };
            if let Some(why) = why {
                trouble.meet(format!("link {link} of the device's driver cannot be made: {why}"))?;
            }
        }
        Ok(())
    }

    /// The loader's cache as it is so far, and where it is.
    fn cache(&self) -> Result<(Cache, Place), Refusal> {
        let at = locate(self.rootfs, &AbsPath::parse(CACHE)?)?.path;
        if let Some(own) = self.mounts.iter().position(|op| *op.destination() == at) {
            return Ok(match &self.mounts[own] {
                Op::Text { content, .. } => (ldcache::parse(content).unwrap_or_default(), Place::Text(own)),
                _ => (Cache::default(), Place::Covered),
            });
        }
        if self.around(&at).is_some() {
            return Ok((Cache::default(), Place::Covered));
        }
        let image = self.rootfs.read(&at, MAX_CACHE)?.unwrap_or_default();
        Ok((ldcache::parse(&image).unwrap_or_default(), Place::Image))
    }

    fn write_cache(&mut self, own: &Place, new: Vec<u8>) -> Result<(), Refusal> {
        if let Place::Text(at) = own {
            if let Some(Op::Text { content, .. }) = self.mounts.get_mut(*at) {
                *content = new;
            }
            return Ok(());
        }
        self.finished(CACHE, new)
    }

    /// Tells NVIDIA's library that device nodes are not its affair.
    fn params(&mut self) -> Result<(), Refusal> {
        let path = AbsPath::parse(PARAMS)?;
        let Some(text) = self.host.text(&path, MAX_PARAMS) else { return Ok(()) };
        let set = "ModifyDeviceFiles: 1";
        let text = String::from_utf8_lossy(&text);
        if text.lines().any(|line| line.trim() == set) && self.shows(&path, &path) {
            let destination = self.place(&path, false)?;
            let content = text.replace(set, "ModifyDeviceFiles: 0").into_bytes();
            self.mounts.push(Op::Text { destination, content, executable: false });
        }
        Ok(())
    }
}

/// Where the loader's cache of a container comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The image, or nowhere.
    Image,
    /// A text that is planned, at this place among the mounts.
    Text(usize),
    /// A mount of somebody's, which is left as it is.
    Covered,
}

/// Where a link leads in the end.
fn followed(target: &AbsPath, links: &BTreeMap<AbsPath, AbsPath>) -> AbsPath {
    let mut at = target;
    for _ in 0..links.len() {
        match links.get(at) {
            Some(next) => at = next,
            None => break,
        }
    }
    at.clone()
}

/// Entries of the loader's cache for the libraries in these directories.
fn entries(libraries: &[Library], folders: &BTreeSet<AbsPath>) -> Vec<Entry> {
    let own = libraries.iter().filter_map(|Library { mount, object }| {
        let dir = mount.destination.parent().filter(|dir| folders.contains(dir))?;
        let name = object.soname.as_deref().filter(|name| is_file_name(name))?;
        Some(entry(name, &dir, ldcache::flags(&object.machine)?))
    });
    own.collect()
}

fn entry(name: &str, dir: &AbsPath, flags: i32) -> Entry {
    Entry { name: name.into(), path: dir.join(name).into(), flags, osversion: 0, hwcaps: None, hwcap: 0 }
}

/// The directories of entries, each once.
fn dirs(entries: &[Entry]) -> Vec<AbsPath> {
    let dirs = entries.iter().filter_map(|entry| AbsPath::parse(&entry.path).ok()?.parent());
    dirs.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A SONAME is a library's word: it may name a file, and no other place.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && name.len() <= 255 && !name.contains(['/', '\0'])
}
