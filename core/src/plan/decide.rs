//! The decision itself: wanted binds against what image and host have.

use std::collections::BTreeMap;

use super::binds::{wanted, Wanted};
use super::resolve::{locate, Located};
use super::{Host, How, Job, Kind, LaunchPlan, Made, Make, Op, Opener, Rootfs};
use crate::environment;
use crate::identity::{group, passwd, MAX_DATABASE};
use crate::image::ImageConfig;
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
}

/// Decides the plan, or refuses with the way out.
pub fn decide(launch: &Launch, rootfs: &dyn Rootfs, host: &dyn Host) -> Result<LaunchPlan, Refusal> {
    let mut draft = Draft { rootfs, host, skeleton: BTreeMap::new(), mounts: vec![], warnings: vec![] };
    let binds = wanted(launch)?;
    for dir in &launch.request.volatile {
        draft.volatile(dir, &binds)?;
    }
    for bind in &binds {
        draft.bind(bind)?;
    }
    let swap = draft.stack(launch)?;
    draft.text("/etc/passwd", MAX_DATABASE, |image| Some(passwd(image, &launch.job.user).into_bytes()))?;
    draft.text("/etc/group", MAX_DATABASE, |image| Some(group(image, &launch.job.user).into_bytes()))?;
    let workdir = draft.workdir(launch)?;
    draft.mounts.sort_by_key(|op| op.destination().depth());
    Ok(LaunchPlan {
        image: launch.image.clone(),
        how: launch.how,
        skeleton: draft.skeleton.into_values().collect(),
        mounts: draft.mounts,
        environment: environment::decide(
            launch.config,
            swap,
            &launch.site.environment,
            &launch.job.environment,
        ),
        workdir,
        stack: swap.map(|swap| swap.stack.clone()),
        check: swap.filter(|_| launch.site.mpi.verify).and_then(|swap| swap.check.clone()),
        warnings: draft.warnings,
    })
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub rootfs: &'a dyn Rootfs,
    pub host: &'a dyn Host,
    pub skeleton: BTreeMap<AbsPath, Made>,
    pub mounts: Vec<Op>,
    pub warnings: Vec<String>,
}

impl Draft<'_> {
    fn bind(&mut self, bind: &Wanted) -> Result<(), Refusal> {
        let kind = match self.host.source(&bind.source, bind.opener) {
            Ok(kind) => kind,
            Err(_) if !bind.required => return Ok(()),
            Err(reason) => return Err(no_source(bind, &reason.0)),
        };
        let directory = kind == Kind::Directory;
        let at = match self.place(&bind.destination, directory) {
            Ok(at) => at,
            Err(_) if !bind.required => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
        self.mounts.push(Op::Bind {
            source: bind.source.clone(),
            destination: at,
            readonly: bind.readonly,
            devices: bind.devices || kind == Kind::Device,
            opener: bind.opener,
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
        let path = AbsPath::parse(path)?;
        let Located { path: at, .. } = locate(self.rootfs, &path)?;
        if self.bind_around(&at).is_some() {
            return Ok(());
        }
        let image = self.rootfs.read(&at, limit)?.unwrap_or_default();
        if let Some(content) = make(&image) {
            let destination = self.place(&path, false)?;
            self.mounts.push(Op::Text { destination, content });
        }
        Ok(())
    }

    fn volatile(&mut self, dir: &AbsPath, binds: &[Wanted]) -> Result<(), Refusal> {
        let refuse = |why: String| {
            Err(Refusal::user(format!("--writable-volatile={dir}: {why}"))
                .hint("name a directory that the image has; 'grus plan IMAGE' shows what is mounted"))
        };
        let Located { path: at, entry } = locate(self.rootfs, dir)?;
        if let Some(bind) = binds.iter().find(|b| at.is_within(&b.destination)) {
            return refuse(format!("{} is the host's, not the image's", bind.destination));
        }
        match entry.map(|e| e.kind) {
            Some(Kind::Directory) => {}
            Some(_) => return refuse("it is not a directory".into()),
            None => return refuse("the image has no such directory".into()),
        }
        let around = |op: &Op| matches!(op, Op::Volatile { destination } if at.is_within(destination));
        if !self.mounts.iter().any(around) {
            self.mounts.push(Op::Volatile { destination: at });
        }
        Ok(())
    }

    /// Where tasks start; None if in the job's own directory.
    fn workdir(&mut self, launch: &Launch) -> Result<Option<AbsPath>, Refusal> {
        let jobs = &launch.job.workdir;
        let visible = self.mounts.iter().any(|op| match op {
            Op::Bind { source, destination, .. } => source == destination && jobs.is_within(destination),
            _ => false,
        });
        if visible && launch.request.mount_workdir != Some(false) {
            return Ok(None);
        }
        // Slurm changes to the job's directory before the plugin's last hook, and complains if it is missing.
        let jobs_exists = locate(self.rootfs, jobs)?.entry.is_some_and(|e| e.kind == Kind::Directory);
        if !jobs_exists {
            let _ = self.place(jobs, true);
        }
        let images = AbsPath::parse(&launch.config.working_dir).ok().filter(|d| d.depth() > 0);
        match images {
            Some(dir) => {
                self.place(&dir, true)?;
                Ok(Some(dir))
            }
            None if jobs_exists => Ok(None),
            None => Ok(Some(AbsPath::root())),
        }
    }

    /// Makes sure that a mount point of the wanted type is at `path`; returns it without links.
    pub fn place(&mut self, path: &AbsPath, directory: bool) -> Result<AbsPath, Refusal> {
        let Located { path: at, entry } = locate(self.rootfs, path)?;
        if let Some((source, around, opener)) = self.bind_around(&at) {
            return self.place_in_bind(at, &source, &around, opener, directory);
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

    /// The innermost bind so far that `at` lies strictly below.
    pub fn bind_around(&self, at: &AbsPath) -> Option<(AbsPath, AbsPath, Opener)> {
        self.mounts
            .iter()
            .filter_map(|op| match op {
                Op::Bind { source, destination, opener, .. }
                    if at.is_within(destination) && at != destination =>
                {
                    Some((source.clone(), destination.clone(), *opener))
                }
                _ => None,
            })
            .max_by_key(|(_, destination, _)| destination.depth())
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
        let below: Vec<&str> = at.components().skip(around.depth()).collect();
        let on_host = below.iter().fold(source.clone(), |path, name| path.join(name));
        match self.host.source(&on_host, opener) {
            Ok(kind) if (kind == Kind::Directory) == directory => Ok(at),
            Ok(_) if directory => Err(mismatch(&at, "a directory cannot be mounted on a file")),
            Ok(_) => Err(mismatch(&at, "a file cannot be mounted on a directory")),
            Err(reason) => Err(Refusal::user(format!(
                "cannot mount on {at}: it lies in {around}, which is the host's {source}, and {on_host}: {reason}"
            ))
            .hint(format!("create it on the host first: mkdir -p {on_host}"))),
        }
    }

    /// Adds `at` and the directories above it to the skeleton.
    pub fn make(&mut self, at: &AbsPath, make: Make) -> Result<(), Refusal> {
        let new = |path: &AbsPath, make, mode| Made { path: path.clone(), make, mode, uid: 0, gid: 0 };
        let mut above = at.parent();
        while let Some(dir) = above {
            above = dir.parent();
            if self.skeleton.contains_key(&dir) {
                continue;
            }
            let made = match self.rootfs.entry(&dir)? {
                Some(e) => Made { mode: e.mode, uid: e.uid, gid: e.gid, ..new(&dir, Make::Directory, 0) },
                None => new(&dir, Make::Directory, 0o755),
            };
            self.skeleton.insert(dir, made);
        }
        let mode = if make == Make::Directory { 0o755 } else { 0o644 };
        self.skeleton.insert(at.clone(), new(at, make, mode));
        Ok(())
    }
}

fn no_source(bind: &Wanted, reason: &str) -> Refusal {
    let hint = match reason {
        "Permission denied" => "it is opened with your own permissions; check them on the host",
        _ => "check the path; it must exist on every node of the job",
    };
    Refusal::user(format!("cannot bind {} on {}: {reason}", bind.source, bind.destination)).hint(hint)
}

fn mismatch(path: &AbsPath, why: &str) -> Refusal {
    Refusal::user(format!("cannot mount on {path}: {why}")).hint("choose another destination")
}
