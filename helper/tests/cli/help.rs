//! The command line's texts are golden: a change of them is seen in review.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use crate::support::{golden, Lab};

/// grus(1) and a page for each command, from the same definition as the help.
#[test]
fn the_shipped_manual_pages_are_made_from_the_command_line() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man");
    let made = tempfile::tempdir().expect("a directory");
    clap_mangen::generate_to(grus_helper::cli::Cli::command(), made.path()).expect("pages are written");
    let mut names: Vec<_> =
        fs::read_dir(made.path()).expect("pages").map(|e| e.expect("page").file_name()).collect();
    names.sort();
    assert!(names.iter().any(|name| name == "grus-pull.1"), "{names:?}");
    if std::env::var_os("GRUS_GOLDEN").is_some() {
        for old in fs::read_dir(&shipped).expect("docs/man").flatten() {
            if old.path().extension().is_some_and(|section| section == "1") {
                fs::remove_file(old.path()).expect("docs/man is writable");
            }
        }
        for name in &names {
            fs::copy(made.path().join(name), shipped.join(name)).expect("docs/man is writable");
        }
    }
    for name in &names {
        let text = |dir: &Path| fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(text(made.path()) == text(&shipped), "GRUS_GOLDEN=1 accepts {name:?}");
    }
    let pages = fs::read_dir(&shipped).expect("docs/man").flatten();
    let shipped = pages.filter(|p| p.path().extension().is_some_and(|section| section == "1")).count();
    assert_eq!(shipped, names.len(), "a page of a command that is gone");
}

#[test]
fn help_of_every_command_is_as_accepted() {
    let lab = Lab::new();
    let help = |args: &[&str]| {
        let mut command = lab.command(args);
        // The width a user without a terminal gets; clap asks the environment otherwise.
        command.env("COLUMNS", "100");
        crate::support::Output::of(command.output().expect("grus starts")).ok().out
    };
    let top = help(&["--help"]);
    let commands: Vec<&str> = top
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"pull") && commands.len() >= 7, "{commands:?}");
    golden("help.txt", &top);
    for command in commands.iter().filter(|c| **c != "help") {
        golden(&format!("help-{command}.txt"), &help(&[command, "--help"]));
    }
    golden("help-host-scan.txt", &help(&["host", "scan", "--help"]));
}

#[test]
fn wrong_usage_is_one_sentence_and_a_way_out() {
    let lab = Lab::new();
    lab.run(["pul", "x"]).refused(2, "unrecognized subcommand 'pul'");
    lab.run(["pull"]).refused(2, "required arguments were not provided");
    lab.run(["pull", "UPPER"]).refused(2, "names of images are lower case");
    lab.run(["pull", "--compression", "zip", "x"]).refused(2, "no compression");
    lab.run(["pull", "--platform", "linux", "x"]).refused(2, "not a platform");
    lab.run(["images", "\x1b[31mred"]).refused(2, "\\x1b[31mred");
    lab.run(["import", "--\x1b[31m", "a", "b"]).refused(2, "unexpected argument");
    lab.run(["--system", "--repository", "x", "images"]).refused(2, "cannot be used with");
}

#[test]
fn no_command_shows_the_help() {
    let lab = Lab::new();
    let said = lab.run::<&str>([]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("First steps:"), "{said:?}");
}

#[test]
fn version_and_completion_are_printed() {
    let lab = Lab::new();
    let version = lab.run(["version"]).ok().out;
    assert!(version.starts_with(&format!("grus {} (linux/", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(lab.run(["--version"]).ok().out.starts_with("grus "));
    for shell in ["bash", "zsh", "fish"] {
        let script = lab.run(["completion", shell]).ok().out;
        assert!(script.contains("writable-volatile"), "{shell} does not know the options of plan");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let lab = Lab::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = lab.command(["completion", "bash"]).stdout(writer).output().expect("grus starts");
    let said = crate::support::Output::of(output);
    assert_eq!((said.code, said.err.as_str()), (Some(141), ""));
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let lab = Lab::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = lab.command(["version"]).stdout(full).output().expect("grus starts");
    let said = crate::support::Output::of(output);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("No space left"), "{said:?}");
}

#[test]
fn the_sites_file_is_obeyed_and_its_faults_are_told() {
    let lab = Lab::new();
    let site = lab.path("grus.toml");
    std::fs::write(&site, "[repository]\nuser = \"{home}/x/{user}\"\nsystem = \"\"\n").expect("write");
    let mut command = lab.command(["--system", "images"]);
    command.env_remove("GRUS_REPOSITORY");
    let said = crate::support::Output::of(command.output().expect("grus starts"));
    said.refused(78, "no system repository");
    // Set to nothing is not set; an option beats a variable.
    let system = lab.path("system");
    std::fs::write(&site, format!("[repository]\nsystem = \"{}\"\n", system.display())).expect("write");
    let said = lab.run(["--system", "images"]).ok();
    assert!(said.out.starts_with("REPOSITORY"), "{said:?}");
    let mut command = lab.command(["images"]);
    command.env("GRUS_REPOSITORY", "").env("GRUS_CONFIG", "");
    let _ = crate::support::Output::of(command.output().expect("grus starts")).ok();
    std::fs::write(&site, "[repositry]\nuser = \"/x\"\n").expect("write");
    lab.run(["images"]).refused(78, "did you mean 'repository'?");
    lab.run(["--config", "/nowhere/grus.toml", "images"]).refused(78, "cannot read the site file");
}
