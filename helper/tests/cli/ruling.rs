//! Rulings: what the plugin asks of `grus` at submission, what is kept of it, and the plan that comes of it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use grus_core::swap::{Answer, Extent, Ruling};

use crate::explain::{app, site};
use crate::mpi;
use crate::support::{files, Lab};

/// What the plugin gets.
fn ask(lab: &Lab, image: &str, mode: &str) -> Result<Ruling, String> {
    let said = lab.run(["explain", image, "--for-launch", mode, "--name", "app:1"]).ok();
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    match Answer::parse(said.out.as_bytes()).unwrap_or_else(|| panic!("no answer: {said:?}")) {
        Answer::Ruling(ruling) => Ok(*ruling),
        Answer::Refused { what, hint } => Err(format!("{what}\n{}", hint.expect("a way out"))),
    }
}

fn kept(lab: &Lab) -> Vec<PathBuf> {
    files(&lab.repository().join("rulings"))
}

#[test]
fn a_ruling_is_made_once_and_again_when_its_reasons_change() {
    let lab = site();
    app(&lab, &["MPI_Send"], 1);
    let first = ask(&lab, "app", "auto").expect("it fits");
    assert_eq!((first.swap.extent, first.swap.stack.as_str()), (Extent::Mpi, "tuned"));
    assert!(first.swap.seen.cache().is_some(), "nodes need not look into the image");
    assert_eq!(kept(&lab).len(), 1);
    // What is kept is what is answered, and nothing is looked at for it.
    let image = files(&lab.repository()).into_iter().find(|f| f.extension().is_some_and(|e| e == "squashfs"));
    let facts = image.expect("an image").with_extension("elf.json");
    fs::remove_file(&facts).expect("facts");
    assert_eq!(ask(&lab, "app", "auto"), Ok(first.clone()));
    assert!(!facts.exists());
    // A damaged one is none.
    fs::write(&kept(&lab)[0], "{").expect("write");
    assert_eq!(ask(&lab, "app", "auto"), Ok(first.clone()));
    // Another profile, another mode, another rule for glibc: another ruling.
    let profile = lab.path("stacks/tuned.toml");
    let text = fs::read_to_string(&profile).expect("a profile");
    fs::write(&profile, text.clone() + "\n# changed\n").expect("write");
    assert_ne!(ask(&lab, "app", "auto").expect("it fits").profiles, first.profiles);
    fs::write(&profile, text).expect("write");
    let _ = ask(&lab, "app", "host").expect("it fits");
    fs::write(lab.path("grus.toml"), "[mpi]\nglibc = \"auto\"\n").expect("site file");
    let _ = ask(&lab, "app", "host").expect("it fits");
    assert_eq!(kept(&lab).len(), 4);
}

#[test]
fn refusals_are_answers_and_are_not_kept() {
    let lab = site();
    app(&lab, &["MPI_Comm_attach_buffer"], 1);
    let why = ask(&lab, "app", "host").expect_err("a missing function");
    assert!(why.starts_with("image app:1: /usr/bin/app uses MPI_Comm_attach_buffer"), "{why}");
    assert!(ask(&lab, "app", "tunedd").expect_err("no such stack").ends_with("did you mean 'tuned'?"));
    assert_eq!(kept(&lab), Vec::<PathBuf>::new());
    let ruling = ask(&lab, "app", "auto").expect("auto does not refuse");
    assert_eq!(ruling.swap.extent, Extent::Fabric);
    assert!(ruling.swap.warnings[0].contains("MPI_Comm_attach_buffer"), "{ruling:?}");
}

#[test]
fn a_file_by_path_is_read_once_and_told() {
    let lab = site();
    app(&lab, &[], 1);
    let image = files(&lab.repository()).into_iter().find(|f| f.extension().is_some_and(|e| e == "squashfs"));
    fs::copy(image.expect("an image"), lab.path("copy.squashfs")).expect("copy");
    let words = ["explain", "./copy.squashfs", "--for-launch", "auto"];
    let first = lab.run(words).ok();
    assert!(first.err.contains("reading the libraries of ./copy.squashfs, once"), "{first:?}");
    assert_eq!(lab.run(words).ok().err, "");
    // It may be another file when nodes open it.
    assert!(ask(&lab, "./copy.squashfs", "auto").expect("it fits").swap.seen.is_empty());
    // Without stacks there is nothing to read for.
    fs::remove_dir_all(lab.path("stacks")).expect("stacks");
    let none = lab.run(words).ok();
    assert_eq!((none.out.as_str(), none.err.as_str()), ("null\n", ""));
}

#[test]
fn an_image_without_mpi_has_a_ruling_for_every_host() {
    let lab = site();
    mpi::rootfs(&lab, "plain");
    let _ = lab.run(["import", "-q", "plain", "plain"]).ok();
    let ruling = ask(&lab, "plain", "auto").expect("nothing to refuse");
    assert_eq!((ruling.profiles, ruling.swap.extent), (None, Extent::Nothing));
}

#[test]
fn the_plan_shows_the_swap_and_what_stands_against_it() {
    let lab = site();
    app(&lab, &["MPI_Send"], 1);
    // The lab is in /tmp, which would bring the stack by itself.
    fs::write(lab.path("grus.toml"), "[mounts]\ntmp = false\n").expect("site file");
    let plan = lab.run(["plan", "app", "--no-container-mount-workdir"]).ok().out;
    let host = lab.path("host").canonicalize().expect("a path").display().to_string();
    for line in [
        format!("link      /opt/mpi/lib/libmpi.so.12 -> {host}/lib/libmpi.so.12"),
        format!("bind      {host} on {host} (ro)"),
        "stack     tuned".into(),
        "verify    /usr/bin/app by ".into(),
        "setenv    LD_LIBRARY_PATH=/run/grus/lib".into(),
    ] {
        assert!(plan.contains(&line), "{line:?} is not in {plan}");
    }
    let own = lab.run(["plan", "app", "--container-mpi=image"]).ok().out;
    assert!(!own.contains("stack ") && !own.contains("/run/grus"), "{own}");
    let covered = lab.run(["plan", "app", "--mount=./host:/opt/mpi"]).ok().out;
    assert!(covered.contains("warning   the image's own MPI runs: /opt/mpi/lib/libfabric.so.1, which host stack 'tuned' would replace"), "{covered}");
    lab.run(["plan", "app", "--mount=./host:/opt/mpi", "--container-mpi=tuned"])
        .refused(2, "/opt/mpi/lib/libfabric.so.1, which host stack 'tuned' would replace");
}

#[test]
fn prune_takes_old_rulings() {
    let lab = site();
    app(&lab, &[], 1);
    let _ = (ask(&lab, "app", "auto").expect("it fits"), ask(&lab, "app", "host").expect("it fits"));
    let then = SystemTime::now() - Duration::from_secs(40 * 86400);
    fs::File::options().append(true).open(&kept(&lab)[0]).and_then(|f| f.set_modified(then)).expect("a time");
    let _ = lab.run(["prune"]).ok();
    assert_eq!(kept(&lab).len(), 1);
    lab.assert_sound();
}
