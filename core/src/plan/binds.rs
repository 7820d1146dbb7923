//! Which binds a container wants, before anyone has looked whether they can be had.

use crate::mount::Mount;
use crate::path::AbsPath;
use crate::plan::{Launch, Opener};
use crate::refusal::Refusal;

/// A bind that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub source: AbsPath,
    pub destination: AbsPath,
    pub readonly: bool,
    pub devices: bool,
    pub opener: Opener,
    /// Whether a missing source or destination is the user's error; otherwise the bind is left out.
    pub required: bool,
}

/// Directories of a system; a job that starts in one of them sees the image's, not the host's.
const SYSTEM: &[&str] =
    &["bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr"];

/// Directories that are bound only from one level further down: as a whole they belong to the image.
const SHARED: &[&str] = &["home", "media", "mnt", "opt", "root", "srv", "tmp", "var"];

/// All binds of a launch, by depth of destination, so that what is inside comes after what is around it.
pub(super) fn wanted(launch: &Launch) -> Result<Vec<Wanted>, Refusal> {
    let user = user_binds(&launch.request.mounts)?;
    let mut all: Vec<Wanted> = site_binds(launch)
        .into_iter()
        .chain(home(launch))
        .filter(|bind| user.iter().all(|u| u.destination != bind.destination))
        .collect();
    all.extend(user);
    if let Some(bind) = workdir(launch, &all) {
        all.push(bind);
    }
    all.sort_by_key(|bind| bind.destination.depth());
    Ok(all)
}

/// What every container has, then what the site adds.
fn site_binds(launch: &Launch) -> Vec<Wanted> {
    let plain = |path: &str, readonly, devices| {
        let path = AbsPath::parse(path).unwrap_or_else(|_| AbsPath::root());
        Wanted {
            source: path.clone(),
            destination: path,
            readonly,
            devices,
            opener: Opener::Site,
            required: false,
        }
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
        binds.retain(|bind| bind.destination != mount.destination);
        binds.push(from_mount(&mount, Opener::Site, false));
    }
    binds
}

fn user_binds(mounts: &[Mount]) -> Result<Vec<Wanted>, Refusal> {
    let mut binds: Vec<Wanted> = vec![];
    for mount in mounts {
        let top = mount.destination.components().next().unwrap_or("");
        if ["proc", "sys"].contains(&top) || mount.destination.as_str() == "/dev" {
            return Err(Refusal::user(format!(
                "cannot mount on {}: /{top} is the node's own",
                mount.destination
            ))
            .hint("choose another destination"));
        }
        if let Some(other) = binds.iter().find(|b| b.destination == mount.destination) {
            return Err(Refusal::user(format!(
                "both {} and {} are to be mounted on {}",
                other.source, mount.source, mount.destination
            ))
            .hint("give each mount its own destination"));
        }
        binds.push(from_mount(mount, Opener::User, true));
    }
    Ok(binds)
}

fn from_mount(mount: &Mount, opener: Opener, required: bool) -> Wanted {
    Wanted {
        source: mount.source.clone(),
        destination: mount.destination.clone(),
        readonly: mount.readonly,
        devices: mount.source.as_str().starts_with("/dev/"),
        opener,
        required,
    }
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
    let brought = others.iter().any(|b| b.source == b.destination && dir.is_within(&b.destination));
    let replaced = others.iter().any(|b| b.destination == *dir);
    (wanted && !brought && !replaced).then(|| own_path(dir.clone(), asked == Some(true)))
}

fn own_path(path: AbsPath, required: bool) -> Wanted {
    Wanted {
        source: path.clone(),
        destination: path,
        readonly: false,
        devices: false,
        opener: Opener::User,
        required,
    }
}
