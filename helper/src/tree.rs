//! Owns the look into a SquashFS file without mounting it and without privilege: `grus plan` asks it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use backhand::{FilesystemReader, InnerNode};
use grus_core::path::AbsPath;
use grus_core::plan::{Entry, Kind, Rootfs};
use grus_core::refusal::{printable, Refusal};

use crate::facts::reader::{filesystem, told, way_out};
use crate::failure::Failure;

/// The tree in a SquashFS file.
pub struct Tree {
    reader: FilesystemReader<'static>,
    entries: HashMap<PathBuf, Entry>,
    name: String,
}

impl Tree {
    /// Opens the file at `path`; `name` is for messages.
    pub fn open(path: &Path, name: &str) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|e| Failure::io("read", path, &e))?;
        let reader = filesystem(file).map_err(|e| {
            Refusal::image(format!("{} is no readable SquashFS file: {}", printable(name), told(&e)))
                .hint(way_out(&e).unwrap_or("pull or import the image again"))
        })?;
        let mut entries = HashMap::new();
        for node in reader.files() {
            let (kind, target) = match &node.inner {
                InnerNode::File(_) => (Kind::File, None),
                InnerNode::Dir(_) => (Kind::Directory, None),
                InnerNode::Symlink(link) => (Kind::Symlink, Some(link.link.to_string_lossy().into_owned())),
                InnerNode::CharacterDevice(_) | InnerNode::BlockDevice(_) => (Kind::Device, None),
                InnerNode::NamedPipe | InnerNode::Socket => (Kind::Other, None),
            };
            let header = &node.header;
            let mode = u32::from(header.permissions) & 0o7777;
            let entry = Entry { kind, mode, uid: header.uid, gid: header.gid, target };
            entries.insert(node.fullpath.clone(), entry);
        }
        Ok(Self { reader, entries, name: name.to_owned() })
    }

    /// The reader of all of it.
    pub fn reader(&self) -> &FilesystemReader<'static> {
        &self.reader
    }

    fn unreadable(&self, path: &AbsPath, why: &str) -> Refusal {
        Refusal::image(format!("cannot read {path} in {}: {}", printable(&self.name), printable(why)))
            .hint("pull or import the image again")
    }
}

impl Rootfs for Tree {
    fn entry(&self, path: &AbsPath) -> Result<Option<Entry>, Refusal> {
        Ok(self.entries.get(path.as_path()).cloned())
    }

    fn read(&self, path: &AbsPath, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(node) = self.reader.files().find(|node| node.fullpath == path.as_path()) else {
            return Ok(None);
        };
        let InnerNode::File(file) = &node.inner else { return Ok(None) };
        if file.file_len() > limit {
            return Err(self.unreadable(path, &format!("it is larger than {limit} bytes")));
        }
        let mut bytes = vec![];
        let opened = self.reader.file(file);
        let mut reader = opened.reader().take(limit as u64);
        reader.read_to_end(&mut bytes).map_err(|e| self.unreadable(path, &e.to_string()))?;
        Ok(Some(bytes))
    }
}
