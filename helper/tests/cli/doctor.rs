//! `grus doctor` on set-ups that are broken on purpose, each in a mount or user namespace of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::archives::{docker_archive, tar_members, tar_of};
use crate::support::{files, Lab, Output};
use crate::tmpfs::Tmpfs;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What doctor says, as JSON, of the lab with these further arguments.
fn examined(lab: &Lab, more: &[&str]) -> Value {
    let args = ["doctor", "--offline", "--json"].iter().chain(more);
    let said = lab.run(args);
    assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

/// The same within what `script` makes of the machine; `$GRUS` is the program with its arguments.
fn within(lab: &Lab, namespaces: &str, script: &str) -> Value {
    let doctor = lab.command::<&str>([]);
    let mut command = Command::new("unshare");
    command.args(namespaces.split(' ')).args(["sh", "-ec"]);
    command.arg(format!("{script}\nexec {} doctor --offline --json", env!("CARGO_BIN_EXE_grus")));
    command.env_clear().envs(doctor.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(lab.dir.path());
    let said = Output::of(command.output().expect("unshare starts"));
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

#[track_caller]
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["checks"].as_array().expect("a list");
    all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// This check is of this state; where it is not ok, it says what follows and what mends it.
#[track_caller]
fn is(report: &Value, name: &str, state: &str, found: &str) {
    let check = check(report, name);
    assert_eq!(check["state"], state, "{check:#}");
    assert!(
        check["found"].as_str().is_some_and(|text| text.contains(found)),
        "{found:?} is not in {check:#}"
    );
    if state != "ok" {
        assert!(check["means"].is_string() && check["mend"].is_string(), "{check:#}");
    }
}

#[test]
fn a_sound_machine_is_well_and_text_and_json_agree() {
    let lab = Lab::new();
    let report = examined(&lab, &[]);
    for name in ["kernel.version", "kernel.calls", "kernel.overlay", "kernel.limits", "repository.space"] {
        assert_eq!(check(&report, name)["state"], "ok", "{report:#}");
    }
    let said = lab.run(["doctor", "--offline"]);
    let lines: Vec<&str> = said.out.lines().collect();
    for check in report["checks"].as_array().expect("a list") {
        let name = check["name"].as_str().expect("a name");
        assert!(lines.iter().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name}: {said:?}");
    }
    assert!(lines.last().is_some_and(|line| line.contains(" checks, ")), "{said:?}");
    // Scripts go by the exit code.
    assert_eq!(said.code == Some(0), report["ok"] == true, "{said:?}");
    assert!(files(&lab.repository()).is_empty(), "looking makes nothing");
    let quiet = lab.run(["doctor", "--offline", "-q"]);
    assert!(!quiet.out.lines().any(|line| line.starts_with("ok ")), "{quiet:?}");
}

#[test]
fn every_answer_has_a_name_of_its_own() {
    let report = examined(&Lab::new(), &[]);
    let names: Vec<&str> =
        report["checks"].as_array().expect("a list").iter().filter_map(|c| c["name"].as_str()).collect();
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "{names:?}");
}

#[test]
fn a_bad_site_file_is_told_and_the_rest_is_looked_at() {
    let lab = Lab::new();
    let _ = lab.run(["doctor", "--offline"]);
    fs::write(lab.path("grus.toml"), "[repositry]\nuser = \"/x\"\n").expect("writable");
    let report = examined(&lab, &[]);
    is(&report, "site.file", "fails", "did you mean 'repository'?");
    assert_eq!(report["ok"], false);
    check(&report, "kernel.version");
    check(&report, "repository.space");
    let said = lab.run(["doctor", "--offline"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.starts_with("grus: ") && said.err.contains("\nhint: "), "{said:?}");
    fs::write(lab.path("grus.toml"), "volatile.dir = \"/tmp\"\n").expect("writable");
    is(&examined(&lab, &[]), "site.file", "fails", "a share of memory");
}

#[test]
fn a_missing_or_untrusted_site_file_is_told() {
    let lab = Lab::new();
    let report = examined(&lab, &["--config", "/nowhere/grus.toml"]);
    is(&report, "site.file", "fails", "cannot read the site file");
    // Below a directory that all can write: the plugin reads no such file.
    is(&examined(&lab, &[]), "site.file", "fails", "not trusted");
}

#[test]
fn a_missing_squashfuse_is_told() {
    let lab = Lab::new();
    let site = |text: &str| {
        let _ = lab.command::<&str>([]);
        fs::write(lab.path("grus.toml"), text).expect("writable");
        examined(&lab, &[])
    };
    let report = site("security.squashfuse = \"/no/squashfuse_ll\"\n");
    is(&report, "fuse.squashfuse", "fails", "/no/squashfuse_ll: No such file");
    assert!(check(&report, "fuse.squashfuse")["mend"]
        .as_str()
        .is_some_and(|m| m.contains("apt install squashfuse")));
    // Where nobody needs it, it is a warning only.
    let report = site("security.user-images = \"kernel\"\nsecurity.squashfuse = \"/no/squashfuse_ll\"\n");
    is(&report, "fuse.squashfuse", "warning", "/no/squashfuse_ll");
    // Something else of that name, and one that others can write.
    is(&site("security.squashfuse = \"/bin/true\"\n"), "fuse.squashfuse", "fails", "does not start");
    let own = lab.path("squashfuse_ll");
    fs::copy("/bin/true", &own).expect("a copy");
    let report = site(&format!("security.squashfuse = {own:?}\n"));
    is(&report, "fuse.squashfuse", "fails", "is not trusted");
}

#[test]
fn hidden_devices_are_told() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let hide = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 600 /dev/urandom c 1 9";
    let report = within(&lab, "--mount", hide);
    is(&report, "fuse.device", "fails", "/dev/fuse: No such file");
    is(&report, "kernel.loop", "warning", "/dev/loop-control: No such file");
    let report = within(&lab, "--mount", "mount --bind /dev/null /dev/fuse");
    is(&report, "fuse.device", "fails", "is not the FUSE device");
    // With a system repository, the kernel mounts images: then loop devices are needed.
    fs::write(lab.path("grus.toml"), "repository.system = \"/usr\"\n").expect("writable");
    is(&within(&lab, "--mount", hide), "kernel.loop", "fails", "/dev/loop-control");
}

#[test]
fn forbidden_namespaces_are_told_with_their_switch() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let report = within(&lab, "--user --map-root-user", "echo 0 >/proc/sys/user/max_user_namespaces");
    is(&report, "user.namespaces", "warning", "no user namespace");
    let mend = check(&report, "user.namespaces")["mend"].as_str().expect("a command").to_owned();
    assert!(mend.contains("sysctl -w user.max_user_namespaces"), "{mend}");
    let report = within(&lab, "--user --map-root-user", "echo 0 >/proc/sys/user/max_mnt_namespaces");
    is(&report, "kernel.limits", "fails", "user.max_mnt_namespaces = 0");
}

#[test]
fn a_full_repository_and_one_that_is_a_file_are_told() {
    let lab = Lab::new();
    fs::write(lab.path("repo"), "").expect("writable");
    is(&examined(&lab, &[]), "repository.user", "fails", "is no directory");
    fs::remove_file(lab.path("repo")).expect("there");
    let Some(_disk) = Tmpfs::mount(&lab.repository(), 64) else { return };
    fs::write(lab.repository().join("noise"), vec![1; 60 << 10]).expect("it fits");
    let report = examined(&lab, &[]);
    is(&report, "repository.user", "warning", "memory");
    is(&report, "repository.space", "fails", "free");
    is(&report, "repository.speed", "fails", "No space left on device");
    assert_eq!(files(&lab.repository()).len(), 1, "nothing is left there");
}

#[test]
fn damaged_images_are_told() {
    let lab = Lab::new();
    let layer = tar_of(&[("etc/", b""), ("etc/x", b"y")]);
    fs::write(lab.path("a.tar"), tar_members(&docker_archive(&[(&["app:1"], &[layer])]))).expect("writable");
    let _ = lab.run(["import", "-q", "a.tar", "app:1"]).ok();
    is(&examined(&lab, &[]), "repository.images", "ok", "1 names and images");
    let image = files(&lab.repository()).into_iter().find(|f| f.extension() == Some("squashfs".as_ref()));
    fs::write(image.expect("an image"), "short").expect("writable");
    is(&examined(&lab, &[]), "repository.images", "warning", "app:1");
}

#[test]
fn a_stack_whose_files_are_gone_is_told() {
    let lab = Lab::new();
    let _ = lab.command::<&str>([]);
    let dir = tempfile::tempdir_in("/root").or_else(|_| tempfile::tempdir()).expect("a directory");
    let site = dir.path().join("grus.toml");
    fs::write(&site, "mpi.default = \"gone\"\nmodule.m.libraries = \"lost\"\n").expect("writable");
    let config = ["--config", site.to_str().expect("UTF-8")];
    if !is_root() || !dir.path().starts_with("/root") {
        return;
    }
    is(&examined(&lab, &config), "mpi.default", "fails", "there is no such stack");
    is(
        &examined(&lab, &config),
        "module.libraries",
        "fails",
        "module.m.libraries is 'lost', and there is no such stack",
    );
    let stacks = dir.path().join("stacks");
    fs::create_dir(&stacks).expect("mkdir");
    fs::write(stacks.join("gone.toml"), "nonsense").expect("writable");
    is(&examined(&lab, &config), "mpi.profiles", "fails", "gone");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../slurm-conf/stacks/mvapich.toml");
    let text = fs::read_to_string(shipped).expect("shipped").replace("example = true", "example = false");
    fs::write(stacks.join("gone.toml"), text).expect("writable");
    let report = examined(&lab, &config);
    is(&report, "mpi.files", "fails", "missing: ");
    is(&report, "mpi.profiles", "ok", "gone");
}

#[test]
fn a_registry_that_is_silent_or_absent_does_not_hold_it_up() {
    let lab = Lab::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let start = std::time::Instant::now();
    let said =
        lab.run(["doctor", "--json", "--timeout", "2", "--registry", &address, "--registry", "127.0.0.1:1"]);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    let all = report["checks"].as_array().expect("a list").iter();
    let registries: Vec<&Value> = all.filter(|check| check["name"] == "registry.answers").collect();
    assert_eq!(registries.len(), 2, "{report:#}");
    assert!(registries.iter().all(|check| check["state"] == "fails"), "{registries:#?}");
    assert_eq!(said.code, Some(1));
    lab.run(["doctor", "--registry", "no registry"]).refused(2, "is not a registry");
}

#[test]
fn a_machine_without_slurm_is_a_machine_that_pulls() {
    let lab = Lab::new();
    let mut command = lab.command(["doctor", "--offline", "--json"]);
    command.env("PATH", "/nowhere");
    let said = Output::of(command.output().expect("grus starts"));
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    is(&report, "slurm.version", "warning", "there is no srun here");
}
