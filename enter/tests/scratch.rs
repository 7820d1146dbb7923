//! Directories on the node's disk: scratch, and volatile directories where the site keeps their changes on disk.

mod support;

use std::fs;
use std::path::Path;

use support::{eventually, loops, run, Contain, Lab, UID};

/// A directory for scratch in the lab, which only root can read, and the site's keys for it.
fn disk(lab: &Lab) -> (std::path::PathBuf, String) {
    let dir = lab.dir("disk", 0o700);
    let keys = format!(
        "scratch.dir='{0}'\nscratch.size-limit='1g'\nvolatile.dir='{0}'\nvolatile.size='64m'",
        dir.display()
    );
    (dir, keys)
}

#[test]
fn a_scratch_is_the_users_empty_and_as_large_as_asked() {
    let lab = lab!();
    let (dir, keys) = disk(&lab);
    let file = lab.file("file", "text\n", 0o644);
    let contain = Contain::new(&lab.image("a", |_| ()))
        .site(&keys)
        .mount("type=scratch,dst=/scr,size=32m,noexec")
        .mount("type=scratch,dst=/other,size=1m")
        .mount(&format!("{}:/scr/made/file", file.display()));
    let running = contain.start("read x");
    assert_eq!(fs::read_dir(&dir).expect("lab").count(), 0, "the file has no name");
    assert_eq!(loops(&lab).len(), 3, "image and two scratch directories");
    let script = format!(
        "cat > /tmp/s <<'END'
        stat -c '%a %u %g' /scr; ls -A /scr /other; cat /scr/made/file
        cd /scr; head -c 40000000 /dev/zero > big; test $(stat -c %s big) -gt 25000000 && echo large; rm big
        mkdir many; i=0; while [ $i -lt 2000 ]; do : > many/$i; i=$((i+1)); done; ls many | wc -l
        echo 'echo ran' > x; chmod +x x; ./x; touch /other/x
        grep ' /scr ' /proc/self/mounts | cut -d' ' -f3-4
        : > $(grep ' /scr ' /proc/self/mounts | cut -d' ' -f1)
END
        exec setpriv --reuid {UID} --regid {UID} --clear-groups sh /tmp/s"
    );
    let ran = running.also(&script.replace("/tmp/s", "/dev/shm/grus-scratch-test"));
    fs::remove_file("/dev/shm/grus-scratch-test").expect("the script");
    let seen =
        format!("700 {UID} {UID}\n/other:\n\n/scr:\nmade\ntext\nlarge\n2000\next4 rw,nosuid,nodev,noexec,");
    assert!(ran.out.starts_with(&seen), "{ran:?}");
    assert!(ran.err.contains("No space left on device"), "{ran:?}");
    assert_eq!(ran.err.matches("Permission denied").count(), 2, "program and device: {ran:?}");
    running.kill();
    eventually("no loop device", || loops(&lab).is_empty());
}

#[test]
fn another_user_keeps_out_and_another_step_has_its_own() {
    let lab = lab!();
    let (_, keys) = disk(&lab);
    let image = lab.image("a", |_| ());
    let contain = || Contain::new(&image).site(&keys).mount("type=scratch,dst=/scr,size=8m");
    let running = contain().start("echo mine > /scr/x; echo; read x");
    eventually("the file", || running.also("test -s /scr/x").code == Some(0));
    let other = running.also("setpriv --reuid 777 --regid 777 --clear-groups cat /scr/x");
    assert!(other.err.contains("Permission denied"), "{other:?}");
    assert_eq!(contain().sh("ls -A /scr").ok(), "");
    running.kill();
}

#[test]
fn nothing_is_left_whatever_happens() {
    let lab = lab!();
    let (dir, keys) = disk(&lab);
    let mounted = support::mounts(&lab);
    let image = lab.image("a", |_| ());
    let contain =
        || Contain::new(&image).site(&keys).volatile("/opt/app").mount("type=scratch,dst=/scr,size=8m");
    for _ in 0..3 {
        let _ = contain().sh("echo x > /scr/x; echo x > /opt/app/x").ok();
        // Refused when everything is made already.
        let _ = contain().mount("/proc:/etc/passwd").sh("true").refused();
        let _ = contain().volatile("/usr").sh("true").refused();
        contain().start("exec sleep 1000").kill();
    }
    eventually("no loop device", || loops(&lab).is_empty());
    assert_eq!(support::mounts(&lab), mounted);
    assert_eq!(fs::read_dir(dir).expect("lab").count(), 0);
}

#[test]
fn a_node_that_cannot_make_one_says_why() {
    let lab = lab!();
    let (_, keys) = disk(&lab);
    let image = lab.image("a", |_| ());
    let with = |more: &str| {
        let contain = Contain::new(&image).site(more).mount("type=scratch,dst=/scr,size=8m");
        contain.option("--limit", "2").sh("true").refused()
    };
    let fails = lab.file("fails", "#!/bin/sh\necho 'out of paper' >&2\nexit 3\n", 0o755);
    let silent = lab.file("silent", "#!/bin/sh\nexit 4\n", 0o755);
    let open = lab.file("open", "#!/bin/sh\n", 0o777);
    let lazy = lab.file("lazy", "#!/bin/sh\nexit 0\n", 0o755);
    let mkfs = |program: &Path| with(&format!("{keys}\nscratch.mkfs='{}'", program.display()));
    for (err, what) in [
        (mkfs(&lab.path("none")), "none is not installed on this node"),
        (mkfs(&open), "open is not trusted: "),
        (mkfs(&fails), "cannot make a mount: scratch on /scr: mkfs.ext4 said: out of paper"),
        (mkfs(&silent), "mkfs.ext4 ended with status 0x400"),
        (mkfs(&lazy), "cannot make a mount: scratch on /scr: fsconfig(ext4"),
        (with(&format!("scratch.dir='{}'", lab.path("none").display())), "none: No such file or directory"),
        (with("scratch.dir='/proc'"), "cannot make a mount: no file can be made in /proc: "),
    ] {
        assert!(err.contains(what) && err.contains("\nhint: "), "{what}: {err}");
    }
    eventually("no loop device", || loops(&lab).is_empty());
}

#[test]
fn a_mkfs_that_hangs_is_given_up_and_ended_with_all_it_started() {
    let lab = lab!();
    let (_, keys) = disk(&lab);
    let mark = lab.dir("mark", 0o755);
    let script = format!("#!/bin/sh\nsleep 1000 &\ntouch {}/ran\nexec sleep 1000\n", mark.display());
    let hangs = lab.file("hangs", &script, 0o755);
    let site = format!("{keys}\nscratch.mkfs='{}'", hangs.display());
    let contain = Contain::new(&lab.image("a", |_| ())).site(&site).mount("type=scratch,dst=/scr,size=8m");
    let err = contain.option("--limit", "1").sh("true").refused();
    assert!(err.starts_with("cannot make a mount: "), "{err}");
    assert!(mark.join("ran").exists());
    // Its directory is in the lab, so it is held busy by none of them.
    let lab_dir = lab.path("").to_string_lossy().into_owned();
    let holds = || {
        fs::read_dir("/proc").expect("proc").filter_map(|entry| {
            let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (line.contains(&lab_dir) && line.contains("hangs") && !line.contains("contain")).then_some(line)
        })
    };
    eventually("its end", || holds().count() == 0);
}

#[test]
fn volatile_directories_on_disk_are_like_those_in_memory() {
    let lab = lab!();
    let (dir, keys) = disk(&lab);
    let image = lab.image("k", |tree| {
        run("setfattr", &["-n", "user.note", "-v", "kept", &tree.join("opt/app/file").to_string_lossy()]);
    });
    let contain = || Contain::new(&image).site(&keys).volatile("/opt/app").volatile("/data");
    let script = "set -e; cd /opt/app; cat file sub/deep; getfattr --only-values -n user.note file; echo
        echo more >> file; echo new > new; mv sub moved; rm moved/deep; ls . moved; cat file
        echo x > /data/x; stat -f -c %T /data; df --output=size /data | tail -n1";
    let ran = contain().sh(script);
    assert!(
        ran.out.starts_with("first\ndeep\nkept\n.:\nfile\nmoved\nnew\n\nmoved:\nfirst\nmore\n"),
        "{ran:?}"
    );
    let size: u64 = ran.out.lines().last().and_then(|size| size.trim().parse().ok()).expect("a size");
    assert!((50_000..66_000).contains(&size), "{size} KiB of 64 MiB");
    assert_eq!(contain().sh("cat /opt/app/file; ls /data").ok(), "first\n", "gone with the step");
    let full = contain()
        .sh("head -c 80000000 /dev/zero > /data/big; rm /data/big; echo still > /data/x; cat /data/x");
    assert!(full.err.contains("No space left on device"), "{full:?}");
    assert_eq!(full.out, "still\n");
    eventually("no loop device", || loops(&lab).is_empty());
    assert_eq!(fs::read_dir(dir).expect("lab").count(), 0);
}
