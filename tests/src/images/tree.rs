//! Packs a directory tree, plain or an overlay's upper, as a layer's tar: sorted, numeric owners, time stamps not
//! after [`EPOCH`]. Overlay's own marks of deletion become the image format's whiteouts.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{bail, Result};
use tar::{Builder, EntryType, Header};

use super::EPOCH;

/// Writes the tree below `root` to `out`.
pub fn pack(root: &Path, out: &mut dyn Write) -> Result<()> {
    let mut packer = Packer { root, tar: Builder::new(out), first_names: HashMap::new() };
    packer.directory(Path::new(""))?;
    Ok(packer.tar.finish()?)
}

struct Packer<'a> {
    root: &'a Path,
    tar: Builder<&'a mut dyn Write>,
    /// First name of each file with several, by device and inode.
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl Packer<'_> {
    fn directory(&mut self, dir: &Path) -> Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(dir))? {
            names.push(entry?.file_name());
        }
        names.sort();
        for name in names {
            let path = dir.join(name);
            let meta = fs::symlink_metadata(self.root.join(&path))?;
            self.entry(&path, &meta)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, meta: &Metadata) -> Result<()> {
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            // An overlay's whiteout (kernel, Documentation/filesystems/overlayfs.rst).
            return self.whiteout(path, ".wh.");
        }
        let mut header = header(meta);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, path, &b""[..])?;
            if self.is_opaque(path) {
                self.whiteout(&path.join("x"), ".wh..wh..opq")?;
            }
            return self.directory(path);
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(self.root.join(path))?;
            return Ok(self.tar.append_link(&mut header, path, target)?);
        }
        if kind.is_socket() {
            return Ok(());
        }
        if !kind.is_file() {
            bail!("{} is neither file, directory nor link", path.display());
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.first_names.get(&(meta.dev(), meta.ino())) {
                header.set_entry_type(EntryType::Link);
                return Ok(self.tar.append_link(&mut header, path, first.clone())?);
            }
            self.first_names.insert((meta.dev(), meta.ino()), path.into());
        }
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.size());
        Ok(self.tar.append_data(&mut header, path, File::open(self.root.join(path))?)?)
    }

    /// `.wh.<name>` beside `path`, or the given whole name when it is the mark of an opaque directory.
    fn whiteout(&mut self, path: &Path, mark: &str) -> Result<()> {
        let mut name = mark.as_bytes().to_vec();
        if mark == ".wh." {
            name.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(EPOCH);
        header.set_size(0);
        let name = path.with_file_name(std::ffi::OsStr::from_bytes(&name));
        Ok(self.tar.append_data(&mut header, name, &b""[..])?)
    }

    fn is_opaque(&self, path: &Path) -> bool {
        let mut value = [0; 1];
        let size = rustix::fs::lgetxattr(self.root.join(path), "trusted.overlay.opaque", &mut value[..]);
        size == Ok(1) && &value == b"y"
    }
}

fn header(meta: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime((meta.mtime().max(0) as u64).min(EPOCH));
    header.set_size(0);
    header
}
