//! Lists that may only change knowingly: what core and the plugin depend on, which symbols the plugin exports, and
//! which of Slurm's it cannot be loaded without.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::run;

/// Compares each list with its golden file, or rewrites the file.
pub fn faults(root: &Path, update: bool) -> Result<Vec<String>> {
    let lists = [
        ("core-deps", dependencies(root, "grus-core")?),
        ("plugin-deps", dependencies(root, "spank_grus")?),
        ("plugin-exports", symbols(root, "--defined-only", |_| true)?),
        ("plugin-needs", symbols(root, "--undefined-only", slurms_own)?),
    ];
    let mut faults = Vec::new();
    for (name, found) in lists {
        let file = format!("ci/golden/{name}.txt");
        let path = root.join(&file);
        if update {
            let text: String = found.iter().map(|line| format!("{line}\n")).collect();
            fs::write(&path, text).with_context(|| file.clone())?;
            continue;
        }
        let golden = fs::read_to_string(&path).with_context(|| file.clone())?;
        let golden: BTreeSet<String> = golden.lines().map(str::to_owned).collect();
        faults.extend(found.difference(&golden).map(|new| format!("{file}: {new} is new")));
        faults.extend(golden.difference(&found).map(|old| format!("{file}: {old} is gone")));
    }
    Ok(faults)
}

/// Names of all crates that `package` is built from, itself included.
fn dependencies(root: &Path, package: &str) -> Result<BTreeSet<String>> {
    let target = "x86_64-unknown-linux-gnu";
    let args = [
        "tree",
        "--package",
        package,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--target",
        target,
        "--locked",
    ];
    let tree = run("cargo", &args, root)?;
    Ok(tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// Dynamic symbols of the release build of the plugin.
fn symbols(root: &Path, which: &str, wanted: fn(&str) -> bool) -> Result<BTreeSet<String>> {
    let target = std::env::var("CARGO_TARGET_DIR").map_or_else(|_| root.join("target"), Into::into);
    let plugin = target.join("release/libspank_grus.so");
    let plugin = plugin.to_str().context("the target directory's name is not UTF-8")?;
    let list = run("nm", &["--dynamic", which, "--no-demangle", "--format=posix", plugin], root)
        .context("build it first: cargo build --release -p spank_grus")?;
    let names = list.lines().filter_map(|line| line.split(' ').next());
    Ok(names.filter(|name| wanted(name)).map(str::to_owned).collect())
}

/// Rust binds all symbols at load time, so one that a Slurm release lacks keeps the plugin from loading there.
fn slurms_own(name: &str) -> bool {
    name.starts_with("spank_") || name.starts_with("slurm_")
}
