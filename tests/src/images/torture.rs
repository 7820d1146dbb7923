//! The *torture* image: ten tiny layers, written entry by entry, in every form that builders really emit.
//!
//! Whiteouts and opaque directories in any order, hard links to lower layers, PAX and GNU headers, sparse files,
//! xattrs and capabilities, duplicates, implicit parents, odd names, owners and times.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::layout::Layout;
use super::EPOCH;
use crate::account::checked;
use crate::command::Cmd;

/// Makes the image in the new directory `dir`.
pub fn make(dir: &Path) -> Result<()> {
    let mut layout = Layout::create(dir)?;
    let recipes: [fn(&mut Layer<'_>) -> Result<()>; 9] = [
        lower,
        metadata,
        whiteouts,
        links_to_lower_layers,
        back_again,
        whiteout_and_same_name,
        gnu_headers,
        implicit_parents,
        through_a_link,
    ];
    for recipe in recipes {
        layout.layer(|out| {
            let mut layer = Layer { tar: Builder::new(out) };
            recipe(&mut layer)?;
            Ok(layer.tar.finish()?)
        })?;
    }
    layout.layer(|out| sparse_files(&dir.join("sparse"), out))?;
    layout.finish("amd64", json!({"Env": ["PATH=/usr/bin:/bin", "IMAGE_NAME=torture"], "Cmd": ["/bin/sh"]}))
}

/// What later layers delete, hide, replace and link to.
fn lower(x: &mut Layer<'_>) -> Result<()> {
    for name in ["t", "t/del", "t/opq", "t/d2f", "t/long"] {
        x.dir(name, 0o755)?;
    }
    x.dir("t/perm", 0o1777)?;
    for i in 0..20 {
        x.file(&format!("t/del/f{i}"), format!("gone {i}\n").as_bytes())?;
        x.file(&format!("t/opq/f{i}"), format!("hidden {i}\n").as_bytes())?;
        x.file(&format!("t/d2f/f{i}"), b"x")?;
    }
    x.file("t/f2d", b"a file first")?.file("t/keep", b"kept\n")?;
    x.file("t/lower", &b"hard link's target in a lower layer\n".repeat(1000))?;
    x.put(Entry { mode: 0o640, uid: 7, gid: 8, data: b"second target\n", ..Entry::file("t/lower2") })?;
    x.put(Entry { mode: 0o4755, data: b"#!/bin/sh\n", ..Entry::file("t/suid") })?;
    x.put(Entry { mode: 0o2755, gid: 50, data: b"#!/bin/sh\n", ..Entry::file("t/sgid") })?;
    x.file("t/h1", &b"three names\n".repeat(50))?.hard("t/h2", "t/h1")?.hard("t/perm/h3", "t/h1")?;
    x.file("t/empty", b"")?;
    x.put(Entry { kind: EntryType::Fifo, mode: 0o600, ..Entry::file("t/fifo") })?;
    x.put(Entry { kind: EntryType::Char, mode: 0o666, device: (1, 3), ..Entry::file("t/null") })?;
    x.put(Entry { kind: EntryType::Block, mode: 0o660, device: (7, 0), ..Entry::file("t/loop0") })?;
    x.soft("t/symabs", "/etc/passwd")?.soft("t/symrel", "../t/keep")?.soft("t/dangling", "no/where")?;
    Ok(())
}

/// Xattrs, a capability, ids past 2^21, odd and long names, old, fractional and future times.
fn metadata(x: &mut Layer<'_>) -> Result<()> {
    // struct vfs_cap_data, revision 2: cap_net_bind_service permitted and effective (linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    x.pax(&[("SCHILY.xattr.security.capability", &capability)])?;
    x.put(Entry { mode: 0o755, data: b"cap\n", ..Entry::file("t/caps") })?;
    let long = b"v".repeat(3000);
    x.pax(&[
        ("SCHILY.xattr.user.comment", b"some value"),
        ("SCHILY.xattr.user.long", &long),
        ("SCHILY.xattr.trusted.z", b"1"),
    ])?;
    x.file("t/xattr", b"x\n")?;
    x.pax(&[("SCHILY.xattr.user.comment", b"some value")])?;
    x.dir("t/xattrdir", 0o755)?;
    // The same large ids twice: as PAX records, and in the header's base-256 form.
    x.pax(&[("uid", b"2000000"), ("gid", b"3000000")])?;
    x.file("t/bigid", b"id\n")?;
    x.put(Entry { uid: 2_200_000, gid: 3_300_000, data: b"id\n", ..Entry::file("t/bigid256") })?;
    for name in ["t/r\u{e9}sum\u{e9} \u{2713}.txt", "t/new\nline", "t/sp ace*?[x]", "t/back\\slash"] {
        x.file(name, b"odd name\n")?;
    }
    x.file(&format!("t/long/{}", "n".repeat(255)), b"255\n")?;
    let mut path = "t/long".to_owned();
    for i in 0..12 {
        path.push_str(&format!("/{}", format!("d{i:02}").repeat(20)));
        x.dir(&path, 0o755)?;
    }
    x.file(&format!("{path}/leaf"), b"deep\n")?;
    x.soft("t/longlink", &format!("{}z", "a/".repeat(900)))?;
    x.put(Entry { mtime: 0, data: b"1970\n", ..Entry::file("t/old") })?;
    x.pax(&[("mtime", format!("{EPOCH}.5").as_bytes())])?;
    x.file("t/frac", b"frac\n")?;
    x.put(Entry { mtime: 4_102_444_800, data: b"2100\n", ..Entry::file("t/future") })?;
    Ok(())
}

/// A deleted directory; an opaque one whose mark comes between its new entries; file and directory swapped.
fn whiteouts(x: &mut Layer<'_>) -> Result<()> {
    x.file("t/.wh.del", b"")?;
    x.dir("t/opq", 0o755)?.file("t/opq/new-before", b"1\n")?.file("t/opq/.wh..wh..opq", b"")?;
    x.file("t/opq/new-after", b"2\n")?;
    x.file("t/d2f", b"now a file\n")?.dir("t/f2d", 0o755)?.file("t/f2d/in", b"in\n")?;
    Ok(())
}

fn links_to_lower_layers(x: &mut Layer<'_>) -> Result<()> {
    x.hard("t/link-to-lower", "t/lower")?.hard("t/link2", "t/lower2")?;
    x.file("t/h2", b"h2 is its own file now\n")?;
    Ok(())
}

/// A deleted directory made again; the first names of hard links deleted.
fn back_again(x: &mut Layer<'_>) -> Result<()> {
    x.dir("t/del", 0o700)?.file("t/del/back", b"back\n")?;
    x.file("t/.wh.h1", b"")?.file("t/.wh.lower", b"")?;
    Ok(())
}

/// A whiteout and the same name in one layer, and a whiteout of nothing. Whiteouts only hide lower layers
/// (OCI image-spec, layer.md, "Whiteouts"), so the order within the layer must not matter.
fn whiteout_and_same_name(x: &mut Layer<'_>) -> Result<()> {
    x.file("t/.wh.keep", b"")?.file("t/keep", b"replaced, whiteout first\n")?;
    x.file("t/keep2", b"k2\n")?.file("t/.wh.keep2", b"")?;
    x.file("t/.wh.never-was", b"")?;
    Ok(())
}

/// GNU long names and links, names with ./ before and / behind, one name twice in a layer.
fn gnu_headers(x: &mut Layer<'_>) -> Result<()> {
    x.gnu("./t/gnu/", EntryType::Directory, None, b"")?;
    x.gnu(&format!("./t/gnu/{}", "g".repeat(200)), EntryType::Regular, None, b"gnu\n")?;
    x.gnu("./t/gnu/dup", EntryType::Regular, None, b"first\n")?;
    x.gnu("./t/gnu/dup", EntryType::Regular, None, b"second\n")?;
    let name = format!("./t/gnu/l{}", "l".repeat(150));
    x.gnu(&name, EntryType::Symlink, Some(&"t".repeat(300)), b"")
}

/// Files whose parent directories have no entry of their own.
fn implicit_parents(x: &mut Layer<'_>) -> Result<()> {
    x.file("implicit/a/b/c/file", b"implicit parents\n")?.file("t/opq/x/y/z", b"z\n")?;
    Ok(())
}

/// A directory and a link to it, as after a merge of /usr.
fn through_a_link(x: &mut Layer<'_>) -> Result<()> {
    x.dir("t/real", 0o755)?.soft("t/symdir", "real")?.file("t/real/one", b"1\n")?;
    Ok(())
}

/// Sparse files as GNU tar writes them in PAX archives (sparse format 1.0). The old GNU type 'S' is left out: the
/// reference unpacker refuses it, and no builder of images writes it.
fn sparse_files(dir: &Path, out: &mut dyn Write) -> Result<()> {
    let files = dir.join("t");
    fs::create_dir_all(&files)?;
    let mut file = File::create(files.join("sparse"))?;
    file.seek(SeekFrom::Start(10 << 20))?;
    file.write_all(b"middle")?;
    file.seek(SeekFrom::Start(30 << 20))?;
    file.write_all(b"end")?;
    file.set_len((30 << 20) + 3 * 4096)?;
    File::create(files.join("hole"))?.set_len(6 << 20)?;
    let tar = dir.with_extension("tar");
    let command =
        Cmd::new("tar").arg("-C").arg(dir).arg("-cf").arg(&tar).args(["--format=posix", "--sparse"]);
    let command = command.args(["--sort=name", "--numeric-owner", "--owner=0", "--group=0"]);
    let command = command.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
    checked(command.arg(format!("--mtime=@{EPOCH}")).args(["t/sparse", "t/hole"]))?;
    std::io::copy(&mut File::open(&tar)?, out)?;
    fs::remove_file(tar)?;
    Ok(fs::remove_dir_all(dir)?)
}

/// One entry, with what is usual where nothing is said.
struct Entry<'a> {
    name: &'a str,
    kind: EntryType,
    link: Option<&'a str>,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    device: (u32, u32),
    data: &'a [u8],
}

impl<'a> Entry<'a> {
    fn file(name: &'a str) -> Self {
        Entry {
            name,
            kind: EntryType::Regular,
            link: None,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: EPOCH,
            device: (0, 0),
            data: b"",
        }
    }
}

/// A layer written with PAX headers where ustar's do not reach.
struct Layer<'a> {
    tar: Builder<&'a mut dyn Write>,
}

impl Layer<'_> {
    fn dir(&mut self, name: &str, mode: u32) -> Result<&mut Self> {
        self.put(Entry { kind: EntryType::Directory, mode, ..Entry::file(name) })
    }

    fn file(&mut self, name: &str, data: &[u8]) -> Result<&mut Self> {
        self.put(Entry { data, ..Entry::file(name) })
    }

    fn hard(&mut self, name: &str, target: &str) -> Result<&mut Self> {
        self.put(Entry { kind: EntryType::Link, link: Some(target), ..Entry::file(name) })
    }

    fn soft(&mut self, name: &str, target: &str) -> Result<&mut Self> {
        self.put(Entry { kind: EntryType::Symlink, mode: 0o777, link: Some(target), ..Entry::file(name) })
    }

    /// PAX records for the entry that follows (pax(5)).
    fn pax(&mut self, records: &[(&str, &[u8])]) -> Result<()> {
        Ok(self.tar.append_pax_extensions(records.iter().copied())?)
    }

    fn put(&mut self, entry: Entry<'_>) -> Result<&mut Self> {
        let mut header = Header::new_ustar();
        fill(&mut header, &entry)?;
        // Names and targets that do not fit go into PAX records of their own, as Docker's writer does it. Records
        // may already stand before this entry; readers merge consecutive extended headers of one entry only in
        // part, so those entries keep short names.
        let mut records = Vec::new();
        if entry.name.len() > 100 || !entry.name.is_ascii() {
            records.push(("path", entry.name.as_bytes()));
        }
        if let Some(link) = entry.link.filter(|link| link.len() > 100) {
            records.push(("linkpath", link.as_bytes()));
        }
        if !records.is_empty() {
            self.pax(&records)?;
        }
        header.set_cksum();
        self.tar.append(&header, entry.data)?;
        Ok(self)
    }

    /// An entry with GNU's headers: long names and targets in entries of type 'L' and 'K'.
    fn gnu(&mut self, name: &str, kind: EntryType, link: Option<&str>, data: &[u8]) -> Result<()> {
        for (kind, long) in [(EntryType::GNULongName, Some(name)), (EntryType::GNULongLink, link)] {
            let Some(long) = long.filter(|text| text.len() > 100) else { continue };
            let text = [long.as_bytes(), b"\0"].concat();
            let mut header = Header::new_gnu();
            fill(&mut header, &Entry { kind, data: &text, mtime: 0, ..Entry::file("././@LongLink") })?;
            header.set_cksum();
            self.tar.append(&header, &text[..])?;
        }
        let mode = if kind == EntryType::Directory { 0o755 } else { 0o644 };
        let mut header = Header::new_gnu();
        fill(&mut header, &Entry { kind, link, mode, data, ..Entry::file(name) })?;
        header.set_cksum();
        Ok(self.tar.append(&header, data)?)
    }
}

/// Fields as they are, cut where they do not fit: what is cut travels in an extension before the entry.
fn fill(header: &mut Header, entry: &Entry<'_>) -> Result<()> {
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(entry.mtime);
    header.set_size(entry.data.len() as u64);
    if matches!(entry.kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(entry.device.0)?;
        header.set_device_minor(entry.device.1)?;
    }
    let old = header.as_old_mut();
    copy_cut(&mut old.name, entry.name);
    copy_cut(&mut old.linkname, entry.link.unwrap_or_default());
    Ok(())
}

fn copy_cut(field: &mut [u8; 100], text: &str) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}
