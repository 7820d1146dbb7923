//! A plan in the making: each mount placed where image, host and earlier mounts allow.

use std::collections::BTreeMap;

use super::binds::Wanted;
use super::decide::Launch;
use super::resolve::{locate, Located};
use super::{Host, Kind, Made, Make, Op, Opener, Rootfs};
use crate::mount::{Mount, What};
use crate::path::AbsPath;
use crate::refusal::Refusal;

/// The system's reason where the user may not look.
const CLOSED: &str = "Permission denied";

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub rootfs: &'a dyn Rootfs,
    pub host: &'a dyn Host,
    pub skeleton: BTreeMap<AbsPath, Made>,
    pub mounts: Vec<Op>,
    pub warnings: Vec<String>,
}

impl<'a> Draft<'a> {
    /// An empty one.
    pub fn new(rootfs: &'a dyn Rootfs, host: &'a dyn Host) -> Self {
        Self { rootfs, host, skeleton: BTreeMap::new(), mounts: vec![], warnings: vec![] }
    }
}

impl Draft<'_> {
    /// Plans one mount, or leaves it out where it may be missing.
    pub fn mount(&mut self, wanted: &Wanted) -> Result<(), Refusal> {
        let Mount { what, destination, readonly, noexec, .. } = &wanted.mount;
        let (readonly, noexec) = (*readonly, *noexec);
        let kind = match what {
            What::Bind { source, .. } | What::Squashfs { source } => {
                match self.host.source(source, wanted.opener) {
                    Ok(kind) => kind,
                    Err(_) if !wanted.required => return Ok(()),
                    Err(reason) => return Err(no_source(&wanted.mount, &reason.0)),
                }
            }
            What::Tmpfs(_) | What::Scratch { .. } => Kind::Directory,
            What::Nothing => return Ok(()),
        };
        if matches!(what, What::Squashfs { .. }) && kind != Kind::File {
            return Err(no_source(&wanted.mount, "it is not a file"));
        }
        let directory = kind == Kind::Directory || matches!(what, What::Squashfs { .. });
        let destination = match self.place_as(wanted.opener, destination, directory) {
            Ok(at) => at,
            Err(_) if !wanted.required => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
        self.mounts.push(match what.clone() {
            What::Bind { source, recursive } => Op::Bind {
                source,
                destination,
                recursive,
                readonly,
                noexec,
                devices: wanted.devices || kind == Kind::Device,
                opener: wanted.opener,
            },
            What::Squashfs { source } => Op::Squashfs { source, destination, noexec, opener: wanted.opener },
            What::Tmpfs(tmpfs) => Op::Tmpfs { destination, tmpfs, readonly, noexec },
            What::Scratch { size } => Op::Scratch { destination, size, noexec },
            What::Nothing => return Ok(()),
        });
        Ok(())
    }

    /// A read-only text over a file of the image, of which at most `limit` bytes are read; left out where a bind
    /// has taken its place, or where the image's own serves.
    pub fn text(
        &mut self,
        path: &str,
        limit: usize,
        make: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), Refusal> {
        let Located { path: at, .. } = locate(self.rootfs, &AbsPath::parse(path)?)?;
        if self.around(&at).is_some() {
            return Ok(());
        }
        let image = self.rootfs.read(&at, limit)?.unwrap_or_default();
        make(&image).map_or(Ok(()), |content| self.finished(path, content))
    }

    /// The same without a look at the image's file.
    pub fn finished(&mut self, path: &str, content: Vec<u8>) -> Result<(), Refusal> {
        let path = AbsPath::parse(path)?;
        let Located { path: at, .. } = locate(self.rootfs, &path)?;
        if self.around(&at).is_none() {
            let destination = self.place(&path, false)?;
            self.mounts.push(Op::Text { destination, content, executable: false });
        }
        Ok(())
    }

    /// Plans a directory that the user can change.
    pub fn volatile(&mut self, dir: &AbsPath, mounts: &[Wanted], writable: bool) -> Result<(), Refusal> {
        let refuse = |why: String| {
            Err(Refusal::user(format!("--writable-volatile={dir}: {why}"))
                .hint("name a directory that the image has; 'grus plan IMAGE' shows what is mounted"))
        };
        let Located { path: at, entry } = locate(self.rootfs, dir)?;
        for Wanted { mount, .. } in mounts {
            if !at.is_within(&locate(self.rootfs, &mount.destination)?.path) {
                continue;
            }
            let whose = if matches!(mount.what, What::Bind { .. }) { "the host's" } else { "mounted" };
            return refuse(format!("{} is {whose}, not the image's", mount.destination));
        }
        match entry.map(|e| e.kind) {
            Some(Kind::Directory) if at.depth() == 0 => return refuse("it leads to '/' as a whole".into()),
            Some(Kind::Directory) => {}
            Some(_) => return refuse("it is not a directory".into()),
            None => return refuse("the image has no such directory".into()),
        }
        let around = |op: &Op| matches!(op, Op::Volatile { destination } if at.is_within(destination));
        if !writable && !self.mounts.iter().any(around) {
            self.mounts.push(Op::Volatile { destination: at });
        }
        Ok(())
    }

    /// Where tasks start; None if in the job's own directory.
    pub fn workdir(&mut self, launch: &Launch) -> Result<Option<AbsPath>, Refusal> {
        let jobs = &launch.job.workdir;
        let visible = self.mounts.iter().any(|op| match op {
            Op::Bind { source, destination, .. } => source == destination && jobs.is_within(destination),
            _ => false,
        });
        if let Some(asked) = &launch.request.workdir {
            self.check_directory(asked)?;
        }
        if visible && launch.request.mount_workdir != Some(false) {
            return Ok(launch.request.workdir.clone());
        }
        // Slurm changes to the job's directory before the plugin's last hook, and complains if it is missing.
        let jobs_exists = locate(self.rootfs, jobs)?.entry.is_some_and(|e| e.kind == Kind::Directory);
        if !jobs_exists {
            let _ = self.place(jobs, true);
        }
        if launch.request.workdir.is_some() {
            return Ok(launch.request.workdir.clone());
        }
        let images = AbsPath::parse(&launch.config.working_dir).ok().filter(|d| d.depth() > 0);
        match images {
            Some(dir) => {
                if locate(self.rootfs, &dir)?.path.depth() > 0 {
                    self.place(&dir, true)?;
                }
                Ok(Some(dir))
            }
            None if jobs_exists => Ok(None),
            None => Ok(Some(AbsPath::root())),
        }
    }

    /// Refuses a directory to start in that is in no image and no mount.
    fn check_directory(&self, dir: &AbsPath) -> Result<(), Refusal> {
        let Located { path: at, entry } = locate(self.rootfs, dir)?;
        let there = match self
            .mounts
            .iter()
            .filter(|op| at.is_within(op.destination()))
            .max_by_key(|op| op.destination().depth())
        {
            Some(Op::Bind { source, destination, opener, .. }) => {
                match self.host.source(&below(&at, destination, source), Opener::User) {
                    Ok(kind) => kind == Kind::Directory,
                    // What is above a site's source may be closed, and what is in it not: a task says so if it is.
                    Err(reason) => *opener == Opener::Site && reason.0 == CLOSED,
                }
            }
            // Nobody has looked into it yet; a task says so if it is not there.
            Some(Op::Squashfs { .. } | Op::Volatile { .. }) => true,
            Some(op) => *op.destination() == at,
            None => entry.is_some_and(|e| e.kind == Kind::Directory),
        };
        match there {
            true => Ok(()),
            false => Err(Refusal::user(format!("--container-workdir={dir}: there is no such directory"))
                .hint("name one of the image, or mount one there")),
        }
    }

    /// Makes sure that a mount point of the wanted type is at `path`, for what is the user's word; returns it without
    /// links.
    pub fn place(&mut self, path: &AbsPath, directory: bool) -> Result<AbsPath, Refusal> {
        self.place_as(Opener::User, path, directory)
    }

    /// The same for a mount of `whose`.
    fn place_as(&mut self, whose: Opener, path: &AbsPath, directory: bool) -> Result<AbsPath, Refusal> {
        let Located { path: at, entry } = locate(self.rootfs, path)?;
        if at.depth() == 0 {
            return Err(mismatch(path, "it leads to '/', and nothing can be mounted there"));
        }
        match self.around(&at).cloned() {
            Some(Op::Bind { source, destination, opener, .. }) => {
                // Links in what the site binds may be the user's: where they lead is looked for as root only if neither
                // mount is the user's word.
                let opener = if whose == Opener::User { whose } else { opener };
                return self.place_in_bind(at, &source, &destination, opener, directory);
            }
            Some(Op::Tmpfs { .. } | Op::Scratch { .. }) => {
                self.make_in_empty(&at, directory);
                return Ok(at);
            }
            Some(Op::Squashfs { destination, .. }) => {
                let why = format!("it lies in {destination}, which is a read-only SquashFS mount");
                return Err(mismatch(path, &why));
            }
            Some(Op::Volatile { .. } | Op::Text { .. } | Op::Make { .. }) | None => {}
        }
        let made = |m: &Made| m.make == Make::Directory;
        let found = entry.map(|e| e.kind == Kind::Directory).or(self.skeleton.get(&at).map(made));
        match found {
            Some(is) if is == directory => {}
            Some(true) => return Err(mismatch(path, "a file cannot be mounted on a directory")),
            Some(false) => return Err(mismatch(path, "a directory cannot be mounted on a file")),
            None => self.make(&at, if directory { Make::Directory } else { Make::File })?,
        }
        Ok(at)
    }

    /// The innermost mount so far that `at` lies strictly below.
    pub fn around(&self, at: &AbsPath) -> Option<&Op> {
        let around = |op: &&Op| {
            let whole = !matches!(op, Op::Volatile { .. } | Op::Make { .. } | Op::Text { .. });
            whole && at.is_within(op.destination()) && at != op.destination()
        };
        self.mounts.iter().filter(around).max_by_key(|op| op.destination().depth())
    }

    /// A mount point in a directory that is empty when it is mounted, with the directories above it.
    fn make_in_empty(&mut self, at: &AbsPath, directory: bool) {
        let Some(depth) = self.around(at).map(|op| op.destination().depth()) else { return };
        let mut missing = vec![];
        let mut next = Some(at.clone());
        while let Some(path) = next.filter(|path| path.depth() > depth) {
            next = path.parent();
            if !self.mounts.iter().any(|op| *op.destination() == path) {
                missing.push(path);
            }
        }
        for path in missing.into_iter().rev() {
            let make = if directory || path != *at { Make::Directory } else { Make::File };
            self.mounts.push(Op::Make { destination: path, make });
        }
    }

    /// A mount point below another bind must exist on the host: Grus creates nothing in a user's files.
    fn place_in_bind(
        &self,
        at: AbsPath,
        source: &AbsPath,
        around: &AbsPath,
        opener: Opener,
        directory: bool,
    ) -> Result<AbsPath, Refusal> {
        let on_host = below(&at, around, source);
        match self.host.source(&on_host, opener) {
            Ok(kind) if (kind == Kind::Directory) == directory => Ok(at),
            Ok(_) if directory => Err(mismatch(&at, "a directory cannot be mounted on a file")),
            Ok(_) => Err(mismatch(&at, "a file cannot be mounted on a directory")),
            Err(reason) => Err(Refusal::user(format!(
                "cannot mount on {at}: it lies in {around}, which is the host's {source}, and {on_host}: {reason}"
            ))
            .hint(match reason.0.as_str() {
                CLOSED => "it is looked for with your own permissions; choose another destination".into(),
                _ => format!("create it on the host first: mkdir -p {on_host}"),
            })),
        }
    }

    /// Adds `at` and the directories above it to the skeleton. Nothing goes below a link, or in the place of what
    /// is there already: a swap is a user's word, and links lead out of the skeleton.
    pub fn make(&mut self, at: &AbsPath, make: Make) -> Result<(), Refusal> {
        let new = |path: &AbsPath, make, mode| Made { path: path.clone(), make, mode, uid: 0, gid: 0 };
        let mut above = at.parent();
        while let Some(dir) = above {
            above = dir.parent();
            match self.skeleton.get(&dir) {
                // All above it is there, too.
                Some(made) if made.make == Make::Directory => break,
                Some(_) => return Err(crossing(at, &dir)),
                None => {}
            }
            let made = match self.rootfs.entry(&dir)? {
                Some(e) => Made { mode: e.mode, uid: e.uid, gid: e.gid, ..new(&dir, Make::Directory, 0) },
                None => new(&dir, Make::Directory, 0o755),
            };
            self.skeleton.insert(dir, made);
        }
        let mode = if make == Make::Directory { 0o755 } else { 0o644 };
        let made = new(at, make, mode);
        match self.skeleton.get(at) {
            Some(there) if there.make != made.make => Err(crossing(at, at)),
            _ => {
                self.skeleton.insert(at.clone(), made);
                Ok(())
            }
        }
    }
}

/// What of the host is at `at`, below a bind of `source` on `destination`.
pub(super) fn below(at: &AbsPath, destination: &AbsPath, source: &AbsPath) -> AbsPath {
    at.components().skip(destination.depth()).fold(source.clone(), |path, name| path.join(name))
}

fn no_source(mount: &Mount, reason: &str) -> Refusal {
    let hint = match (reason, &mount.what) {
        (CLOSED, _) => "it is opened with your own permissions; check them on the host",
        ("it is not a file", _) => "name a SquashFS file; a directory is bound with type=bind",
        _ => "check the path; it must exist on every node of the job, or pass 'optional'",
    };
    Refusal::user(format!(
        "cannot {} {} on {}: {reason}",
        match mount.what {
            What::Squashfs { .. } => "mount",
            _ => "bind",
        },
        mount.source(),
        mount.destination
    ))
    .hint(hint)
}

fn crossing(at: &AbsPath, link: &AbsPath) -> Refusal {
    let what = match at == link {
        true => format!("{at} would be a link to a library of the host and something else"),
        false => format!("{at} would lead through {link}, which is a link to a library of the host"),
    };
    Refusal::user(what).hint("choose another destination, or pass --container-mpi=image")
}

fn mismatch(path: &AbsPath, why: &str) -> Refusal {
    Refusal::user(format!("cannot mount on {path}: {why}")).hint("choose another destination")
}
