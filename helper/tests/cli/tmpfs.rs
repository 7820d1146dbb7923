//! A small disk that fills up. Needs root to mount it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs; unmounted at the end.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None, and a word of it, without root.
    pub fn mount(at: &Path, kib: usize) -> Option<Self> {
        fs::create_dir_all(at).expect("mkdir");
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            _ => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here (root is needed)");
                None
            }
        }
    }

    pub fn resize(&self, kib: usize) {
        let size = format!("remount,size={kib}k");
        let done = Command::new("mount").args(["-o", &size]).arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "remount");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
