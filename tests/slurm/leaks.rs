//! Nothing is left: 300 steps with normal ends, cancelled ones, and killed ones, on both kinds of mount.

use std::fs;
use std::time::Duration;

use grus_tests::command::Running;
use grus_tests::daemon::wait_until;
use rustix::process::Signal;

use crate::lab::Lab;

crate::tests![
    two_hundred_and_forty_normal_ends_leave_nothing,
    thirty_cancelled_steps_leave_nothing,
    thirty_killed_steps_leave_nothing,
    a_killed_fuse_server_fails_the_step_and_leaves_nothing,
];

fn two_hundred_and_forty_normal_ends_leave_nothing(lab: &Lab) {
    let [kernel, fuse] = lab.both_kinds("busybox");
    let before = lab.snapshot();
    // Two nodes and four steps at a time: mounts and their ends overlap.
    let script = format!(
        "#!/bin/bash
        for round in $(seq 30); do
            for image in {kernel} {fuse}; do
                for exit in 0 0 0 3; do
                    srun --exact -N1 -n1 -c1 $image --writable-volatile=/opt/work sh -c \"echo ran; exit $exit\" &
                done
            done
            wait
        done
        true"
    );
    let end = lab.sbatch(&["-N2", "--ntasks-per-node=4"], &script).wait(Duration::from_secs(400)).completed();
    assert_eq!(end.output.matches("ran\n").count(), 240, "{end:#?}");
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

/// Starts a step of two ranks on a node that runs until it is ended; returns it and its job id.
fn endless(lab: &Lab, image: &str) -> (Running, String) {
    let dir = lab.fresh_dir("endless");
    let script = "echo $SLURM_JOB_ID >started-$SLURM_PROCID; while :; do sleep 0.2; done";
    let running = lab.srun(&["-N1", "-n2", image, "sh", "-c", script]).cwd(&dir).spawn();
    let read = |rank| fs::read_to_string(dir.join(format!("started-{rank}"))).unwrap_or_default();
    let started = wait_until(Duration::from_secs(60), || read(0).ends_with('\n') && read(1).ends_with('\n'));
    assert!(started, "the ranks did not start");
    (running, read(0).trim().to_owned())
}

fn thirty_cancelled_steps_leave_nothing(lab: &Lab) {
    let images = lab.both_kinds("busybox");
    let before = lab.snapshot();
    for round in 0..30 {
        let (running, job) = endless(lab, &images[round % 2]);
        let _ = lab.user("scancel").arg(job).run().success();
        let _ = running.wait().failure();
    }
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

fn thirty_killed_steps_leave_nothing(lab: &Lab) {
    let images = lab.both_kinds("busybox");
    let before = lab.snapshot();
    for round in 0..30 {
        let (running, job) = endless(lab, &images[round % 2]);
        // The line of srun itself holds the script too.
        let ranks = |command: &str| command.contains("started-$SLURM_PROCID") && !command.contains("srun ");
        if round % 10 == 0 {
            // Without its slurmstepd Slurm loses the step: what srun then says is no concern of ours.
            before.kill_new(Signal::KILL, |command| command.contains("slurmstepd"));
            before.kill_new(Signal::KILL, ranks);
            let _ = lab.user("scancel").arg(job).run();
            let _ = running.wait();
            lab.resume_nodes().expect("nodes can be resumed");
        } else {
            before.kill_new(Signal::KILL, ranks);
            let _ = running.wait().failure();
        }
    }
    before.assert_nothing_left();
    lab.resume_nodes().expect("nodes can be resumed");
    lab.assert_nodes_idle();
}

fn a_killed_fuse_server_fails_the_step_and_leaves_nothing(lab: &Lab) {
    let [_, fuse] = lab.both_kinds("busybox");
    let dir = lab.fresh_dir("served");
    let before = lab.snapshot();
    // Opens a file of the image again and again; without its server that fails.
    let script = "touch ready; while cat /etc/only-in-image >/dev/null; do sleep 0.2; done; exit 7";
    let running = lab.srun(&["-N1", &fuse, "sh", "-c", script]).cwd(&dir).spawn();
    let ready = wait_until(Duration::from_secs(20), || dir.join("ready").exists());
    assert!(ready, "the rank did not start");
    before.kill_new(Signal::KILL, |command| command.contains("squashfuse"));
    let _ = running.wait().failure();
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}
