//! Owns a new file in a directory of the user's: without a name until it is whole, so that nothing is left of one that
//! is not, whoever ends the program. Where a file system knows no such files (NFS), it has a name of its own till then.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{linkat, openat, AtFlags, Mode, OFlags, CWD};

use super::not_written;
use crate::failure::Failure;
use crate::interrupt;

/// The file.
pub struct NewFile {
    file: File,
    to: PathBuf,
    /// Its name until it is published.
    temporary: PathBuf,
    named: bool,
}

impl NewFile {
    /// Makes it where `to` will be.
    pub fn create(to: &Path) -> Result<Self, Failure> {
        let dir = to.parent().unwrap_or(to);
        let mut name = OsString::from(".");
        name.push(to.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        let temporary = dir.join(name);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(file) = openat(CWD, dir, flags, Mode::from_raw_mode(0o644)) {
            return Ok(Self { file: file.into(), to: to.to_owned(), temporary, named: false });
        }
        interrupt::temporary().insert(temporary.clone());
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&temporary);
        match made {
            Ok(file) => Ok(Self { file, to: to.to_owned(), temporary, named: true }),
            Err(error) => {
                interrupt::temporary().remove(&temporary);
                Err(not_written(to, &error))
            }
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Brings it to the disk; a full one or a quota may come to light only here.
    pub fn sync(&self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|e| not_written(&self.to, &e))
    }

    /// Gives it its name; a file that has it is replaced.
    pub fn publish(mut self) -> Result<(), Failure> {
        if !self.named {
            interrupt::temporary().insert(self.temporary.clone());
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let linked = linkat(CWD, own, CWD, &self.temporary, AtFlags::SYMLINK_FOLLOW);
            if let Err(errno) = linked {
                interrupt::temporary().remove(&self.temporary);
                return Err(not_written(&self.to, &errno.into()));
            }
            self.named = true;
        }
        let mut files = interrupt::temporary();
        std::fs::rename(&self.temporary, &self.to).map_err(|e| not_written(&self.to, &e))?;
        files.remove(&self.temporary);
        self.named = false;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.named {
            interrupt::remove(&self.temporary);
        }
    }
}
