//! `grus export`, judged by the tools that read what it writes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::archives::{digest, simple_layout};
use crate::support::{files, Lab};

/// What a tar has: each path with its kind, owner, mode, target or content, and attributes.
fn members(tar: &[u8]) -> BTreeMap<String, (tar::EntryType, u64, u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar");
    let one = |entry: std::io::Result<tar::Entry<&[u8]>>| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        let (kind, uid) = (entry.header().entry_type(), entry.header().uid().expect("uid"));
        let mode = entry.header().mode().expect("mode");
        let mut content = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        entry.read_to_end(&mut content).expect("readable");
        (path, (kind, uid, mode, content))
    };
    entries.map(one).collect()
}

fn run(lab: &Lab, program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(lab.dir.path()).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; run ci/packages"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn skopeo_and_umoci_read_what_is_exported() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "-q", "layout", "x.y/me/app:1"]).ok();
    let said = lab.run(["export", "x.y/me/app:1", "-o", "app.tar"]).ok();
    assert!(said.out.is_empty() && said.err.starts_with("exported "), "{said:?}");
    for source in ["oci-archive:app.tar", "docker-archive:app.tar"] {
        let config: Value =
            serde_json::from_str(&run(&lab, "skopeo", &["inspect", "--config", source])).expect("JSON");
        assert_eq!(config["config"]["WorkingDir"], "/srv", "{source}");
        assert_eq!(config["config"]["Env"][1], "WHO=crane");
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    }
    run(&lab, "skopeo", &["copy", "-q", "oci-archive:app.tar", "oci:copied:one"]);
    run(&lab, "skopeo", &["copy", "-q", "docker-archive:app.tar:x.y/me/app:1", "oci:copied:two"]);
    for image in ["one", "two"] {
        let to = format!("unpacked-{image}");
        run(&lab, "umoci", &["raw", "unpack", "--rootless", "--image", &format!("copied:{image}"), &to]);
        assert_eq!(fs::read_to_string(lab.path(&to).join("etc/os-release")).expect("there"), "NAME=Crane\n");
    }
    // And Grus itself: the same files under another digest, since it is another image.
    let _ = lab.run(["import", "-q", "app.tar", "again:1"]).ok();
    let tree = |name: &str| {
        let output = lab.command(["export", "--tree", name]).output().expect("grus starts");
        assert!(output.status.success());
        output.stdout
    };
    assert!(tree("x.y/me/app:1") == tree("again:1"), "a round trip changes nothing");
}

#[test]
fn the_same_image_gives_the_same_bytes_by_file_and_by_pipe() {
    let lab = Lab::new();
    let (_, image) = simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "-q", "layout", "app:1"]).ok();
    let piped = || {
        let output = lab.command(["export", "app:1"]).output().expect("grus starts");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    };
    let first = piped();
    assert!(first == piped(), "deterministic");
    let _ = lab.run(["save", &image[7..19], "-o", "a.tar"]).ok();
    assert!(fs::read(lab.path("a.tar")).expect("written") == first, "by digest, and by Docker's word");
    // Each blob is what its name says.
    let blobs = members(&first)
        .into_iter()
        .filter(|(name, m)| name.starts_with("blobs/") && m.0.is_file())
        .map(|(name, m)| {
            assert_eq!(format!("sha256:{}", &name["blobs/sha256/".len()..]), digest(&m.3), "{name}");
        });
    assert_eq!(blobs.count(), 3);
}

#[test]
fn links_owners_and_attributes_survive() {
    let lab = Lab::new();
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("bin")).expect("mkdir");
    let long = "d".repeat(120);
    fs::create_dir_all(tree.join(&long)).expect("mkdir");
    fs::write(tree.join("bin/ping"), "ping").expect("write");
    fs::write(tree.join("bin/big"), vec![7; 300_000]).expect("write");
    fs::write(tree.join(&long).join("x".repeat(120)), "deep").expect("write");
    fs::hard_link(tree.join("bin/ping"), tree.join("bin/pong")).expect("link");
    std::os::unix::fs::symlink("../bin/big", tree.join("bin/link")).expect("symlink");
    let set =
        Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(tree.join("bin/big")).status();
    let has_attributes = set.expect("setfattr is there: ci/packages").success();
    let packed = ["tree", "tree.squashfs", "-quiet", "-no-progress", "-noappend", "-force-uid", "123"];
    run(&lab, "mksquashfs", &packed);
    let _ = lab.run(["import", "-q", "tree.squashfs", "app:1"]).ok();
    let output = lab.command(["export", "--tree", "app:1"]).output().expect("grus starts");
    assert!(output.status.success(), "{output:?}");
    let all = members(&output.stdout);
    assert_eq!(all["bin/pong"].0, tar::EntryType::Link);
    assert_eq!(
        (all["bin/pong"].3.as_slice(), all["bin/ping"].3.as_slice()),
        (&b"bin/ping"[..], &b"ping"[..])
    );
    assert_eq!(
        (all["bin/link"].0, all["bin/link"].3.as_slice()),
        (tar::EntryType::Symlink, &b"../bin/big"[..])
    );
    assert_eq!((all["bin/big"].1, all["bin/big"].3.len()), (123, 300_000));
    assert_eq!(all[&format!("{long}/{}", "x".repeat(120))].3, b"deep");
    let mut archive = tar::Archive::new(output.stdout.as_slice());
    let noted = archive.entries().expect("a tar").any(|entry| {
        let mut entry = entry.expect("an entry");
        let all = entry.pax_extensions().expect("readable").into_iter().flatten();
        all.flatten().any(|e| e.key() == Ok("SCHILY.xattr.user.note") && e.value_bytes() == b"kept")
    });
    assert_eq!(noted, has_attributes, "the attribute is exported where the file system here could set it");
}

#[test]
fn what_cannot_be_written_is_told_and_leaves_nothing() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "-q", "layout", "app:1"]).ok();
    lab.run(["export", "app:1", "-o", "/nowhere/a.tar"]).refused(1, "cannot write /nowhere/a.tar");
    lab.run(["export", "app:1", "-o", "/dev/full"]).refused(1, "No space left on device");
    lab.run(["export", "ap:1"]).refused(2, "no image ap:1");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = lab.command(["export", "app:1"]).stdout(writer).output().expect("grus starts");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]));
    // A damaged image is the image's fault, and no half of an archive is left.
    let image = files(&lab.repository()).into_iter().find(|f| f.extension() == Some("squashfs".as_ref()));
    let image = image.expect("an image");
    let mut bytes = fs::read(&image).expect("readable");
    let middle = bytes.len().min(200);
    bytes[96..middle].fill(0xa5);
    fs::write(&image, bytes).expect("writable");
    let said = lab.run(["export", "app:1", "-o", "b.tar"]);
    assert_eq!(said.code, Some(65), "{said:?}");
    assert!(!Path::new(&lab.path("b.tar")).exists());
    let left = fs::read_dir(lab.dir.path()).expect("readable").flatten();
    assert!(!left.map(|e| e.file_name()).any(|name| name.to_string_lossy().contains(".part")));
}
