//! The files of a SquashFS image as a tar: in the order of their paths, so that it is the same each time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use backhand::{FilesystemReader, InnerNode, Node, NodeHeader, SquashfsFileReader};
use grus_core::refusal::{printable, Refusal};
use tar::{Builder, EntryType, Header};

use super::cannot_write;
use super::xattrs::Xattrs;
use crate::facts::reader::{squashfs, told};
use crate::failure::Failure;

/// An image, open.
pub struct Tree {
    reader: FilesystemReader<'static>,
    xattrs: Xattrs,
    name: String,
}

/// What tells a file with several names from others: its inode's number is not to be had.
#[derive(PartialEq, Eq, Hash)]
struct Linked {
    header: (u16, u32, u32, u32),
    at: (u64, u32, u32, u64),
    links: u32,
    xattr: u32,
}

impl Tree {
    /// Opens the file at `path`; `name` is for messages.
    pub fn open(path: &Path, name: &str) -> Result<Self, Failure> {
        let open = || File::open(path).map_err(|e| Failure::io("read", path, &e));
        let damaged = |why: &str| -> Failure {
            Refusal::image(format!("image {} cannot be exported: {}", printable(name), printable(why)))
                .hint("pull or import it again; symbolic links of 256 bytes and more cannot be read yet")
                .into()
        };
        let squashfs = squashfs(open()?).map_err(|e| damaged(told(&e)))?;
        let table = squashfs.superblock.xattr_table;
        let reader = squashfs.into_filesystem_reader().map_err(|e| damaged(told(&e)))?;
        let xattrs = Xattrs::read(open()?, table, reader.compressor.map(Into::into))
            .map_err(|e| damaged(&e.to_string()))?;
        Ok(Self { reader, xattrs, name: name.to_owned() })
    }

    /// Writes the tar, its end included.
    pub fn write(&self, out: &mut impl Write) -> Result<(), Failure> {
        let mut nodes: Vec<&Node<SquashfsFileReader>> = self.reader.files().collect();
        nodes.sort_by(|a, b| a.fullpath.cmp(&b.fullpath));
        let mut tar = Builder::new(out);
        let mut links: HashMap<Linked, (PathBuf, u32)> = HashMap::new();
        for node in nodes {
            let Ok(path) = node.fullpath.strip_prefix("/") else { continue };
            if path.as_os_str().is_empty() {
                continue;
            }
            self.entry(&mut tar, path, node, &mut links)?;
        }
        tar.finish().map_err(|e| cannot_write(&e))
    }

    fn entry(
        &self,
        tar: &mut Builder<impl Write>,
        path: &Path,
        node: &Node<SquashfsFileReader>,
        links: &mut HashMap<Linked, (PathBuf, u32)>,
    ) -> Result<(), Failure> {
        let mut header = head(&node.header);
        let nothing = io::empty();
        let done = match &node.inner {
            InnerNode::Dir(_) => {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, path, nothing)
            }
            InnerNode::Symlink(link) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, &link.link)
            }
            InnerNode::File(file) => {
                if let Some(first) = first_name(path, &node.header, file, links) {
                    header.set_entry_type(EntryType::Link);
                    tar.append_link(&mut header, path, first)
                } else {
                    return self.file(tar, path, header, file);
                }
            }
            InnerNode::CharacterDevice(device) => {
                numbered(&mut header, EntryType::Char, device.device_number)
                    .and_then(|()| tar.append_data(&mut header, path, nothing))
            }
            InnerNode::BlockDevice(device) => numbered(&mut header, EntryType::Block, device.device_number)
                .and_then(|()| tar.append_data(&mut header, path, nothing)),
            InnerNode::NamedPipe => {
                header.set_entry_type(EntryType::Fifo);
                tar.append_data(&mut header, path, nothing)
            }
            // A tar has none, and it would be no use to anyone.
            InnerNode::Socket => Ok(()),
        };
        done.map_err(|e| cannot_write(&e))
    }

    fn file(
        &self,
        tar: &mut Builder<impl Write>,
        path: &Path,
        mut header: Header,
        file: &SquashfsFileReader,
    ) -> Result<(), Failure> {
        header.set_entry_type(EntryType::Regular);
        header.set_size(file.file_len() as u64);
        if let SquashfsFileReader::Extended(extended) = file {
            let all = self.xattrs.of(extended.xattr_index);
            let all: Vec<(String, Vec<u8>)> = all.map_err(|e| self.damaged(path, &e.to_string()))?;
            if !all.is_empty() {
                // As GNU tar and Docker write them (SCHILY.xattr, star(5)).
                let named = all.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
                tar.append_pax_extensions(named).map_err(|e| cannot_write(&e))?;
            }
        }
        let opened = self.reader.file(file);
        let mut content = Told { inner: opened.reader(), failed: None };
        let done = tar.append_data(&mut header, path, &mut content);
        match content.failed {
            Some(why) => Err(self.damaged(path, &why)),
            None => done.map_err(|e| cannot_write(&e)),
        }
    }

    fn damaged(&self, path: &Path, why: &str) -> Failure {
        let path = printable(&path.display().to_string());
        Refusal::image(format!("{path} in {} is damaged: {}", printable(&self.name), printable(why)))
            .hint("pull or import the image again")
            .into()
    }
}

/// Tells a failure to read from one to write.
struct Told<R> {
    inner: R,
    failed: Option<String>,
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|e| self.failed = Some(e.to_string()))
    }
}

fn head(of: &NodeHeader) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(u32::from(of.permissions) & 0o7777);
    header.set_uid(of.uid.into());
    header.set_gid(of.gid.into());
    header.set_mtime(of.mtime.into());
    header.set_size(0);
    header
}

/// The kernel's encoding of device numbers (linux/kdev_t.h, new_decode_dev).
fn numbered(header: &mut Header, kind: EntryType, number: u32) -> io::Result<()> {
    header.set_entry_type(kind);
    header.set_device_major((number & 0xf_ff00) >> 8)?;
    header.set_device_minor((number & 0xff) | ((number >> 12) & 0xf_ff00))
}

/// The name that a file with several has been written under already.
fn first_name(
    path: &Path,
    header: &NodeHeader,
    file: &SquashfsFileReader,
    links: &mut HashMap<Linked, (PathBuf, u32)>,
) -> Option<PathBuf> {
    let SquashfsFileReader::Extended(inode) = file else { return None };
    if inode.link_count < 2 {
        return None;
    }
    let key = Linked {
        header: (header.permissions, header.uid, header.gid, header.mtime),
        at: (inode.blocks_start, inode.frag_index, inode.block_offset, inode.file_size),
        links: inode.link_count,
        xattr: inode.xattr_index,
    };
    match links.get_mut(&key) {
        // No more names than the inode has: another file of the same content may follow.
        Some((first, names)) if *names < inode.link_count => {
            *names += 1;
            Some(first.clone())
        }
        _ => {
            links.insert(key, (path.to_owned(), 1));
            None
        }
    }
}
