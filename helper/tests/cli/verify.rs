//! `grus verify`, and the import of SquashFS files that others made.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::archives::*;
use crate::support::{files, Lab, Output};

/// A SquashFS file that mksquashfs made, at this path of the lab; its tables are not compressed.
fn foreign(lab: &Lab, name: &str) -> Vec<u8> {
    squashed(lab, name, &["-noI", "-noId"])
}

fn squashed(lab: &Lab, name: &str, options: &[&str]) -> Vec<u8> {
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("etc")).expect("mkdir");
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n").expect("write");
    fs::write(tree.join("data"), (0..60_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())
        .expect("write");
    let file = lab.path(name);
    let made = Command::new("mksquashfs")
        .args([&tree, &file])
        .args(["-quiet", "-no-progress", "-all-root"])
        .args(options)
        .output()
        .expect("mksquashfs runs");
    assert!(made.status.success(), "{made:?}");
    fs::read(file).expect("read")
}

fn number(image: &[u8], at: usize) -> usize {
    u64::from_le_bytes(image[at..at + 8].try_into().expect("8 bytes")) as usize
}

/// The image with `data` of a size that its inode does not have.
fn spoiled(mut image: Vec<u8>) -> Vec<u8> {
    // The first byte of the inode table's first inode: its type.
    let at = number(&image, 64) + 2;
    image[at] = 99;
    image
}

/// Beside what it printed of each image.
fn broken(said: &Output, what: &str) {
    assert_eq!(said.code, Some(65), "{said:?}");
    assert!(said.err.starts_with(&format!("grus: {what}\nhint: ")), "{said:?}");
}

fn json(said: &Output) -> Vec<Value> {
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn what_was_imported_is_valid_by_name_digest_and_path() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let made: Value =
        serde_json::from_str(&lab.run(["import", "--json", "layout", "app:1"]).ok().out).expect("JSON");
    let digest = made["digest"].as_str().expect("digest");
    for image in ["app:1", digest, &digest[7..19], made["path"].as_str().expect("path")] {
        let said = lab.run(["verify", image]).ok().out;
        assert!(said.contains(": valid: ") && said.ends_with(", zstd\n"), "{said}");
    }
    let all = json(&lab.run(["verify", "--json", "--data", "--all"]).ok());
    assert_eq!((all.len(), &all[0]["valid"], &all[0]["as-recorded"]), (1, &true.into(), &true.into()));
    assert_eq!(all[0]["unpacked-size"], made["unpacked-size"]);
    lab.run(["verify", "app:2"]).refused(2, "no image app:2");
    lab.run(["verify"]).refused(2, "required arguments");
    lab.run(["verify", "/nowhere.squashfs"]).refused(2, "cannot read /nowhere.squashfs");
}

#[test]
fn a_foreign_file_is_checked_by_path_and_on_standard_input() {
    let lab = Lab::new();
    let image = foreign(&lab, "app.squashfs");
    let checked = json(&lab.run(["verify", "--json", "./app.squashfs"]).ok());
    assert_eq!((&checked[0]["files"], &checked[0]["as-recorded"]), (&2.into(), &Value::Null));
    let stdin = |file: Stdio| {
        let mut command = lab.command(["verify", "-"]);
        Output::of(command.stdin(file).output().expect("grus starts"))
    };
    let open = |name: &str| Stdio::from(File::open(lab.path(name)).expect("open"));
    assert_eq!(stdin(open("app.squashfs")).ok().out, "");
    fs::write(lab.path("bad.squashfs"), spoiled(image.clone())).expect("write");
    stdin(open("bad.squashfs")).refused(65, "standard input is no valid SquashFS image: ");
    lab.pipe(["verify", "-"], &image).refused(2, "no file that can be read anywhere");

    let said = lab.run(["verify", "./app.squashfs", "./bad.squashfs"]);
    assert!(
        said.out.contains("./app.squashfs: valid: ") && said.out.contains("./bad.squashfs: broken: "),
        "{said:?}"
    );
    assert!(said.out.contains("there is no such type of inode (99), at byte "), "{said:?}");
    broken(&said, "1 of 2 images broken");
    let said = lab.run(["verify", "--json", "./bad.squashfs"]);
    let verdict = &json(&said)[0];
    assert_eq!((&verdict["valid"], &verdict["broken"]["rule"]), (&false.into(), &"inode-type".into()));
    broken(&said, "1 of 1 images broken");
}

#[test]
fn only_valid_squashfs_files_are_imported_and_their_bytes_are_recorded() {
    let lab = Lab::new();
    let image = foreign(&lab, "app.squashfs");
    for (bytes, why) in [
        (spoiled(image.clone()), "there is no such type of inode (99), at byte "),
        (image[..image.len() / 2].to_vec(), "the file is shorter than the image"),
        ([&image[..], b"more"].concat(), "what follows the image is not zero"),
    ] {
        lab.pipe(["import", "-", "bad"], &bytes).refused(65, why);
        lab.assert_empty();
    }
    let made: Value =
        serde_json::from_str(&lab.run(["import", "--json", "app.squashfs", "app"]).ok().out).expect("JSON");
    let _ = lab.run(["verify", "app"]).ok();
    // The content of a file is not of the image's structure, but its digest shows that it changed.
    let path = made["path"].as_str().expect("path");
    let mut changed = image;
    changed[200] ^= 1;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    fs::write(path, &changed).expect("write");
    let said = lab.run(["verify", "app"]);
    assert!(
        said.out.contains("app:latest: broken: it is not the file that its metadata were written for"),
        "{said:?}"
    );
    broken(&said, "1 of 1 images broken");
}

/// The images app:1 and app:2; their files.
fn two(lab: &Lab) -> [String; 2] {
    [1, 2].map(|n: u8| {
        let mut layout = Layout::new(lab.path(&format!("layout{n}")));
        let image = layout.image(&[base_layer(), tar_of(&[("srv/n", &[n])])], arch());
        layout.add(image, None, None);
        layout.finish();
        let said = lab.run(["import", "--json", &format!("layout{n}"), &format!("app:{n}")]).ok().out;
        let made: Value = serde_json::from_str(&said).expect("JSON");
        made["path"].as_str().expect("path").to_owned()
    })
}

#[test]
fn an_image_whose_file_is_gone_is_told_beside_the_others() {
    let lab = Lab::new();
    let [first, _] = two(&lab);
    fs::remove_file(&first).expect("remove");
    for args in [&["verify", "--all"][..], &["verify", "app:1", "app:2"]] {
        let said = lab.run(args);
        assert!(said.out.contains("app:1: broken: its file is gone\n"), "{said:?}");
        assert!(said.out.contains("app:2: valid: "), "{said:?}");
        broken(&said, "1 of 2 images broken");
    }
    let said = lab.run(["verify", "--all", "--json"]);
    let verdicts = json(&said);
    assert_eq!((&verdicts[0]["image"], &verdicts[0]["valid"]), (&"app:1".into(), &false.into()));
    assert_eq!(verdicts[0]["broken"]["rule"], "missing");
    assert_eq!(verdicts[1]["valid"], true);
    broken(&said, "1 of 2 images broken");
    // A path that leads nowhere is the caller's mistake.
    lab.run(["verify", &first]).refused(2, "cannot read ");
}

#[test]
fn images_and_tags_of_which_nothing_is_known_are_not_passed_over() {
    let lab = Lab::new();
    let [first, second] = two(&lab);
    let _ = lab.run(["verify", "--all"]).ok();
    // Damaged, and its tag gone: nothing names it but its file.
    fs::write(&first, b"hsqs").expect("write");
    let tag = |n: u32| {
        let tags = files(&lab.repository().join("refs"));
        let digest = if n == 1 { &first } else { &second };
        let hex = Path::new(digest).file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let names = |path: &&PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(&hex));
        tags.iter().find(names).expect("a tag").clone()
    };
    fs::remove_file(tag(1)).expect("remove");
    broken(&lab.run(["verify", "--all"]), "1 of 2 images broken");
    fs::remove_file(&first).expect("remove");
    fs::write(tag(2), "no tag").expect("write");
    assert_eq!(lab.run(["verify", "--all"]).code, Some(1), "which image it names cannot be told");
}

#[test]
fn an_image_that_cannot_be_read_does_not_end_the_check_of_all() {
    let lab = Lab::new();
    let [first, _] = two(&lab);
    fs::remove_file(&first).expect("remove");
    std::os::unix::fs::symlink(&first, &first).expect("a link to itself");
    let said = lab.run(["verify", "--all"]);
    assert!(
        said.out.contains("app:1: broken: cannot read ") && said.out.contains("app:2: valid: "),
        "{said:?}"
    );
    broken(&said, "1 of 2 images broken");
    assert_eq!(json(&lab.run(["verify", "--all", "--json"]))[0]["broken"]["rule"], "unreadable");
    lab.run(["verify", "app:1"]).refused(2, "cannot read ");
}

#[test]
fn an_image_of_xz_can_be_used_like_any_other() {
    let lab = Lab::new();
    squashed(&lab, "app.squashfs", &["-comp", "xz", "-Xbcj", "x86"]);
    let _ = lab.run(["import", "-q", "app.squashfs", "app"]).ok();
    let said = lab.run(["verify", "--data", "app"]).ok().out;
    assert!(said.ends_with(", xz\n"), "{said}");
    for command in ["plan", "explain"] {
        let _ = lab.run([command, "app"]).ok();
    }
    let exported = lab.command(["export", "--tree", "app"]).output().expect("grus starts");
    assert!(exported.status.success(), "{exported:?}");
    let mut archive = tar::Archive::new(&exported.stdout[..]);
    let mut entries = archive.entries().expect("a tar").map(|entry| entry.expect("an entry"));
    let mut data = entries.find(|entry| entry.size() == 240_000).expect("the file");
    let mut content = vec![];
    data.read_to_end(&mut content).expect("readable");
    assert!(content == fs::read(lab.path("tree/data")).expect("read"));
}
