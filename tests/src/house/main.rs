//! `ci/house-rules`: the fences of docs/architecture.md and CONTRIBUTING, checked, so that they fail builds and not
//! reviews. `--update` rewrites the golden lists in ci/golden; review reads the difference.

mod golden;
mod security;
mod source;
mod text;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{ensure, Context, Result};

use security::Cases;

fn main() -> ExitCode {
    let update = std::env::args().any(|arg| arg == "--update");
    match check(update) {
        Ok((faults, cases)) if faults.is_empty() => {
            println!("{}\nhouse rules: kept", cases.told());
            ExitCode::SUCCESS
        }
        Ok((faults, _)) => {
            for fault in &faults {
                eprintln!("{fault}");
            }
            eprintln!("house rules: broken {} times", faults.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("house-rules: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All faults, each `where: what`, and the hostile cases there are.
fn check(update: bool) -> Result<(Vec<String>, Cases)> {
    let root = PathBuf::from(run("git", &["rev-parse", "--show-toplevel"], Path::new("."))?.trim());
    let listed = run("git", &["ls-files", "--cached", "--others", "--exclude-standard"], &root)?;
    let mut faults = golden::faults(&root, update)?;
    let mut cases = Cases::default();
    for name in listed.lines() {
        let path = root.join(name);
        // What is listed may be deleted but not committed, or be no text.
        let Ok(content) = std::fs::read_to_string(&path) else { continue };
        text::faults(name, &content, &mut faults);
        if name.ends_with(".rs") {
            source::faults(name, &content, &mut faults).with_context(|| name.to_owned())?;
            cases.read(name, &content).with_context(|| name.to_owned())?;
        }
    }
    let page = std::fs::read_to_string(root.join(security::PAGE)).context(security::PAGE)?;
    cases.faults(&page, &mut faults);
    faults.sort();
    Ok((faults, cases))
}

/// Standard output of a program that must succeed.
fn run(program: &str, args: &[&str], dir: &Path) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(dir).output().context(program.to_owned())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {stderr}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}
