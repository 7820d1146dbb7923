//! Images that try to steer mounts out of the container: what they name is found inside their own root, and the host's
//! mounts and files are the same afterwards.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{pidfd_getfd, pidfd_open, Gid, Pid, PidfdFlags, PidfdGetfdFlags, Uid};
use support::{eventually, mounts, run, servers, Contain, UID};

fn replace(tree: &Path, name: &str, target: &str) {
    let at = tree.join(name);
    if at.is_dir() {
        fs::remove_dir_all(&at).expect("tree");
    } else {
        let _ = fs::remove_file(&at);
    }
    symlink(target, at).expect("tree");
}

/// What the image's /data is a link to; all mean its own /opt/app.
const HOSTILE_LINKS: &[&str] = &[
    "../../../../../../opt/app",
    "/opt/app",
    "opt/./app",
    "/usr/../opt/app",
    "../opt/app/sub/..",
    "opt/app/sub/../../../../../opt/app",
    "/./../opt//app/",
];

#[test]
fn destinations_through_links_stay_inside() {
    let lab = lab!();
    let source = lab.dir("source", 0o755);
    fs::write(source.join("mark"), "").expect("lab");
    let outside = lab.dir("outside", 0o755);
    for (number, target) in HOSTILE_LINKS.iter().enumerate() {
        let image = lab.image(&format!("i{number}"), |tree| replace(tree, "data", target));
        let before = mounts(&lab);
        let contain = Contain::new(&image).root().mount(&format!("{}:/data", source.display()));
        assert_eq!(contain.sh("ls /opt/app").ok(), "mark\n", "{target}");
        assert_eq!(mounts(&lab), before, "{target}");
    }
    // One that names a place of the host which the image lacks: it is made inside, not touched outside.
    let image = lab.image("host", |tree| replace(tree, "data", &outside.to_string_lossy()));
    let contain = Contain::new(&image).root().mount(&format!("{}:/data/below", source.display()));
    let script = format!("ls {0}/below && touch {0}/x; true", outside.display());
    assert_eq!(contain.sh(&script).ok(), "mark\n");
    assert_eq!(fs::read_dir(&outside).expect("lab").count(), 0);
}

#[test]
fn links_into_proc_lead_nowhere() {
    let lab = lab!();
    let source = lab.dir("source", 0o755);
    let outside = lab.dir("outside", 0o755);
    let through = format!("/proc/1/root{}", outside.display());
    let image = lab.image("a", |tree| replace(tree, "data", &through));
    let before = mounts(&lab);
    let ran = Contain::new(&image).root().mount(&format!("{}:/data/x", source.display())).sh("true");
    assert_ne!(ran.code, Some(0), "mounting below the node's /proc must not work");
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert_eq!(mounts(&lab), before);
    assert_eq!(fs::read_dir(&outside).expect("lab").count(), 0);
}

/// What the image's /etc is a link to.
const HOSTILE_ETC: &[&str] = &[
    "/proc/1/root/etc",
    "/proc/self/root/etc",
    "../../../../etc",
    "loop-a",
    "/proc/self/cwd",
    "/dev",
    "proc",
];

#[test]
fn a_hostile_etc_cannot_place_or_read_files_of_the_host() {
    let lab = lab!();
    let secret = lab.file("secret", "root:x:0:0:SECRET:/:/bin/sh\n", 0o600);
    let before = mounts(&lab);
    let host = fs::read_to_string("/etc/passwd").expect("etc");
    for target in HOSTILE_ETC {
        let name = target.replace('/', "_");
        let image = lab.image(&name, |tree| {
            replace(tree, "etc", target);
            symlink("loop-b", tree.join("loop-a")).expect("tree");
            symlink("loop-a", tree.join("loop-b")).expect("tree");
        });
        let ran = Contain::new(&image).root().sh("true");
        assert!(!ran.out.contains("SECRET"), "{ran:?}");
        assert_eq!(mounts(&lab), before, "{target}");
        assert_eq!(fs::read_to_string("/etc/passwd").expect("etc"), host, "{target}");
    }
    let image = lab.image("p", |tree| replace(tree, "etc/passwd", &secret.to_string_lossy()));
    let out = Contain::new(&image).root().sh("cat /etc/passwd").ok();
    assert!(!out.contains("SECRET") && out.contains("tester"), "{out}");
}

/// What is in place of the image's passwd, and what makes it.
const HOSTILE_PASSWD: &[(&str, &[&str])] = &[
    ("fifo", &["mkfifo"]),
    ("device", &["mknod", "c", "5", "0"]),
    ("endless", &["mknod", "c", "1", "5"]),
    ("huge", &["truncate", "-s", "2M"]),
];

#[test]
fn odd_files_in_place_of_passwd_do_not_hang_a_launch() {
    let lab = lab!();
    for (name, make) in HOSTILE_PASSWD {
        let image = lab.image(name, |tree| {
            let passwd = tree.join("etc/passwd").to_string_lossy().into_owned();
            fs::remove_file(&passwd).expect("tree");
            match make {
                ["mknod", rest @ ..] => run("mknod", &[&[passwd.as_str()], rest].concat()),
                [program, rest @ ..] => run(program, &[rest, &[passwd.as_str()]].concat()),
                [] => unreachable!("every case names a program"),
            };
        });
        let ran = Contain::new(&image).sh("cat /etc/passwd");
        match *name {
            "huge" => assert!(ran.refused().contains("/etc/passwd of the image is larger than"), "{name}"),
            _ => assert!(ran.ok().starts_with("tester:x:54321:"), "{name}"),
        }
    }
}

#[test]
fn marks_of_overlays_in_an_image_are_not_obeyed() {
    let lab = lab!();
    // Only root can set these, but anyone can write an image that has them.
    let mark = |file: &Path, name: &str, value: &str| {
        run("setfattr", &["-n", &format!("trusted.overlay.{name}"), "-v", value, &file.to_string_lossy()]);
    };
    let image = lab.image("a", |tree| {
        mark(&tree.join("opt/app"), "redirect", "/etc");
        mark(&tree.join("opt/app"), "opaque", "y");
    });
    assert_eq!(Contain::new(&image).sh("ls /opt/app").ok(), "file\nsub\n");
    let volatile = Contain::new(&image).volatile("/opt/app");
    assert_eq!(volatile.sh("ls /opt/app; echo x > /opt/app/new; cat /opt/app/new").ok(), "file\nsub\nx\n");
    // A file that claims to have its data elsewhere is an error, never another file's data.
    let image = lab.image("b", |tree| {
        mark(&tree.join("opt/app/file"), "metacopy", "");
        mark(&tree.join("opt/app/file"), "redirect", "/etc/passwd");
    });
    let ran = Contain::new(&image).sh("cat /opt/app/file");
    assert!(!ran.out.contains("root:"), "{ran:?}");
    let err = Contain::new(&image).volatile("/opt/app").sh("true").refused();
    assert!(
        err.contains("cannot make a directory writable") && err.contains("marks of another overlay"),
        "{err}"
    );
}

/// What a user would take from a server, or tell it to do: whatever the kernel allows to who may trace it (ptrace(2)).
const HOSTILE_TRACES: &[&str] = &["mem", "environ", "exe", "cwd", "fd/3", "fd/4", "maps", "syscall"];

/// The server runs as the user, but for the node: its connection, once taken, would keep launches waiting, and a server
/// of a kept container has none of its job's limits.
#[test]
fn nobody_traces_a_server_or_takes_what_it_has_open() {
    let lab = lab!();
    let image = lab.users_image("u", |_| ());
    let before = servers();
    let running = Contain::new(&image).start("read x");
    let pid = servers().into_iter().find(|pid| !before.contains(pid)).expect("a server");
    let steal = || {
        // The identity of this thread only, and all of it (credentials(7)).
        let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
        rustix::thread::set_thread_groups(&[gid]).expect("root");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root");
        let server =
            pidfd_open(Pid::from_raw(pid as i32).expect("a pid"), PidfdFlags::empty()).expect("it runs");
        let taken = pidfd_getfd(&server, 4, PidfdGetfdFlags::empty()).map(drop);
        let file = |name: &&str| format!("/proc/{pid}/{name}");
        let open: Vec<_> = HOSTILE_TRACES.iter().map(file).filter(|file| opened(file)).collect();
        (taken, open, File::options().write(true).open(file(&"mem")).is_ok())
    };
    let (taken, open, written) = std::thread::scope(|scope| scope.spawn(steal).join()).expect("a thread");
    running.kill();
    assert_eq!(taken, Err(Errno::PERM), "its connection was taken");
    assert_eq!(open, Vec::<String>::new());
    assert!(!written);
    eventually("the server's end", || !servers().contains(&pid));
}

/// Whether there is anything of it to be had.
fn opened(file: &str) -> bool {
    let mut byte = [0; 1];
    match fs::symlink_metadata(file).is_ok_and(|status| status.is_symlink()) {
        true => fs::metadata(file).is_ok(),
        // Of memory the first byte is never there.
        false if file.ends_with("mem") => File::open(file).is_ok(),
        false => File::open(file).and_then(|mut file| std::io::Read::read(&mut file, &mut byte)).is_ok(),
    }
}

/// What a ruling has over the image's files. `AWAY` is a directory of the host; `BELOW` mounts another one below it.
const HOSTILE_RULINGS: &[(&str, bool)] = &[
    // A link out of the container, and another one below it.
    (r#""/opt/new":"AWAY","/opt/new/below":"/x""#, false),
    // A mount point below it, which is made before the link or after it.
    (r#""/opt/new":"AWAY""#, true),
    // The directory of all other links.
    (r#""/run":"AWAY""#, false),
    (r#""/run/grus":"AWAY""#, false),
    (r#""/run/grus/lib":"AWAY""#, false),
];

#[test]
fn a_ruling_cannot_make_anything_outside_the_container() {
    let lab = lab!();
    let outside = lab.dir("outside", 0o755);
    let host = lab.dir("host", 0o755);
    fs::write(host.join("lib.so"), "").expect("lab");
    let image = lab.image("a", |tree| fs::create_dir_all(tree.join("run")).expect("tree"));
    let (away, below) = (outside.to_string_lossy(), format!("{}:/opt/new/below", host.display()));
    for (over, mount) in HOSTILE_RULINGS {
        let (over, mount) = (over.replace("AWAY", &away), mount.then_some(&below));
        let ruling = format!(
            r#"{{"format":1,"profiles":null,"in_use":[],"swap":{{"extent":"mpi","stack":"test","machine":"x86_64",
            "over":{{{over}}},"links":{{"lib.so":"/run/grus/host/lib.so"}},"cached":[],"needs":[],"library_path":null,
            "extras":[{{"source":"{}","destination":"/run/grus/host","optional":false}}],"devices":[],"set":{{}},
            "default":{{}},"prepend":{{}},"glibc":false,"warnings":[],"check":null}}}}"#,
            host.display()
        );
        let ruling = lab.file("ruling.json", &ruling, 0o644);
        let contain = Contain::new(&image).root().option("--ruling", &ruling.to_string_lossy());
        let contain = mount.into_iter().fold(contain, |contain, mount| contain.mount(mount));
        let err = contain.sh("true").refused();
        assert!(err.contains("a link to a library of the host"), "{over}: {err}");
        assert_eq!(fs::read_dir(&outside).expect("lab").count(), 0, "{over}: something was made on the host");
    }
}
