//! Owns a part of an image as members of a tar, read from the SquashFS file itself: whoever can read that file can read
//! all that is in it. Hard links come as files of their own, extended attributes do not come.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use backhand::{InnerNode, Node, SquashfsFileReader};
use tar::{Builder, EntryType, Header};

use crate::tree::Tree;

/// Bytes of a tar's end.
const END: usize = 1024;

/// What is at `path` (relative to the root) and below it.
pub fn of(tree: &Arc<Tree>, path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let (reader, writer) = io::pipe()?;
    let (tree, top) = (Arc::clone(tree), Path::new("/").join(path));
    let thread =
        std::thread::Builder::new().name("image".into()).spawn(move || write(&tree, &top, writer))?;
    Ok(Box::new(Part { reader, thread: Some(thread) }))
}

/// The reading end; tells at the end what the writing end met.
struct Part {
    reader: PipeReader,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        if n == 0 && !buffer.is_empty() {
            if let Some(thread) = self.thread.take() {
                thread.join().map_err(|_| io::Error::other("reading the image broke off"))??;
            }
        }
        Ok(n)
    }
}

fn write(tree: &Tree, top: &Path, mut out: PipeWriter) -> io::Result<()> {
    for node in tree.reader().files().filter(|node| node.fullpath.starts_with(top)) {
        out.write_all(&headers(node)?)?;
        if let InnerNode::File(file) = &node.inner {
            let opened = tree.reader().file(file);
            let size = io::copy(&mut opened.reader(), &mut out)?;
            let padding = (size.wrapping_neg() % 512) as usize;
            out.write_all(&[0; 512][..padding])?;
        }
    }
    Ok(())
}

/// The headers of a member, long names and all.
fn headers(node: &Node<SquashfsFileReader>) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_mode(u32::from(node.header.permissions) & 0o7777);
    header.set_uid(node.header.uid.into());
    header.set_gid(node.header.gid.into());
    header.set_mtime(node.header.mtime.into());
    header.set_size(0);
    let path = node.fullpath.strip_prefix("/").unwrap_or(&node.fullpath);
    let path = if path.as_os_str().is_empty() { Path::new("./") } else { path };
    let mut tar = Builder::new(vec![]);
    let device = |header: &mut Header, number: u32| {
        // As the kernel packs it into 32 bits (linux/kdev_t.h, new_decode_dev).
        header.set_device_major((number & 0xf_ff00) >> 8)?;
        header.set_device_minor(number & 0xff | number >> 12 & 0xf_ff00)
    };
    match &node.inner {
        InnerNode::Symlink(link) => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, &link.link)?;
            return end(tar);
        }
        InnerNode::File(file) => header.set_size(file.file_len() as u64),
        InnerNode::Dir(_) => header.set_entry_type(EntryType::Directory),
        InnerNode::CharacterDevice(it) => {
            header.set_entry_type(EntryType::Char);
            device(&mut header, it.device_number)?;
        }
        InnerNode::BlockDevice(it) => {
            header.set_entry_type(EntryType::Block);
            device(&mut header, it.device_number)?;
        }
        InnerNode::NamedPipe => header.set_entry_type(EntryType::Fifo),
        InnerNode::Socket => return Ok(vec![]),
    }
    tar.append_data(&mut header, path, io::empty())?;
    end(tar)
}

/// What was written, without the end of an archive.
fn end(tar: Builder<Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut bytes = tar.into_inner()?;
    bytes.truncate(bytes.len().saturating_sub(END));
    Ok(bytes)
}
