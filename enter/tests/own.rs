//! Directories in memory, SquashFS files and binds with flags, in real containers.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{chown, symlink, PermissionsExt};
use std::path::Path;

use support::{eventually, loops, run, servers, Contain, Lab, UID};

#[test]
fn a_tmpfs_is_the_users_and_as_large_as_asked() {
    let lab = lab!();
    let contain = Contain::new(&lab.image("a", |_| ()))
        .mount("type=tmpfs,dst=/fast,size=2m,mode=1770,noexec")
        .mount("type=tmpfs,dst=/made/on/demand");
    let script = "stat -c '%a %u %g' /fast /made/on/demand; grep ' /fast ' /proc/self/mounts
        head -c 3000000 /dev/zero > /fast/big; stat -c %s /fast/big; rm /fast/big
        echo 'echo ran' > /fast/x; chmod +x /fast/x; /fast/x; cp /fast/x /made/on/demand/; /made/on/demand/x";
    let ran = contain.sh(script);
    assert!(ran.out.starts_with(&format!("1770 {UID} {UID}\n700 {UID} {UID}\ngrus /fast tmpfs ")), "{ran:?}");
    assert!(ran.out.contains("rw,nosuid,nodev,noexec,") && ran.out.contains(",size=2048k,"), "{ran:?}");
    assert!(ran.out.ends_with("\n2097152\nran\n"), "{ran:?}");
    assert!(ran.err.contains("No space left on device") && ran.err.contains("Permission denied"), "{ran:?}");
}

#[test]
fn a_tmpfs_holds_no_more_files_than_pages() {
    let lab = lab!();
    let contain = Contain::new(&lab.image("a", |_| ())).mount("type=tmpfs,dst=/fast,size=1m");
    let ran =
        contain.sh("cd /fast; i=0; while touch f$i; do i=$((i+1)); done; rm f1; touch f1 && ls | wc -l");
    // One inode is the root's.
    assert_eq!(ran.out, "255\n", "{ran:?}");
    assert!(ran.err.contains("No space left on device"), "{ran:?}");
}

#[test]
fn all_tmpfs_of_a_step_share_one_limit() {
    let lab = lab!();
    let image = lab.image("a", |_| ());
    let contain = |mounts: &[&str]| {
        let contain = Contain::new(&image).site("tmpfs.size-limit='16m'");
        mounts.iter().fold(contain, |contain, mount| contain.mount(mount))
    };
    let sizes = "df --output=size /a /b /c | tail -n3 | tr -d ' '";
    let three = contain(&["tmpfs:/a:size=8m", "tmpfs:/b", "tmpfs:/c"]);
    assert_eq!(three.sh(sizes).ok(), "8192\n4096\n4096\n");
    for mounts in [&["tmpfs:/a:size=8m", "tmpfs:/b:size=9m"][..], &["tmpfs:/a:size=16m", "tmpfs:/b"]] {
        let err = contain(mounts).sh("true").refused();
        assert!(err.contains("the tmpfs that are to be mounted are too large"), "{err}");
        assert!(err.contains("hint: ask for less"), "{err}");
    }
}

#[test]
fn mount_points_in_a_tmpfs_are_made_also_in_a_read_only_one() {
    let lab = lab!();
    let (dir, file) = (lab.dir("dir", 0o755), lab.file("file", "text\n", 0o644));
    lab.file("dir/there", "there\n", 0o644);
    let contain = Contain::new(&lab.image("a", |_| ()))
        .mount("type=tmpfs,dst=/ro,readonly")
        .mount(&format!("{}:/ro/one/two", dir.display()))
        .mount(&format!("{}:/ro/one/file", file.display()))
        .mount("type=tmpfs,dst=/ro/one/rw")
        .mount(&format!("{}:/ro/one/rw/x/y", dir.display()));
    let ran = contain
        .sh("cat /ro/one/two/there /ro/one/file /ro/one/rw/x/y/there; touch /ro/a /ro/one/b; touch /ro/one/rw/x/c && ls /ro/one/rw/x");
    assert_eq!(ran.out, "there\ntext\nthere\nc\ny\n", "{ran:?}");
    assert_eq!(ran.err.matches("Read-only file system").count(), 2, "{ran:?}");
}

#[test]
fn huge_pages_are_had_or_refused() {
    let lab = lab!();
    let contain = Contain::new(&lab.image("a", |_| ())).mount("type=tmpfs,dst=/fast,size=8m,huge=always");
    let ran = contain.sh("grep ' /fast ' /proc/self/mounts");
    match ran.code {
        Some(0) => assert!(ran.out.contains("huge=always"), "{ran:?}"),
        _ => assert!(ran.refused().contains("huge=always: this node's kernel has no huge pages for tmpfs")),
    }
}

/// A data set with a program in it, owned by root.
fn set(lab: &Lab) -> std::path::PathBuf {
    lab.image("set", |tree| {
        fs::write(tree.join("data/number"), "42\n").expect("tree");
        fs::write(tree.join("data/program"), "#!/bin/sh\necho ran\n").expect("tree");
        fs::set_permissions(tree.join("data/program"), Permissions::from_mode(0o4755)).expect("tree");
    })
}

#[test]
fn a_squashfs_file_is_mounted_by_the_rule_of_images() {
    let lab = lab!();
    let (image, roots) = (lab.image("a", |_| ()), set(&lab));
    let users = lab.path("user's, 1:2.sqsh");
    fs::copy(&roots, &users).expect("lab");
    chown(&users, Some(UID), Some(UID)).expect("lab");
    let before = servers();
    let running = Contain::new(&image)
        .mount(&format!("type=squashfs,src={},dst=/k", roots.display()))
        .mount(&format!("type=squashfs,\"src={}\",dst=/made/u,noexec", users.display()))
        .start("read x");
    assert_eq!(loops(&lab).len(), 2, "image and data set");
    let serving: Vec<_> = servers().into_iter().filter(|pid| !before.contains(pid)).collect();
    assert_eq!(serving.len(), 1);
    let script =
        "cat /k/data/number /made/u/data/number; /k/data/program; /made/u/data/program; touch /k/x /made/u/x
        grep -E ' (/k|/made/u) ' /proc/self/mounts | cut -d' ' -f3,4 | cut -d, -f1-4";
    let ran = running.also(script);
    let mounts = "squashfs ro,nosuid,nodev,relatime\nfuse.squashfuse ro,nosuid,nodev,noexec\n";
    assert_eq!(ran.out, format!("42\n42\nran\n{mounts}"), "{ran:?}");
    assert_eq!(ran.err.matches("Read-only file system").count(), 2, "{ran:?}");
    assert!(ran.err.contains("/made/u/data/program: Permission denied"), "{ran:?}");
    // The server is outside of what it serves, so that it pins nothing.
    let ours = fs::read_link("/proc/self/ns/mnt").expect("proc");
    assert_eq!(fs::read_link(format!("/proc/{}/ns/mnt", serving[0])).expect("proc"), ours);
    running.kill();
    eventually("nothing", || loops(&lab).is_empty() && servers().iter().all(|pid| before.contains(pid)));
    let mount = format!("type=squashfs,\"src={}\",dst=/u", users.display());
    let err = Contain::new(&image).mount(&mount).site("security.user-images='refuse'").sh("true").refused();
    assert!(err.contains("owned by user id 54321"), "{err}");
}

/// What is in place of a data set, and what is said of it.
const HOSTILE_SETS: &[(&str, &str)] = &[
    ("text", "it is not a SquashFS file"),
    ("closed", "closed: Permission denied"),
    ("dir", "it is not a file"),
    ("cut", "is truncated: "),
    ("fifo", "it is not a file"),
    ("null", "it is not a file"),
    ("magic", "it leads through a link of /proc"),
    ("none", "No such file or directory"),
];

#[test]
fn what_is_no_squashfs_file_is_refused_before_any_mount() {
    let lab = lab!();
    let (image, whole) = (lab.image("a", |_| ()), set(&lab));
    let mounting = |name: &str, options: &str| {
        let mount = format!("type=squashfs,src={},dst=/set{options}", lab.path(name).display());
        Contain::new(&image).mount(&mount).sh("ls -d /set/data").refused()
    };
    lab.file("text", "hello\n", 0o644);
    lab.file("closed", "hsqs", 0o600);
    lab.dir("dir", 0o755);
    fs::write(lab.path("cut"), &fs::read(&whole).expect("lab")[..500]).expect("lab");
    run("mkfifo", &["-m", "666", &lab.path("fifo").to_string_lossy()]);
    run("mknod", &["-m", "666", &lab.path("null").to_string_lossy(), "c", "1", "3"]);
    symlink("/proc/self/fd/0", lab.path("magic")).expect("lab");
    for (name, what) in HOSTILE_SETS {
        let err = mounting(name, "");
        assert!(err.contains(what) && err.contains(name) && err.contains("\nhint: "), "{name}: {err}");
    }
    let image = Contain::new(&image);
    let missing = format!("type=squashfs,src={},dst=/set,optional", lab.path("none").display());
    assert_eq!(image.mount(&missing).sh("test -e /set || echo left out").ok(), "left out\n");
}

#[test]
fn damaged_squashfs_files_are_an_error_that_names_them() {
    let lab = lab!();
    let (image, set) = (lab.image("a", |_| ()), set(&lab));
    let mut bytes = fs::read(&set).expect("lab");
    bytes[32..40].fill(0xee);
    bytes[48..96].fill(0xee);
    fs::write(&set, bytes).expect("lab");
    for owner in [0, UID] {
        chown(&set, Some(owner), None).expect("lab");
        let mount = format!("type=squashfs,src={},dst=/set", set.display());
        let err = Contain::new(&image).mount(&mount).sh("true").refused();
        let what = format!("cannot make a mount: {} on /set: ", set.display());
        assert!(err.starts_with(&what) && err.contains("\nhint: the "), "{err}");
    }
    eventually("no loop device", || loops(&lab).is_empty());
}

#[test]
fn a_source_that_is_swapped_meanwhile_gives_no_other_file() {
    let lab = lab!();
    let (image, open) = (lab.image("a", |_| ()), set(&lab));
    // Of root's alone: what the user may not read must not appear, however the link turns.
    let closed = lab.image("closed", |tree| fs::write(tree.join("data/secret"), "").expect("tree"));
    fs::set_permissions(&closed, Permissions::from_mode(0o600)).expect("lab");
    let dir = lab.dir("swapped", 0o777);
    let link = dir.join("link");
    let turn = |to: &Path| {
        symlink(to, dir.join("new")).expect("lab");
        fs::rename(dir.join("new"), &link).expect("lab");
    };
    turn(&open);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let turning = || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                turn(&closed);
                turn(&open);
            }
        };
        scope.spawn(turning);
        let contain = Contain::new(&image).mount(&format!("type=squashfs,src={},dst=/set", link.display()));
        for _ in 0..40 {
            let ran = contain.sh("ls /set/data");
            assert!(!ran.out.contains("secret"), "{ran:?}");
            assert!(ran.out.contains("number") || ran.err.contains("Permission denied"), "{ran:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn each_server_that_hangs_is_ended() {
    let lab = lab!();
    let mark = lab.dir("mark", 0o777);
    // The second to start never answers.
    let script = format!(
        "#!/bin/sh\necho $$ >> {0}/pids\nmkdir {0}/first 2>/dev/null && exec /usr/bin/squashfuse_ll \"$@\"\nexec sleep 1000\n",
        mark.display()
    );
    let hangs = lab.file("hangs", &script, 0o755);
    let (image, set) = (lab.users_image("a", |_| ()), set(&lab));
    chown(&set, Some(UID), None).expect("lab");
    let contain = Contain::new(&image)
        .site(&format!("security.squashfuse='{}'", hangs.display()))
        .mount(&format!("type=squashfs,src={},dst=/set", set.display()));
    let err = contain.option("--limit", "2").sh("true").refused();
    assert!(err.starts_with("cannot make a mount: squashfuse_ll did not answer within 2 s\nhint: "), "{err}");
    let pids = fs::read_to_string(mark.join("pids")).expect("both ran");
    assert_eq!(pids.lines().count(), 2, "{pids}");
    let alive = |pid: &str| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let gone = fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        !gone && ["sleep\n", "hangs\n", "squashfuse_ll\n"].contains(&comm.as_str())
    };
    eventually("the servers' end", || !pids.lines().any(alive));
}

#[test]
fn flags_of_binds() {
    let mut lab = lab!();
    let image = lab.image("a", |_| ());
    let dir = lab.dir("source", 0o777);
    let below = lab.dir("source/below", 0o777);
    lab.file("source/program", "#!/bin/sh\necho ran\n", 0o755);
    lab.file("source/below/hidden", "", 0o644);
    lab.tmpfs(&below);
    lab.file("source/below/program", "#!/bin/sh\necho ran\n", 0o755);
    let dir = dir.display();
    let contain = Contain::new(&image)
        .mount(&format!("src={dir},dst=/rec"))
        .mount(&format!("src={dir},dst=/noexec,noexec"));
    let ran = contain.sh("cd /; rec/program; rec/below/program; noexec/program; noexec/below/program");
    assert_eq!(ran.out, "ran\nran\n", "{ran:?}");
    assert_eq!(ran.err.matches("Permission denied").count(), 2, "{ran:?}");
    // Nothing is mounted below this one.
    let alone = Contain::new(&image).mount(&format!("src={dir}/below,dst=/norec,recursive=false"));
    assert_eq!(alone.sh("norec/program").ok(), "ran\n");
    // A device node, on a name that the image lacks.
    let device = Contain::new(&image).mount("/dev/null:/made/null").sh("echo gone > /made/null && echo dead");
    assert_eq!(device.ok(), "dead\n");
}

/// The kernel refuses it to users; root, who clones for them, must do so.
#[test]
fn what_a_mount_of_the_host_hides_stays_hidden() {
    let mut lab = lab!();
    let image = lab.image("a", |_| ());
    let dir = lab.dir("source", 0o777);
    let below = lab.dir("source/private here", 0o777);
    lab.file("source/private here/hidden", "", 0o644);
    lab.tmpfs(&below);
    for source in [dir.display().to_string(), dir.parent().expect("a lab").display().to_string(), "/".into()]
    {
        for end in [",recursive=false", ",recursive=0,ro"] {
            let mount = format!("src={source},dst=/x{end}");
            let err = Contain::new(&image).mount(&mount).sh("find /x -name hidden").refused();
            assert!(err.contains("alone: something is mounted below it, on "), "{mount}: {err}");
            assert!(err.contains("leave 'recursive=false'"), "{mount}: {err}");
        }
    }
    // As the default is.
    let all = Contain::new(&image).mount(&format!("src={},dst=/x", dir.display()));
    assert_eq!(all.sh("ls -A /x '/x/private here'").ok(), "/x:\nprivate here\n\n/x/private here:\n");
}
