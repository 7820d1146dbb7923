//! `grus explain`: images made here, judged against stacks scanned here.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::mpi;
use crate::support::{files, Lab, Output};

/// A lab with the host stack `tuned`, MPI 3 on a libfabric 1.2.
pub fn site() -> Lab {
    let lab = Lab::new();
    mpi::libfabric(&lab, "host/lib", 2);
    mpi::mpich(&lab, "host/lib", "3.4.3", &["MPI_Send"]);
    let _ = lab.run(["host", "scan", "host", "--name", "tuned"]).ok();
    lab
}

/// An image `app` with an MPI of its own that has `names`, and a program that calls them.
pub fn app(lab: &Lab, names: &[&str], fabric: usize) {
    mpi::rootfs(lab, "root");
    mpi::libfabric(lab, "root/opt/mpi/lib", fabric);
    mpi::mpich(lab, "root/opt/mpi/lib", "4.0.0", names);
    let calls: Vec<&str> = ["MPI_Init", "MPI_Finalize"].iter().chain(names).copied().collect();
    mpi::program(lab, "root", "/opt/mpi/lib", &calls);
    let _ = lab.run(["import", "-q", "root", "app"]).ok();
}

fn facts(lab: &Lab) -> Vec<PathBuf> {
    let all = files(&lab.repository()).into_iter();
    all.filter(|f| f.to_string_lossy().ends_with(".elf.json")).collect()
}

/// Failed with `code` after its reasons.
fn refused(said: &Output, code: i32, what: &str) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert_eq!(said.err.lines().count(), 2, "{said:?}");
    assert!(said.err.starts_with("grus: ") && said.err.contains(what), "{what:?} is not in {said:?}");
    assert!(said.err.contains("\nhint: ") && !said.out.contains("Refused"), "{said:?}");
}

#[test]
fn a_stack_that_fits_is_used_and_every_step_is_told() {
    let lab = site();
    app(&lab, &["MPI_Send"], 1);
    let said = lab.run(["explain", "app"]).ok().out;
    for part in [
        "used by 1 files.",
        "user     /usr/bin/app",
        "replace  /opt/mpi/lib/libmpi.so.12: C library: ",
        "The MPI of host stack 'tuned' is used.",
        "launch    MPICH 3.4.3 with srun --mpi=pmi2",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(lab.run(["explain", "app", "--stack", "tuned"]).ok().out, said);
    assert_eq!(lab.run(["explain", "app", "--stack", "stacks/tuned.toml"]).ok().out, said);
    let json: Value = serde_json::from_str(&lab.run(["explain", "app", "--json"]).ok().out).expect("JSON");
    assert_eq!(json["outcome"]["swap"]["stack"], "tuned");
    assert_eq!(json["found"][0]["users"][0], "/usr/bin/app");
    let own = lab.run(["explain", "app", "--mpi", "image"]).ok().out;
    assert!(own.contains("Nothing of the host's MPI is used."), "{own}");
}

#[test]
fn an_image_is_inspected_once_and_its_facts_are_kept() {
    let lab = site();
    app(&lab, &[], 1);
    assert_eq!(facts(&lab), Vec::<PathBuf>::new());
    let first = lab.run(["explain", "app"]).ok().out;
    let [kept] = &facts(&lab)[..] else { panic!("one file of facts") };
    assert_eq!(lab.run(["explain", "app"]).ok().out, first);
    // Damaged or older facts are made anew, and the repository's own commands do not mind them.
    for text in ["", "{\"version\": 0}", "\x00\x01"] {
        fs::write(kept, text).expect("write");
        assert_eq!(lab.run(["explain", "app"]).ok().out, first);
    }
    lab.assert_sound();
    let image = files(&lab.repository()).into_iter().find(|f| f.extension().is_some_and(|e| e == "squashfs"));
    let path = image.expect("an image").display().to_string();
    fs::copy(&path, lab.path("copy.squashfs")).expect("copy");
    assert_eq!(lab.run(["explain", "./copy.squashfs"]).ok().out, first);
    assert!(!lab.path("copy.elf.json").exists(), "only a repository's images have a digest to keep facts by");
    let _ = lab.run(["rmi", "app"]).ok();
    assert_eq!(facts(&lab), Vec::<PathBuf>::new(), "they go with the image");
    fs::write(kept, &first).expect("write");
    let _ = lab.run(["prune"]).ok();
    assert_eq!(facts(&lab), Vec::<PathBuf>::new(), "they do not stay without it");
}

#[test]
fn a_missing_function_is_named_and_libfabric_alone_is_offered() {
    let lab = site();
    app(&lab, &["MPI_Comm_attach_buffer"], 1);
    refused(&lab.run(["explain", "app", "--mpi", "host"]), 65, "MPI_Comm_attach_buffer");
    refused(&lab.run(["explain", "app", "--stack", "tuned"]), 65, "MPI_Comm_attach_buffer");
    let said = lab.run(["explain", "app"]).ok().out;
    assert!(said.contains("The image's MPI runs on the libfabric of host stack 'tuned'."), "{said}");
    assert!(said.contains("warning   the image's own MPI runs, on the host's libfabric: "), "{said}");
    let said = lab.run(["explain", "app", "--mpi", "fabric"]).ok().out;
    assert!(said.contains("libfabric of host stack 'tuned'"), "{said}");
    let said = lab.run(["explain", "app", "--mpi", "host", "--json"]);
    let json: Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(json["outcome"]["refused"].as_str().is_some_and(|w| w.contains("MPI_Comm_attach_buffer")));
    assert_eq!(said.code, Some(65));
}

#[test]
fn an_older_host_libfabric_and_a_static_mpi_are_refused() {
    let lab = site();
    app(&lab, &[], 9);
    refused(&lab.run(["explain", "app", "--mpi", "fabric"]), 65, "FABRIC_1.");
    mpi::rootfs(&lab, "static");
    mpi::static_program(&lab, "static");
    let _ = lab.run(["import", "-q", "static", "inside"]).ok();
    refused(&lab.run(["explain", "inside", "--mpi", "host"]), 65, "linked in statically");
}

#[test]
fn without_mpi_or_without_stacks_nothing_is_done_and_said() {
    let lab = Lab::new();
    app(&lab, &[], 1);
    let said = lab.run(["explain", "app"]).ok().out;
    assert!(said.contains("This site has no host stacks in ") && said.contains("grus host scan"), "{said}");
    refused(&lab.run(["explain", "app", "--mpi", "host"]), 78, "no host MPI stack");
    let lab = site();
    mpi::rootfs(&lab, "plain");
    let _ = lab.run(["import", "-q", "plain", "plain"]).ok();
    let said = lab.run(["explain", "plain"]).ok().out;
    assert!(said.starts_with("The image has no shared MPI and no users of one."), "{said}");
    assert!(said.contains("Nothing of the host's MPI is used."), "{said}");
}

#[test]
fn wrong_words_and_wrong_profiles_are_refused() {
    let lab = site();
    app(&lab, &[], 1);
    lab.run(["explain", "app", "--mpi", "hosts"]).refused(2, "there is no --mpi=hosts");
    lab.run(["explain", "nosuch"]).refused(2, "is not in the repository");
    lab.run(["explain", "none"]).refused(2, "no image is named");
    lab.run(["explain", "./nosuch.squashfs"]).refused(2, "cannot read the image");
    lab.run(["explain", "app", "--stack", "./nosuch.toml"]).refused(78, "cannot read the host profile");
    refused(&lab.run(["explain", "app", "--stack", "tuend"]), 2, "no host stack 'tuend'");
    fs::write(lab.path("stacks/broken.toml"), "format = 1\nmachin = \"x\"\n").expect("write");
    lab.run(["explain", "app"]).refused(78, "did you mean 'machine'?");
}

#[test]
fn a_link_that_the_reader_cannot_take_is_told_as_such() {
    let lab = site();
    mpi::rootfs(&lab, "long");
    std::os::unix::fs::symlink("a/".repeat(140), lab.path("long/link")).expect("symlink");
    let _ = lab.run(["import", "-q", "long", "long"]).ok();
    lab.run(["explain", "long"]).refused(65, "a symbolic link of 256 bytes or more");
    assert_eq!(facts(&lab), Vec::<PathBuf>::new());
}

#[test]
fn a_hostile_image_is_refused_or_judged_and_never_breaks() {
    let lab = site();
    app(&lab, &[], 1);
    // Headers that promise what is not there.
    let real = fs::read(lab.path("root/usr/bin/app")).expect("read");
    let libraries = lab.path("root/usr/lib");
    fs::create_dir_all(&libraries).expect("mkdir");
    for (n, length) in [0, 4, 15, 16, 63, 64, 100, 500].into_iter().enumerate() {
        fs::write(libraries.join(format!("libcut{n}.so")), &real[..length]).expect("write");
    }
    for at in (16..64).step_by(4) {
        let mut wild = real.clone();
        wild[at..at + 4].fill(0xff);
        fs::write(libraries.join(format!("libwild{at}.so")), wild).expect("write");
    }
    let _ = lab.run(["import", "-q", "root", "wild"]).ok();
    let said = lab.run(["explain", "wild"]).ok().out;
    assert!(said.contains("The MPI of host stack 'tuned' is used."), "{said}");

    let digest = lab.run(["import", "-q", "root", "wild"]).ok().out;
    let image = lab.repository().join("images/sha256").join(format!("{}.squashfs", &digest.trim()[7..]));
    let sound = fs::read(image).expect("read");
    let explain = |bytes: &[u8]| {
        fs::write(lab.path("bad.squashfs"), bytes).expect("write");
        lab.run(["explain", "./bad.squashfs"])
    };
    explain(b"no image").refused(65, "cannot be inspected");
    explain(&sound[..sound.len() / 2]).refused(65, "cannot be inspected");
    // Anything may come of other damage but a crash.
    for at in (0..sound.len()).step_by(sound.len() / 40) {
        let mut bytes = sound.clone();
        bytes[at..(at + 16).min(sound.len())].fill(0xa5);
        let said = explain(&bytes);
        assert!(matches!(said.code, Some(0 | 65)), "{at}: {said:?}");
        assert!(!said.err.contains("panicked"), "{at}: {said:?}");
    }
}
