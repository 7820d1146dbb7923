//! Owns the opening of a byte stream: a file, a pipe, compressed or not, whose first bytes say what it is.

use std::io::{self, Cursor, Read};

use grus_core::refusal::Refusal;
use grus_squash::{decompress, Method};

use crate::failure::Failure;

/// Bytes looked at before it is decided what a stream is: several tar headers with PAX headers between.
const PEEK: u64 = 64 << 10;

/// A stream with its first bytes already known.
pub struct Stream {
    head: Vec<u8>,
    rest: Box<dyn Read + Send>,
    plain: bool,
}

/// What a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A SquashFS file.
    Squashfs,
    /// A tar of a root file system.
    Rootfs,
    /// A tar of something else: an archive of images, or a root file system with an odd first member.
    Tar,
}

impl Stream {
    /// Looks at the first bytes of `from`, decompressing it if need be. `name` is for messages.
    pub fn open(from: Box<dyn Read + Send>, name: &str) -> Result<Self, Failure> {
        let failed = |e: &io::Error| Failure::read(name, e);
        let (method, plain) = decompress(from).map_err(|e| failed(&e))?;
        readable(method, name)?;
        let stream = Self { plain: method == Method::Plain, ..Self::peek(plain).map_err(|e| failed(&e))? };
        match stream.head.is_empty() {
            true => Err(Refusal::image(format!("{name} is empty"))
                .hint("check the command before the pipe, or the file")
                .into()),
            false => Ok(stream),
        }
    }

    fn peek(mut from: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut head = vec![];
        (&mut from).take(PEEK).read_to_end(&mut head)?;
        Ok(Self { head, rest: from, plain: true })
    }

    /// What the first bytes say.
    pub fn content(&self) -> Content {
        if self.head.starts_with(b"hsqs") {
            return Content::Squashfs;
        }
        match first_name(&self.head).is_some_and(|name| of_a_rootfs(&name)) {
            true => Content::Rootfs,
            false => Content::Tar,
        }
    }

    /// Whether the stream was not compressed, so that its bytes are those of the file behind it.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether the first bytes are a tar header (ustar, GNU or PAX).
    pub fn is_tar(&self) -> bool {
        self.head.get(257..262) == Some(b"ustar") || first_name(&self.head).is_some()
    }

    /// The whole stream, from its first byte.
    pub fn reader(self) -> Box<dyn Read + Send> {
        Box::new(Cursor::new(self.head).chain(self.rest))
    }
}

/// Decompresses a layer for its diff_id, which is the digest of the plain tar.
pub fn plain_layer(from: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let (method, plain) = decompress(from)?;
    match readable(method, "the layer") {
        Ok(()) => Ok(plain),
        Err(refusal) => Err(io::Error::new(io::ErrorKind::InvalidData, refusal.to_string())),
    }
}

fn readable(method: Method, name: &str) -> Result<(), Refusal> {
    let Method::Other(tool) = method else { return Ok(()) };
    Err(Refusal::image(format!("{name} is compressed with {tool}, which is not read here"))
        .hint(format!("pipe it through its tool: {tool} -dc FILE | grus import - NAME")))
}

/// The first member of a tar that is not its own top; None if `head` is no tar.
fn first_name(head: &[u8]) -> Option<String> {
    let mut archive = tar::Archive::new(head);
    for entry in archive.entries().ok()?.take(16) {
        let path = String::from_utf8_lossy(&entry.ok()?.path_bytes()).into_owned();
        if let Some(first) = path.split('/').find(|c| !c.is_empty() && *c != ".") {
            return Some(first.to_owned());
        }
    }
    None
}

/// Directories of the Filesystem Hierarchy Standard, and what distributions add at the top.
fn of_a_rootfs(first: &str) -> bool {
    const TOP: &[&str] = &[
        "bin",
        "boot",
        "dev",
        "etc",
        "home",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "media",
        "mnt",
        "opt",
        "proc",
        "root",
        "run",
        "sbin",
        "srv",
        "sys",
        "tmp",
        "usr",
        "var",
        "bin.usr-is-merged",
        ".dockerenv",
    ];
    TOP.contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(names: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(vec![]);
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_cksum();
            tar.append_data(&mut header, name, &b"x"[..]).expect("append");
        }
        tar.into_inner().expect("tar")
    }

    fn open(bytes: Vec<u8>) -> Stream {
        Stream::open(Box::new(Cursor::new(bytes)), "-").expect("a stream")
    }

    #[test]
    fn the_first_member_says_what_a_tar_is() {
        assert_eq!(open(tar_of(&["./etc/passwd"])).content(), Content::Rootfs);
        assert_eq!(open(tar_of(&["manifest.json"])).content(), Content::Tar);
        assert_eq!(open(b"hsqs\0\0".to_vec()).content(), Content::Squashfs);
        assert!(!open(b"hello, world".to_vec()).is_tar());
    }

    #[test]
    fn compressed_streams_are_read_whole() {
        let plain = tar_of(&["usr/x"]);
        let zst = zstd::encode_all(&plain[..], 1).expect("zstd");
        let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        io::Write::write_all(&mut gz, &plain).expect("gzip");
        for packed in [zst, gz.finish().expect("gzip"), plain.clone()] {
            let stream = open(packed);
            assert_eq!(stream.content(), Content::Rootfs);
            let mut all = vec![];
            stream.reader().read_to_end(&mut all).expect("read");
            assert_eq!(all, plain);
        }
    }

    /// What is spooled to disk before anything is known of it, which no digest and no size bounds.
    #[test]
    fn a_bomb_is_stopped_before_it_fills_the_disk() {
        let start = tar_of(&["manifest.json"]);
        let bomb = Cursor::new(start).chain(io::repeat(0)).take(3 << 30);
        let bomb = zstd::stream::read::Encoder::new(bomb, 1).expect("zstd");
        let mut unpacked = Stream::open(Box::new(bomb), "bomb.tar.zst").expect("a stream").reader();
        let failure = super::super::copy(&mut unpacked, &mut io::sink(), "bomb.tar.zst", "spool".as_ref());
        let failure = failure.expect_err("must be stopped");
        assert_eq!(failure.to_string(), "bomb.tar.zst unpacks to more than 2000 times its size");
        assert_eq!(failure.exit_code(), 65);
    }

    #[test]
    fn what_cannot_be_read_names_the_tool_that_can() {
        let e = Stream::open(Box::new(Cursor::new(b"\xfd7zXZ\0".to_vec())), "a.tar.xz").err().expect("xz");
        assert_eq!(e.hint(), Some("pipe it through its tool: xz -dc FILE | grus import - NAME"));
    }
}
