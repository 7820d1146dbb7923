//! The lab itself: what the other areas take for granted.

use std::fs;
use std::process::Command;
use std::time::Duration;

use grus_tests::{Cmd, ImageStore, Registry};

use crate::lab::Lab;

crate::tests![
    ranks_run_on_both_nodes_as_the_user,
    a_batch_job_reports_its_end,
    an_mpi_program_of_the_host_talks_over_pmi2,
    a_second_lab_runs_beside_the_first,
    nodes_can_lack_devices,
    the_leak_check_sees_a_loop_device,
    the_leak_check_sees_a_process_and_a_file,
    a_registry_with_auth_and_tls_serves_what_was_pushed,
    a_command_past_its_time_limit_is_ended,
];

fn ranks_run_on_both_nodes_as_the_user(lab: &Lab) {
    let before = lab.snapshot();
    let run = lab.user("srun").args(["-N2", "sh", "-c", "echo $SLURMD_NODENAME $(id -un)"]).run().success();
    let user = &lab.account().name;
    assert_eq!(run.sorted_lines(), [format!("test1 {user}"), format!("test2 {user}")], "{run}");
    before.assert_nothing_left();
}

fn a_batch_job_reports_its_end(lab: &Lab) {
    let good = lab.sbatch(&["-N2", "--ntasks=2"], "#!/bin/sh\nsrun printenv SLURMD_NODENAME\n");
    let end = good.wait(Duration::from_secs(60)).completed();
    let _ = end.output_has("test1").output_has("test2");
    let _ = lab.sbatch(&[], "#!/bin/sh\nexit 7\n").wait(Duration::from_secs(60)).failed("7:0");
    lab.assert_nodes_idle();
}

fn an_mpi_program_of_the_host_talks_over_pmi2(lab: &Lab) {
    let program = lab.work_dir().join("mpi-hello-host");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/images/mpi-hello.c");
    let _ = Cmd::new("mpicc.mpich").arg("-o").arg(&program).arg(source).run().success();
    let srun = lab.user("srun").args(["-N2", "-n4", "--mpi=pmi2"]).arg(&program);
    let run = srun.run().success().stdout_has("4 ranks, sum of ranks 6").stdout_has("rank 0 of 4 on test1");
    let _ = run.stdout_has("rank 3 of 4 on test2");
    fs::remove_file(program).expect("the program was made");
}

fn a_second_lab_runs_beside_the_first(lab: &Lab) {
    let second = grus_tests::Cluster::builder("beside").nodes(1).up().expect("a second lab comes up");
    let _ = second.user("srun").args(["printenv", "SLURMD_NODENAME"]).run().stdout_is("beside1");
    let dir = second.dir().to_owned();
    drop(second);
    assert!(!dir.exists(), "{} is left", dir.display());
    let _ = lab.user("srun").args(["-N2", "true"]).run().success();
    lab.assert_nodes_idle();
}

fn nodes_can_lack_devices(_lab: &Lab) {
    let bare =
        grus_tests::Cluster::builder("bare").nodes(1).hidden_devices("loop*").up().expect("it comes up");
    let run =
        bare.user("srun").args(["sh", "-c", "ls /dev; echo works >/dev/null; ls /dev/pts"]).run().success();
    let _ = run.stdout_lacks("loop").stdout_has("null").stdout_has("ptmx");
}

fn the_leak_check_sees_a_loop_device(lab: &Lab) {
    let file = lab.dir().join("backing");
    fs::write(&file, vec![0; 1 << 20]).expect("the lab's directory is writable");
    let before = lab.snapshot();
    let device = Cmd::new("losetup").args(["--find", "--show"]).arg(&file).run().success();
    let seen = before.new_things();
    let _ = Cmd::new("losetup").args(["--detach", device.trimmed()]).run().success();
    fs::remove_file(file).expect("the file was made");
    assert!(seen.iter().any(|thing| thing.contains("loop device")), "{seen:?}");
    before.assert_nothing_left();
}

fn the_leak_check_sees_a_process_and_a_file(lab: &Lab) {
    let before = lab.snapshot();
    let sleeper = lab.user("sh").args(["-c", "echo >/tmp/grus-left-over; exec sleep 1000"]).spawn();
    let both = grus_tests::daemon::wait_until(Duration::from_secs(10), || {
        let seen = before.new_things().join("\n");
        seen.contains("sleep 1000") && seen.contains("file /tmp/grus-left-over")
    });
    sleeper.signal(rustix::process::Signal::KILL);
    let _ = sleeper.wait().killed_by(9);
    fs::remove_file("/tmp/grus-left-over").expect("the file was made");
    assert!(both, "{:?}", before.new_things());
    before.assert_nothing_left();
}

fn a_registry_with_auth_and_tls_serves_what_was_pushed(lab: &Lab) {
    let registry = Registry::builder(lab.dir(), "auth-tls").basic_auth("alice", "secret").tls().start();
    let registry = registry.expect("the registry starts");
    let layout = ImageStore::default().layout("busybox").expect("busybox can be made");
    let reference = registry.push(&layout, "some/nested/name:tag").expect("skopeo can push");
    let url = format!("https://{}/v2/some/nested/name/manifests/tag", registry.host());
    let ca = registry.ca().expect("it has TLS");
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let curl = || Cmd::new("curl").args(["-sS", "--fail", "-H", accept, "--cacert"]).arg(ca);
    let _ = curl().args(["-u", "alice:secret"]).arg(&url).run().success().stdout_has("config");
    let _ = curl().arg(&url).run().failure().stderr_has("401");
    assert!(reference.ends_with("/some/nested/name:tag"), "{reference}");
}

fn a_command_past_its_time_limit_is_ended(_lab: &Lab) {
    let started = std::panic::catch_unwind(|| {
        let _ = Cmd::new("sleep").arg("1007").limit(Duration::from_millis(50)).run();
    });
    assert!(started.is_err(), "a time limit must fail the test");
    let found = Command::new("pgrep").args(["-f", "^sleep 1007"]).status().expect("pgrep runs");
    assert!(!found.success(), "the command still runs");
}
