//! The simulated loader against the real one, on this machine's own programs.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use grus_core::elf::{Collector, Kind, Object};
use grus_core::path::AbsPath;
use grus_core::swap::loads;

const WALKED: &str = "/usr/lib/x86_64-linux-gnu/";

/// Real paths of what the loader maps for a program; `None` if it maps something that the facts lack.
fn real(program: &Path) -> Option<BTreeSet<PathBuf>> {
    let run = Command::new(program)
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let found = text.lines().filter_map(|l| l.split_once(" => ").map(|(_, path)| path));
    let paths: Option<BTreeSet<PathBuf>> =
        found.map(|path| Path::new(path.split(" (").next()?).canonicalize().ok()).collect();
    paths.filter(|p| p.iter().all(|p| p.starts_with(WALKED)))
}

#[test]
fn what_we_say_is_what_the_loader_does() {
    if !Path::new(WALKED).is_dir() {
        println!("skipped: this is no Debian on x86_64");
        return;
    }
    let mut c = Collector::default();
    support::walk(&mut c, Path::new(WALKED), WALKED.trim_end_matches('/'), &|n| n == "gcc" || n == "debug");
    c.link(support::abs("/lib"), "usr/lib");
    c.link(support::abs("/lib64"), "usr/lib64");
    c.cache(&std::fs::read("/etc/ld.so.cache").expect("a cache"));
    let mut image = c.finish();

    let mut programs: Vec<PathBuf> =
        std::fs::read_dir("/usr/bin").expect("it is there").flatten().map(|e| e.path()).collect();
    programs.sort();
    let mut compared = 0;
    for program in programs {
        let Ok(file) = program.canonicalize() else { continue };
        let Some(object) = support::object(&file) else { continue };
        let dynamic = |o: &Object| o.kind == Kind::Program && o.interpreter.is_some() && !o.needed.is_empty();
        if !dynamic(&object) || file.metadata().is_ok_and(|m| setid(&m)) || compared >= 200 {
            continue;
        }
        let Some(expected) = real(&file) else { continue };
        let at = support::abs(&file);
        image.objects.insert(at.clone(), object);
        let loaded = loads(&image, &[], &at);
        let ours: BTreeSet<PathBuf> =
            loaded.iter().map(|(n, p)| p.as_ref().map_or(PathBuf::from(n), |p| p.as_path().into())).collect();
        // The loader itself is printed without an arrow where it is needed by its own path.
        let without = |s: &BTreeSet<PathBuf>| -> BTreeSet<PathBuf> {
            s.iter().filter(|p| !p.to_string_lossy().contains("/ld-linux")).cloned().collect()
        };
        assert_eq!(without(&ours), without(&expected), "{}", file.display());
        compared += 1;
        image.objects.remove::<AbsPath>(&at);
    }
    assert!(compared >= 20, "only {compared} programs were compared");
    println!("{compared} programs compared");
}

fn setid(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o6000 != 0
}
