//! Asking the image's own loader before tasks start: what it says decides, and whatever it does, nothing of it is
//! left and nothing of the host's reaches it. The loaders are scripts, so that they can misbehave; their shell is a
//! static one, since the variables that make a loader list would make a dynamic one list, too.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
