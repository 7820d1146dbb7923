//! `grus verify`, and the import of SquashFS files that others made.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::archives::*;
use crate::support::{Lab, Output};

/// A SquashFS file that mksquashfs made, at this path of the lab; its tables are not compressed.
fn foreign(lab: &Lab, name: &str) -> Vec<u8> {
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("etc")).expect("mkdir");
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n").expect("write");
    fs::write(tree.join("data"), (0..60_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())
        .expect("write");
    let file = lab.path(name);
    let made = Command::new("mksquashfs")
        .args([&tree, &file])
        .args(["-quiet", "-no-progress", "-noI", "-noId", "-all-root"])
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
