//! Everything that can be wrong with an image, a site or a node: one line of what, one of the way out, no command run.

mod support;

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, META_VERSION};
use grus_core::platform::Platform;
use support::{eventually, loops, ran, run, servers, Contain, Lab, Ran, UID};

fn meta(image: &Path, platform: &str) {
    let meta = ImageMeta {
        version: META_VERSION,
        reference: None,
        digest: Digest::from_bytes(&[1; 32]),
        platform: Platform::parse(platform).expect("platform"),
        created: None,
        size: 0,
        content: None,
        unpacked_size: 0,
        config: Default::default(),
        layers: vec![],
    };
    fs::write(image.with_extension("json"), meta.to_json()).expect("lab");
}

#[track_caller]
fn refused(image: &Path, what: &str, hint: &str) {
    let err = Contain::new(image).sh("true").refused();
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].contains(what), "{err}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{err}");
}

#[test]
fn images_that_are_none() {
    let lab = lab!();
    let whole = lab.image("a", |_| ());
    let cut = lab.path("cut.squashfs");
    fs::copy(&whole, &cut).expect("lab");
    OpenOptions::new().write(true).open(&cut).and_then(|f| f.set_len(500)).expect("lab");
    refused(&cut, "is truncated: ", "pull, import or copy the image again");
    refused(&lab.file("text", "hello\n", 0o644), "is not an image: it is not a SquashFS file", "grus pull");
    refused(&lab.file("empty", "", 0o644), "is not an image", "grus pull");
    refused(&lab.dir("dir", 0o755), "it is not a regular file", "grus pull");
    refused(&lab.path("none"), "cannot open image", "it must exist on every node");
    refused(&lab.file("closed", "hsqs", 0o600), "Permission denied", "your own permissions");
    run("mkfifo", &[&lab.path("fifo").to_string_lossy()]);
    fs::set_permissions(lab.path("fifo"), Permissions::from_mode(0o666)).expect("lab");
    refused(&lab.path("fifo"), "it is not a regular file", "grus pull");
    refused(Path::new("/proc/self/fd/0"), "Too many levels of symbolic links", "links of /proc");
    let tar = lab.path("a.tar");
    run("tar", &["-cf", &tar.to_string_lossy(), "-C", "/etc", "hostname"]);
    refused(&tar, "is an archive, not a SquashFS file", "grus import ");
}

#[test]
fn images_that_are_damaged_inside() {
    let lab = lab!();
    for image in [lab.image("k", |_| ()), lab.users_image("u", |_| ())] {
        let mut bytes = fs::read(&image).expect("lab");
        // The offsets of all tables (from byte 64 of the superblock) lead nowhere; magic, version and size stay good.
        bytes[32..40].fill(0xee);
        bytes[48..96].fill(0xee);
        fs::write(&image, bytes).expect("lab");
        let err = Contain::new(&image).sh("true").refused();
        assert!(
            err.starts_with("cannot mount the image: ") && err.contains("hint: the image may be damaged"),
            "{err}"
        );
    }
    assert_eq!(loops(&lab), Vec::<String>::new());
}

#[test]
fn metadata_is_obeyed_and_checked() {
    let lab = lab!();
    let image = lab.image("a", |_| ());
    meta(&image, "linux/s390x");
    refused(&image, "is for linux/s390x, this node is linux/", "grus pull --platform linux/");
    fs::write(image.with_extension("json"), "{").expect("lab");
    refused(&image, "is malformed", "pull or import the image again");
    meta(&image, &Platform::here().to_string());
    let _ = Contain::new(&image).sh("true").ok();
}

#[test]
fn a_site_can_refuse_or_trust_users_images() {
    let lab = lab!();
    let image = lab.users_image("u", |_| ());
    let err = Contain::new(&image).site("security.user-images='refuse'").sh("true").refused();
    assert!(
        err.contains("owned by user id 54321, not by root") && err.contains("hint: ask the administrator"),
        "{err}"
    );
    let running = Contain::new(&image).site("security.user-images='kernel'").start("read x");
    assert_eq!(loops(&lab).len(), 1);
    running.kill();
}

#[test]
fn only_what_root_alone_can_write_reaches_the_kernel() {
    let lab = lab!();
    let is_fuse = |image: &Path| {
        let refuse = Contain::new(image).site("security.user-images='refuse'").sh("true");
        refuse.code == Some(1) && refuse.err.contains("system repository only")
    };
    let image = lab.image("a", |_| ());
    assert!(!is_fuse(&image));
    fs::set_permissions(&image, Permissions::from_mode(0o664)).expect("lab");
    assert!(is_fuse(&image), "writable by its group");
    fs::set_permissions(&image, Permissions::from_mode(0o644)).expect("lab");
    run("setfacl", &["-m", "u:54321:rw", &image.to_string_lossy()]);
    assert!(is_fuse(&image), "writable by a user through an access control list");
    run("setfacl", &["-b", &image.to_string_lossy()]);
    let place = |name: &str, change: &dyn Fn(&Path)| -> PathBuf {
        let dir = lab.dir(name, 0o755);
        let copy = lab.dir(&format!("{name}/below"), 0o755).join("a.squashfs");
        fs::copy(&image, &copy).expect("lab");
        change(&dir);
        copy
    };
    assert!(!is_fuse(&place("good", &|_| ())));
    let mode = |mode| move |dir: &Path| fs::set_permissions(dir, Permissions::from_mode(mode)).expect("lab");
    assert!(is_fuse(&place("group", &mode(0o775))));
    assert!(is_fuse(&place("sticky", &mode(0o1777))));
    assert!(is_fuse(&place("users", &|dir| chown(dir, Some(UID), None).expect("chown"))));
    // Through a link it is the file that counts, wherever the link is.
    let link = lab.dir("links", 0o1777).join("a.squashfs");
    std::os::unix::fs::symlink(&image, &link).expect("lab");
    assert!(!is_fuse(&link));
}

/// Runs with a device of the node hidden, in a mount namespace of the command's own.
fn without(device: &str, contain: &Contain) -> Ran {
    let inner = contain.command("true");
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "/bin/sh", "-c"]);
    command.arg(format!("mount --bind /dev/null {device} && exec \"$@\""));
    command.arg("sh").arg(inner.get_program()).args(inner.get_args());
    ran(command)
}

#[test]
fn a_node_without_loop_or_fuse() {
    let lab = lab!();
    let err = without("/dev/loop-control", &Contain::new(&lab.image("k", |_| ()))).refused();
    assert!(err.contains("cannot mount the image: ioctl(/dev/loop-control, LOOP_CTL_GET_FREE)"), "{err}");
    assert!(err.contains("hint: "), "{err}");
    let err = without("/dev/fuse", &Contain::new(&lab.users_image("u", |_| ()))).refused();
    assert!(
        err.contains("cannot mount the image: ") && err.contains("fuse") && err.contains("hint: "),
        "{err}"
    );
}

#[test]
fn a_node_without_a_fitting_squashfuse() {
    let lab = lab!();
    let image = lab.users_image("u", |_| ());
    let with = |program: &Path| {
        Contain::new(&image)
            .site(&format!("security.squashfuse='{}'", program.display()))
            .sh("true")
            .refused()
    };
    let err = with(Path::new("/none/squashfuse_ll"));
    assert!(
        err.starts_with("cannot mount the image: /none/squashfuse_ll is not installed on this node"),
        "{err}"
    );
    assert!(err.contains("install the package 'squashfuse'"), "{err}");
    let open = lab.file("open", "#!/bin/sh\n", 0o777);
    assert!(with(&open).contains("is not trusted: "), "writable by others");
    assert!(with(&lab.file("data", "", 0o644)).contains("is not a program"));
    let quits = lab.file("quits", "#!/bin/sh\necho 'out of paper' >&2\nexit 3\n", 0o755);
    let err = with(&quits);
    assert!(err.contains("squashfuse_ll said: out of paper") && err.contains("hint: "), "{err}");
    assert!(with(&lab.file("junk", "junk", 0o755)).contains("execve for"), "not a program at all");
}

#[test]
fn a_server_that_never_answers_is_given_up_and_ended() {
    let lab = lab!();
    let image = lab.users_image("u", |_| ());
    let mark = lab.dir("mark", 0o777);
    let script = format!("#!/bin/sh\necho $$ > {}/pid\nexec sleep 1000\n", mark.display());
    let hangs = lab.file("hangs", &script, 0o755);
    let contain = Contain::new(&image).site(&format!("security.squashfuse='{}'", hangs.display()));
    let err = contain.option("--limit", "1").sh("true").refused();
    assert!(
        err.starts_with("cannot mount the image: squashfuse_ll did not answer within 1 s\nhint: "),
        "{err}"
    );
    let pid = fs::read_to_string(mark.join("pid")).expect("the server ran");
    let alive =
        || fs::read_to_string(format!("/proc/{}/comm", pid.trim())).is_ok_and(|comm| comm == "sleep\n");
    eventually("the server's end", || !alive());
}

#[test]
fn a_server_killed_in_mid_step_leaves_errors_not_hangs() {
    let lab: Lab = lab!();
    let image = lab.users_image("u", |_| ());
    let before = servers();
    let running = Contain::new(&image).start("read x");
    let pid = servers().into_iter().find(|pid| !before.contains(pid)).expect("a server");
    run("kill", &["-9", &pid.to_string()]);
    eventually("the server's end", || !servers().contains(&pid));
    let script = format!("timeout 10 cat /proc/{}/root/opt/app/sub/deep", running.pid);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]);
    let ran = ran(command);
    assert!(ran.err.contains("not connected") || ran.err.contains("Software caused"), "{ran:?}");
    running.kill();
}
