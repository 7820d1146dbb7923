//! Every option by every way it can be given: srun's command line, `#SBATCH`, salloc, a variable of ours and one of
//! Pyxis's. One row an option; docs/options.md shows them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use grus_core::options::{by_name, variables, Spec, TABLE};
use grus_tests::Output;

use crate::lab::Lab;

crate::tests![
    every_option_has_a_row,
    by_the_command_line_of_srun,
    by_lines_of_a_batch_script,
    by_salloc,
    by_variables,
    by_the_variables_of_pyxis,
];

/// An option, a command in the container that shows its effect, and what it prints then.
struct Row {
    option: &'static str,
    proof: &'static str,
    says: &'static str,
}

const fn row(option: &'static str, proof: &'static str, says: &'static str) -> Row {
    Row { option, proof, says }
}

/// `DIR` is a fresh directory of the user's with a file `mark` in it, where the job runs; `USER` the user's name, `UID`
/// the id.
const ROWS: &[Row] = &[
    row("container-image=IMAGE", "echo $IMAGE_NAME", "busybox"),
    row("mount=DIR:/x", "cat /x/mark", "marked"),
    row(
        "container-mounts=DIR:/x:ro,tmpfs:/t",
        "cat /x/mark; touch /t/new /x/new 2>/dev/null || ls /t",
        "marked\nnew",
    ),
    row("writable-volatile=/opt/work", "touch /opt/work/new && ls /opt/work/new", "/opt/work/new"),
    row("container-mount-home", "test -w $HOME && echo home", "home"),
    row("no-container-mount-home", "test -w $HOME || echo none", "none"),
    row("container-mount-workdir", "cat mark", "marked"),
    row("no-container-mount-workdir", "pwd", "/opt/work"),
    row("container-workdir=/opt/data/sub", "pwd", "/opt/data/sub"),
    row("container-env=IMAGE_NAME=mine", "echo $IMAGE_NAME", "mine"),
    row("container-writable", "rm /etc/only-in-image && touch /new && ls /new", "/new"),
    row("container-readonly", "touch /new 2>/dev/null || echo denied", "denied"),
    row("container-name=every-way", "touch /new && ls /new", "/new"),
    row("container-save=saved.squashfs", "echo saves", "saves"),
    row("container-remap-root", "id -u; id -un", "0\nroot"),
    row("no-container-remap-root", "id -u", "UID"),
    row("container-entrypoint", "echo no entry point is as none", "no entry point is as none"),
    row("no-container-entrypoint", "echo none", "none"),
    row("container-entrypoint-log", "echo as ever", "as ever"),
    row("container-unshare=net,uts", "grep -c : /proc/net/dev", "1"),
    row("container-slurm", "squeue --noheader --job=$SLURM_JOB_ID --format=%u", "USER"),
    row("no-container-slurm", "type squeue >/dev/null 2>&1 || echo none", "none"),
    row("container-pull=never", "echo here", "here"),
    row("container-batch", "echo step", "step"),
    row("container-mpi=image", "echo own", "own"),
];

/// How a row is given, and what its proof says.
struct Filled {
    name: &'static str,
    value: Option<String>,
    proof: String,
    says: String,
}

impl Row {
    fn fill(&self, lab: &Lab, dir: &str) -> Filled {
        let account = lab.account();
        let (uid, image) = (account.uid.to_string(), lab.system_image("busybox"));
        let fill = |text: &str| {
            let text = text.replace("DIR", dir).replace("UID", &uid).replace("IMAGE", &image);
            text.replace("USER", &account.name)
        };
        let (name, value) = match self.option.split_once('=') {
            Some((name, value)) => (name, Some(fill(value))),
            None => (self.option, None),
        };
        // The proofs are for a shell: IMAGE_NAME is a variable there.
        let plain = |text: &str| text.replace("DIR", dir).replace("UID", &uid).replace("USER", &account.name);
        Filled { name, value, proof: plain(self.proof), says: plain(self.says) }
    }
}

impl Filled {
    fn option(&self) -> String {
        let value = self.value.as_ref().map_or(String::new(), |value| format!("={value}"));
        format!("--{}{value}", self.name)
    }

    /// What else has to be said: the image.
    fn image(&self, lab: &Lab) -> Option<String> {
        let image = format!("--container-image={}", lab.system_image("busybox"));
        (self.name != "container-image").then_some(image)
    }

    fn check_saved(&self, dir: &Path) {
        let saved = dir.join("saved.squashfs");
        assert!(self.name != "container-save" || saved.is_file(), "there is no {}", saved.display());
    }

    fn check(&self, way: &str, run: &Output) {
        assert!(run.status.success(), "{way} --{}: {run}", self.name);
        assert_eq!(run.trimmed(), self.says, "{way} --{}: {run}", self.name);
    }
}

/// Each row, with a directory of its own.
fn rows(lab: &Lab) -> impl Iterator<Item = (Filled, PathBuf)> + '_ {
    ROWS.iter().map(|row| {
        let dir = lab.fresh_dir("every-way");
        std::fs::write(dir.join("mark"), "marked\n").expect("a fresh directory");
        (row.fill(lab, &dir.display().to_string()), dir)
    })
}

fn every_option_has_a_row(_: &Lab) {
    let rows: Vec<&str> = ROWS.iter().map(|row| row.option.split('=').next().unwrap_or_default()).collect();
    let table: Vec<&str> = TABLE.iter().map(|spec| spec.name).collect();
    assert_eq!(rows, table, "a row for each option, in the table's order");
}

fn by_the_command_line_of_srun(lab: &Lab) {
    for (filled, dir) in rows(lab) {
        let run = lab.srun(&[&filled.option()]).args(filled.image(lab)).args(["sh", "-c", &filled.proof]);
        filled.check("srun", &run.cwd(&dir).run());
        filled.check_saved(&dir);
    }
}

fn by_lines_of_a_batch_script(lab: &Lab) {
    for (filled, dir) in rows(lab) {
        let lines: Vec<String> = filled.image(lab).into_iter().chain([filled.option()]).collect();
        let lines: String = lines.iter().map(|line| format!("#SBATCH {line}\n")).collect();
        // The script's own output may hold more: with --container-batch it is in the container, without srun.
        let step = if filled.name == "container-batch" { "sh -c" } else { "srun sh -c" };
        let script = format!("#!/bin/sh\n{lines}{step} '{}' >out 2>err\n", filled.proof);
        let chdir = format!("--chdir={}", dir.display());
        let end = lab.sbatch(&[&chdir], &script).wait(Duration::from_secs(60));
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert_eq!(end.state, "COMPLETED", "#SBATCH --{}: {end:#?}\n{}", filled.name, read("err"));
        assert_eq!(read("out").trim(), filled.says, "#SBATCH --{}: {end:#?}\n{}", filled.name, read("err"));
        filled.check_saved(&dir);
    }
}

fn by_salloc(lab: &Lab) {
    for (filled, dir) in rows(lab) {
        let run = lab.user("salloc").arg("-N1").arg(filled.option()).args(filled.image(lab));
        filled.check("salloc", &run.args(["srun", "sh", "-c", &filled.proof]).cwd(&dir).run());
        filled.check_saved(&dir);
    }
}

/// The variable by which an option is given, with its value.
fn given_by(filled: &Filled, variable: fn(&Spec) -> Option<String>) -> Option<(String, String)> {
    let (name, flag) = match filled.name.strip_prefix("no-") {
        Some(name) => (name, "no"),
        None => (filled.name, "yes"),
    };
    let name = by_name(name).and_then(variable)?;
    Some((name, filled.value.clone().unwrap_or_else(|| flag.into())))
}

fn by_variables(lab: &Lab) {
    let unnamed = by_variables_of(lab, variables::variable);
    assert!(unnamed.is_empty(), "every option has a variable of ours: {unnamed:?}");
}

fn by_the_variables_of_pyxis(lab: &Lab) {
    let unnamed = by_variables_of(lab, variables::pyxis_variable);
    assert!(unnamed.contains(&"writable-volatile") && unnamed.len() < ROWS.len() / 2, "{unnamed:?}");
}

/// Returns the options that have no such variable.
fn by_variables_of(lab: &Lab, variable: fn(&Spec) -> Option<String>) -> Vec<&'static str> {
    let mut unnamed = vec![];
    for (filled, dir) in rows(lab) {
        let Some((name, value)) = given_by(&filled, variable) else {
            unnamed.push(filled.name);
            continue;
        };
        let run = lab.srun(&[]).args(filled.image(lab)).args(["sh", "-c", &filled.proof]);
        filled.check(&name, &run.env(&name, value).cwd(&dir).run());
        filled.check_saved(&dir);
    }
    unnamed
}
