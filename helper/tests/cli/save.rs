//! `grus import` of a directory on the host's terms, and `grus save`, which the plugin runs.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::support::{Lab, Output};
use crate::tmpfs::Tmpfs;

/// A small root file system in the lab's directory.
fn rootfs(lab: &Lab) {
    for dir in ["root/etc", "root/bin", "root/opt"] {
        fs::create_dir_all(lab.path(dir)).expect("mkdir");
    }
    fs::write(lab.path("root/etc/os-release"), "NAME=Crane\n").expect("write");
    fs::write(lab.path("root/opt/app"), "app\n").expect("write");
}

/// Paths and modes in an image.
fn listing(image: &Path) -> String {
    let output = Command::new("unsquashfs").args(["-lln", "-d", ""]).arg(image).output().expect("unsquashfs");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// As uid 65534, which may read what anyone may.
fn as_nobody(command: Command) -> Output {
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(command.get_program());
    nobody.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            nobody.env(name, value);
        }
    }
    nobody.current_dir(command.get_current_dir().expect("the lab's")).stdin(Stdio::null());
    Output::of(nobody.output().expect("setpriv"))
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: it needs root");
    }
    root
}

#[test]
fn a_directory_that_cannot_be_read_whole_is_an_error_with_the_way_out() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    rootfs(&lab);
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    fs::set_permissions(lab.path("root/opt/app"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let said = as_nobody(lab.command(["import", "--quiet", "root", "app:1"]));
    let said = said.refused(2, "root/opt/app: Permission denied");
    assert!(said.contains("make it readable to you"), "{said}");
    lab.assert_empty();
}

#[test]
fn a_directory_is_imported_as_far_as_its_own_file_system_goes() {
    let lab = Lab::new();
    rootfs(&lab);
    fs::create_dir(lab.path("root/opt/other")).expect("mkdir");
    let Some(_mounted) = Tmpfs::mount(&lab.path("root/opt/other"), 64) else { return };
    fs::write(lab.path("root/opt/other/secret"), "x").expect("write");
    let said = lab.run(["import", "--json", "root", "app:1"]).ok();
    assert!(said.err.contains("warning: root/opt/other is empty in the image"), "{said:?}");
    let made: Value = serde_json::from_str(&said.out).expect("JSON");
    let all = listing(Path::new(made["path"].as_str().expect("path")));
    assert!(all.contains("/opt/other\n") && !all.contains("secret"), "{all}");
}

/// Imports the lab's root file system and returns the image's path.
fn image(lab: &Lab) -> String {
    let made: Value =
        serde_json::from_str(&lab.run(["import", "--json", "root", "app:1"]).ok().out).expect("JSON");
    let path = made["path"].as_str().expect("path").to_owned();
    let beside = path.replace(".squashfs", ".json");
    let mut meta: Value = serde_json::from_slice(&fs::read(&beside).expect("metadata")).expect("JSON");
    meta["config"]["env"] = json!(["WHO=crane"]);
    fs::write(beside, meta.to_string()).expect("metadata");
    path
}

/// Saves the tree at `tree` to `file`.
fn save(lab: &Lab, image: &str, tree: Option<&str>, file: &str, made: &Value) -> Output {
    let order = json!({"file": lab.path(file), "image": image, "tree": tree.is_some(), "made": made});
    let mut command = lab.command(["save-container", &order.to_string()]);
    if let Some(tree) = tree {
        command.stdin(File::open(lab.path(tree)).expect("a tree"));
    }
    Output::of(command.output().expect("grus starts"))
}

#[test]
fn what_grus_made_in_a_tree_is_not_saved_and_what_it_covered_is() {
    let lab = Lab::new();
    rootfs(&lab);
    let image = image(&lab);
    // As a container shows it: mount points, one of them used since, and links over files of the image.
    fs::create_dir_all(lab.path("root/home/alice")).expect("mkdir");
    fs::create_dir_all(lab.path("root/run/used")).expect("mkdir");
    fs::write(lab.path("root/run/used/by-the-user"), "kept").expect("write");
    fs::write(lab.path("root/etc/hosts"), "").expect("write");
    fs::remove_file(lab.path("root/opt/app")).expect("remove");
    std::os::unix::fs::symlink("/run/host/app", lab.path("root/opt/app")).expect("symlink");
    std::os::unix::fs::symlink("/run/host/new", lab.path("root/opt/new")).expect("symlink");
    std::os::unix::fs::symlink("/elsewhere", lab.path("root/opt/own")).expect("symlink");
    let made = json!([
        ["/", null],
        ["/etc", null],
        ["/etc/hosts", null],
        ["/home", null],
        ["/home/alice", null],
        ["/opt", null],
        ["/opt/app", "/run/host/app"],
        ["/opt/new", "/run/host/new"],
        ["/opt/own", "/run/host/own"],
        ["/run", null],
        ["/run/used", null],
    ]);
    let said = save(&lab, &image, Some("root"), "saved.squashfs", &made).ok();
    assert!(said.out.starts_with("saved ") && said.err.is_empty(), "{said:?}");
    let saved = lab.path("saved.squashfs");
    let all = listing(&saved);
    for (path, there) in [
        ("/home", false),
        ("/etc/hosts", false),
        ("/opt/new", false),
        ("/opt/app", true),
        ("/run/used/by-the-user", true),
        ("/opt/own -> /elsewhere", true),
        ("/etc/os-release", true),
    ] {
        assert_eq!(all.lines().any(|line| line.ends_with(&format!(" {path}"))), there, "{path} in\n{all}");
    }
    let app = Command::new("unsquashfs").arg("-cat").arg(&saved).arg("opt/app").output().expect("unsquashfs");
    assert_eq!(app.stdout, b"app\n");
    let meta: Value =
        serde_json::from_slice(&fs::read(lab.path("saved.json")).expect("metadata")).expect("JSON");
    assert_eq!(meta["config"]["env"], json!(["WHO=crane"]));
    // The same tree gives the same bytes.
    let _ = save(&lab, &image, Some("root"), "again.squashfs", &made).ok();
    assert!(fs::read(&saved).expect("saved") == fs::read(lab.path("again.squashfs")).expect("again"));
}

#[test]
fn places_of_libraries_in_a_writable_container_are_not_saved() {
    let lab = Lab::new();
    rootfs(&lab);
    fs::write(lab.path("root/opt/empty"), "").expect("write");
    let image = image(&lab);
    // As a writable container has them: what a link would lead to is mounted on an empty file or directory.
    fs::create_dir_all(lab.path("root/run/grus/lib/plugins")).expect("mkdir");
    for name in ["run/grus/lib/libcuda.so.1", "opt/libmpi.so.12"] {
        fs::write(lab.path("root").join(name), "").expect("write");
    }
    fs::write(lab.path("root/opt/own.so"), "the user's").expect("write");
    let made = json!([
        ["/opt/app", "/run/grus/host/app"],
        ["/opt/empty", "/run/grus/host/empty"],
        ["/opt/libmpi.so.12", "/run/grus/host/libmpi.so.12"],
        ["/opt/own.so", "/run/grus/host/own.so"],
        ["/run", null],
        ["/run/grus", null],
        ["/run/grus/lib", null],
        ["/run/grus/lib/libcuda.so.1", "/usr/lib/libcuda.so.1"],
        ["/run/grus/lib/plugins", "/usr/lib/plugins"],
    ]);
    let _ = save(&lab, &image, Some("root"), "saved.squashfs", &made).ok();
    let all = listing(&lab.path("saved.squashfs"));
    let below_opt: Vec<&str> =
        all.lines().filter_map(|line| line.split_once(" /opt/")).map(|l| l.1).collect();
    assert_eq!(below_opt, ["app", "empty", "own.so"], "{all}");
    assert!(!all.contains("libcuda") && !all.contains("/run"), "{all}");
}

#[test]
fn an_image_is_copied_with_what_belongs_to_it_and_nothing_else_is_touched() {
    let lab = Lab::new();
    rootfs(&lab);
    let image = image(&lab);
    let none = json!([]);
    let said = save(&lab, &image, None, "copy.sqsh", &none).ok();
    assert!(said.out.contains("/copy.sqsh ("), "{said:?}");
    assert!(fs::read(&image).expect("image") == fs::read(lab.path("copy.sqsh")).expect("copy"));
    assert!(fs::read_to_string(lab.path("copy.json")).expect("metadata").contains("WHO=crane"));
    fs::write(lab.path("data.json"), "{}").expect("write");
    save(&lab, &image, None, "data.sqsh", &none).refused(2, "where its metadata go, is something else");
    save(&lab, &image, None, "root", &none).refused(2, "it is there and no regular file");
    save(&lab, "/nowhere/image.squashfs", None, "new.sqsh", &none)
        .refused(1, "cannot read /nowhere/image.squashfs");
    lab.run(["save-container", "{}"]).refused(2, "this is no order");
    let left = ["new.sqsh", "new.json", "data.sqsh"].map(|name| lab.path(name).exists());
    assert_eq!(left, [false; 3]);
    let hidden = fs::read_dir(lab.dir.path()).expect("the lab").flatten().map(|e| e.file_name());
    assert!(!hidden.into_iter().any(|name| name.to_string_lossy().ends_with(".part")));
}
