//! Mounts that land elsewhere than was planned: by links in a user's own directory, which mean one place on the host and
//! another in the container, by links in the image, by a ruling that a user wrote. What root makes, opens or opens to
//! the user after that stays in the container.

mod support;

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};

use support::{Contain, Lab};

const SECRET: &str = "the host's secret";

/// A directory of root's, with a file in a directory below it that root alone can read.
fn roots(lab: &Lab) -> PathBuf {
    let dir = lab.dir("roots", 0o755);
    lab.dir("roots/etc", 0o755);
    lab.dir("roots/etc/deep", 0o755);
    lab.file("roots/etc/deep/shadow", SECRET, 0o600);
    lab.file("roots/shadow", SECRET, 0o600);
    lab.dir("roots/closed", 0o700);
    lab.file("roots/closed/file", SECRET, 0o644);
    dir
}

/// A directory of the user's with `s`, a link to `target`.
fn with_link(lab: &Lab, target: &str) -> PathBuf {
    let dir = lab.dir("users", 0o755);
    lab.dir("users/b", 0o755);
    symlink(target, dir.join("b/s")).expect("lab");
    dir
}

fn on(source: &Path, destination: &str) -> String {
    format!("{}:{destination}", source.display())
}

fn everything_below(dir: &Path) -> Vec<String> {
    let listed = support::run("find", &[&dir.to_string_lossy(), "-printf", "%P %y %u %m\n"]);
    let mut all: Vec<String> = listed.lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// A ruling that a user wrote: `over` in place of the image's files, and a loader to be asked.
fn ruling(lab: &Lab, over: &str, check: &str) -> String {
    let text = format!(
        r#"{{"format":1,"profiles":null,"in_use":[],"swap":{{"extent":"mpi","stack":"test","machine":"x86_64",
        "over":{{{over}}},"links":{{}},"cached":[],"needs":[],"library_path":null,"extras":[],"devices":[],"set":{{}},
        "default":{{}},"prepend":{{}},"glibc":false,"warnings":[],"check":{check}}}}}"#
    );
    lab.file("ruling.json", &text, 0o644).to_string_lossy().into_owned()
}

#[test]
fn the_loader_gets_no_file_that_the_image_calls_dev_null() {
    let lab = lab!();
    let (roots, out) = (roots(&lab), lab.dir("out", 0o777));
    let image = lab.image("a", |tree| {
        symlink("/m/shadow", tree.join("dev/null")).expect("tree");
        // A static shell: the variables that make a loader list would make a dynamic one list, too.
        let loader = tree.join("opt/app/loader");
        fs::write(&loader, "#!/bin/busybox sh\n/bin/busybox cat <&0 >/out/stolen\n").expect("tree");
        fs::set_permissions(&loader, fs::Permissions::from_mode(0o755)).expect("tree");
    });
    let check = r#"{"loader":"/opt/app/loader","object":"/opt/app/file","expect":{}}"#;
    let contain = Contain::new(&image).option("--ruling", &ruling(&lab, "", check));
    let ran = contain.mount("umount:/dev").mount(&on(&roots, "/m")).mount(&on(&out, "/out")).sh("true");
    let stolen =
        fs::read_to_string(out.join("stolen")).unwrap_or_else(|e| panic!("no loader ran: {e}; {ran:?}"));
    assert_eq!(stolen, "", "root opened a file for the user");
}

#[test]
fn mount_points_in_an_empty_mount_are_made_in_no_other() {
    let lab = lab!();
    let (roots, users) = (roots(&lab), with_link(&lab, "/var/tmp"));
    let image = lab.image("a", |tree| fs::create_dir_all(tree.join("var")).expect("tree"));
    let before = everything_below(&roots);
    let contain = Contain::new(&image).mount("type=tmpfs,destination=/var").mount(&on(&users, "/a"));
    let contain = contain.mount(&on(&roots, "/a/b/s")).mount("/etc/hostname:/var/tmp/evil");
    let ran = contain.sh("true");
    assert_eq!(everything_below(&roots), before, "root made something on the host: {ran:?}");
    assert!(ran.refused().contains("/var/tmp/evil"));
}

#[test]
fn a_directory_of_the_host_is_not_made_writable_through_a_link_of_the_image() {
    let lab = lab!();
    let roots = roots(&lab);
    let image = lab.image("a", |tree| {
        fs::create_dir_all(tree.join("v/etc")).expect("tree");
        symlink("/v", tree.join("l")).expect("tree");
    });
    let contain = Contain::new(&image).mount(&on(&roots, "/l")).volatile("/v/etc");
    let ran = contain.sh("cat /v/etc/deep/shadow");
    assert!(!ran.out.contains(SECRET), "{ran:?}");
    assert!(ran.refused().contains("is the host's, not the image's"));
}

#[test]
fn a_directory_of_the_host_is_not_made_writable_through_a_link_of_the_users() {
    let lab = lab!();
    fs::create_dir_all("/tmp/grus-redirected").expect("tmp");
    let (roots, users) = (roots(&lab), with_link(&lab, "/tmp/grus-redirected"));
    let image =
        lab.image("a", |tree| fs::create_dir_all(tree.join("tmp/grus-redirected/etc/deep")).expect("tree"));
    let contain = Contain::new(&image).mount(&on(&users, "/a")).mount(&on(&roots, "/a/b/s"));
    let ran =
        contain.volatile("/tmp/grus-redirected/etc/deep").sh("cat /tmp/grus-redirected/etc/deep/shadow");
    let _ = fs::remove_dir("/tmp/grus-redirected");
    assert!(!ran.out.contains(SECRET), "{ran:?}");
    assert!(ran.refused().contains("a mount lies over it"));
}

#[test]
fn what_a_ruling_names_is_made_in_the_root_and_opened_as_the_user() {
    let lab = lab!();
    fs::create_dir_all("/tmp/grus-redirected-too").expect("tmp");
    let (roots, users) = (roots(&lab), with_link(&lab, "/tmp/grus-redirected-too"));
    let image =
        lab.image("a", |tree| fs::create_dir_all(tree.join("tmp/grus-redirected-too")).expect("tree"));
    let before = everything_below(&roots);
    let with = |over: &str| {
        let contain = Contain::new(&image).option("--writable", "yes");
        contain.option("--ruling", &ruling(&lab, over, "null")).mount(&on(&users, "/a"))
    };
    let made = with(r#""/tmp/grus-redirected-too/nologin":"/etc/passwd""#).mount(&on(&roots, "/a/b/s"));
    let ran = made.sh("true");
    assert_eq!(everything_below(&roots), before, "root made something on the host: {ran:?}");
    let err = ran.refused();
    assert!(err.contains("/tmp/grus-redirected-too"), "{err}");
    let shown = with(r#""/opt/shown":"/m/closed/file""#).mount(&on(&roots, "/m")).sh("cat /opt/shown");
    let _ = fs::remove_dir("/tmp/grus-redirected-too");
    assert!(!shown.out.contains(SECRET), "{shown:?}");
}

#[test]
fn a_ruling_shows_nothing_that_a_mount_hides() {
    let mut lab = lab!();
    let image = lab.image("a", |_| ());
    let open = lab.dir("open", 0o755);
    let hidden = lab.dir("open/hidden", 0o755);
    lab.file("open/hidden/file", SECRET, 0o644);
    lab.tmpfs(&hidden);
    let ruling = ruling(&lab, r#""/opt/all":"/h""#, "null");
    let contain = Contain::new(&image).option("--writable", "yes").option("--ruling", &ruling);
    let ran = contain.mount(&on(&open, "/h")).sh("ls -A /h /h/hidden /opt/all /opt/all/hidden");
    assert_eq!(ran.ok(), "/h:\nhidden\n\n/h/hidden:\n\n/opt/all:\nhidden\n\n/opt/all/hidden:\n");
}

/// Whether a launch tells of a name in a directory that is closed to the user whether it is there.
fn tells(contain: impl Fn(&str) -> Contain) -> bool {
    let [there, missing] = ["file", "none"].map(|name| {
        let ran = contain(name).sh("true");
        (ran.code, ran.out, ran.err.replace(name, "NAME"))
    });
    assert!(there.2.contains("Permission denied"), "it was found: {there:?}");
    there != missing
}

#[test]
fn no_launch_tells_what_is_in_a_closed_directory() {
    let lab = lab!();
    let (roots, users) = (roots(&lab), lab.dir("users", 0o755));
    let closed = roots.join("closed");
    let image = lab.image("a", |tree| {
        for name in ["file", "none"] {
            symlink(format!("/m/closed/{name}"), tree.join("opt").join(name)).expect("tree");
        }
    });
    // By a link of the user's in a directory that the site binds.
    let shared = tempfile::Builder::new().prefix("grus-").tempdir_in("/dev/shm").expect("a directory");
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).expect("lab");
    symlink(&closed, shared.path().join("l")).expect("lab");
    let in_shared = |name: &str| {
        let at = shared.path().join("l").join(name);
        Contain::new(&image).mount(&format!("/etc/hostname:{}", at.display()))
    };
    assert!(!tells(in_shared), "in a bind of the site's");
    // By one that leads to a file of the user's on the host, and elsewhere in the container.
    let decoys = tempfile::Builder::new().prefix("grus-").tempdir_in("/tmp").expect("a directory");
    fs::set_permissions(decoys.path(), fs::Permissions::from_mode(0o755)).expect("lab");
    fs::create_dir_all(decoys.path().join("m/closed")).expect("lab");
    for name in ["file", "none"] {
        let decoy = decoys.path().join("m/closed").join(name);
        fs::write(&decoy, "").expect("lab");
        symlink(&decoy, users.join(name)).expect("lab");
    }
    let other_here = |name: &str| {
        let contain = Contain::new(&image).mount(&on(&roots, &decoys.path().join("m").to_string_lossy()));
        contain.mount(&on(&users, "/a/b/c/d")).mount(&format!("/etc/hostname:/a/b/c/d/{name}"))
    };
    assert!(!tells(other_here), "by a link of the user's");
    // By one in the root, where a ruling puts something.
    let ruled = |name: &str| {
        let ruling = ruling(&lab, &format!(r#""/opt/{name}":"/etc/passwd""#), "null");
        let contain = Contain::new(&image).option("--writable", "yes").option("--ruling", &ruling);
        contain.mount(&on(&roots, "/m"))
    };
    assert!(!tells(ruled), "by a ruling");
}

#[test]
fn a_site_may_mount_in_what_is_closed_to_the_user() {
    let lab = lab!();
    let roots = roots(&lab);
    lab.dir("roots/closed/sub", 0o755);
    let image = lab.image("a", |_| ());
    let site = format!(
        "mounts.site=['/usr:/usr:ro','{}:/c','{}:/c/sub']",
        roots.join("closed").display(),
        roots.join("etc").display()
    );
    let ran = Contain::new(&image).bare().site(&site).sh("grep -c ' /c/sub ' /proc/self/mountinfo");
    assert_eq!(ran.ok(), "1\n");
}

#[test]
fn nothing_is_mounted_over_the_containers_root() {
    let lab = lab!();
    let users = with_link(&lab, "/");
    let image = lab.image("a", |tree| {
        symlink("/", tree.join("l")).expect("tree");
        symlink("..", tree.join("opt/x")).expect("tree");
    });
    let contain = || Contain::new(&image);
    let ruling = ruling(&lab, r#""/opt/x":"/a""#, "null");
    for contain in [
        contain().mount(&on(&users, "/l")),
        contain().mount("type=tmpfs,destination=/l"),
        contain().mount(&on(&users, "/a")).mount(&on(&users, "/a/b/s")),
        contain().option("--writable", "yes").mount(&on(&users, "/a")).option("--ruling", &ruling),
        contain().volatile("/l"),
    ] {
        let err = contain.sh("ls /").refused();
        assert!(err.contains("'/'") && err.contains("hint: "), "{err}");
    }
}
