//! `grus host scan`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::mpi;
use crate::support::Lab;

/// A lab with an MPI in `host/`.
fn host() -> Lab {
    let lab = Lab::new();
    mpi::libfabric(&lab, "host/lib", 2);
    mpi::mpich(&lab, "host/lib", "3.4.3", &[]);
    lab
}

fn profile(lab: &Lab, args: &[&str]) -> String {
    let all = ["host", "scan", "--output", "-"].iter().chain(args);
    lab.run(all).ok().out
}

#[test]
fn a_prefix_is_described_with_all_that_it_opens() {
    let lab = host();
    let text = profile(&lab, &["host"]);
    for line in [
        "version = \"MPICH 3.4.3\"",
        "family = \"mpich\"",
        "pmi = [\"pmi2\"]",
        "role = \"mpi\"",
        "role = \"fabric\"",
        "role = \"plugin\"",
        "soname = \"libmpi.so.12\"",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
    let providers = format!("FI_PROVIDER_PATH = \"{}\"", lab.path("host/lib/libfabric").display());
    assert!(text.contains(&providers), "{text}");
    assert!(text.starts_with("# Written by 'grus host scan'"), "{text}");
}

#[test]
fn profiles_are_written_beside_the_site_file_and_never_over_edits() {
    let lab = host();
    let said = lab.run(["host", "scan", "host", "--name", "tuned"]).ok().out;
    let file = lab.path("stacks/tuned.toml");
    assert!(said.starts_with(&format!("{}: MPICH 3.4.3 in ", file.display())), "{said}");
    assert_eq!(fs::metadata(&file).expect("profile").permissions().mode() & 0o777, 0o644);
    fs::write(&file, "edited").expect("write");
    lab.run(["host", "scan", "host", "--name", "tuned"]).refused(2, "is there already");
    assert_eq!(fs::read_to_string(&file).expect("profile"), "edited");
    let _ = lab.run(["host", "scan", "host", "--name", "tuned", "--replace"]).ok();
    assert!(fs::read_to_string(&file).expect("profile").contains("MPICH 3.4.3"));
    assert_eq!(fs::read_dir(lab.path("stacks")).expect("stacks").count(), 1, "nothing else is left");
}

#[test]
fn a_provider_that_cannot_be_loaded_is_left_out_with_its_reason() {
    let lab = host();
    mpi::libfabric(&lab, "gone", 0);
    let broken = lab.path("host/lib/libfabric/libbroken-fi.so");
    let library = lab.path("gone/libfabric.so.1");
    let source = lab.path("source.c");
    fs::write(&source, "int fabric(void); int provider(void) { return fabric(); }").expect("write");
    let mut cc = std::process::Command::new("cc");
    let built = cc.args(["-shared", "-fPIC", "-nostdlib", "-o"]).arg(&broken).arg(&source).arg(&library);
    assert!(built.status().expect("cc runs").success());
    // What it needs by the name of libfabric.so.1 is loaded before it. Then that name becomes another.
    assert!(profile(&lab, &["host"]).contains("libbroken-fi.so\""));
    let bytes = fs::read(&broken).expect("read");
    let at = bytes.windows(15).position(|w| w == b"libfabric.so.1\0").expect("the needed name");
    let mut other = bytes.clone();
    other[at..at + 14].copy_from_slice(b"libnowhere.so1");
    fs::write(&broken, other).expect("write");
    let text = profile(&lab, &["host"]);
    assert!(text.contains("libbroken-fi.so is left out: it needs libnowhere.so1"), "{text}");
    assert!(!text.contains("libbroken-fi.so\""), "{text}");
}

#[test]
fn two_stacks_have_two_names() {
    let lab = host();
    mpi::libfabric(&lab, "more/b/lib", 0);
    mpi::mpich(&lab, "more/b/lib", "3.4.1", &[]);
    let said = lab.run(["host", "scan", "host", "more", "--output", "out"]).ok().out;
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(lab.path("out/mpich.toml").exists() && lab.path("out/mpich-3.4.1.toml").exists(), "{said}");
    lab.run(["host", "scan", "host", "more", "--name", "x"]).refused(2, "--name is for one stack");
}

#[test]
fn what_cannot_be_scanned_is_refused() {
    let lab = host();
    fs::create_dir(lab.path("empty")).expect("mkdir");
    lab.run(["host", "scan", "empty"]).refused(2, "no MPI library was found in");
    lab.run(["host", "scan", "nowhere"]).refused(2, "cannot scan nowhere: No such file");
    lab.run(["host", "scan", "host", "--name", "auto", "--output", "-"]).refused(78, "means something else");
    lab.run(["host", "scan", "host", "--name", "../x", "--output", "out"]).refused(78, "its name must be");
    assert!(!lab.path("out").exists());
    fs::write(lab.path("empty/libmpi.so.12"), b"\x7fELF\x02\x01\x01 and no more").expect("write");
    lab.run(["host", "scan", "empty"]).refused(2, "no MPI library was found in");
    fs::write(lab.path("file"), "").expect("write");
    lab.run(["host", "scan", "host", "--output", "file/below"])
        .refused(1, "cannot write file/below/mpich.toml");
}
