//! `grus import` of everything that holds an image.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{json, Value};

use crate::archives::*;
use crate::support::Lab;

fn imported(lab: &Lab, args: &[&str]) -> Value {
    let all = ["import", "--json"].iter().chain(args);
    serde_json::from_str(&lab.run(all).ok().out).expect("JSON")
}

/// What an image holds, read by an independent tool.
fn listing(path: &str) -> String {
    let output = Command::new("unsquashfs").args(["-lls", "-d", "", path]).output().expect("unsquashfs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn path_of(made: &Value) -> &str {
    made["path"].as_str().expect("path")
}

#[test]
fn a_layout_is_imported_from_directory_tar_and_pipe_as_the_same_image() {
    let lab = Lab::new();
    let (dir, digest) = simple_layout(lab.path("layout"));
    let made = imported(&lab, &["layout", "app:1"]);
    assert_eq!(made["digest"], digest.as_str());
    assert_eq!(made["reference"], "docker.io/library/app:1");
    assert!(listing(path_of(&made)).contains("etc/os-release"));
    let meta = fs::read_to_string(path_of(&made).replace(".squashfs", ".json")).expect("metadata");
    let meta: Value = serde_json::from_str(&meta).expect("JSON");
    assert_eq!(meta["config"]["env"], json!(["PATH=/usr/bin:/bin", "WHO=crane"]));
    assert_eq!(meta["config"]["working_dir"], "/srv");
    assert_eq!(meta["created"], "2023-11-14T22:13:20Z");

    let tar = tar_dir(&dir);
    fs::write(lab.path("layout.tar"), &tar).expect("write");
    fs::write(lab.path("layout.tar.gz"), gzip(&tar)).expect("write");
    for (name, tag) in [("layout.tar", "app:2"), ("layout.tar.gz", "app:3")] {
        assert_eq!(imported(&lab, &[name, tag])["digest"], digest.as_str(), "{name}");
    }
    let zst = zstd::encode_all(&tar[..], 1).expect("zstd");
    assert_eq!(lab.pipe(["import", "-q", "-", "app:4"], &zst).ok().out.trim(), digest);
    lab.assert_sound();
}

#[test]
fn importing_again_says_so_and_does_nothing() {
    let lab = Lab::new();
    let (_, digest) = simple_layout(lab.path("layout"));
    assert_eq!(imported(&lab, &["layout", "app"])["status"], "imported");
    let made = imported(&lab, &["layout", "app"]);
    assert_eq!(made["status"], "up-to-date");
    assert_eq!(imported(&lab, &["layout", "other"])["status"], "tagged");
    let before = fs::metadata(path_of(&made)).expect("image").modified().expect("time");
    assert_eq!(
        lab.run(["import", "layout", "app"]).ok().out,
        format!("app:latest is up to date: {digest}\n")
    );
    assert_eq!(fs::metadata(path_of(&made)).expect("image").modified().expect("time"), before);
}

#[test]
fn a_docker_archive_is_the_same_image_however_it_is_packed() {
    let lab = Lab::new();
    let second = tar_of(&[("srv/second", b"2")]);
    let members = docker_archive(&[(&["app:1"], &[base_layer(), second.clone()])]);
    let tar = tar_members(&members);
    fs::write(lab.path("app.tar"), &tar).expect("write");
    let made = imported(&lab, &["app.tar", "a"]);
    assert!(listing(path_of(&made)).contains("srv/second"));

    let reversed: Vec<_> = members.iter().rev().cloned().collect();
    assert_eq!(lab.pipe(["import", "-q", "-", "b"], &tar_members(&reversed)).ok().out.trim(), made["digest"]);
    assert_eq!(lab.pipe(["import", "-q", "-", "c"], &gzip(&tar)).ok().out.trim(), made["digest"]);
    // Compressed layers inside, as some builders write them.
    let packed: Vec<_> = members
        .iter()
        .map(|(n, c)| (n.clone(), if n.ends_with("layer.tar") { gzip(c) } else { c.clone() }))
        .collect();
    assert_eq!(lab.pipe(["import", "-q", "-", "d"], &tar_members(&packed)).ok().out.trim(), made["digest"]);
    // Unpacked in a directory, a layer being a link within it.
    let dir = lab.path("unpacked");
    for (name, content) in &members {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, content).expect("write");
    }
    let layer = members.iter().find(|(n, _)| n.ends_with("layer.tar")).expect("a layer").0.clone();
    fs::rename(dir.join(&layer), dir.join("real.tar")).expect("rename");
    std::os::unix::fs::symlink("../real.tar", dir.join(&layer)).expect("link");
    assert_eq!(imported(&lab, &["unpacked", "e"])["digest"], made["digest"]);
    lab.assert_sound();
}

#[test]
fn layers_may_be_links_and_may_be_named_twice() {
    let lab = Lab::new();
    let mut members = docker_archive(&[(&["app:1"], &[base_layer(), base_layer()])]);
    let layer = members[0].0.clone();
    // Both entries are one name here; make the member a link to a third, as `docker save` of old did.
    let content = members[0].1.clone();
    members.retain(|(name, _)| *name != layer);
    members.push(("shared/layer.tar".into(), content));
    members.push((layer, b"->../shared/layer.tar".to_vec()));
    fs::write(lab.path("app.tar"), tar_members(&members)).expect("write");
    assert_eq!(imported(&lab, &["app.tar", "app"])["status"], "imported");
}

#[test]
fn of_several_images_one_is_chosen_by_name_or_the_list_is_shown() {
    let lab = Lab::new();
    let other = vec![tar_of(&[("etc/", b""), ("etc/other", b"o")])];
    let base = vec![base_layer()];
    let members = docker_archive(&[(&["app:1", "app:one"], &base), (&["x.y/other:2"], &other)]);
    fs::write(lab.path("all.tar"), tar_members(&members)).expect("write");
    let first = imported(&lab, &["all.tar", "app:one"]);
    let second = imported(&lab, &["all.tar", "mine", "--select", "x.y/other:2"]);
    assert!(listing(path_of(&second)).contains("etc/other"));
    assert_ne!(first["digest"], second["digest"]);
    let said = lab.run(["import", "all.tar", "third"]).refused(2, "has several images");
    assert!(said.contains("app:1, app:one, x.y/other:2"), "{said}");
    lab.run(["import", "all.tar", "third", "--select", "no"]).refused(2, "has no image named no");
}

#[test]
fn a_layout_of_several_tags_and_platforms_is_chosen_from() {
    let lab = Lab::new();
    let mut layout = Layout::new(lab.path("layout"));
    let foreign = if arch() == "arm64" { "amd64" } else { "arm64" };
    let here = layout.image(&[base_layer()], arch());
    let there = layout.image(&[base_layer(), tar_of(&[("srv/there", b"")])], foreign);
    let with = |d: &Value, a: &str| {
        let mut d = d.clone();
        d["platform"] = json!({"os": "linux", "architecture": a});
        d
    };
    let attestation = {
        let mut d = here.clone();
        d["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        d
    };
    let index = layout.index(&[attestation, with(&there, foreign), with(&here, arch())]);
    let nested = layout.index(&[index]);
    layout.add(nested, Some("multi"), None);
    layout.add(layout.image(&[tar_of(&[("etc/", b""), ("etc/x", b"")])], arch()), Some("single"), None);
    layout.finish();
    assert_eq!(imported(&lab, &["layout", "app:multi"])["digest"], here["digest"]);
    let platform = format!("linux/{foreign}");
    let made = imported(&lab, &["layout", "app:multi", "--platform", &platform]);
    assert_eq!((&made["digest"], &made["platform"]), (&there["digest"], &json!(platform)));
    imported(&lab, &["layout", "app:v1", "--select", "single"]);
    lab.run(["import", "layout", "app:v2"]).refused(2, "has several images");
    let said = lab.run(["import", "layout", "app:multi", "--platform", "linux/riscv64"]);
    said.refused(65, "has no image for linux/riscv64");
    let table = lab.run(["images"]).ok().out;
    assert!(table.contains("PLATFORM") && table.contains(&platform), "{table}");
}

#[test]
fn one_image_under_two_names_is_no_choice() {
    let lab = Lab::new();
    let mut layout = Layout::new(lab.path("layout"));
    let image = layout.image(&[base_layer()], arch());
    layout.add(image.clone(), Some("one"), None);
    layout.add(image.clone(), Some("two"), None);
    layout.finish();
    assert_eq!(imported(&lab, &["layout", "app:three"])["digest"], image["digest"]);
    assert_eq!(imported(&lab, &["layout", "app:2", "--select", "two"])["digest"], image["digest"]);
    lab.run(["import", "layout", "app", "--select", "no"]).refused(2, "has no image named no");
}

#[test]
fn a_root_file_system_may_have_more_files_than_any_archive_of_images() {
    let lab = Lab::new();
    let mut members = vec![("NGC-DL-CONTAINER-LICENSE".to_owned(), b"a licence".to_vec())];
    members.extend((0..100_001).map(|n| (format!("opt/{}/{n}", n / 1000), vec![])));
    fs::write(lab.path("rootfs.tar"), tar_members(&members)).expect("write");
    let made = imported(&lab, &["rootfs.tar", "app"]);
    let file = fs::File::open(lab.path("rootfs.tar")).expect("the tar");
    let piped = lab.command(["import", "-q", "-", "piped"]).stdin(file).output().expect("grus runs");
    let piped = crate::support::Output::of(piped).ok();
    assert_eq!(piped.out.trim(), made["digest"]);
    members.insert(1, ("manifest.json".to_owned(), b"[]".to_vec()));
    fs::write(lab.path("odd.tar"), tar_members(&members)).expect("write");
    lab.run(["import", "odd.tar", "odd"]).refused(65, "it has more than 100000 members");
    lab.assert_sound();
}

#[test]
fn a_bare_root_file_system_is_an_image() {
    let lab = Lab::new();
    let tar = base_layer();
    fs::write(lab.path("rootfs.tar"), &tar).expect("write");
    let made = imported(&lab, &["rootfs.tar", "app:tar"]);
    assert!(listing(path_of(&made)).contains("etc/os-release"));
    assert_eq!(lab.pipe(["import", "-q", "-", "app:pipe"], &gzip(&tar)).ok().out.trim(), made["digest"]);
    // A first member that says nothing makes it a spooled one: the image is the same.
    let odd = tar_of(&[("odd", b"x"), ("bin/", b""), ("bin/sh", b"#!")]);
    let piped = lab.pipe(["import", "-q", "-", "odd:1"], &odd).ok().out;
    fs::write(lab.path("odd.tar"), &odd).expect("write");
    assert_eq!(imported(&lab, &["odd.tar", "odd:2"])["digest"], piped.trim());
    lab.assert_sound();
}

#[test]
fn a_directory_tree_is_an_image() {
    let lab = Lab::new();
    let root = lab.path("tree");
    fs::create_dir_all(root.join("etc")).expect("mkdir");
    fs::write(root.join("etc/os-release"), "NAME=Crane\n").expect("write");
    std::os::unix::fs::symlink("../etc", root.join("etc/loop")).expect("link");
    let made = imported(&lab, &["tree", "app"]);
    assert!(listing(path_of(&made)).contains("etc/loop -> ../etc"));
    lab.assert_sound();
}

#[test]
fn a_finished_squashfs_file_is_taken_as_it_is() {
    let lab = Lab::new();
    let (dir, _) = simple_layout(lab.path("layout"));
    let made = imported(&lab, &[dir.to_str().expect("UTF-8"), "app"]);
    let file = lab.path("copy.squashfs");
    fs::copy(path_of(&made), &file).expect("copy");
    let copied = imported(&lab, &["copy.squashfs", "copy"]);
    assert_ne!(copied["digest"], made["digest"], "it has no manifest to be named by");
    assert_eq!(fs::read(path_of(&copied)).expect("read"), fs::read(&file).expect("read"));
    assert_eq!(
        lab.pipe(["import", "-q", "-", "copy:2"], &fs::read(&file).expect("read")).ok().out.trim(),
        copied["digest"]
    );
    let cut = &fs::read(&file).expect("read")[..200];
    lab.pipe(["import", "-", "cut"], cut).refused(65, "no valid SquashFS image: ");
    lab.assert_sound();
}

#[test]
fn compression_is_the_users_choice() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    for (n, (method, shown)) in [("lz4", "lz4"), ("gzip:9", "gzip"), ("zstd:3", "zstd")].iter().enumerate() {
        let made = imported(&lab, &["layout", &format!("app:{n}"), "--compression", method]);
        let output = Command::new("unsquashfs").args(["-s", path_of(&made)]).output().expect("unsquashfs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("Compression {shown}")), "{text}");
        let _ = lab.run(["rmi", &format!("app:{n}")]).ok();
    }
}

#[test]
fn a_compression_that_is_not_had_is_told() {
    let lab = Lab::new();
    let (_, digest) = simple_layout(lab.path("layout"));
    imported(&lab, &["layout", "app"]);
    let again = |name: &str, more: &[&str]| lab.run(["import", "layout", name].iter().chain(more)).ok().err;
    let said = again("app", &["--compression", "gzip"]);
    let way = "grus rmi app:latest, and run this again";
    assert!(said.contains(&format!("app:latest is kept as zstd; to have it as gzip: {way}")), "{said}");
    let said = again("other", &["-q", "--compression", "lz4"]);
    assert!(said.contains("kept as zstd") && said.contains(&format!("rmi --force {digest}")), "{said}");
    for same in [vec![], vec!["--compression", "zstd"], vec!["--compression", "zstd:19"]] {
        assert!(!again("app", &same).contains("kept as"), "{same:?}");
    }
    let _ = lab.run(["rmi", "--force", &digest]).ok();
    assert!(!again("app", &["--compression", "gzip"]).contains("kept as"), "it is made anew");
    assert!(again("app", &["--compression", "zstd:1"]).contains("kept as gzip; to have it as zstd"));
}

#[test]
fn what_skopeo_writes_is_read() {
    if !Path::new("/usr/bin/skopeo").exists() {
        eprintln!("SKIPPED: skopeo is not installed");
        return;
    }
    let lab = Lab::new();
    let (dir, digest) = simple_layout(lab.path("layout"));
    let copy = |to: String| {
        let from = format!("oci:{}:latest", dir.display());
        let output = Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy", &from, &to])
            .output()
            .expect("skopeo");
        assert!(output.status.success(), "{output:?}");
    };
    let at = |name: &str| -> PathBuf { lab.path(name) };
    copy(format!("oci-archive:{}:x.y/app:1", at("oci.tar").display()));
    copy(format!("docker-archive:{}:x.y/app:1", at("docker.tar").display()));
    assert_eq!(imported(&lab, &["oci.tar", "a"])["digest"], digest.as_str());
    assert_eq!(imported(&lab, &["docker.tar", "b"])["status"], "imported");
    lab.assert_sound();
}

#[test]
fn what_is_no_image_is_told_apart() {
    let lab = Lab::new();
    fs::write(lab.path("text"), "hello").expect("write");
    fs::create_dir(lab.path("dir")).expect("mkdir");
    fs::write(lab.path("xz"), b"\xfd7zXZ\0\0").expect("write");
    lab.run(["import", "text", "app"]).refused(65, "text is no image");
    lab.run(["import", "dir", "app"]).refused(65, "dir is no image");
    lab.run(["import", "xz", "app"]).refused(65, "compressed with xz");
    lab.run(["import", "missing", "app"]).refused(2, "cannot read missing: No such file or directory");
    lab.pipe(["import", "-", "app"], b"").refused(65, "standard input is empty");
    let pinned = format!("app@{}", digest(b""));
    lab.run(["import", "text", &pinned]).refused(2, "cannot import as");
    lab.assert_empty();
}

#[test]
fn a_fifo_is_read_like_a_pipe() {
    let lab = Lab::new();
    let fifo = lab.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let child = lab.spawn(["import", "-q", "fifo", "app"]);
    let mut to = fs::OpenOptions::new().write(true).open(&fifo).expect("fifo");
    to.write_all(&base_layer()).expect("write");
    drop(to);
    let said = crate::support::Output::of(child.wait_with_output().expect("grus ends")).ok();
    assert!(said.out.starts_with("sha256:"), "{said:?}");
}
