//! What Grus makes for a container's mounts, each attached nowhere: directories in memory and on the node's disk, and
//! SquashFS files by the same rule as images (ADR 4).
//!
//! All before the new namespace is made: devices are at hand, and a server is started outside of what it serves.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};

use grus_core::mount::{shares, Tmpfs};
use grus_core::path::AbsPath;
use grus_core::plan::{How, LaunchPlan, Op, Opener};
use grus_core::site::Site;
use grus_core::Refusal;
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::builder::Inputs;
use crate::call::{new_mount, open_in, Broken, Called, During, PLAIN};
use crate::deadline::Deadline;
use crate::disk::Disk;
use crate::failure::{Failed, Failure, Phase};
use crate::fuse::Owner;
use crate::image::Image;
use crate::read::{of_kernel, Small};
use crate::server::Served;
use crate::sources::Sources;
use crate::sys::confine;

/// Makes mounts for one user.
pub(crate) struct Maker<'a> {
    site: &'a Site,
    owner: Owner<'a>,
    sources: &'a Sources<'a>,
    deadline: &'a Deadline,
    started: &'a dyn Fn(&Served),
    /// The servers of the image and of what was made.
    pub servers: RefCell<Vec<Served>>,
}

fn attributes(noexec: bool) -> MountAttrFlags {
    match noexec {
        true => PLAIN | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        false => PLAIN,
    }
}

impl<'a> Maker<'a> {
    /// For the job's user. `started` hears of each server; `image` is the one of the image, where it has one.
    pub fn of(
        inputs: &'a Inputs,
        sources: &'a Sources<'a>,
        deadline: &'a Deadline,
        started: &'a dyn Fn(&Served),
        image: Option<Served>,
    ) -> Self {
        let servers = RefCell::new(image.into_iter().collect());
        Self { site: &inputs.site, owner: Owner::of(inputs), sources, deadline, started, servers }
    }

    /// For the user who is root of this user namespace, and has neither loop devices nor a disk.
    pub fn rootless(site: &'a Site, sources: &'a Sources<'a>, deadline: &'a Deadline) -> Self {
        let owner = Owner::of_namespace();
        Self { site, owner, sources, deadline, started: &|_| (), servers: RefCell::default() }
    }
}

impl Maker<'_> {
    /// For each operation of the plan what is made for it, in the same order.
    pub fn make_all(&self, plan: &LaunchPlan) -> Result<Vec<Option<OwnedFd>>, Failure> {
        let asked = plan.mounts.iter().filter_map(|op| match op {
            Op::Tmpfs { tmpfs, .. } => Some(tmpfs.size),
            _ => None,
        });
        let asked: Vec<_> = asked.collect();
        let mut sizes = match asked.is_empty() {
            true => vec![],
            false => shares(&asked, self.site.tmpfs.size_limit.of(memory().during(Phase::Own)?))?,
        }
        .into_iter();
        let mut made = Vec::with_capacity(plan.mounts.len());
        for op in &plan.mounts {
            made.push(match op {
                Op::Tmpfs { tmpfs, noexec, .. } => {
                    let size = sizes.next().unwrap_or_default();
                    Some(self.tmpfs(tmpfs, size, *noexec).map_err(|failure| of(op, failure))?)
                }
                Op::Squashfs { source, noexec, opener, .. } => {
                    Some(self.squashfs(source, *opener, *noexec).map_err(|failure| of(op, failure))?)
                }
                Op::Scratch { size, noexec, .. } => {
                    Some(self.scratch(size.bytes(), *noexec).map_err(|failure| of(op, failure))?)
                }
                Op::Bind { .. } | Op::Text { .. } | Op::Volatile { .. } | Op::Make { .. } => None,
            });
        }
        Ok(made)
    }

    fn tmpfs(&self, tmpfs: &Tmpfs, size: u64, noexec: bool) -> Result<OwnedFd, Failure> {
        // A file takes an inode of the kernel's memory beside its pages: no more of them than pages.
        let inodes = (size / 4096).max(16).to_string();
        let (size, mode) = (size.to_string(), format!("{:o}", tmpfs.mode & 0o7777));
        let (uid, gid) = (self.owner.uid.to_string(), self.owner.gid.to_string());
        let huge = tmpfs.huge.map(|huge| huge.to_string());
        let mut options = vec![
            ("source", "grus"),
            ("size", size.as_str()),
            ("nr_inodes", &inodes),
            ("mode", &mode),
            ("uid", &uid),
            ("gid", &gid),
        ];
        options.extend(huge.as_deref().map(|huge| ("huge", huge)));
        new_mount("tmpfs", &options, attributes(noexec)).map_err(|broken| match (&huge, broken.errno) {
            (Some(huge), Errno::INVAL) => {
                Refusal::user(format!("huge={huge}: this node's kernel has no huge pages for tmpfs"))
                    .hint("leave 'huge' out")
                    .into()
            }
            _ => broken.during(Phase::Own),
        })
    }

    /// The file that was opened while deciding, whatever has its name now.
    fn squashfs(&self, source: &AbsPath, opener: Opener, noexec: bool) -> Result<OwnedFd, Failure> {
        let path = source.as_path();
        let image = Image::of(self.sources.readable(source, opener), path)?;
        let how = match self.owner.identity {
            Some(_) => image.how(path, self.site, &self.owner)?,
            None => How::Fuse,
        };
        let (mount, served) = image.mount(how, path, self.site, &self.owner, Phase::Own, self.started)?;
        self.servers.borrow_mut().extend(served.map(|served| served.serving(source.to_string())));
        if noexec {
            confine(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_NOEXEC, "squashfs").during(Phase::Own)?;
        }
        Ok(mount)
    }

    fn scratch(&self, size: u64, noexec: bool) -> Result<OwnedFd, Failure> {
        if self.owner.identity.is_none() {
            return self.tmpfs(&Tmpfs { size: None, mode: 0o700, huge: None }, size, noexec);
        }
        let dir = self.site.scratch.dir.as_ref();
        // Core refuses a scratch where there is no directory.
        let dir = dir.ok_or_else(|| Broken::new("scratch.dir", Errno::NOENT).during(Phase::Own))?;
        let disk = Disk { dir, size, phase: Phase::Own };
        let mount = disk.mount(self.site, self.deadline, attributes(noexec))?;
        self.give(&mount, 0o700).during(Phase::Own)?;
        Ok(mount)
    }

    /// Makes the root of a new file system the user's.
    fn give(&self, mount: &OwnedFd, mode: u32) -> Called<()> {
        let root =
            open_in(mount.as_fd(), ".".as_ref(), OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::NO_XDEV)?;
        let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
        rustix::fs::fchown(&root, Some(uid), Some(gid)).map_err(|e| Broken::new("fchown", e))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(mode)).map_err(|e| Broken::new("fchmod", e))
    }
}

/// Names the mount in what went wrong; a refusal of a file names it already.
fn of(op: &Op, failure: Failure) -> Failure {
    match failure {
        Failure::Failed(failed) => {
            let source = match op {
                Op::Squashfs { source, .. } => source.as_str(),
                Op::Scratch { .. } => "scratch",
                _ => "tmpfs",
            };
            let call = format!("{source} on {}: {}", op.destination(), failed.call);
            Failure::Failed(Failed { phase: Phase::Own, call, ..failed })
        }
        refused => refused,
    }
}

/// The node's memory in bytes (proc_meminfo(5)), which is what percentages of tmpfs(5) are of.
fn memory() -> Called<u64> {
    let broken = || Broken::new("read(/proc/meminfo)", Errno::IO);
    let Small::Bytes(bytes) = of_kernel("/proc/meminfo".as_ref(), 64 << 10)? else { return Err(broken()) };
    let text = String::from_utf8_lossy(&bytes);
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB")?.trim().parse().ok());
    total.map(|kilobytes: u64| kilobytes << 10).ok_or_else(broken)
}
