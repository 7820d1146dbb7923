//! Every option by every way it can be given: srun's command line, `#SBATCH`, salloc, a variable of ours and one of
//! Pyxis's. One row an option; docs/options.md shows them.

use std::path::Path;
use std::sync::Mutex;

use grus_core::options::{by_name, variables, Spec, TABLE};
use grus_tests::Output;

use crate::client::with_client;
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
    row("container-workdir=/mnt", "pwd", "/mnt"),
    row("container-env=OWN=mine", "echo $OWN", "mine"),
    row("container-writable", "rm /etc/only-in-image && touch /new && ls /new", "/new"),
    row("container-readonly", "touch /new 2>/dev/null || echo denied", "denied"),
    row("container-name=every-way", "touch /new && ls /new", "/new"),
    row("container-save=DIR/saved.squashfs", "echo saves", "saves"),
    row("container-remap-root", "id -u; id -un", "0\nroot"),
    row("no-container-remap-root", "id -u", "UID"),
    row("container-entrypoint", "echo no entry point is as none", "no entry point is as none"),
    row("no-container-entrypoint", "echo none", "none"),
    row("container-entrypoint-log", "echo as ever", "as ever"),
    row("container-unshare=net,uts", "grep -c : /proc/net/dev", "1"),
    row("container-slurm", "squeue --noheader --job=$SLURM_JOB_ID --format=%u", "USER"),
    row("no-container-slurm", "type squeue >/dev/null 2>&1 || echo none", "none"),
    row("container-gpu=none", "echo no driver", "no driver"),
    row("container-device=/dev/null", "test -c /dev/null && echo there", "there"),
    row("container-pull=never", "echo here", "here"),
    row("container-batch", "echo step", "step"),
    row("container-mpi=image", "echo own", "own"),
    row("container-module=marked", "echo $MODULE; cat /opt/module/hostname | wc -l", "marked\n1"),
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
}

/// Tests each row, with a directory of its own; several at once, as most of the time is Slurm's.
fn each(lab: &Lab, way: &str, test: impl Fn(&Filled, &Path) -> Option<Output> + Sync) {
    let row = |row: &Row| {
        let name = row.option.split('=').next().unwrap_or_default();
        let dir = lab.fresh_dir(&format!("every-way-{name}"));
        std::fs::write(dir.join("mark"), "marked\n").expect("a fresh directory");
        let filled = row.fill(lab, &dir.display().to_string());
        let Some(run) = test(&filled, &dir) else { return };
        assert!(run.status.success(), "{way} --{name}: {run}");
        assert_eq!(run.trimmed(), filled.says, "{way} --{name}: {run}");
        let saved = dir.join("saved.squashfs");
        assert!(name != "container-save" || saved.is_file(), "there is no {}: {run}", saved.display());
    };
    let module = "[module.marked]\nbinds = ['/etc/hostname:/opt/module/hostname:ro']\nenvironment.set = { MODULE = 'marked' }\n";
    with_client(lab, module, || {
        for rows in ROWS.chunks(AT_ONCE) {
            std::thread::scope(|scope| rows.iter().for_each(|of| drop(scope.spawn(|| row(of)))));
        }
    });
}

/// Rows at a time.
const AT_ONCE: usize = 4;

fn every_option_has_a_row(_: &Lab) {
    let rows: Vec<&str> = ROWS.iter().map(|row| row.option.split('=').next().unwrap_or_default()).collect();
    let table: Vec<&str> = TABLE.iter().map(|spec| spec.name).collect();
    assert_eq!(rows, table, "a row for each option, in the table's order");
}

fn by_the_command_line_of_srun(lab: &Lab) {
    each(lab, "srun", |filled, dir| {
        let run = lab.srun(&[&filled.option()]).args(filled.image(lab)).args(["sh", "-c", &filled.proof]);
        Some(run.cwd(dir).run())
    });
}

fn by_lines_of_a_batch_script(lab: &Lab) {
    each(lab, "#SBATCH", |filled, dir| {
        let lines: Vec<String> = filled.image(lab).into_iter().chain([filled.option()]).collect();
        let lines: String = lines.iter().map(|line| format!("#SBATCH {line}\n")).collect();
        // With --container-batch the script itself is in the container, where there is no srun.
        let step = if filled.name == "container-batch" { "sh -c" } else { "srun sh -c" };
        let script = format!("#!/bin/sh\n{lines}{step} '{}'\n", filled.proof);
        let sbatch = lab.user("sbatch").args(["--wait", "--output=out"]).stdin(script).cwd(dir).run();
        let mut out = sbatch.success();
        out.stdout = std::fs::read_to_string(dir.join("out")).unwrap_or_default();
        // What srun says of saving is in it, too.
        out.stdout =
            out.stdout.lines().filter(|line| !line.contains("grus: ")).collect::<Vec<_>>().join("\n");
        Some(out)
    });
}

fn by_salloc(lab: &Lab) {
    each(lab, "salloc", |filled, dir| {
        let run = lab.user("salloc").arg("-N1").arg(filled.option()).args(filled.image(lab));
        Some(run.args(["srun", "sh", "-c", &filled.proof]).cwd(dir).run())
    });
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
    let unnamed = Mutex::new(vec![]);
    each(lab, "by variable", |filled, dir| {
        let Some((name, value)) = given_by(filled, variable) else {
            unnamed.lock().expect("no panic holds it").push(filled.name);
            return None;
        };
        let run = lab.srun(&[]).args(filled.image(lab)).args(["sh", "-c", &filled.proof]);
        Some(run.env(name, value).cwd(dir).run())
    });
    unnamed.into_inner().expect("no panic holds it")
}
