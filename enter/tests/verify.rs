//! Asking the image's own loader before tasks start: what it says decides, and whatever it does, nothing of it is
//! left and nothing of the host's reaches it. The loaders are scripts, so that they can misbehave; their shell is a
//! static one, since the variables that make a loader list would make a dynamic one list, too.

mod support;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

use support::{eventually, Contain, Lab, Ran, UID};

/// What ld.so(8) would list.
const LISTED: &str = r"printf '\tlibmpi.so.12 => /opt/app/libmpi.so.12 (0x1)\n'";

/// An image whose loader is `script`, and a ruling that swaps one library in and wants it asked.
struct Swapped {
    image: PathBuf,
    ruling: PathBuf,
    host: PathBuf,
}

impl Swapped {
    fn new(lab: &Lab, script: &str) -> Self {
        let number = fs::read_dir(lab.path("")).expect("lab").count();
        let image = lab.image(&format!("image{number}"), |tree| {
            fs::write(tree.join("opt/app/libmpi.so.12"), "image\n").expect("tree");
            loader(tree, script);
        });
        let host = lab.dir("host", 0o755);
        fs::write(host.join("libmpi.so.12.9"), "host\n").expect("lab");
        let ruling = format!(
            r#"{{"format":1,"profiles":null,"in_use":[],"swap":{{"extent":"mpi","stack":"test","machine":"x86_64",
            "over":{{"/opt/app/libmpi.so.12":"/run/grus/host/libmpi.so.12.9"}},"links":{{}},"cached":[],
            "needs":["{0}/libmpi.so.12.9"],"library_path":null,
            "extras":[{{"source":"{0}","destination":"/run/grus/host","optional":false}}],"devices":[],"set":{{"TEST_STACK":"1"}},"default":{{}},"prepend":{{}},
            "glibc":false,"warnings":[],"check":{{"loader":"/opt/app/loader","object":"/opt/app/hello",
            "expect":{{"libmpi.so.12":"/opt/app/libmpi.so.12"}}}}}}}}"#,
            host.display()
        );
        Self { image, ruling: lab.file("ruling.json", &ruling, 0o644), host }
    }

    fn contain(&self) -> Contain {
        Contain::new(&self.image).option("--ruling", &self.ruling.to_string_lossy())
    }
}

fn loader(tree: &Path, script: &str) {
    let path = tree.join("opt/app/loader");
    fs::write(&path, format!("#!/bin/busybox sh\n{script}\n")).expect("tree");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("tree");
}

/// Processes with a word among their arguments; the words are unlike any other.
fn processes(word: &str) -> usize {
    let all = fs::read_dir("/proc").expect("proc").flatten();
    let named = |dir: PathBuf| {
        fs::read(dir.join("cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(word))
    };
    all.filter(|entry| named(entry.path())).count()
}

fn refused(ran: Ran, why: &str) {
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains(why), "{ran:?}");
}

#[test]
fn the_hosts_library_is_there_once_the_loader_has_agreed() {
    let lab = lab!();
    let ran = Swapped::new(&lab, LISTED).contain().sh("cat /opt/app/libmpi.so.12");
    assert_eq!(ran.ok(), "host\n");
}

#[test]
fn a_loader_that_finds_something_else_ends_the_launch() {
    let lab = lab!();
    let elsewhere = r"printf '\tlibmpi.so.12 => /usr/lib/libmpi.so.12 (0x1)\n'";
    refused(
        Swapped::new(&lab, elsewhere).contain().sh("true"),
        "host stack 'test' in this image, /opt/app/hello: the loader takes libmpi.so.12 from /usr/lib/libmpi.so.12, \
         not from /opt/app/libmpi.so.12",
    );
    let swapped = Swapped::new(&lab, "exit 3");
    refused(swapped.contain().sh("true"), "/opt/app/hello: the loader does not load libmpi.so.12");
    assert_eq!(swapped.contain().site("mpi.verify=false").sh("echo ran").ok(), "ran\n");
    let missing = Swapped::new(&lab, LISTED);
    let text = fs::read_to_string(&missing.ruling).expect("lab").replace("/opt/app/loader", "/opt/app/none");
    fs::write(&missing.ruling, text).expect("lab");
    refused(
        missing.contain().sh("true"),
        "cannot verify the host's libraries in the container: execve for /opt/app/none",
    );
}

#[test]
fn the_loader_is_the_user_alone_in_its_container() {
    let lab = lab!();
    let out = lab.dir("out", 0o777);
    let script = format!(
        "{{ busybox id -u; echo $$; busybox grep NoNewPrivs /proc/self/status; busybox env | busybox grep -c TEST_STACK\n\
         busybox env | busybox grep ^LD_ | busybox sort; busybox ls /proc/self/fd; }} >/opt/app/sub/told\n{LISTED}"
    );
    let contain = Swapped::new(&lab, &script).contain().mount(&format!("{}:/opt/app/sub", out.display()));
    contain.sh("true").ok();
    let told = fs::read_to_string(out.join("told")).expect("the loader ran");
    let lines: Vec<&str> = told.lines().collect();
    // The shell knows its own number; /proc is the node's, where it has another.
    assert_eq!(lines[..2], [UID.to_string().as_str(), "1"], "{told}");
    assert!(lines[2].ends_with('1') && lines[3] == "0", "{told}");
    assert_eq!(lines[4..7], ["LD_BIND_NOW=1", "LD_TRACE_LOADED_OBJECTS=1", "LD_WARN=1"], "{told}");
    // Its own three, and that of `ls` on the directory.
    assert_eq!(lines[7..], ["0", "1", "2", "3"], "{told}");
}

/// Bind mounts of the user's and links of the image's in place of /proc.
#[test]
fn root_writes_to_no_file_that_the_container_has_in_proc() {
    let lab = lab!();
    let (precious, out) = (lab.dir("precious", 0o755), lab.dir("out", 0o777));
    let file = lab.file("precious/file", "root's own", 0o644);
    let swapped = Swapped::new(&lab, &format!("echo ran >/out/ran; {LISTED}"));
    let proc = lab.dir("proc", 0o755);
    lab.dir("proc/self", 0o755);
    symlink("/m/file", proc.join("self/oom_score_adj")).expect("lab");
    let on = |source: &Path, destination: &str| format!("{}:{destination}", source.display());
    let contain = swapped.contain().mount(&on(&precious, "/m")).mount(&on(&out, "/out"));
    // The image's own /proc, and what is over the node's by another name.
    let image = lab.image("proc-of-the-images", |tree| {
        for dir in ["proc/self", "opt/app"] {
            fs::create_dir_all(tree.join(dir)).expect("tree");
        }
        symlink("/m/file", tree.join("proc/self/oom_score_adj")).expect("tree");
        symlink("/proc", tree.join("x")).expect("tree");
        fs::write(tree.join("opt/app/libmpi.so.12"), "image\n").expect("tree");
        loader(tree, &format!("echo ran >/out/ran; {LISTED}"));
    });
    let own = Contain::new(&image).option("--ruling", &swapped.ruling.to_string_lossy());
    let own = own.mount(&on(&precious, "/m")).mount(&on(&out, "/out"));
    for contain in [own.mount("umount:/proc"), contain.mount(&on(&proc, "/proc"))] {
        let ran = contain.sh("true");
        assert_eq!(fs::read_to_string(&file).expect("lab"), "root's own", "root wrote for the user: {ran:?}");
    }
    assert!(out.join("ran").exists(), "no loader ran");
}

#[test]
fn a_loader_whose_file_system_does_not_answer_keeps_no_launch() {
    let lab = lab!();
    let users = lab.dir("users", 0o755);
    let at = lab.dir("users/silent", 0o755);
    let silent = Silent::mount(&at);
    let swapped = Swapped::new(&lab, LISTED);
    let text = fs::read_to_string(&swapped.ruling).expect("lab");
    fs::write(&swapped.ruling, text.replace("/opt/app/loader", "/m/silent/loader")).expect("lab");
    let start = Instant::now();
    let ran = swapped.contain().mount(&format!("{}:/m", users.display())).sh("true");
    assert!(silent.was_asked(), "{ran:?}");
    refused(ran, "execve(/m/silent/loader), which has not begun after 20 s");
    assert!(start.elapsed() < Duration::from_secs(50), "it was not given up");
}

/// A FUSE file system of the test user's alone, which says hello and then answers nothing, also not that it will not:
/// from then on no signal ends who asked.
struct Silent {
    at: PathBuf,
    asked: Arc<AtomicBool>,
}

impl Silent {
    fn mount(at: &Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("FUSE");
        let options = format!("fd={},rootmode=40000,user_id={UID},group_id={UID}", device.as_raw_fd());
        let options = CString::new(options).expect("no NUL");
        rustix::mount::mount("silent", at, "fuse", MountFlags::empty(), options.as_c_str())
            .expect("root may");
        let asked = Arc::new(AtomicBool::new(false));
        let (is_asked, mut device) = (Arc::clone(&asked), device);
        std::thread::spawn(move || {
            let mut request = vec![0; 1 << 20];
            // FUSE_INIT (linux/fuse.h): answered with version 7.31 and nothing of what is offered.
            let _ = device.read(&mut request).expect("the kernel begins");
            let mut answer = vec![0u8; 16 + 64];
            answer[..4].copy_from_slice(&80u32.to_ne_bytes());
            answer[8..16].copy_from_slice(&request[8..16]);
            answer[16..20].copy_from_slice(&7u32.to_ne_bytes());
            answer[20..24].copy_from_slice(&31u32.to_ne_bytes());
            answer[36..40].copy_from_slice(&4096u32.to_ne_bytes());
            device.write_all(&answer).expect("the kernel listens");
            while device.read(&mut request).is_ok() {
                is_asked.store(true, Ordering::Relaxed);
            }
        });
        Self { at: at.to_owned(), asked }
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Forced, it ends the connection, which sets free whoever waits still (umount(2)).
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::FORCE | UnmountFlags::DETACH);
    }
}

#[test]
fn nothing_that_a_loader_starts_outlives_it() {
    let lab = lab!();
    // Far away from everything: own session, no output, orphaned.
    let away = "(busybox setsid busybox sleep 77123 >/dev/null 2>&1 </dev/null &) ; busybox sleep 0.2";
    Swapped::new(&lab, &format!("{away}\n{LISTED}")).contain().sh("true").ok();
    eventually("the loader's daemon is gone", || processes("77123") == 0);
    // Its output is closed, but it stays.
    let quiet = format!("{LISTED}\nexec >/dev/null 2>&1\nexec busybox sleep 77124");
    Swapped::new(&lab, &quiet).contain().sh("true").ok();
    assert_eq!(processes("77124"), 0);
}

#[test]
fn a_loader_that_floods_or_hangs_is_ended() {
    let lab = lab!();
    let flood = Swapped::new(&lab, "exec busybox yes 77125");
    refused(flood.contain().sh("true"), "it says more than 1 MiB");
    assert_eq!(processes("77125"), 0);
    let hang = Swapped::new(&lab, "exec busybox sleep 77126");
    refused(hang.contain().option("--limit", "2").sh("true"), "within 2 s");
    eventually("the hanging loader is gone", || processes("77126") == 0);
}

#[test]
fn what_a_ruling_names_is_opened_as_the_user() {
    let lab = lab!();
    let swapped = Swapped::new(&lab, LISTED);
    fs::set_permissions(&swapped.host, fs::Permissions::from_mode(0o700)).expect("lab");
    refused(
        swapped.contain().sh("cat /opt/app/libmpi.so.12"),
        &format!(
            "host stack 'test' is incomplete: {}/libmpi.so.12.9: Permission denied",
            swapped.host.display()
        ),
    );
}
