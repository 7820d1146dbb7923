//! `grus doctor` on a real Slurm: sound for everyone and everywhere, and right about what is broken.

use std::fs;

use grus_tests::{Cmd, Output};
use serde_json::Value;

use crate::lab::Lab;

crate::tests![
    a_sound_lab_is_well_for_everyone,
    a_plugin_that_is_not_set_up_is_told,
    a_site_file_that_others_can_write_is_told,
    a_slurmd_that_has_not_read_plugstack_is_told,
    a_controller_that_is_not_there_is_told,
    a_node_without_the_device_is_told,
];

const ARGS: [&str; 3] = ["doctor", "--offline", "--json"];

fn report(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
}

fn checks(report: &Value) -> impl Iterator<Item = &Value> {
    report["checks"].as_array().expect("a list").iter()
}

/// This check is of this state, and says what mends it if that is not well.
#[track_caller]
fn is(report: &Value, name: &str, state: &str, found: &str) {
    let check = checks(report).find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no {name} in {report:#}"));
    assert_eq!(check["state"], state, "{check:#}");
    assert!(
        check["found"].as_str().is_some_and(|text| text.contains(found)),
        "{found:?} is not in {check:#}"
    );
    assert!(state == "ok" || check["mend"].is_string(), "{check:#}");
}

fn as_root(lab: &Lab) -> Cmd {
    lab.root(&lab.grus_program().to_string_lossy()).env("GRUS_CONFIG", lab.site_file())
}

fn a_sound_lab_is_well_for_everyone(lab: &Lab) {
    // Another test may have left plugstack.conf younger than slurmd.
    (1..=lab.nodes()).for_each(|node| lab.restart_slurmd(node).expect("slurmd starts"));
    let before = lab.snapshot();
    let site = format!("--export=ALL,GRUS_CONFIG={}", lab.site_file().display());
    let program = lab.grus_program();
    let program = program.to_string_lossy();
    for run in [
        lab.grus(&ARGS).run(),
        as_root(lab).args(ARGS).run(),
        lab.srun(&["-N1", &site, &program]).args(ARGS).run(),
    ] {
        let report = report(&run);
        let fails: Vec<&Value> = checks(&report).filter(|check| check["state"] == "fails").collect();
        assert!(fails.is_empty(), "{fails:#?}");
        let _ = run.success();
        for name in ["slurm.version", "slurm.controller", "slurm.plugstack", "slurm.plugin", "slurm.options"]
        {
            is(&report, name, "ok", "");
        }
        is(&report, "slurm.munge", "ok", "munge makes credentials");
        is(&report, "site.file", "ok", "root's alone");
    }
    let root = report(&as_root(lab).args(ARGS).run());
    is(&root, "slurm.slurmd", "ok", "slurmd was started after");
    is(&root, "kernel.loop", "ok", "");
    before.assert_nothing_left();
}

fn a_plugin_that_is_not_set_up_is_told(lab: &Lab) {
    let looked =
        |plugstack: &str| lab.with_plugstack(plugstack, || report(&lab.grus(&ARGS).run().exit_code(1)));
    let none = looked("# required PLUGIN config=SITE\n");
    is(&none, "slurm.plugstack", "fails", "does not name spank_grus.so");
    is(&none, "slurm.options", "fails", "does not have --container-image");
    let missing = looked("optional /no/spank_grus.so config=SITE\n");
    is(&missing, "slurm.plugin", "fails", "there is no /no/spank_grus.so");
    is(&missing, "slurm.plugstack", "warning", "optional /no/spank_grus.so");
    lab.with_plugstack("required PLUGIN\n", || {
        is(
            &report(&lab.grus(&ARGS).run()),
            "slurm.site-file",
            "warning",
            "the plugin reads /etc/grus/grus.toml",
        );
    });
}

/// What doctor says of the site file is what the plugin does about it.
fn a_site_file_that_others_can_write_is_told(lab: &Lab) {
    lab.with_site("", || {
        let writable = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(lab.site_file(), writable).expect("root may");
        let report = report(&lab.grus(&ARGS).run().exit_code(1));
        is(&report, "site.file", "fails", "writable by others");
        let image = format!("--container-image={}", lab.system_image("busybox"));
        let _ = lab.srun(&[&image, "true"]).run().failure().stderr_has("writable by others");
    });
}

fn a_slurmd_that_has_not_read_plugstack_is_told(lab: &Lab) {
    lab.restart_slurmd(1).expect("slurmd starts");
    lab.restart_slurmd(2).expect("slurmd starts");
    lab.with_plugstack("required PLUGIN config=SITE\n# changed\n", || {
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        let file = fs::File::options().append(true).open(lab.dir().join("etc/plugstack.conf"));
        file.and_then(|file| file.set_modified(later)).expect("root may");
        let report = report(&as_root(lab).args(ARGS).run().success());
        is(&report, "slurm.slurmd", "warning", "was started before plugstack.conf");
    });
}

fn a_controller_that_is_not_there_is_told(lab: &Lab) {
    let dir = lab.fresh_dir("no-controller");
    let text = fs::read_to_string(lab.slurm_conf()).expect("the lab has one");
    let lines = text.lines().map(|line| match line.starts_with("SlurmctldPort=") {
        true => "SlurmctldPort=1\nMessageTimeout=2\n".to_owned(),
        false => format!("{line}\n"),
    });
    let conf = dir.join("slurm.conf");
    fs::write(&conf, lines.collect::<String>()).expect("a fresh directory");
    let doctor = lab.grus(&ARGS).args(["--timeout", "3"]).env("SLURM_CONF", &conf);
    let report = report(&doctor.run().exit_code(1));
    is(&report, "slurm.controller", "fails", "slurmctld does not answer");
}

/// The devices that slurmd hides from its steps, doctor does not see there either.
fn a_node_without_the_device_is_told(lab: &Lab) {
    let plugstack = fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    let bare =
        grus_tests::Cluster::builder("bare").nodes(1).hidden_devices("fuse").plugstack(&plugstack).up();
    let bare = bare.expect("a lab without /dev/fuse comes up");
    let site = format!("--export=ALL,GRUS_CONFIG={}", lab.site_file().display());
    let run = bare.user("srun").args([&site, &*lab.grus_program().to_string_lossy()]).args(ARGS).run();
    is(&report(&run.exit_code(1)), "fuse.device", "fails", "/dev/fuse: No such file");
}
