//! The torture image against a reference unpack by umoci, which shares no code with Grus: every name's type, mode,
//! ids, size, links, time, xattrs and content.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use grus_tests::images::EPOCH;
use grus_tests::{Cmd, ImageStore};
use sha2::{Digest, Sha256};

use crate::lab::Lab;

crate::tests![the_kernels_view_is_the_reference, an_independent_readers_view_is_the_reference];

/// What is compared of one name.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u64,
    /// None for a directory: unpacking changes it with each entry.
    time: Option<i64>,
    xattrs: BTreeMap<String, Vec<u8>>,
    content: String,
}

fn the_kernels_view_is_the_reference(lab: &Lab) {
    let (reference, mounted) = (reference(lab), lab.dir().join("torture-mounted"));
    fs::create_dir_all(&mounted).expect("the lab's directory is writable");
    let image = lab.system_file("torture");
    let _ =
        Cmd::new("mount").args(["-t", "squashfs", "-o", "loop,ro"]).arg(image).arg(&mounted).run().success();
    let seen = std::panic::catch_unwind(|| tree(&mounted));
    // Directories with an entry of their own have its time, whatever came into them later.
    let time = fs::metadata(mounted.join("t/perm")).map(|meta| meta.mtime());
    let _ = Cmd::new("umount").arg(&mounted).run().success();
    assert_eq!(time.ok(), Some(EPOCH as i64), "time of t/perm");
    compare(&tree(&reference), &seen.expect("the mounted tree can be read"));
}

fn an_independent_readers_view_is_the_reference(lab: &Lab) {
    let (reference, unpacked) = (reference(lab), lab.dir().join("torture-unsquashed"));
    let unsquashfs = Cmd::new("unsquashfs").args(["-no-progress", "-xattrs", "-strict-errors", "-dest"]);
    let _ = unsquashfs.arg(&unpacked).arg(lab.system_file("torture")).run().success();
    compare(&tree(&reference), &tree(&unpacked));
}

/// The image as umoci unpacks it.
fn reference(lab: &Lab) -> PathBuf {
    let bundle = lab.dir().join("torture-reference");
    if !bundle.exists() {
        let layout = ImageStore::default().layout("torture").expect("the image can be made");
        let umoci = Cmd::new("umoci").args(["unpack", "--image"]).arg(format!("{}:latest", layout.display()));
        let _ = umoci.arg(&bundle).run().success();
    }
    bundle.join("rootfs")
}

#[track_caller]
fn compare(reference: &BTreeMap<PathBuf, Facts>, seen: &BTreeMap<PathBuf, Facts>) {
    assert!(reference.len() > 60, "the reference has only {} names", reference.len());
    let mut differences = Vec::new();
    for (path, wanted) in reference {
        match seen.get(path) {
            Some(facts) if facts == wanted => {}
            Some(facts) => differences.push(format!("{path:?}\n  wanted {wanted:?}\n  is     {facts:?}")),
            None => differences.push(format!("{path:?} is missing")),
        }
    }
    differences
        .extend(seen.keys().filter(|path| !reference.contains_key(*path)).map(|p| format!("{p:?} is extra")));
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    walk(root, Path::new(""), &mut all);
    all
}

fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, Facts>) {
    for entry in fs::read_dir(root.join(dir)).expect("a directory can be read").flatten() {
        let path = dir.join(entry.file_name());
        let facts = facts(&root.join(&path));
        let directory = facts.kind == "directory";
        all.insert(path.clone(), facts);
        if directory {
            walk(root, &path, all);
        }
    }
}

fn facts(path: &Path) -> Facts {
    let meta = fs::symlink_metadata(path).expect("a listed name is there");
    let kind = meta.file_type();
    let (name, content) = if kind.is_dir() {
        ("directory".to_owned(), String::new())
    } else if kind.is_symlink() {
        let target = fs::read_link(path).expect("a link can be read");
        ("link".to_owned(), target.display().to_string())
    } else if kind.is_file() {
        let mut hash = Sha256::new();
        std::io::copy(&mut File::open(path).expect("root may read"), &mut hash).expect("a file can be read");
        ("file".to_owned(), format!("{:x}", hash.finalize()))
    } else if kind.is_fifo() {
        ("fifo".to_owned(), String::new())
    } else {
        let device = if kind.is_block_device() { "block" } else { "char" };
        (format!("{device} {:x}", meta.rdev()), String::new())
    };
    Facts {
        kind: name,
        // A link's mode means nothing (symlink(7)).
        mode: if kind.is_symlink() { 0 } else { meta.mode() & 0o7777 },
        owner: (meta.uid(), meta.gid()),
        size: if kind.is_dir() { 0 } else { meta.size() },
        links: meta.nlink(),
        time: (!kind.is_dir()).then(|| meta.mtime()),
        xattrs: xattrs(path),
        content,
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("the file system has xattrs");
    let names = String::from_utf8(names[..length].to_vec()).expect("names of xattrs are ASCII here");
    names
        .split_terminator('\0')
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("a listed xattr is there");
            (name.to_owned(), value[..length].to_vec())
        })
        .collect()
}
