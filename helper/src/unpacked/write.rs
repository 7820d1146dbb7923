//! A tree written from a SquashFS file, by the user whose it will be. The image is a stranger's: each name is made in a
//! directory that was reached without a link (openat2(2)), so that nothing outside of the tree can be written.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use backhand::{FilesystemReader, InnerNode, Node, SquashfsFileReader};
use grus_core::refusal::{printable, Refusal};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, CWD};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::facts::guarded;
use crate::failure::{reason, Failure};
use crate::interrupt::Noted;
use crate::tree::Tree;

/// Unpacks `image` into the new directory `to`; returns the bytes of its files. Devices, pipes and sockets are left out,
/// set-id bits too, and the user can read all.
pub fn tree(image: &Path, name: &str, to: &Path) -> Result<u64, Failure> {
    let noted = Noted::from_now(&[SIGINT, SIGTERM, SIGHUP]);
    let done = guarded(name, || {
        let tree = Tree::open(image, name)?;
        DirBuilder::new().mode(0o700).create(to).map_err(|e| Failure::io("create", to, &e))?;
        // Open for syncfs(2), which tells of what could not be written since this.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, to, flags, Mode::empty())
            .map_err(|e| Failure::io("open", to, &e.into()))?;
        let mut writer = Writer { root, last: None, to, name };
        let mut bytes = 0;
        for node in tree.reader().files() {
            if noted.came() {
                return Err(Failure::Cancelled);
            }
            bytes += writer.node(tree.reader(), node)?;
        }
        // A quota of NFS is only noticed now, and a tree that is there is believed to be whole ever after.
        rustix::fs::syncfs(&writer.root).map_err(|e| Failure::io("write", to, &e.into()))?;
        Ok(bytes)
    });
    match noted.end() {
        true => Err(Failure::Cancelled),
        false => done,
    }
}

struct Writer<'a> {
    root: OwnedFd,
    /// The directory of the entry before.
    last: Option<(PathBuf, OwnedFd)>,
    to: &'a Path,
    name: &'a str,
}

impl Writer<'_> {
    fn node(
        &mut self,
        reader: &FilesystemReader<'_>,
        node: &Node<SquashfsFileReader>,
    ) -> Result<u64, Failure> {
        let path = &node.fullpath;
        let (above, file) = match (path.parent(), path.file_name()) {
            (Some(above), Some(file)) => (above, file),
            _ => return self.top(&node.inner, u32::from(node.header.permissions)).map(|()| 0),
        };
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.components().all(plain) || file.as_encoded_bytes().contains(&b'/') {
            return Err(self.damaged(path, "it is no path"));
        }
        let mode = u32::from(node.header.permissions) & 0o777;
        let failed = |this: &Self, e: io::Error| match e.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => this.damaged(path, &reason(&e)),
            _ => Failure::io("unpack", &this.to.join(path.strip_prefix("/").unwrap_or(path)), &e),
        };
        let dir = self.directory(above).map_err(|e| failed(self, e))?;
        let written = match &node.inner {
            InnerNode::File(content) => write_file(&dir, file, mode, &mut reader.file(content).reader()),
            InnerNode::Dir(_) => rustix::fs::mkdirat(&dir, file, Mode::RWXU)
                // By itself, whatever the umask; the name is new and nobody else's.
                .and_then(|()| {
                    rustix::fs::chmodat(&dir, file, Mode::from_raw_mode(mode | 0o700), AtFlags::empty())
                })
                .map(|()| 0)
                .map_err(Into::into),
            InnerNode::Symlink(link) => {
                rustix::fs::symlinkat(&link.link, &dir, file).map(|()| 0).map_err(Into::into)
            }
            InnerNode::CharacterDevice(_) | InnerNode::BlockDevice(_) => Ok(0),
            InnerNode::NamedPipe | InnerNode::Socket => Ok(0),
        };
        let written = written.map_err(|e| failed(self, e))?;
        self.last = Some((above.to_owned(), dir));
        Ok(written)
    }

    /// The tree's own directory gets the image's mode: strangers are kept out by the one above it.
    fn top(&self, inner: &InnerNode<SquashfsFileReader>, mode: u32) -> Result<(), Failure> {
        let InnerNode::Dir(_) = inner else { return Ok(()) };
        let mode = Mode::from_raw_mode(mode & 0o777 | 0o700);
        rustix::fs::chmodat(CWD, self.to, mode, AtFlags::empty())
            .map_err(|e| Failure::io("unpack", self.to, &e.into()))
    }

    /// The directory of the tree at this path of the image. Entries of a directory follow each other.
    fn directory(&mut self, path: &Path) -> io::Result<OwnedFd> {
        match self.last.take() {
            Some((last, dir)) if last == path => Ok(dir),
            _ => {
                let below = path.strip_prefix("/").unwrap_or(path);
                let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                Ok(rustix::fs::openat2(self.root.as_fd(), below, flags, Mode::empty(), resolve)?)
            }
        }
    }

    fn damaged(&self, path: &Path, why: &str) -> Failure {
        let (name, path) = (printable(self.name), printable(&path.to_string_lossy()));
        Refusal::image(format!("image {name} cannot be unpacked: {path}: {}", printable(why)))
            .hint("it is damaged or was made to do harm; pull it again")
            .into()
    }
}

fn write_file(
    dir: &OwnedFd,
    name: &std::ffi::OsStr,
    mode: u32,
    content: &mut impl io::Read,
) -> io::Result<u64> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    let written = io::copy(content, &mut file)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode | 0o400))?;
    Ok(written)
}
