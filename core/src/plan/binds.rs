//! Which mounts a container wants, before anyone has looked whether they can be had.

use super::client::Client;
use crate::module::Active;
use crate::mount::{Mount, What};
use crate::path::AbsPath;
use crate::plan::{Launch, Opener};
use crate::refusal::Refusal;

/// A mount that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub mount: Mount,
    pub devices: bool,
    pub opener: Opener,
    /// Whether a missing source or destination is the user's error; otherwise the mount is left out.
    pub required: bool,
}

impl Wanted {
    /// Whether it shows `path` of the host at that path.
    pub fn brings(&self, path: &AbsPath) -> bool {
        let own = matches!(&self.mount.what, What::Bind { source, .. } if *source == self.mount.destination);
        own && path.is_within(&self.mount.destination)
    }
}

/// Directories of a system; a job that starts in one of them sees the image's, not the host's.
const SYSTEM: &[&str] =
    &["bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr"];

/// Directories that are bound only from one level further down: as a whole they belong to the image.
const SHARED: &[&str] = &["home", "media", "mnt", "opt", "root", "srv", "tmp", "var"];

/// All mounts of a launch, by depth of destination, so that what is inside comes after what is around it.
pub(super) fn wanted(
    launch: &Launch,
    client: Option<&Client>,
    modules: &[Active],
) -> Result<Vec<Wanted>, Refusal> {
    let user = user_mounts(&launch.request.mounts)?;
    let taken = |path: &AbsPath| user.iter().any(|u| u.mount.destination == *path);
    let mut all = site_binds(launch);
    // The first module, which may have been asked for, has the last word.
    for (mount, asked) in
        modules.iter().rev().flat_map(|of| of.module.mounts().into_iter().map(|m| (m, of.asked)))
    {
        all.retain(|bind| bind.mount.destination != mount.destination);
        all.push(from_mount(&mount, Opener::Site, asked && !mount.optional));
    }
    all.extend(home(launch));
    let mut left_out: Vec<AbsPath> = vec![];
    for mount in launch.request.mounts.iter().filter(|m| m.what == What::Nothing) {
        let before = all.len();
        all.retain(|bind| !bind.mount.destination.is_within(&mount.destination));
        if all.len() == before
            && !mount.optional
            && workdir(launch, &all).is_none_or(|w| !w.brings(&mount.destination))
        {
            return Err(nothing_there(mount));
        }
        left_out.push(mount.destination.clone());
    }
    all.retain(|bind| !taken(&bind.mount.destination));
    all.extend(user);
    let workdir = workdir(launch, &all);
    all.extend(workdir.filter(|w| !left_out.iter().any(|path| w.mount.destination.is_within(path))));
    let clients = client.map(|client| client.mounts(launch, &all));
    all.extend(clients.into_iter().flatten());
    all.sort_by_key(|bind| bind.mount.destination.depth());
    Ok(all)
}

fn nothing_there(mount: &Mount) -> Refusal {
    Refusal::user(format!("cannot leave out {}: nothing is mounted there", mount.destination))
        .hint("'grus plan IMAGE' shows what is mounted; part of a bind cannot be left out")
}

/// What every container has, then what the site adds.
fn site_binds(launch: &Launch) -> Vec<Wanted> {
    let plain = |path: &str, readonly, devices| {
        let path = AbsPath::parse(path).unwrap_or_else(|_| AbsPath::root());
        let mount = Mount { readonly, ..Mount::bind(path.clone(), path) };
        Wanted { mount, devices, opener: Opener::Site, required: false }
    };
    let mut binds =
        vec![plain("/proc", false, false), plain("/sys", true, false), plain("/dev", false, true)];
    if launch.site.mounts.tmp {
        binds.push(plain("/tmp", false, false));
    }
    binds.push(plain("/etc/hosts", true, false));
    binds.push(plain("/etc/resolv.conf", true, false));
    // The launch's own directories may lie in /tmp, where anyone can make a link of a name that can be foretold.
    let as_user = |path: &AbsPath| Wanted { opener: Opener::User, ..plain(path.as_str(), false, false) };
    binds.extend(launch.job.slurm_paths.iter().map(as_user));
    for mount in launch.site.site_mounts() {
        binds.retain(|bind| bind.mount.destination != mount.destination);
        if mount.what != What::Nothing {
            binds.push(from_mount(&mount, Opener::Site, false));
        }
    }
    binds
}

fn user_mounts(mounts: &[Mount]) -> Result<Vec<Wanted>, Refusal> {
    let mut wanted: Vec<Wanted> = vec![];
    for mount in mounts.iter().filter(|mount| mount.what != What::Nothing) {
        let top = mount.destination.components().next().unwrap_or("");
        if ["proc", "sys"].contains(&top) || mount.destination.as_str() == "/dev" {
            return Err(Refusal::user(format!(
                "cannot mount on {}: /{top} is the node's own",
                mount.destination
            ))
            .hint("choose another destination"));
        }
        if let Some(other) = wanted.iter().find(|w| w.mount.destination == mount.destination) {
            return Err(Refusal::user(format!(
                "both {} and {} are to be mounted on {}",
                other.mount.source(),
                mount.source(),
                mount.destination
            ))
            .hint("give each mount its own destination"));
        }
        wanted.push(from_mount(mount, Opener::User, !mount.optional));
    }
    Ok(wanted)
}

fn from_mount(mount: &Mount, opener: Opener, required: bool) -> Wanted {
    Wanted { mount: mount.clone(), devices: mount.source().starts_with("/dev/"), opener, required }
}

/// The home directory at its own path, unless it is `/`.
fn home(launch: &Launch) -> Option<Wanted> {
    let asked = launch.request.mount_home;
    let home = AbsPath::parse(&launch.job.user.home).ok().filter(|home| home.depth() > 0)?;
    asked.unwrap_or(launch.site.mounts.home).then(|| own_path(home, asked == Some(true)))
}

/// The job's working directory at its own path, where that makes sense and no other bind brings it already.
fn workdir(launch: &Launch, others: &[Wanted]) -> Option<Wanted> {
    let asked = launch.request.mount_workdir;
    let dir = &launch.job.workdir;
    let first = dir.components().next()?;
    let systems = SYSTEM.contains(&first) || (dir.depth() == 1 && SHARED.contains(&first));
    let wanted = asked.unwrap_or(launch.site.mounts.workdir) && !systems;
    let brought = others.iter().any(|other| other.brings(dir));
    let replaced = others.iter().any(|other| other.mount.destination == *dir);
    (wanted && !brought && !replaced).then(|| own_path(dir.clone(), asked == Some(true)))
}

fn own_path(path: AbsPath, required: bool) -> Wanted {
    Wanted { mount: Mount::bind(path.clone(), path), devices: false, opener: Opener::User, required }
}
