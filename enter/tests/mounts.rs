//! Images mounted both ways, binds and their limits, in real containers.

mod support;

use std::fs;
use std::os::unix::fs::chown;

use support::{eventually, loops, mounts, run, servers, Contain, UID};

#[test]
fn an_image_of_roots_is_mounted_by_the_kernel_and_gone_afterwards() {
    let lab = lab!();
    let image = lab.image("a", |_| ());
    let running = Contain::new(&image).start("read x");
    assert_eq!(loops(&lab).len(), 1);
    let inside = fs::read_to_string(format!("/proc/{}/mountinfo", running.pid)).expect("proc");
    assert!(inside.contains(" / / ro,nosuid,nodev") && inside.contains("overlay"), "{inside}");
    assert!(!inside.contains("shared:"), "{inside}");
    running.kill();
    eventually("no loop device", || loops(&lab).is_empty());
}

#[test]
fn an_image_that_lacks_nothing_needs_no_overlay() {
    let lab = lab!();
    let image = lab.image("a", |tree| {
        for file in ["hosts", "resolv.conf", "group"] {
            fs::write(tree.join("etc").join(file), "").expect("tree");
        }
    });
    let out = Contain::new(&image).sh("cat /proc/self/mountinfo").ok();
    assert!(out.contains(" - squashfs /dev/loop") && !out.contains("overlay"), "{out}");
}

#[test]
fn a_users_image_is_served_by_the_users_own_process_outside_the_container() {
    let lab = lab!();
    let image = lab.users_image("u", |_| ());
    let before = servers();
    let running = Contain::new(&image).start("read x");
    assert_eq!(loops(&lab), Vec::<String>::new());
    let pid = servers().into_iter().find(|pid| !before.contains(pid)).expect("a server");
    let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("proc");
    let status = proc("status");
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), vec![UID.to_string(); 4]);
    assert_eq!(field("Gid:"), vec![UID.to_string(); 4]);
    assert_eq!(field("Groups:"), Vec::<String>::new());
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    // CAP_BLOCK_SUSPEND alone (ADR 11).
    assert_eq!(field("CapEff:"), ["0000001000000000"]);
    assert_eq!(field("SigBlk:"), ["0000000000000000"]);
    let own = [std::process::id().to_string(), running.child.id().to_string()];
    assert!(!own.contains(&field("PPid:")[0]), "{status}");
    assert_eq!(proc("environ"), "");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("proc"), std::path::Path::new("/"));
    let descriptors: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("proc")
        .map(|e| fs::read_link(e.expect("fd").path()).expect("fd").to_string_lossy().into_owned())
        .collect();
    let known = |d: &String| {
        d == "/dev/null" || d == "/dev/fuse" || d.starts_with("pipe:") || *d == image.to_string_lossy()
    };
    assert!(descriptors.iter().all(known), "{descriptors:?}");
    let ours = fs::read_link("/proc/self/ns/mnt").expect("proc");
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("proc"),
        ours,
        "it would pin the container"
    );
    // The one descriptor of /dev/fuse is the server's.
    let held = fs::read_dir(format!("/proc/{}/fd", running.child.id())).expect("proc");
    let fuse = held.filter(|e| {
        let link = e.as_ref().ok().and_then(|e| fs::read_link(e.path()).ok());
        link.is_some_and(|l| l.as_os_str() == "/dev/fuse")
    });
    assert_eq!(fuse.count(), 0);
    running.kill();
    eventually("no server", || !servers().contains(&pid));
}

#[test]
fn both_ways_show_the_same_tree() {
    let lab = lab!();
    let change = |tree: &std::path::Path| chown(tree.join("opt/app/file"), Some(7), Some(8)).expect("chown");
    let script = "cd /; find etc/os-release opt data -printf '%p %y %m %U:%G %s %T@\\n' | sort; id; pwd";
    let image = lab.image("k", change);
    let kernel = Contain::new(&image).sh(script).ok();
    let users = lab.path("u.squashfs");
    fs::copy(&image, &users).expect("copy");
    chown(&users, Some(UID), Some(UID)).expect("chown");
    let fuse = Contain::new(&users).sh(script).ok();
    let without_sizes = |text: &str| -> Vec<String> {
        // Directories have no size of their own in squashfuse.
        text.lines().filter(|l| !l.contains(" d ")).map(str::to_owned).collect()
    };
    assert!(kernel.contains("opt/app/file f 644 7:8 6"), "{kernel}");
    assert_eq!(without_sizes(&kernel), without_sizes(&fuse));
}

#[test]
fn the_root_is_read_only_even_for_root_and_nothing_gains_rights() {
    let lab = lab!();
    let image = lab.image("a", |_| ());
    let script = "touch /x /etc/x /opt/app/file 2>&1; grep NoNewPrivs /proc/self/status";
    let out = Contain::new(&image).root().sh(script).ok();
    assert_eq!(out.matches("Read-only file system").count(), 3, "{out}");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");
}

#[test]
fn passwd_and_group_know_the_user() {
    let lab = lab!();
    let out =
        Contain::new(&lab.image("a", |_| ())).sh("id -un; id -gn; cat /etc/passwd; echo >/etc/passwd").err;
    assert!(out.contains("Read-only") || out.contains("Permission denied"), "{out}");
    let out = Contain::new(&lab.image("b", |_| ())).sh("id -un; id -gn; cat /etc/passwd").ok();
    assert!(out.starts_with("tester\ng54321\nroot:x:0:0:root:/root:/bin/sh\ntester:x:54321:54321:"), "{out}");
}

#[test]
fn a_bind_is_writable_and_a_read_only_one_is_not_with_all_below_it() {
    let mut lab = lab!();
    let image = lab.image("a", |_| ());
    let dir = lab.dir("source", 0o777);
    let below = lab.dir("source/below", 0o777);
    lab.tmpfs(&below);
    fs::write(below.join("there"), "").expect("tmpfs");
    let (rw, ro) = (format!("{}:/data", dir.display()), format!("{}:/data:ro", dir.display()));
    let script = "ls /data/below; touch /data/new /data/below/new";
    assert_eq!(Contain::new(&image).root().mount(&rw).sh(script).ok(), "there\n");
    assert!(dir.join("new").exists() && below.join("new").exists());
    let ran = Contain::new(&image).root().mount(&ro).sh("ls /data/below; touch /data/a; touch /data/below/b");
    assert_eq!(ran.out, "new\nthere\n");
    assert_eq!(ran.err.matches("Read-only file system").count(), 2, "{}", ran.err);
}

#[test]
fn setuid_and_devices_are_inert_in_binds() {
    let lab = lab!();
    let dir = lab.dir("source", 0o755);
    run("mknod", &[&dir.join("null").to_string_lossy(), "c", "1", "3"]);
    let image = lab.image("a", |tree| {
        run("mknod", &[&tree.join("data/null").to_string_lossy(), "c", "1", "3"]);
    });
    let mount = format!("{}:/opt/app", dir.display());
    let contain = Contain::new(&image).root().mount(&mount);
    let ran = contain.sh(
        "cat /opt/app/null; cat /data/null; echo > /dev/null && echo dev; grep /opt/app /proc/self/mountinfo",
    );
    assert_eq!(ran.err.matches("Permission denied").count(), 2, "{}", ran.err);
    assert!(ran.out.starts_with("dev\n") && ran.out.contains("nosuid,nodev"), "{}", ran.out);
}

#[test]
fn mounts_flow_in_but_never_out() {
    let mut lab = lab!();
    let image = lab.image("a", |_| ());
    let dir = lab.dir("shared", 0o755);
    lab.shared(&dir);
    let (late, inner) = (lab.dir("shared/late", 0o755), lab.dir("shared/inner", 0o755));
    let running = Contain::new(&image).root().mount(&format!("{}:/data", dir.display())).start("read x");
    lab.tmpfs(&late);
    fs::write(late.join("seen"), "").expect("tmpfs");
    assert_eq!(running.also("ls /data/late").ok(), "seen\n");
    let before = mounts(&lab);
    let _ = running
        .also("mount -t tmpfs inside /data/inner && touch /data/inner/x && mount -t tmpfs inside /opt")
        .ok();
    assert_eq!(mounts(&lab), before);
    assert!(!inner.join("x").exists());
    running.kill();
    assert_eq!(mounts(&lab), before);
}

/// Automounts come so; whether they gain anybody anything is the host's to say, but for set-user-id programs.
#[test]
fn what_the_host_mounts_later_comes_as_the_host_has_it() {
    let mut lab = lab!();
    let image = lab.image("a", |_| ());
    let dir = lab.dir("shared", 0o755);
    lab.shared(&dir);
    let (early, late) = (lab.dir("shared/early", 0o755), lab.dir("shared/late", 0o755));
    lab.tmpfs(&early);
    let running = Contain::new(&image).root().mount(&format!("{}:/data:ro", dir.display())).start("read x");
    lab.tmpfs(&late);
    let flags = |at: &str| running.also(&format!("grep ' {at} ' /proc/self/mounts")).ok();
    assert!(flags("/data/early").contains(" ro,nosuid"), "{}", flags("/data/early"));
    assert!(flags("/data/late").contains(" rw,relatime"), "{}", flags("/data/late"));
    let new = running.also(&format!("grep NoNewPrivs /proc/{}/status", running.pid)).ok();
    assert_eq!(new.trim_end(), "NoNewPrivs:\t1");
    running.kill();
}

#[test]
fn a_source_is_opened_with_the_users_permissions() {
    let lab = lab!();
    let image = lab.image("a", |_| ());
    lab.dir("closed", 0o700);
    let hidden = lab.dir("closed/open", 0o755);
    let err = Contain::new(&image).mount(&format!("{}:/data", hidden.display())).sh("true").refused();
    let what = format!("cannot bind {} on /data: Permission denied", hidden.display());
    assert!(err.starts_with(&what) && err.contains("hint: it is opened with your own permissions"), "{err}");
    let root = Contain::new(&image).root().mount(&format!("{}:/data", hidden.display())).sh("true");
    let _ = root.ok();
    // A directory one may name but not read stays unreadable inside.
    let closed = lab.path("closed");
    let ran = Contain::new(&image).mount(&format!("{}:/data", closed.display())).sh("ls /data");
    assert!(ran.code != Some(0) && ran.err.contains("Permission denied"), "{ran:?}");
}

#[test]
fn links_of_proc_are_no_way_to_what_the_launcher_has_open() {
    let lab = lab!();
    let image = lab.image("a", |_| ());
    for source in ["/proc/self/fd/0", "/proc/self/root/etc", "/proc/thread-self/cwd", "/dev/stdin"] {
        let err = Contain::new(&image).mount(&format!("{source}:/data")).sh("true").refused();
        assert!(err.contains("it leads through a link of /proc"), "{source}: {err}");
    }
}

#[test]
fn kinds_must_match_and_sources_must_exist() {
    let lab = lab!();
    let image = lab.image("a", |_| ());
    let (dir, file) = (lab.dir("dir", 0o755), lab.file("file", "text\n", 0o644));
    let bind = |source: &std::path::Path, to: &str| {
        Contain::new(&image).mount(&format!("{}:{to}", source.display())).sh("cat /opt/app/file")
    };
    assert_eq!(bind(&file, "/opt/app/file").ok(), "text\n");
    assert_eq!(bind(&file, "/made/on/demand").ok(), "first\n");
    assert!(bind(&file, "/data").refused().contains("a file cannot be mounted on a directory"));
    assert!(bind(&dir, "/opt/app/file").refused().contains("a directory cannot be mounted on a file"));
    assert!(bind(&lab.path("none"), "/data").refused().contains("No such file or directory"));
}
