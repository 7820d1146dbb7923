//! A file system of a step's own on the node's disk: an ext4 in a file that has no name.
//!
//! The file is made with O_TMPFILE and nothing but the loop device holds it, so that it is gone with the last mount,
//! however that ends. mkfs.ext4 runs as root: run as the user, another process of the user could take hold of its
//! descriptor, and write into the file what the kernel's ext4 then has to parse (ADR 4). It reads nothing of the user's.
//! It works in memory, and what it wrote, some hundred KiB, is copied: on a disk it waits four times for fsync(2), which
//! takes ten times as long as all else.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use grus_core::path::AbsPath;
use grus_core::site::Site;
use grus_core::Refusal;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{kill_process, pidfd_open, PidfdFlags, Resource, Signal};

use crate::call::{new_mount, open_own, shown, Broken, Called, During};
use crate::deadline::Deadline;
use crate::failure::{reason, Failed, Failure, Phase};
use crate::loopdev::{self, Access};
use crate::program::{cstr, last_words, proc, Identity, Named, Program};
use crate::sys::{spawn_confined, wait, KILLED};

/// How long mkfs.ext4 may take; it writes little, whatever the size.
const TIME: Duration = Duration::from_secs(20);

/// Processor seconds, address space, no core file.
const LIMITS: &[(Resource, u64)] = &[(Resource::Cpu, 10), (Resource::As, 4 << 30), (Resource::Core, 0)];

/// Most memory for what mkfs.ext4 writes; it is a few hundred KiB for a size of 10 GiB, and grows with it.
const DRAFT: &str = "256m";

/// No journal, since nothing is left to recover; an inode for each 8 KiB, for many small files; nothing written that a
/// sparse file has anyway. 'none' first, so that mke2fs.conf adds no feature that an older kernel lacks.
const ARGUMENTS: &[&str] = &[
    "mkfs.ext4",
    "-q",
    "-F",
    "-b4096",
    "-m0",
    "-i8192",
    "-I256",
    "-Onone,extent,sparse_super,filetype,dir_index,flex_bg,uninit_bg,large_file,huge_file,dir_nlink,extra_isize,64bit",
    "-Elazy_itable_init=1,nodiscard",
    "/proc/self/fd/3",
];

/// Where such a file system is made, and of what size.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    /// The directory.
    pub dir: &'a AbsPath,
    /// Bytes.
    pub size: u64,
    /// What is being done, for errors.
    pub phase: Phase,
}

impl Disk<'_> {
    /// Makes and mounts it, attached nowhere and empty; its root belongs to root.
    pub fn mount(
        &self,
        site: &Site,
        deadline: &Deadline,
        attributes: MountAttrFlags,
    ) -> Result<OwnedFd, Failure> {
        let package = "e2fsprogs";
        let mkfs = Named { path: &site.scratch.mkfs, key: "scratch.mkfs", package, phase: self.phase };
        let mkfs = mkfs.trusted()?;
        let draft = self.draft().during(self.phase)?;
        self.format(&mkfs, &draft, deadline)?;
        let file = self.file()?;
        copy(&draft, &file).during(self.phase)?;
        let (_device, name) =
            loopdev::device(&file, self.dir.as_path(), Access::ReadWrite).during(self.phase)?;
        // No inode tables are to be zeroed in the background, which would fill the sparse file; and no fsync(2) of a
        // task is to wait for the disk, as nothing outlives the node's crash.
        let options = [("source", name.as_str()), ("noinit_itable", ""), ("nobarrier", "")];
        let mount = new_mount("ext4", &options, attributes).during(self.phase)?;
        rustix::fs::unlinkat(&mount, "lost+found", AtFlags::REMOVEDIR)
            .map_err(|e| Broken::new("unlinkat(lost+found)", e).during(self.phase))?;
        Ok(mount)
    }

    /// A file of the same size in memory, for mkfs.ext4 to write.
    fn draft(&self) -> Called<OwnedFd> {
        let options = [("source", "grus"), ("size", DRAFT), ("mode", "0700")];
        let memory = new_mount("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let draft = rustix::fs::openat(&memory, ".", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Broken::new("openat(tmpfs, O_TMPFILE)", e))?;
        rustix::fs::ftruncate(&draft, self.size)
            .map_err(|e| Broken::new(format!("ftruncate({})", self.size), e))?;
        Ok(draft)
    }

    /// The file, sparse. O_EXCL: nothing can give it a name later (open(2)).
    fn file(&self) -> Result<OwnedFd, Failure> {
        let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.dir.as_path(), flags, Mode::RUSR | Mode::WUSR).map_err(|errno| {
            let dir = shown(self.dir.as_path());
            let what = format!("{}: no file can be made in {dir}: {}", self.phase, reason(errno));
            let hint = match errno {
                Errno::NOSPC | Errno::DQUOT => "the node's disk is full; tell the administrator",
                Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL => {
                    "its file system lacks O_TMPFILE; the administrator must choose a directory of a local disk"
                }
                _ => "the administrator must mend scratch.dir or volatile.dir in grus.toml, or this node's disk",
            };
            Failure::from(Refusal::site(what).hint(hint))
        })?;
        rustix::fs::ftruncate(&file, self.size)
            .map_err(|e| Broken::new(format!("ftruncate({})", self.size), e).during(self.phase))?;
        Ok(file)
    }

    fn format(&self, mkfs: &std::ffi::CStr, file: &OwnedFd, deadline: &Deadline) -> Result<(), Failure> {
        let null = open_own("/dev/null", OFlags::RDWR).during(self.phase)?;
        let proc = proc().during(self.phase)?;
        let (messages, stderr) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|e| Broken::new("pipe2", e).during(self.phase))?;
        let arguments: Vec<_> = ARGUMENTS.iter().map(|word| cstr(word)).collect();
        let program = Program {
            path: mkfs,
            arguments: &arguments,
            environment: &[],
            descriptors: &[null.as_fd(), null.as_fd(), stderr.as_fd(), file.as_fd()],
            proc: proc.as_fd(),
            cgroups: &[],
            limits: LIMITS,
            identity: Some(Identity { uid: 0, gid: 0, gids: &[] }),
        };
        let pid = spawn_confined(&program).during(self.phase)?;
        let ended = ends(pid, Instant::now() + TIME, deadline);
        // Whether it has ended or had its time.
        let _ = kill_process(pid, Signal::KILL);
        let status = wait(pid, KILLED);
        drop(stderr);
        if let (Ok(true), Some(0)) = (&ended, status) {
            return Ok(());
        }
        let call = match ended {
            Ok(false) => format!("mkfs.ext4 did not end within {} s", TIME.as_secs()),
            _ => match last_words(messages) {
                Some(words) => format!("mkfs.ext4 said: {words}"),
                None => format!("mkfs.ext4 ended with status {:#x}", status.unwrap_or_default()),
            },
        };
        let advice = Some("the node's disk may be full or broken; tell the administrator".into());
        Err(Failure::Failed(Failed { phase: self.phase, call, errno: None, advice }))
    }
}

/// Copies what was written to one file into another; holes stay holes.
fn copy(from: &OwnedFd, to: &OwnedFd) -> Called<()> {
    let broken = |e| Broken::new("copying what mkfs.ext4 wrote", e);
    let mut part = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(()),
            Err(e) => return Err(broken(e)),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(at)).map_err(broken)?;
        while at < hole {
            let most = part.len().min((hole - at) as usize);
            let read = rustix::io::pread(from, &mut part[..most], at).map_err(broken)?;
            let mut written = 0;
            while written < read {
                let more =
                    rustix::io::pwrite(to, &part[written..read], at + written as u64).map_err(broken)?;
                written += more;
            }
            at += read as u64;
        }
    }
}

/// Waits for a process's end; false if its time is over, or the whole build's.
fn ends(pid: rustix::process::Pid, end: Instant, deadline: &Deadline) -> Called<bool> {
    let watch = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Broken::new("pidfd_open", e))?;
    // In short turns, as the caller may lose patience in between.
    let turn = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while Instant::now() < end && !deadline.passed() {
        match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&turn)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(Broken::new("poll(pidfd)", e)),
        }
    }
    Ok(false)
}
