//! The site file: whether it can be read and is trusted, and whether what its keys name is there.

use std::fs;
use std::path::Path;

use grus_core::mount::What;
use grus_core::path::AbsPath;
use grus_enter::probe;

use super::{program, Check, Patient};
use crate::context::SITE_FILE;
use crate::failure::reason;

pub fn checks(patient: &Patient) -> Vec<Check> {
    let mut all = vec![file(patient)];
    if patient.site_fault.is_none() {
        all.push(pull_command(patient));
        all.extend(mkfs(patient));
        all.extend(disk(patient));
        all.push(named(patient));
        all.push(mounts(patient));
        all.extend(commands(patient));
    }
    all
}

fn file(patient: &Patient) -> Check {
    let name = "site.file";
    let path = &patient.site_file;
    let shown = path.display();
    let none = "every step that asks for a container fails; other jobs run";
    if let Some(failure) = patient.site_fault {
        let check = Check::fails(name, failure.to_string()).means(none);
        return check.mend(format!("$EDITOR {shown}; every key is explained in 'man grus.toml'"));
    }
    // As the plugin reads it, which trusts it only if root alone can write it.
    let (read, missing) = match path.exists() || path != Path::new(SITE_FILE) {
        true => (grus_enter::site::load(path), false),
        false => (grus_enter::site::load_if_there(path), true),
    };
    match read {
        Ok(_) if missing => {
            Check::ok(name, format!("there is no {shown}: the defaults hold, and what is in grus.d"))
        }
        Ok(_) => Check::ok(name, format!("{shown} is valid, and root's alone")),
        Err(refusal) => {
            let check = Check::fails(name, &refusal.what).means(none);
            check.mend(format!(
                "chown root:root {shown}; chmod 0644 {shown}; and so the files of grus.d and the directories above"
            ))
        }
    }
}

fn pull_command(patient: &Patient) -> Check {
    let name = "site.pull-command";
    let path = patient.context.site.pull.command.as_path();
    let shown = path.display();
    let same = |path: &Path| {
        let own = std::env::current_exe().and_then(fs::canonicalize);
        own.is_ok_and(|own| fs::canonicalize(path).is_ok_and(|path| path == own))
    };
    match program(path) {
        Err(why) => Check::fails(name, format!("pull.command {shown}: {why}"))
            .means("srun pulls no missing images, and gets no ruling on the host's MPI")
            .mend("install grus there, or set pull.command in grus.toml"),
        Ok(()) if same(path) => Check::ok(name, format!("pull.command is this program, {shown}")),
        Ok(()) => {
            let own = concat!("grus ", env!("CARGO_PKG_VERSION"));
            let said = super::ask::ask(path, &["--version"], "", std::time::Duration::from_secs(5));
            match said.map(|said| said.out.trim().to_owned()) {
                Ok(other) if other == own => Check::ok(name, format!("pull.command is {shown}, {other}")),
                Ok(other) => {
                    Check::warning(name, format!("pull.command {shown} is '{other}', this is {own}"))
                        .means("srun pulls with another release than you do")
                        .mend("install one release on all machines")
                }
                Err(why) => Check::fails(name, format!("pull.command {shown} does not start: {why:?}"))
                    .means("srun pulls no missing images")
                    .mend("install grus there, or set pull.command in grus.toml"),
            }
        }
    }
}

/// Only where something is made by it.
fn mkfs(patient: &Patient) -> Option<Check> {
    let site = &patient.context.site;
    site.scratch.dir.as_ref().or(site.volatile.dir.as_ref())?;
    let (name, path) = ("site.mkfs", site.scratch.mkfs.as_path());
    let bad = |why: String| {
        Check::fails(name, format!("scratch.mkfs {}: {why}", path.display()))
            .means("scratch directories, and volatile ones on disk, cannot be made")
            .mend("apt install e2fsprogs, or set scratch.mkfs in grus.toml")
    };
    Some(match (program(path), probe::why_not_roots(path)) {
        (Err(why), _) | (_, Err(why)) | (_, Ok(Some(why))) => bad(why),
        _ => Check::ok(name, format!("scratch.mkfs is {}", path.display())),
    })
}

/// The directories on the node's disk. Files without a name are made in them, as root.
fn disk(patient: &Patient) -> Vec<Check> {
    let site = &patient.context.site;
    let both = [
        ("site.scratch", "scratch.dir", &site.scratch.dir),
        ("site.volatile", "volatile.dir", &site.volatile.dir),
    ];
    let look = |(name, key, dir): (&'static str, &str, &Option<AbsPath>)| {
        let dir = dir.as_ref()?;
        let bad = |why: String| {
            Check::fails(name, format!("{key} {dir}: {why}"))
                .means("what is to lie there cannot be had on this machine")
                .mend(format!("mkdir -p {dir}, on ext4, xfs or btrfs; or another {key} in grus.toml"))
        };
        if let Err(e) = fs::metadata(dir.as_path()) {
            return Some(bad(reason(&e)));
        }
        if patient.is_root() {
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            if let Err(e) = rustix::fs::open(dir.as_path(), flags, Mode::RUSR | Mode::WUSR) {
                return Some(bad(format!("no file without a name can be made: {}", reason(&e.into()))));
            }
        }
        Some(Check::ok(name, format!("{key} {dir} is there")))
    };
    both.into_iter().filter_map(look).collect()
}

fn named(patient: &Patient) -> Check {
    let name = "site.named";
    let dir = &patient.context.site.named.dir;
    match fs::symlink_metadata(dir.as_path()) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Check::ok(name, format!("named.dir {dir} is made when it is first needed"))
        }
        Err(e) => Check::warning(name, format!("named.dir {dir}: {}", reason(&e))),
        Ok(_) => match probe::why_not_roots(dir.as_path()) {
            Ok(None) => Check::ok(name, format!("named.dir {dir} is root's alone")),
            // What the caller may not look at, nobody else may either: it is root's to judge.
            Err(_) if !patient.is_root() => Check::ok(name, format!("named.dir {dir} is there")),
            Ok(Some(why)) | Err(why) => Check::fails(name, format!("named.dir is not trusted: {why}"))
                .means("--container-name does not work here")
                .mend(format!("rm -r {dir}; it is made anew as it should be")),
        },
    }
}

fn mounts(patient: &Patient) -> Check {
    let name = "site.mounts";
    let mounts = patient.context.site.site_mounts();
    let missing: Vec<String> = mounts
        .iter()
        .filter(|mount| matches!(mount.what, What::Bind { .. } | What::Squashfs { .. }))
        .map(|mount| mount.source().to_owned())
        .filter(|source| fs::symlink_metadata(source).is_err())
        .collect();
    match missing.is_empty() {
        true => Check::ok(name, format!("mounts.site: {} of {} are here", mounts.len(), mounts.len())),
        false => Check::warning(name, format!("mounts.site: {} is not on this machine", missing.join(", ")))
            .means("containers start without it here")
            .mend("mount it, or take it out of mounts.site in grus.toml"),
    }
}

/// For `--container-slurm`; only where a key says something else than the default, or containers have it always.
fn commands(patient: &Patient) -> Option<Check> {
    let site = &patient.context.site;
    let dir = &site.slurm.commands;
    let srun = dir.as_path().join("srun");
    match program(&srun) {
        Ok(()) => Some(Check::ok("site.slurm-commands", format!("slurm.commands {dir} has srun"))),
        Err(_) if !site.container.slurm && dir.as_str() == "/usr/bin" => None,
        Err(why) => Some(
            Check::bad("site.slurm-commands", site.container.slurm, format!("{}: {why}", srun.display()))
                .means("--container-slurm does not work here")
                .mend("set slurm.commands in grus.toml to the directory of srun"),
        ),
    }
}
