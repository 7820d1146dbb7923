//! The torture image: as our strict reader, the kernel, unsquashfs and backhand read it, and against a
//! reference unpack by umoci.

mod fixture;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;
use std::process::Command;

use backhand::{FilesystemReader, InnerNode};
use fixture::host::{has, tree_at, Mounted};
use fixture::tar::EPOCH;
use fixture::{assert_same, gzip, image, reader, sources, torture, Kind, Memory, Tree};
use grus_squash::{Compression, Options};
use sha2::{Digest, Sha256};

fn compressed() -> Vec<Memory> {
    let blobs: Vec<_> = torture::layers().iter().map(|tar| gzip(tar)).collect();
    sources(&blobs)
}

fn made(options: &Options) -> (Vec<u8>, Tree) {
    let (bytes, summary) = image(&compressed(), options).expect("conversion");
    assert_eq!(summary.second_passes, 1, "h3 outlives h1 in the lowest layer");
    let tree = reader::Image::open(&bytes).tree();
    assert_eq!(
        summary.inodes as usize,
        tree.values().map(|i| i.inode).collect::<std::collections::BTreeSet<_>>().len()
    );
    (bytes, tree)
}

#[test]
fn every_compression_and_block_size_holds_the_same_tree() {
    let (_, want) = made(&Options::default());
    for compression in [Compression::Zstd { level: 6 }, Compression::Lz4, Compression::Gzip { level: 6 }] {
        for block_size in [4096, 128 << 10, 1 << 20] {
            let (_, tree) = made(&Options { compression, block_size, ..Options::default() });
            assert_same(tree, want.clone());
        }
    }
}

#[test]
fn the_tree_is_right() {
    let (bytes, tree) = made(&Options::default());
    let get = |path: &str| &tree[path.as_bytes()];
    let text = |path: &str| String::from_utf8_lossy(&get(path).data).into_owned();
    assert_eq!(text("t/keep"), "replaced, whiteout first\n");
    assert_eq!((text("t/keep2"), text("t/gnu/dup")), ("k2\n".into(), "second\n".into()));
    assert_eq!(get("t/perm/h3").data, "three names\n".repeat(50).as_bytes());
    assert_eq!(get("t/link2").inode, get("t/lower2").inode);
    assert_eq!((get("t/link2").mode, get("t/link2").uid), (0o640, 7));
    assert_eq!(text("t/real/two"), "2\n");
    assert_eq!((get("t/del").mode, get("t/d2f").kind, get("t/f2d").kind), (0o700, Kind::File, Kind::Dir));
    for gone in ["t/h1", "t/lower", "t/del/f0", "t/opq/f0", "t/never-was", "t/.wh.keep"] {
        assert!(!tree.contains_key(gone.as_bytes()), "{gone}");
    }
    // Undated: the newest mtime there is.
    assert!(torture::UNDATED.iter().all(|path| get(path).mtime == 4_102_444_800));
    assert_eq!(reader::Image::open(&bytes).time, 4_102_444_800);
    let clamped = Options { clamp_mtime: Some(EPOCH as u32), default_time: Some(5), ..Options::default() };
    let (bytes, tree) = made(&clamped);
    assert_eq!((tree[&b"t/future"[..]].mtime, tree[&b""[..]].mtime), (EPOCH as u32, 5));
    assert_eq!(reader::Image::open(&bytes).time, 5);
}

#[test]
fn the_kernel_and_unsquashfs_read_the_same() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for compression in [Compression::default(), Compression::Lz4, Compression::Gzip { level: 9 }] {
        let (bytes, tree) = made(&Options { compression, ..Options::default() });
        let path = dir.path().join("image");
        fs::write(&path, &bytes).expect("write");
        if let Some(mounted) = Mounted::image(&path) {
            assert_same(tree_at(mounted.path()), tree.clone());
        }
        if has("unsquashfs") {
            let list = Command::new("unsquashfs").arg("-lln").arg(&path).output().expect("unsquashfs");
            let errors = String::from_utf8_lossy(&list.stderr);
            assert!(list.status.success() && errors.is_empty(), "{errors}");
            assert!(
                list.stdout.iter().filter(|&&b| b == b'\n').count() >= tree.len(),
                "a line for each name"
            );
            let out = dir.path().join(format!("{compression:?}"));
            let unpack = Command::new("unsquashfs")
                .args(["-quiet", "-no-progress", "-d"])
                .arg(&out)
                .arg(&path)
                .output();
            let unpack = unpack.expect("unsquashfs");
            // As an ordinary user owners and devices fail; contents never may.
            let content = fs::read(out.join("t/blocks")).expect("unpacked");
            assert!(content == tree[&b"t/blocks"[..]].data, "{}", String::from_utf8_lossy(&unpack.stderr));
        }
    }
}

/// backhand 0.25 refuses symlink targets of 256 bytes and more, which Linux allows up to 4095; so they
/// are cut for it.
#[test]
fn backhand_reads_the_same() {
    for compression in [Compression::default(), Compression::Lz4, Compression::Gzip { level: 1 }] {
        let options = Options { compression, ..Options::default() };
        let (bytes, _) = image(&sources(&torture::layers_with(255)), &options).expect("conversion");
        let tree = reader::Image::open(&bytes).tree();
        let image = FilesystemReader::from_reader(BufReader::new(Cursor::new(bytes)));
        let image = image.unwrap_or_else(|e| panic!("backhand opens {compression:?}: {e:?}"));
        let mut seen = 0;
        for node in image.files() {
            let path = node.fullpath.to_string_lossy().trim_start_matches('/').to_string();
            let item = tree.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is not in the tree"));
            seen += 1;
            let (kind, data) = match &node.inner {
                InnerNode::File(file) => {
                    let mut data = vec![];
                    image.file(file).reader().read_to_end(&mut data).expect("content");
                    (Kind::File, data)
                }
                InnerNode::Symlink(link) => {
                    (Kind::Symlink, link.link.as_os_str().as_encoded_bytes().to_vec())
                }
                InnerNode::Dir(_) => (Kind::Dir, vec![]),
                InnerNode::CharacterDevice(d) => (Kind::Char, d.device_number.to_le_bytes().to_vec()),
                InnerNode::BlockDevice(d) => (Kind::Block, d.device_number.to_le_bytes().to_vec()),
                InnerNode::NamedPipe => (Kind::Fifo, vec![]),
                InnerNode::Socket => panic!("{path} is a socket"),
            };
            let h = &node.header;
            let got = (kind, data == item.data, h.permissions & 0o7777, h.uid, h.gid, h.mtime);
            assert_eq!(got, (item.kind, true, item.mode, item.uid, item.gid, item.mtime), "{path}");
        }
        assert_eq!(seen, tree.len());
    }
}

/// umoci unpacks the same layers. It differs where no layer defines an mtime, and changes the mtime of a
/// directory with an opaque marker; all else must be equal.
#[test]
fn umoci_unpacks_the_same() {
    let root = rustix::process::geteuid().is_root();
    if !root || !has("umoci") || !Path::new("/dev/shm").is_dir() {
        eprintln!(
            "SKIPPED umoci: needs root, umoci, and a tmpfs at /dev/shm (ext4 has no room for a 5 KB xattr)"
        );
        return;
    }
    let (_, mut want) = made(&Options::default());
    let dir = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
    write_layout(&dir.path().join("layout"), &compressed());
    let image = format!("{}:latest", dir.path().join("layout").display());
    let bundle = dir.path().join("bundle");
    let unpack =
        Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().expect("umoci");
    assert!(unpack.status.success(), "{}", String::from_utf8_lossy(&unpack.stderr));
    let mut got = tree_at(&bundle.join("rootfs"));
    for path in torture::UNDATED.iter().chain(&["t/opq"]) {
        for tree in [&mut want, &mut got] {
            tree.get_mut(path.as_bytes()).expect("in both").mtime = 0;
        }
    }
    assert_same(got, want);
}

fn write_layout(dir: &Path, layers: &[Memory]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("mkdir");
    let digest = |data: &[u8]| Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let put = |data: &[u8], kind: &str| {
        fs::write(blobs.join(digest(data)), data).expect("blob");
        let digest = format!("sha256:{}", digest(data));
        serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": data.len()})
    };
    let blobs: Vec<_> = layers.iter().map(|l| put(&l.1, "layer.v1.tar+gzip")).collect();
    let diffs: Vec<_> = torture::layers().iter().map(|tar| format!("sha256:{}", digest(tar))).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let config = put(config.to_string().as_bytes(), "config.v1+json");
    let kind = "manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": format!("application/vnd.oci.image.{kind}"), "config": config, "layers": blobs,
    });
    let mut manifest = put(manifest.to_string().as_bytes(), kind);
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).expect("index");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("oci-layout");
}

/// A directory of 100 000 names: several MiB of listing, thousands of runs, an index.
#[test]
fn a_huge_directory_lists_and_looks_up() {
    let count = 100_000;
    let name = |i: usize| format!("d/a-rather-long-name-for-a-file-{i:06}");
    let mut tar = fixture::tar::Tar::default();
    for i in 0..count {
        // In no order, and with long names now and then.
        let path =
            if i % 1000 == 7 { format!("{}{}", name(i), "x".repeat(200)) } else { name((i * 7919) % count) };
        tar = tar.add(fixture::tar::file(&path, i.to_string()));
    }
    let (bytes, summary) = image(&sources(&[tar.end()]), &Options::default()).expect("conversion");
    let tree = reader::Image::open(&bytes).tree();
    assert_eq!(summary.inodes as usize, tree.len());
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("image");
    fs::write(&path, &bytes).expect("write");
    let Some(mounted) = Mounted::image(&path) else { return };
    let listed: BTreeMap<_, _> = fs::read_dir(mounted.path().join("d"))
        .expect("readdir")
        .map(|e| e.expect("entry"))
        .map(|e| (e.file_name(), std::os::unix::fs::DirEntryExt::ino(&e)))
        .collect();
    assert_eq!(listed.len(), tree.len() - 2);
    for (path, item) in tree.iter().filter(|(_, item)| item.kind == Kind::File).step_by(997) {
        let path = mounted.path().join(String::from_utf8_lossy(path).as_ref());
        assert_eq!(fs::read(&path).expect("look-up"), item.data);
    }
    assert!(!mounted.path().join("d/a-rather-long-name-for-a-file-").exists());
}
