//! What must be as it is without Grus: descriptors, limits, binding, signals, exit codes, input and output. Most
//! tests run the same command twice, on the host and in the container, and compare.

use std::fs;
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::Output;

use crate::lab::Lab;

crate::tests![
    only_the_usual_descriptors_reach_a_rank,
    umask_and_limits_are_the_jobs,
    cpu_binding_is_slurms,
    cgroups_are_slurms,
    exit_codes_come_back,
    a_rank_that_dies_of_a_signal_is_reported,
    signals_reach_ranks,
    standard_input_reaches_ranks,
    output_goes_to_a_file_for_each_task,
    labels_are_those_of_ranks,
    multi_prog_runs_several_programs,
    a_pseudo_terminal_works,
    accounting_sees_the_step,
    background_children_end_with_the_step,
    a_step_without_container_is_left_alone,
];

/// The same command on the host and in the busybox image; `busybox` on the host is the same binary.
fn both(lab: &Lab, options: &[&str], script: &str) -> (Output, Output) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let command = ["busybox", "sh", "-c", script];
    let host = lab.srun(options).args(command).run();
    let container = lab.srun(options).arg(image).args(command).run();
    (host, container)
}

#[track_caller]
fn same(lab: &Lab, options: &[&str], script: &str) -> Output {
    let (host, container) = both(lab, options, script);
    assert_eq!(
        host.sorted_lines(),
        container.sorted_lines(),
        "on the host:\n{host}\nin the container:\n{container}"
    );
    assert_eq!(host.status, container.status, "on the host:\n{host}\nin the container:\n{container}");
    container
}

fn only_the_usual_descriptors_reach_a_rank(lab: &Lab) {
    // The shell and ls open some of their own: the same ones on both sides.
    let run = same(lab, &["-n2"], "ls /proc/self/fd").success();
    let _ = run.stdout_has("0").stdout_has("2");
    let script = "for f in /proc/self/fd/*; do readlink $f; done";
    let (_, container) = both(lab, &[], script);
    let _ = container
        .stdout_lacks("mnt:[")
        .stdout_lacks("squashfs")
        .stdout_lacks("/dev/fuse")
        .stdout_lacks("loop");
}

fn umask_and_limits_are_the_jobs(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let _ = same(lab, &["-N2"], "ulimit -a; umask").success();
    for (umask, limit) in [("0077", "517"), ("0002", "612")] {
        let script = format!("umask {umask}; ulimit -n {limit}; srun {image} sh -c 'umask; ulimit -n'");
        let run = lab.user("sh").args(["-c", &script]).run().success();
        let _ = run.stdout_is(&format!("{umask}\n{limit}"));
    }
}

fn cpu_binding_is_slurms(lab: &Lab) {
    let bound = grus_tests::Cluster::builder("bind").nodes(1).cpus(2).task_plugin("task/affinity");
    let plugstack = fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    let bound = bound.plugstack(&plugstack).up().expect("a lab with binding comes up");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let command = ["busybox", "grep", "Cpus_allowed_list", "/proc/self/status"];
    let options = ["-n2", "--cpu-bind=cores"];
    let host = bound.user("srun").args(options).args(command).run().success();
    let container = bound.user("srun").args(options).arg(image).args(command).run().success();
    assert_eq!(host.sorted_lines(), container.sorted_lines(), "{host}\n{container}");
    assert_ne!(
        host.sorted_lines()[0],
        host.sorted_lines()[1],
        "the host's ranks are not bound apart: {host}"
    );
}

fn cgroups_are_slurms(lab: &Lab) {
    let strip = "sed -e 's/job_[0-9]*/job/' -e 's/step_[0-9]*/step/' /proc/self/cgroup";
    let _ = same(lab, &["-N2"], strip).success();
}

fn exit_codes_come_back(lab: &Lab) {
    for code in [1, 3, 42, 126, 255] {
        let _ = same(lab, &[], &format!("exit {code}")).exit_code(code);
    }
    // srun returns the highest code of all ranks.
    let _ = same(lab, &["-N2", "-n4"], "exit $SLURM_PROCID").exit_code(3);
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let _ =
        lab.srun(&[&image, "/no/such/command"]).run().exit_code(2).stderr_has("No such file or directory");
}

fn a_rank_that_dies_of_a_signal_is_reported(lab: &Lab) {
    for signal in ["KILL", "SEGV", "TERM"] {
        let (host, container) = both(lab, &[], &format!("kill -{signal} $$"));
        assert_eq!(host.status, container.status, "{host}\n{container}");
        let _ = container.failure();
    }
}

fn signals_reach_ranks(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("signals");
    let script = "trap 'echo got USR1; exit 9' USR1; touch ready; for i in $(seq 300); do sleep 0.1; done";
    let running = lab.srun(&["--job-name=signalled", &image, "sh", "-c", script]).cwd(&dir).spawn();
    assert!(wait_until(Duration::from_secs(20), || dir.join("ready").exists()), "the rank did not start");
    let jobs = lab.user("squeue").args(["--noheader", "--name=signalled", "--format=%i"]).run().success();
    let _ = lab.user("scancel").args(["--signal=USR1", jobs.trimmed()]).run().success();
    let _ = running.wait().exit_code(9).stdout_is("got USR1");
}

fn standard_input_reaches_ranks(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let text = "line\n".repeat(20_000);
    let run = lab.srun(&["-n2", &image, "sh", "-c", "wc -l"]).stdin(text).run().success();
    let _ = run.stdout_is("20000\n20000");
    let first = lab.srun(&["-n2", "--input=0", &image, "cat"]).stdin("to rank 0\n").run().success();
    let _ = first.stdout_is("to rank 0");
}

fn output_goes_to_a_file_for_each_task(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("output");
    let args = ["-N2", "-n4", "-o", "out.%t", &image, "sh", "-c", "echo $SLURM_PROCID $IMAGE_NAME"];
    let _ = lab.srun(&args).cwd(&dir).run().success().stdout_is("");
    for rank in 0..4 {
        let text = fs::read_to_string(dir.join(format!("out.{rank}"))).expect("a file for each task");
        assert_eq!(text, format!("{rank} busybox\n"));
    }
}

fn labels_are_those_of_ranks(lab: &Lab) {
    let _ = same(lab, &["-N2", "-n4", "--label"], "echo $SLURM_PROCID").success();
}

fn multi_prog_runs_several_programs(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("multi-prog");
    fs::write(dir.join("conf"), "0 only-in-image first\n1-2 busybox echo %t other\n")
        .expect("a fresh directory");
    let run = lab.srun(&["-n3", &image, "--multi-prog", "conf"]).cwd(&dir).run().success();
    assert_eq!(run.sorted_lines(), ["1 other", "2 other", "a tool of the image: first"], "{run}");
}

fn a_pseudo_terminal_works(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let inside = r#"tty; stty size >/dev/null && echo sized; grep PRETTY /etc/os-release; exit 5"#;
    let line = format!("srun --pty {image} sh -c '{inside}'");
    let run = lab.user("script").args(["-q", "-e", "-c", &line, "/dev/null"]).run().exit_code(5);
    let _ = run.stdout_has("/dev/pts/").stdout_has("sized").stdout_has("Crane 1");
}

fn accounting_sees_the_step(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("accounting");
    // Memory that shows: a variable of 64 MB, held for a while.
    let script =
        "x=$(head -c 64000000 /dev/zero | tr '\\0' a); touch ready; while [ ! -e stop ]; do sleep 0.1; done";
    let running = lab.srun(&["--job-name=accounted", &image, "sh", "-c", script]).cwd(&dir).spawn();
    let ready = wait_until(Duration::from_secs(30), || dir.join("ready").exists());
    let jobs = lab.user("squeue").args(["--noheader", "--name=accounted", "--format=%i"]).run().success();
    let step = format!("{}.0", jobs.trimmed());
    let mut stat = None;
    let counted = wait_until(Duration::from_secs(20), || {
        let run = lab.user("sstat").args(["-n", "-P", "--noconvert", "-o", "MaxRSS", "-j", &step]).run();
        let bytes: u64 = run.trimmed().trim_end_matches('K').parse().unwrap_or(0);
        stat = Some(run);
        bytes > 50_000_000
    });
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let _ = running.wait().success();
    assert!(ready && counted, "ready: {ready}; {}", stat.expect("sstat was asked"));
}

fn background_children_end_with_the_step(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let before = lab.snapshot();
    let run = lab.srun(&[&image, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo started"]).run();
    let _ = run.success().stdout_is("started");
    before.assert_nothing_left();
}

fn a_step_without_container_is_left_alone(lab: &Lab) {
    let run = lab
        .srun(&["sh", "-c", "readlink /proc/self/ns/mnt; grep NoNewPrivs /proc/self/status"])
        .run()
        .success();
    let own = fs::read_link("/proc/self/ns/mnt").expect("proc is mounted");
    let _ = run.stdout_has(&own.display().to_string()).stdout_has("NoNewPrivs:\t0").stderr_lacks("grus");
}
