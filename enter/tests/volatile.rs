//! Volatile directories: contents, owners and modes kept; everything in them the user's to change; shared on the node;
//! gone afterwards.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::Path;

use support::{run, Contain, UID};

/// Owners and modes of all kinds below opt/app.
fn varied(tree: &Path) {
    let app = tree.join("opt/app");
    let set = |name: &str, mode: u32, owner: u32, group: u32| {
        let path = app.join(name);
        if !path.exists() {
            fs::write(&path, format!("{name}\n")).expect("tree");
        }
        chown(&path, Some(owner), Some(group)).expect("tree");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("tree");
    };
    fs::create_dir_all(app.join("sub/deeper")).expect("tree");
    set("secret", 0o600, 0, 0);
    set("tool", 0o755, 0, 0);
    set("setgid", 0o2755, 0, 50);
    set("others", 0o644, 1234, 1235);
    set("mine", 0o640, UID, UID);
    set("sub/deeper", 0o700, 0, 0);
    set("sub/deeper/x", 0o400, 0, 0);
    std::os::unix::fs::symlink("file", app.join("link")).expect("tree");
    run("setfattr", &["-n", "user.note", "-v", "kept", &app.join("file").to_string_lossy()]);
}

/// What `find` says of each entry, without two things that may differ: the group bits, where an access control list's
/// mask shows (acl(5)), and the sizes of directories.
fn listing(contain: Contain) -> Vec<Vec<String>> {
    let find = "cd /opt/app; find . -printf '%p %y %m %U:%G %s %T@ %l\\n' | sort";
    let out = contain.sh(find).ok();
    let entry = |line: &str| {
        let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mode = u32::from_str_radix(&fields[2], 8).expect("octal");
        fields[2] = format!("{:04o}", mode & !0o070);
        if fields[1] == "d" {
            fields[4].clear();
        }
        fields
    };
    out.lines().map(entry).collect()
}

#[test]
fn contents_owners_and_modes_are_kept() {
    let lab = lab!();
    for image in [lab.image("k", varied), lab.users_image("u", varied)] {
        let plain = listing(Contain::new(&image).root());
        assert_eq!(plain.len(), 12);
        assert_eq!(plain.iter().find(|e| e[0] == "./others").map(|e| e[3].as_str()), Some("1234:1235"));
        assert_eq!(listing(Contain::new(&image).volatile("/opt/app")), plain);
        let read =
            "cd /opt/app; cat file secret others sub/deeper/x; getfattr --only-values -n user.note file";
        let out = Contain::new(&image).volatile("/opt/app").sh(read);
        assert!(out.out.starts_with("first\nsecret\nothers\nsub/deeper/x\n"), "{out:?}");
    }
}

#[test]
fn the_user_can_create_change_and_delete_anything() {
    let lab = lab!();
    let script = "set -e; cd /opt/app; umask 027
        for f in file secret tool setgid others mine sub/deep sub/deeper/x; do echo more >> $f; tail -n1 $f; done
        mkdir new; echo made > new/file; stat -c '%a %u' new new/file
        mv sub/deeper sub/moved; mv sub renamed; cat renamed/moved/x; ln file hard; : > file
        rm -r renamed others secret; ls";
    for image in [lab.image("k", varied), lab.users_image("u", varied)] {
        let out = Contain::new(&image).volatile("/opt/app").sh(script).ok();
        let changed = "more\n".repeat(8);
        let made = format!("750 {UID}\n640 {UID}\n");
        let moved = "sub/deeper/x\nmore\n";
        let left = "file\nhard\nlink\nmine\nnew\nrenamed\nsetgid\ntool\n".replace("renamed\n", "");
        assert_eq!(out, format!("{changed}{made}{moved}{left}"));
        assert_eq!(Contain::new(&image).sh("cat /opt/app/file").ok(), "first\n", "the image is untouched");
        let ran = Contain::new(&image).volatile("/opt/app").sh("touch /opt/x; touch /etc/x");
        assert_eq!(ran.err.matches("Read-only file system").count(), 2, "only what was named: {}", ran.err);
    }
}

#[test]
fn tasks_of_a_node_share_it_and_other_users_of_the_image_keep_out() {
    let lab = lab!();
    let image = lab.image("k", varied);
    let running =
        Contain::new(&image).volatile("/opt/app").start("echo shared > /opt/app/file; echo; read x");
    let seen = "for i in 1 2 3 4 5 6 7 8 9; do grep -q shared /opt/app/file && break; sleep 0.1; done; cat /opt/app/file";
    assert_eq!(running.also(seen).ok(), "shared\n");
    // Another user gains nothing: the list names one user.
    let other =
        "setpriv --reuid 777 --regid 777 --clear-groups sh -c 'echo x > /opt/app/file; cat /opt/app/secret'";
    let ran = running.also(other);
    assert_eq!(ran.err.matches("Permission denied").count(), 2, "{ran:?}");
    // A second container of the same image has its own.
    assert_eq!(Contain::new(&image).volatile("/opt/app").sh("cat /opt/app/file").ok(), "first\n");
    running.kill();
}

#[test]
fn mount_points_inside_and_several_directories_work() {
    let lab = lab!();
    let image = lab.users_image("u", varied);
    let dir = lab.dir("bound", 0o755);
    fs::write(dir.join("there"), "").expect("lab");
    let contain = Contain::new(&image).volatile("/opt/app").volatile("/data");
    let contain = contain.mount(&format!("{}:/opt/app/made/here", dir.display()));
    let out = contain.sh("ls /opt/app/made/here; touch /data/x /opt/app/x && echo both").ok();
    assert_eq!(out, "there\nboth\n");
}

#[test]
fn a_directory_that_is_missing_or_a_file_is_refused() {
    let lab = lab!();
    let image = lab.image("k", |_| ());
    for (dir, why) in [
        ("/none", "the image has no such directory"),
        ("/opt/app/file", "it is not a directory"),
        ("/usr", "/usr is the host's, not the image's"),
    ] {
        let err = Contain::new(&image).volatile(dir).sh("true").refused();
        assert!(err.starts_with(&format!("--writable-volatile={dir}: {why}")), "{err}");
    }
}

#[test]
fn what_fills_the_memory_is_an_error_of_the_writer_only() {
    let lab = lab!();
    let image = lab.image("k", |_| ());
    let contain = Contain::new(&image).volatile("/opt/app").site("volatile.size='1m'");
    let ran = contain.sh(
        "head -c 2000000 /dev/zero > /opt/app/big; rm /opt/app/big; echo still > /opt/app/x; cat /opt/app/x",
    );
    assert!(ran.err.contains("No space left on device"), "{ran:?}");
    assert_eq!(ran.out, "still\n");
}
