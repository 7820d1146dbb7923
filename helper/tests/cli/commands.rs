//! Every command in every strait: 80 columns, a closed pipe, no network, a full disk, a misspelt name, no terminal.

use std::fs;
use std::io::pipe;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use grus_helper::cli::Cli;
use serde_json::json;

use crate::archives::*;
use crate::support::{files, Lab, Output};
use crate::tmpfs::Tmpfs;

/// How a command is called in a lab with the image `app:1` and the archive `app.tar`.
struct Row {
    command: &'static str,
    /// Called so, it prints something and succeeds, or ends with this code.
    args: &'static [&'static str],
    code: i32,
    /// Called so, it needs a network.
    online: Option<&'static [&'static str]>,
    /// Called so, it writes to the repository.
    writes: Option<&'static [&'static str]>,
    /// Called so, it names the image `ap:1`, which is misspelt.
    misspelt: Option<&'static [&'static str]>,
}

const fn row(command: &'static str, args: &'static [&'static str]) -> Row {
    Row { command, args, code: 0, online: None, writes: None, misspelt: None }
}

const ROWS: &[Row] = &[
    Row {
        online: Some(&["pull", "registry.invalid/app:1"]),
        writes: None,
        ..row("pull", &["pull", "docker-archive:app.tar:app:1", "app:1"])
    },
    Row {
        online: Some(&["import", "https://registry.invalid/app.tar", "new:1"]),
        writes: Some(&["import", "app.tar", "new:1"]),
        ..row("import", &["import", "app.tar", "app:1"])
    },
    row("images", &["images"]),
    Row { misspelt: Some(&["inspect", "ap:1"]), ..row("inspect", &["inspect", "app:1"]) },
    Row { misspelt: Some(&["history", "ap:1"]), ..row("history", &["history", "app:1"]) },
    Row { misspelt: Some(&["export", "ap:1"]), ..row("export", &["export", "--tree", "app:1"]) },
    Row {
        writes: Some(&["tag", "app:1", "second:1"]),
        misspelt: Some(&["tag", "ap:1", "x"]),
        ..row("tag", &["tag", "app:1", "other:1"])
    },
    Row { misspelt: Some(&["rmi", "ap:1"]), ..row("rmi", &["rmi", "other:1"]) },
    row("prune", &["prune", "--dry-run"]),
    Row { misspelt: Some(&["verify", "ap:1"]), ..row("verify", &["verify", "app:1"]) },
    Row {
        online: Some(&["run", "registry.invalid/app:1", "true"]),
        misspelt: Some(&["run", "--pull=never", "ap:1", "true"]),
        ..row("run", &["run", "--dry-run", "app:1"])
    },
    Row { misspelt: Some(&["plan", "ap:1"]), ..row("plan", &["plan", "app:1"]) },
    Row { misspelt: Some(&["explain", "ap:1"]), ..row("explain", &["explain", "app:1"]) },
    row("ps", &["ps", "--format", "{{.ID}}"]),
    row("exec", &["exec", "1.0", "true"]),
    row("host", &["host", "scan", "--output", "-", "/usr/lib"]),
    row("config", &["config"]),
    row("doctor", &["doctor", "--offline"]),
    Row {
        online: Some(&["login", "registry.invalid", "-u", "me", "--password-stdin"]),
        ..row("login", &["login", "--help"])
    },
    Row { code: 2, ..row("logout", &["logout", "registry.invalid"]) },
    row("completion", &["completion", "bash"]),
    row("version", &["version"]),
];

/// Commands whose success depends on what the machine has: Slurm, stacks, a healthy node. Here only their manners count.
const OF_THE_MACHINE: &[&str] = &["ps", "exec", "host", "doctor", "run"];

/// What a wrong word is told with; as of `docker run`, the other codes of `grus run` are the program's.
fn wrong_usage(args: &[&str]) -> i32 {
    if args[0] == "run" {
        125
    } else {
        2
    }
}

fn lab() -> Lab {
    let lab = Lab::new();
    let layer = tar_of(&[("etc/", b""), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n")]);
    fs::write(lab.path("app.tar"), tar_members(&docker_archive(&[(&["app:1"], &[layer])]))).expect("write");
    let _ = lab.run(["import", "-q", "app.tar", "app:1"]).ok();
    lab
}

/// One line of what failed on what, one with the way out, and no more.
#[track_caller]
fn two_lines(said: &Output) {
    let lines: Vec<&str> = said.err.lines().collect();
    let good = matches!(&lines[..], [what, hint] if what.starts_with("grus: ") && hint.starts_with("hint: "));
    assert!(good, "{said:?}");
}

#[test]
fn every_command_is_in_the_table() {
    let command = Cli::command();
    let visible = command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned());
    for name in visible.filter(|name| name != "help") {
        assert!(ROWS.iter().any(|row| row.command == name), "{name} is not in the table of this file");
    }
}

#[test]
fn help_teaches_by_examples_and_fits_80_columns() {
    let mut all = vec![Cli::command()];
    while let Some(command) = all.pop() {
        let name = command.get_name().to_owned();
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        if !command.is_hide_set() {
            let teaches = after.contains("Examples:\n  ") || after.contains("First steps:\n  ");
            assert!(teaches, "the help of {name} has no examples");
            for line in after.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
        all.extend(command.get_subcommands().cloned());
    }
    let lab = Lab::new();
    for row in ROWS {
        let mut command = lab.command([row.command, "--help"]);
        let said = Output::of(command.env("COLUMNS", "80").output().expect("grus starts")).ok();
        assert!(said.out.contains("Usage: grus"), "{said:?}");
        for line in said.out.lines() {
            // A word cannot be broken: the grammar of --mount is one.
            let one_word = line.split_whitespace().count() == 1;
            assert!(one_word || line.chars().count() <= 80, "{}: {line}", row.command);
        }
    }
}

/// What a command says on a terminal of 80 columns, of script(1)'s; without it, nothing.
fn on_a_terminal(lab: &Lab, args: &[&str]) -> Option<Output> {
    let grus = lab.command::<&str>([]);
    let line = format!("stty cols 80 rows 24; exec '{}' {}", env!("CARGO_BIN_EXE_grus"), args.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
    script.envs(grus.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.env("TERM", "xterm").env("NO_COLOR", "1");
    let said = script.current_dir(lab.dir.path()).stdin(Stdio::null()).output();
    said.ok().map(Output::of)
}

#[test]
fn a_terminal_of_80_columns_holds_what_is_laid_out() {
    let lab = lab();
    let mut layout = Layout::new(lab.path("made"));
    let history: Vec<_> = (0..3)
        .map(|n| json!({"created": "2024-05-01T00:00:00Z", "comment": "buildkit.dockerfile.v0", "empty_layer": n > 0,
            "created_by": "RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends everything"}))
        .collect();
    let layer = base_layer();
    let mut of_image = config(std::slice::from_ref(&layer), arch());
    of_image["history"] = json!(history);
    let of_image = layout.document("application/vnd.oci.image.config.v1+json", &of_image);
    let packed = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&layer));
    let manifest = json!({"schemaVersion": 2, "config": of_image, "layers": [packed]});
    let image = layout.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    layout.add(image, None, None);
    layout.finish();
    let _ = lab.run(["import", "-q", "made", "nvcr.io/nvidia/pytorch:25.09-py3"]).ok();
    for args in [
        &["images"][..],
        &["history", "app:1"],
        &["history", "nvcr.io/nvidia/pytorch:25.09-py3"],
        &["explain", "app:1"],
        &["verify", "app:1"],
        &["prune", "--dry-run"],
        &["tag", "app:1", "other:1"],
        &["rmi", "other:1"],
        &["config"],
        &["doctor", "--offline"],
        &["version"],
        &["--help"],
        &["run", "--help"],
    ] {
        let Some(said) = on_a_terminal(&lab, args) else { return };
        assert!(args[0] == "doctor" || said.code == Some(0), "{args:?}: {said:?}");
        assert!(!said.out.contains('\x1b'), "nothing to erase or to colour: {said:?}");
        for line in said.out.lines().map(|line| line.trim_end_matches('\r')) {
            // To be copied, or one word.
            let whole = line.trim_start().starts_with("mend ") || line.split_whitespace().count() == 1;
            let failure = line.starts_with("grus: ") || line.starts_with("hint: ");
            assert!(whole || failure || line.chars().count() <= 80, "{args:?}: {line}");
        }
    }
}

#[test]
fn nothing_but_text_goes_to_a_pipe() {
    let lab = lab();
    for row in ROWS {
        let said = lab.run(row.args);
        let plain = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t');
        if row.command != "export" {
            assert!(plain(&said.out) && plain(&said.err), "{said:?}");
        }
        if !OF_THE_MACHINE.contains(&row.command) {
            assert_eq!(said.code, Some(row.code), "{}: {said:?}", row.command);
        }
        if said.code != Some(0) {
            two_lines(&said);
        }
    }
}

#[test]
fn a_closed_pipe_is_quiet() {
    let lab = lab();
    for row in ROWS.iter().filter(|row| row.code == 0 && !OF_THE_MACHINE.contains(&row.command)) {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let said = lab.command(row.args).stdout(writer).output().expect("grus starts");
        let said = Output::of(said);
        assert!(matches!(said.code, Some(0 | 141)), "{}: {said:?}", row.command);
        assert!(!said.err.contains("ipe") && !said.err.contains("panic"), "{}: {said:?}", row.command);
    }
}

#[test]
fn a_wrong_site_file_is_the_sites_fault_and_run_fails_as_ever() {
    let lab = lab();
    for (command, code) in [("images", 78), ("run", 125)] {
        let wrong = lab.command([command, "app:1"]).env("GRUS_CONFIG", lab.path("none.toml")).output();
        let said = Output::of(wrong.expect("grus starts"));
        assert_eq!(said.code, Some(code), "{said:?}");
        two_lines(&said);
    }
}

#[test]
fn without_a_network_what_needs_one_says_so_and_the_rest_works() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: unshare --net needs root");
    }
    let lab = lab();
    let alone = |args: &[&str]| {
        let grus = lab.command::<&str>([]);
        let mut command = Command::new("unshare");
        command.args(["--net", env!("CARGO_BIN_EXE_grus")]).args(args);
        command.env_clear().envs(grus.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Output::of(command.current_dir(lab.dir.path()).output().expect("unshare starts"))
    };
    for row in ROWS {
        if let Some(args) = row.online {
            let said = alone(args);
            let codes: &[i32] = match row.command {
                // It has no password to read, which comes first.
                "login" => &[69, 2],
                "run" => &[125],
                _ => &[69],
            };
            assert!(codes.iter().any(|code| said.code == Some(*code)), "{args:?}: {said:?}");
            assert!(said.err.starts_with("grus: ") && said.err.contains("\nhint: "), "{said:?}");
        }
        if !OF_THE_MACHINE.contains(&row.command) {
            let said = alone(row.args);
            assert_eq!(said.code, Some(row.code), "{}: {said:?}", row.command);
        }
    }
}

#[test]
fn on_a_full_disk_what_writes_says_so_and_the_rest_works() {
    let lab = Lab::new();
    let Some(_disk) = Tmpfs::mount(&lab.repository(), 400) else { return };
    let layer = tar_of(&[("etc/", b""), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n")]);
    fs::write(lab.path("app.tar"), tar_members(&docker_archive(&[(&["app:1"], &[layer])]))).expect("write");
    let _ = lab.run(["import", "-q", "app.tar", "app:1"]).ok();
    let _ = lab.run(["tag", "app:1", "other:1"]).ok();
    // Filled to the last block.
    let mut size = 400 << 10;
    while size > 256 {
        let name = format!("noise{size}");
        match fs::write(lab.repository().join(&name), vec![1; size]) {
            Ok(()) => {}
            Err(_) => size /= 2,
        }
    }
    for row in ROWS {
        if let Some(args) = row.writes {
            let args: Vec<&str> =
                args.iter().map(|arg| if *arg == "second:1" { "x.y/second:1" } else { arg }).collect();
            let said = lab.run(args);
            said.refused(1, "No space left on device");
            assert_eq!(files(&lab.repository().join("tmp")), Vec::<PathBuf>::new(), "{}", row.command);
        }
    }
    for args in
        [&["images"][..], &["inspect", "app:1"], &["history", "app:1"], &["plan", "app:1"], &["config"]]
    {
        let _ = lab.run(args).ok();
    }
    // And what makes room still can.
    let _ = lab.run(["rmi", "other:1"]).ok();
}

#[test]
fn a_misspelt_name_is_told_with_the_nearest() {
    let lab = lab();
    for args in ROWS.iter().filter_map(|row| row.misspelt) {
        let said = lab.run(args);
        let told = said.refused(wrong_usage(args), "ap:1");
        assert!(told.contains("app:1"), "{args:?}: {told}");
    }
    // Commands, options, keys and fields, too.
    for (args, near) in [
        (&["image"][..], "images"),
        (&["images", "--dijests"], "--digests"),
        (&["images", "--filter", "refrence=x"], "reference"),
        (&["images", "--format", "{{.Tagg}}"], ".Tag"),
        (&["config", "mount.home"], "mounts.home"),
    ] {
        let said = lab.run(args);
        two_lines(&said);
        assert!(said.code == Some(2) && said.err.contains(near), "{args:?}: {said:?}");
    }
}

#[test]
fn a_digest_or_its_beginning_names_an_image_everywhere() {
    let lab = lab();
    let digest = lab.run(["images", "-q"]).ok().out.trim().to_owned();
    for name in [&digest[..], &digest[7..], &digest[7..19]] {
        for args in [
            &["inspect", name][..],
            &["history", name],
            &["plan", name],
            &["explain", name],
            &["export", "--tree", name, "-o", "out.tar"],
            &["tag", name, "by-digest:1"],
        ] {
            let _ = lab.run(args).ok();
        }
    }
    let _ = lab.run(["rmi", "--force", &digest[7..19]]).ok();
    lab.assert_empty();
}
