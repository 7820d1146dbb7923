//! Joining the container of a running step (`--container-name=JOBID.STEPID`).
//!
//! A step's slurmstepd holds the container's namespace, and beside it a file in memory that says whose it is and what
//! its tasks were given. A joining step's slurmstepd reads both from the other's open files (proc_pid_fd(5)), which
//! only root can do; and it trusts only a process whose real user id is root's and whose program is its own.
//!
//! Not all that such a process has open is its own: slurmstepd opens the files of tasks' output that the user names, as
//! the user, and these may be links of /proc to a file in memory of the user's. So the file must be root's, and sealed
//! (fcntl(2), 'File Sealing'), which no file is but one in memory.
//!
//! All is read below one descriptor of `/proc/PID`. Such a descriptor is of that one process: once it has ended,
//! nothing is found there, whoever has its number then.

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use grus_core::plan::LaunchPlan;
use grus_core::running::{not_there, Running, MAX_TEXT, MEMORY_FILE};
use rustix::fs::{fcntl_add_seals, fcntl_get_seals, Dir, MemfdFlags, Mode, OFlags, SealFlags};

use crate::builder::Inputs;
use crate::call::{open_own, stat, Broken, Called, During};
use crate::container::Container;
use crate::failure::{Failure, Phase};
use crate::namespaces::{Owned, KINDS};
use crate::server::Served;
use crate::timing::Clock;

/// Nobody changes the file any more once it is written.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// What a step joins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joined<'a> {
    /// The mount namespace.
    pub namespace: &'a OwnedFd,
    /// The container's other namespaces.
    pub others: &'a [Owned],
    /// Its user namespace.
    pub user: Option<&'a OwnedFd>,
    /// What serves SquashFS files to it.
    pub servers: &'a [Served],
}

/// The file in memory that lets others join; it lives as long as its descriptor.
pub(crate) fn told(inputs: &Inputs, plan: &LaunchPlan, joined: Joined<'_>) -> Called<OwnedFd> {
    let Joined { namespace, others, user, servers } = joined;
    let inode = |fd: &OwnedFd, name: &str| Ok((name.to_owned(), stat(fd, name.as_ref())?.st_ino));
    let named = others.iter().filter_map(|(kind, fd)| Some((fd, KINDS.iter().find(|(k, _)| k == kind)?.1)));
    let named = named.chain(user.map(|fd| (fd, "user")));
    let running = Running {
        uid: inputs.uid,
        node: inputs.node.clone(),
        image: plan.image.clone(),
        mounts: stat(namespace, "ns/mnt".as_ref())?.st_ino,
        others: named.map(|(fd, name)| inode(fd, name)).collect::<Called<_>>()?,
        servers: servers.iter().map(|served| (served.of.clone(), served.server)).collect(),
        set: plan.environment.set.clone(),
        unset: plan.environment.unset.clone(),
        workdir: plan.workdir.clone(),
    };
    sealed(running.to_json().as_bytes())
}

/// A file in memory that nobody can change.
fn sealed(text: &[u8]) -> Called<OwnedFd> {
    let file = rustix::fs::memfd_create(MEMORY_FILE, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| Broken::new(format!("memfd_create({MEMORY_FILE})"), e))?;
    let mut file = std::fs::File::from(file);
    file.write_all(text).map_err(|e| Broken::io(format!("write({MEMORY_FILE})"), &e))?;
    fcntl_add_seals(&file, SEALS)
        .map_err(|e| Broken::new(format!("fcntl({MEMORY_FILE}, F_ADD_SEALS)"), e))?;
    Ok(file.into())
}

/// Whether only root can have written what is in this file: a file in memory has the user who made it.
fn is_roots(file: &OwnedFd) -> bool {
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS));
    sealed && stat(file, MEMORY_FILE.as_ref()).is_ok_and(|status| status.st_uid == 0)
}

/// The container of a step of the user's own that runs on this node.
pub(crate) fn join(inputs: &Inputs, job: u32, step: u32, mut clock: Clock) -> Result<Container, Failure> {
    clock.enter(Phase::Running);
    let title = format!("slurmstepd: [{job}.{step}");
    let found = daemons(&title).find_map(|process| {
        let running = process.told()?;
        let own = running.uid == inputs.uid && running.node == inputs.node;
        let namespace = own.then(|| process.namespace("mnt", running.mounts))??;
        let other = |name: &str| running.others.get(name).map(|inode| process.namespace(name, *inode));
        // All or nothing: a task in half of a container is in none.
        let others = KINDS.into_iter().filter_map(|(kind, name)| Some(other(name)?.map(|fd| (kind, fd))));
        let others: Vec<Owned> = others.collect::<Option<_>>()?;
        let user = match other("user") {
            Some(user) => Some(user?),
            None => None,
        };
        Some((running, namespace, others, user))
    });
    let (running, namespace, others, user) = found.ok_or_else(|| not_there(job, step))?;
    let workdir = inputs.request.workdir.clone().or(running.workdir.clone());
    let edits = running.edits(&inputs.request.env, &inputs.job.environment);
    let plan = LaunchPlan::of_joined(running.image.clone(), edits, workdir);
    // The step that joins can be joined itself.
    let served = running.servers.iter().map(|(of, server)| Served::noted(of, *server));
    let servers: Vec<Served> =
        served.filter_map(Result::transpose).collect::<Called<_>>().during(Phase::Running)?;
    let joined = Joined { namespace: &namespace, others: &others, user: user.as_ref(), servers: &servers };
    let told = told(inputs, &plan, joined).during(Phase::Running)?;
    let timings = clock.stop();
    Ok(Container {
        namespace,
        others,
        user,
        saved: None,
        plan,
        ruling: None,
        meta: None,
        timings,
        cache: None,
        seccomp: inputs.site.security.seccomp,
        servers,
        uid: inputs.uid,
        told,
    })
}

/// Whether a step of this job has a daemon on this machine.
pub(crate) fn any_of(job: u32) -> bool {
    daemons(&format!("slurmstepd: [{job}.")).next().is_some()
}

/// Slurm's daemons of steps whose title begins like this and ends with the step's number or goes on after it.
fn daemons(title: &str) -> impl Iterator<Item = Process> + use<'_> {
    let entries = open_own("/proc", OFlags::RDONLY | OFlags::DIRECTORY)
        .and_then(|dir| Dir::read_from(dir).map_err(|e| Broken::new("getdents64(/proc)", e)));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name().to_owned());
    let own = own_program();
    names.filter(|name| name.to_bytes()[0].is_ascii_digit()).filter_map(move |name| {
        let process = Process::open(&name)?;
        process.is_daemon(title, own.as_deref()?).then_some(process)
    })
}

/// The path of this very program: slurmstepd, whatever a distribution calls it.
fn own_program() -> Option<String> {
    Process::open(c"self")?.program()
}

/// A process, by its directory in /proc.
struct Process {
    dir: OwnedFd,
}

impl Process {
    fn open(pid: &CStr) -> Option<Self> {
        let path = format!("/proc/{}", pid.to_str().ok()?);
        open_own(&path, OFlags::PATH | OFlags::DIRECTORY).ok().map(|dir| Self { dir })
    }

    /// Whether it is slurmstepd, whose program is at `own`, as root, of this title: any process can have the title, and a set-user-id program
    /// would have its user's real user id. The title is in the process's own memory, for which its user can make us wait
    /// (mmap_lock, held while a file system of the user's own is asked): it is read last, of root's processes alone.
    fn is_daemon(&self, title: &str, own: &str) -> bool {
        let status = self.read("status", 64 << 10).unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        // Real and saved: it may be acting as its user at the moment.
        let roots = ids.first() == Some(&"0") && ids.get(2) == Some(&"0");
        if !roots || self.program().is_none_or(|program| program != own) {
            return false;
        }
        let shown = self.read("cmdline", 4096).unwrap_or_default();
        let rest = shown.strip_prefix(title.as_bytes());
        rest.is_some_and(|rest| title.ends_with('.') || rest.starts_with(b"]") || rest.starts_with(b"+"))
    }

    /// Its program's path, also where an upgrade has replaced that.
    fn program(&self) -> Option<String> {
        let path = rustix::fs::readlinkat(&self.dir, "exe", Vec::new()).ok()?.into_string().ok()?;
        Some(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned())
    }

    /// What it says of its container.
    fn told(&self) -> Option<Running> {
        let name = format!("/memfd:{MEMORY_FILE} (deleted)");
        let file = self.open_files(&name).find(is_roots)?;
        let text = self.read_file(file, MAX_TEXT)?;
        Running::parse(&text)
    }

    /// The namespace of this kind and inode, if the process has it open.
    fn namespace(&self, kind: &str, inode: u64) -> Option<OwnedFd> {
        let shown = format!("{kind}:[{inode}]");
        let mut open = self.open_files(&shown);
        open.find(|namespace| stat(namespace, kind.as_ref()).is_ok_and(|status| status.st_ino == inode))
    }

    /// Those of its open files that the kernel calls this.
    fn open_files<'a>(&self, shown: &'a str) -> impl Iterator<Item = OwnedFd> + use<'a> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, "fd", flags, Mode::empty()).ok();
        let opened = dir.and_then(|dir| Some((Dir::read_from(&dir).ok()?, dir)));
        opened.into_iter().flat_map(move |(names, dir)| {
            let names = names.flatten().map(|entry| entry.file_name().to_owned());
            names.filter(|name| name.to_bytes()[0].is_ascii_digit()).filter_map(move |name| {
                let link = rustix::fs::readlinkat(&dir, &name, Vec::new()).ok()?;
                (link.to_bytes() == shown.as_bytes()).then(|| {
                    rustix::fs::openat(&dir, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
                })?
            })
        })
    }

    fn read(&self, name: &str, limit: usize) -> Option<Vec<u8>> {
        let file =
            rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        self.read_file(file, limit)
    }

    fn read_file(&self, file: OwnedFd, limit: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![];
        std::fs::File::from(file).take(limit as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn title_program_and_user_make_a_daemon() {
        let own = Process::open(c"self").expect("this process");
        assert_eq!(own.program(), std::env::current_exe().ok().map(|path| path.display().to_string()));
        let program = own.program().expect("it is this program");
        assert!(!own.is_daemon("slurmstepd: [1.0", &program), "another title");
        // The first process is root's and has a title of its own, but another program.
        let first = Process::open(c"1").expect("init");
        let title = first.read("cmdline", 4096).unwrap_or_default();
        let title = String::from_utf8_lossy(&title).into_owned() + ".";
        assert!(!first.is_daemon(title.trim_end_matches('.'), &program));
    }

    #[test]
    fn a_memory_file_that_others_can_have_written_is_not_believed() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: not root");
        }
        // Another's, with all seals; root's, which can still be changed; and one that is no memory.
        let theirs = sealed(b"{}").expect("memory");
        rustix::fs::fchown(&theirs, Some(rustix::fs::Uid::from_raw(1000)), None).expect("root may");
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let open = rustix::fs::memfd_create(MEMORY_FILE, flags).expect("memory");
        let file = open_own("/etc/passwd", OFlags::RDONLY).expect("every machine has one");
        assert!([theirs, open, file].iter().all(|file| !is_roots(file)));
        let right = sealed(b"{}").expect("memory");
        assert!(is_roots(&right));
        assert!(std::fs::File::from(right).write_all(b"x").is_err(), "it can be changed");
    }
}
