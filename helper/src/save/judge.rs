//! Owns what of a container's tree is not the container's: mount points and links that Grus made; and what to do where
//! the user may not read the image's own files: they come from the image file.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use grus_core::path::AbsPath;
use grus_core::plan::Rootfs;
use grus_core::saving::Order;
use grus_squash::Verdict;

use super::part;
use crate::failure::Failure;
use crate::tree::Tree;

/// `OVERLAYFS_SUPER_MAGIC` (linux/magic.h).
const OVERLAY: u64 = 0x794c_7630;

/// Decides on the entries of a container's tree.
pub struct Judge {
    top: PathBuf,
    image: AbsPath,
    /// The image's tree, read at first need.
    tree: OnceLock<Arc<Tree>>,
    /// The image's device, where its files are in the tree as they are, with its own owners and modes.
    device: Option<u64>,
    made: BTreeMap<PathBuf, Option<AbsPath>>,
    left_out: Mutex<Vec<PathBuf>>,
}

impl Judge {
    /// For the tree at `top`.
    pub fn new(order: &Order, top: &Path) -> Result<Self, Failure> {
        let failed = |e: &io::Error| Failure::io("read", top, e);
        let system = rustix::fs::statfs(top).map_err(|e| failed(&e.into()))?;
        let root = fs::metadata(top).map_err(|e| failed(&e))?;
        let device = (system.f_type as u64 != OVERLAY).then(|| root.dev());
        let relative = |path: &AbsPath| path.as_path().strip_prefix("/").unwrap_or(path.as_path()).to_owned();
        Ok(Self {
            top: top.to_owned(),
            image: order.image.clone(),
            tree: OnceLock::new(),
            device,
            made: order.made.iter().map(|(path, link)| (relative(path), link.clone())).collect(),
            left_out: Mutex::default(),
        })
    }

    /// What could not be read and is in no image either.
    pub fn left_out(&self) -> Vec<PathBuf> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn image(&self) -> io::Result<&Arc<Tree>> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let tree = Tree::open(self.image.as_path(), self.image.as_str());
        let tree = tree.map_err(|failure| io::Error::other(failure.to_string()))?;
        Ok(self.tree.get_or_init(|| Arc::new(tree)))
    }

    /// Whether the image has something there.
    fn has(&self, path: &Path) -> io::Result<bool> {
        let Ok(path) = AbsPath::parse(&format!("/{}", path.display())) else { return Ok(true) };
        self.image()?.entry(&path).map(|entry| entry.is_some()).map_err(|e| io::Error::other(e.what))
    }

    /// Whether a mount point is as it was made: an empty file, or a directory with nothing in it but such. In a writable
    /// container a link is such a place, too: its target is mounted there.
    fn untouched(&self, path: &Path, meta: &Metadata) -> bool {
        if !self.made.contains_key(path) {
            return false;
        }
        if meta.is_file() {
            return meta.len() == 0;
        }
        let below = |entry: io::Result<fs::DirEntry>| {
            let path = path.join(entry?.file_name());
            let meta = fs::symlink_metadata(self.top.join(&path))?;
            Ok::<_, io::Error>(self.untouched(&path, &meta) || self.is_own_link(&path, &meta))
        };
        meta.is_dir()
            && fs::read_dir(self.top.join(path))
                .is_ok_and(|all| all.map(below).all(|one| one.unwrap_or(false)))
    }

    fn is_own_link(&self, path: &Path, meta: &Metadata) -> bool {
        let Some(Some(target)) = self.made.get(path) else { return false };
        meta.is_symlink() && fs::read_link(self.top.join(path)).is_ok_and(|link| link == target.as_path())
    }

    /// The image's own at a path, with all below it.
    fn images(&self, path: &Path) -> io::Result<Verdict> {
        part::of(self.image()?, path).map(Verdict::Instead)
    }

    /// Whether the image's own file system is at `path`, which itself may not be looked at.
    fn in_image(&self, path: &Path, meta: Option<&Metadata>) -> bool {
        let device = meta.map(Metadata::dev).or_else(|| {
            let above = path.ancestors().skip(1);
            above
                .into_iter()
                .find_map(|dir| fs::symlink_metadata(self.top.join(dir)).ok())
                .map(|meta| meta.dev())
        });
        device.is_some() && device == self.device
    }
}

impl grus_squash::Judge for Judge {
    fn entry(&self, path: &Path, meta: &Metadata) -> io::Result<Verdict> {
        if path.as_os_str().is_empty() || !self.made.contains_key(path) {
            return Ok(Verdict::Take);
        }
        if self.is_own_link(path, meta) {
            // It covers a file of the image, or is new.
            return match self.has(path)? {
                true => self.images(path),
                false => Ok(Verdict::LeaveOut),
            };
        }
        match self.untouched(path, meta) && !self.has(path)? {
            true => Ok(Verdict::LeaveOut),
            false => Ok(Verdict::Take),
        }
    }

    fn unreadable(&self, path: &Path, meta: Option<&Metadata>) -> io::Result<Verdict> {
        if self.in_image(path, meta) {
            return self.images(path);
        }
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        Ok(Verdict::LeaveOut)
    }
}
