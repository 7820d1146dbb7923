//! Owns files that are being written: made in the repository's `tmp/`, removed on every way out but
//! publication, and swept by a later command if the writer was killed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::process::{test_kill_process, Pid};

use super::partial;
use crate::failure::Failure;
use crate::interrupt;

/// A leftover of a writer on another machine is swept after this time without a write.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Written bytes are brought to the disk in portions of this size, looked for this often.
const SYNC_BYTES: u64 = 64 << 20;
const SYNC_PAUSE: Duration = Duration::from_millis(100);

/// Ending of a file that holds a reader's spool or a result in the making.
const ENDING: &str = ".part";

/// A file in `tmp/`. Dropped, it is removed.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    file: File,
    published: bool,
}

impl TempFile {
    /// Makes an empty file in `tmp`, open for reading and writing. `public`: everyone may read it, whatever
    /// the umask (system repository).
    pub fn create(tmp: &Path, public: bool) -> Result<Self, Failure> {
        Self::create_as(tmp, public, ENDING)
    }

    /// The same with another ending of its name.
    pub(super) fn create_as(tmp: &Path, public: bool, ending: &str) -> Result<Self, Failure> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::create_at(tmp.join(format!("{}.{count}{ending}", writer())), public)
    }

    /// The same at a path that nobody else makes.
    pub(super) fn create_at(path: PathBuf, public: bool) -> Result<Self, Failure> {
        interrupt::temporary().insert_unless(path.clone(), partial::resumes);
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&path);
        let made = opened.and_then(|file| {
            if public {
                file.set_permissions(fs::Permissions::from_mode(0o644))?;
            }
            Ok(file)
        });
        match made {
            Ok(file) => Ok(Self { path, file, published: false }),
            Err(error) => {
                interrupt::remove(&path);
                Err(Failure::io("create", &path, &error))
            }
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the content to disk.
    pub fn sync(&self) -> Result<(), Failure> {
        // close(2): write errors of NFS and quotas may come to light only here.
        self.file.sync_all().map_err(|e| Failure::io("write", &self.path, &e))
    }

    /// Does `write`, and meanwhile brings to the disk what it has written, so that [`TempFile::sync`] finds little left
    /// to wait for. The second result is that of the syncing: an error is told once for a file (fsync(2)), here or by
    /// the last sync.
    pub fn syncing<T>(&self, write: impl FnOnce() -> T) -> (T, io::Result<()>) {
        let (running, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let syncing = scope.spawn(move || {
                let mut done = 0;
                while ended.recv_timeout(SYNC_PAUSE) == Err(RecvTimeoutError::Timeout) {
                    let written = self.file.metadata()?.len();
                    if written.saturating_sub(done) >= SYNC_BYTES {
                        self.file.sync_data()?;
                        done = written;
                    }
                }
                Ok(())
            });
            let result = write();
            drop(running);
            (result, syncing.join().unwrap_or(Ok(())))
        })
    }

    /// Leaves the file where it is, for a later command.
    pub(super) fn leave(mut self) {
        interrupt::temporary().remove(&self.path);
        self.published = true;
    }

    /// Moves the synced file to `to` by `rename`, which gives false if it left the file where it was.
    pub fn publish(
        mut self,
        to: &Path,
        rename: impl FnOnce(&Path, &Path) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let mut files = interrupt::temporary();
        let moved = rename(&self.path, to)?;
        if moved {
            files.remove(&self.path);
            self.published = true;
        }
        Ok(moved)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            interrupt::remove(&self.path);
        }
    }
}

/// Whether the file `name` is of a process of this machine that no longer runs.
pub(super) fn is_orphan(name: &str) -> bool {
    writer_is_gone(name, &machine())
}

/// Names the writing process: boot, pid namespace and pid. Unique while it lives, on one machine or many.
fn writer() -> String {
    format!("{}.{}", machine(), std::process::id())
}

fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    let namespace = fs::metadata("/proc/self/ns/pid").map(|m| m.ino()).unwrap_or(0);
    format!("{boot}-{namespace:x}")
}

/// Removes what killed writers left in `tmp`: at once if the writer ran on this machine and is gone, else by
/// age. Failures are left for the next sweep.
pub fn sweep(tmp: &Path) {
    partial::sweep(tmp, false);
    let Ok(entries) = fs::read_dir(tmp) else { return };
    let machine = machine();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !partial::is_one(name)) else { continue };
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > STALE));
        if old || name.ends_with(ENDING) && writer_is_gone(name, &machine) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether `name` is of a process of this `machine` that no longer runs. kill(2) tells, also of other users' processes,
/// which /proc may hide (hidepid).
fn writer_is_gone(name: &str, machine: &str) -> bool {
    let mut parts = name.split('.');
    let (here, pid) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok()));
    let pid = pid.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    here == Some(machine) && pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_is_gone_and_a_dead_writers_is_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = TempFile::create(dir.path(), false).expect("a file");
        // Larger than pid_max can be (2^22), so no process has it.
        let dead = dir.path().join(format!("{}.99999999.0{ENDING}", machine()));
        let foreign = dir.path().join(format!("0-0.99999999.0{ENDING}"));
        fs::write(&dead, "x").expect("write");
        fs::write(&foreign, "x").expect("write");
        sweep(dir.path());
        assert!(file.path().exists(), "a living writer's file stays");
        assert!(!dead.exists());
        assert!(foreign.exists(), "another machine's file is judged by age");
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists());
    }
}
