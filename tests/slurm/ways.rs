//! Every way of submitting that Slurm knows, with a container: arrays, --wrap, --overlap and sattach, requeue, suspend,
//! --bcast, TaskProlog and TaskEpilog, several programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::Cluster;

use crate::lab::Lab;

crate::tests![
    a_wrapped_command_stays_on_the_host_and_its_steps_inherit,
    each_task_of_an_array_has_the_container,
    a_second_step_overlaps_the_first,
    sattach_shows_what_a_step_says,
    a_requeued_job_starts_its_container_again,
    a_suspended_step_goes_on,
    a_broadcast_program_runs_inside,
    a_shell_in_the_container_is_interactive,
    task_prolog_runs_inside_and_task_epilog_outside,
];

const LIMIT: Duration = Duration::from_secs(90);

fn image(lab: &Lab) -> String {
    format!("--container-image={}", lab.system_image("busybox"))
}

fn a_wrapped_command_stays_on_the_host_and_its_steps_inherit(lab: &Lab) {
    let wrap = "--wrap=echo script $IMAGE_NAME; srun sh -c 'echo step $IMAGE_NAME'";
    let output = format!("--output={}", lab.work_dir().join("batch-%j.out").display());
    let sbatch = lab.user("sbatch").args(["--parsable", &output, &image(lab), wrap]).run().success();
    let _ = lab.submitted(&sbatch).wait(LIMIT).completed().output_has("script\nstep busybox\n");
}

fn each_task_of_an_array_has_the_container(lab: &Lab) {
    let dir = lab.fresh_dir("array");
    let script = format!(
        "#!/bin/sh\n#SBATCH {}\nsrun sh -c 'echo $IMAGE_NAME >{}/$SLURM_ARRAY_TASK_ID'\n",
        image(lab),
        dir.display()
    );
    let _ = lab.sbatch(&["--array=1-4", "--wait"], &script).wait(LIMIT).completed();
    for task in 1..=4 {
        let text = fs::read_to_string(dir.join(task.to_string())).expect("each task wrote");
        assert_eq!(text, "busybox\n");
    }
}

fn a_second_step_overlaps_the_first(lab: &Lab) {
    let steps = "srun -n1 sh -c 'while [ ! -e stop ]; do sleep 0.1; done; echo first $IMAGE_NAME' & \
                 srun --overlap -n1 sh -c 'echo second $IMAGE_NAME; touch stop'; wait";
    let dir = lab.fresh_dir("overlap");
    let salloc = lab.user("salloc").args(["-N1", "-n1", &image(lab), "sh", "-c", steps]).cwd(&dir);
    let run = salloc.run().success();
    assert_eq!(run.sorted_lines(), ["first busybox", "second busybox"], "{run}");
}

fn sattach_shows_what_a_step_says(lab: &Lab) {
    let dir = lab.fresh_dir("sattach");
    let script =
        "echo $SLURM_JOB_ID.$SLURM_STEP_ID >id; while [ ! -e stop ]; do echo still here; sleep 0.2; done";
    let running = lab.srun(&[&image(lab), "sh", "-c", script]).cwd(&dir).spawn();
    let id = || fs::read_to_string(dir.join("id")).unwrap_or_default();
    assert!(wait_until(LIMIT, || id().ends_with('\n')), "the step did not start");
    let attached = lab.user("sattach").arg(id().trim()).spawn();
    std::thread::sleep(Duration::from_secs(2));
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let _ = attached.wait().success().stdout_has("still here");
    let _ = running.wait().success();
}

fn a_requeued_job_starts_its_container_again(lab: &Lab) {
    let dir = lab.fresh_dir("requeue");
    let body = "echo run $SLURM_RESTART_COUNT $IMAGE_NAME >>runs; [ -n \"$SLURM_RESTART_COUNT\" ] || while :; do sleep 0.1; done";
    let script = format!("#!/bin/sh\n#SBATCH {}\ncd {}\nsrun sh -c '{body}'\n", image(lab), dir.display());
    let before = lab.snapshot();
    let job = lab.sbatch(&["--requeue"], &script);
    let runs = || fs::read_to_string(dir.join("runs")).unwrap_or_default();
    assert!(wait_until(LIMIT, || runs().ends_with('\n')), "the job did not start");
    let _ = lab.root("scontrol").args(["requeue", &job.id.to_string()]).run().success();
    // Slurm lets a requeued job wait until its old credential is void; an administrator need not.
    let pending = || job.record().is_ok_and(|record| record.contains("JobState=PENDING"));
    assert!(wait_until(LIMIT, pending), "it was not queued again: {:?}", job.record());
    let id = format!("JobId={}", job.id);
    let _ = lab.root("scontrol").args(["update", &id, "StartTime=now"]).run().success();
    assert!(wait_until(LIMIT, || runs().lines().count() > 1), "it did not start again: {:?}", job.record());
    let end = job.wait(LIMIT).completed();
    assert_eq!((end.restarts, runs().as_str()), (1, "run busybox\nrun 1 busybox\n"));
    before.assert_nothing_left();
}

fn a_suspended_step_goes_on(lab: &Lab) {
    let dir = lab.fresh_dir("suspend");
    let body = "touch started; n=0; while [ ! -e stop ]; do n=$((n+1)); echo $n >count; sleep 0.1; done; cat /etc/only-in-image";
    let script = format!("#!/bin/sh\n#SBATCH {}\ncd {}\nsrun sh -c '{body}'\n", image(lab), dir.display());
    let job = lab.sbatch(&[], &script);
    assert!(wait_until(LIMIT, || dir.join("started").exists()), "the job did not start");
    let control = |word: &str| lab.root("scontrol").args([word, job.id.to_string().as_str()]).run().success();
    let count = || fs::read_to_string(dir.join("count")).unwrap_or_default();
    let _ = control("suspend");
    std::thread::sleep(Duration::from_secs(1));
    let stopped = count();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(count(), stopped, "a suspended step still counts");
    let _ = control("resume");
    assert!(wait_until(LIMIT, || count() != stopped), "a resumed step does not count");
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let _ = job.wait(LIMIT).completed().output_has("from the image");
}

fn a_broadcast_program_runs_inside(lab: &Lab) {
    let dir = lab.fresh_dir("bcast");
    let program = dir.join("program");
    fs::copy("/bin/busybox", &program).expect("busybox-static is installed");
    lab.give(&program);
    let bcast = "--bcast=/tmp/busybox-grus-bcast";
    let image = image(lab);
    let run = lab.srun(&["-N2", &image, bcast, "./program", "cat", "/etc/only-in-image"]).cwd(&dir).run();
    let _ = fs::remove_file("/tmp/busybox-grus-bcast");
    assert_eq!(run.success().sorted_lines(), ["from the image", "from the image"]);
}

fn a_shell_in_the_container_is_interactive(lab: &Lab) {
    let line = format!("echo 'echo name $IMAGE_NAME; exit 4' | srun --pty {} sh -i", image(lab));
    let run = lab.user("script").args(["-q", "-e", "-c", &line, "/dev/null"]).run();
    let _ = run.stdout_has("name busybox");
}

/// Slurm runs the one after the last hook, in the container, and the other in slurmstepd: it has to be in the image or
/// in a mount, and the site's /tmp, home or a site mount is where administrators put such things.
fn task_prolog_runs_inside_and_task_epilog_outside(lab: &Lab) {
    let plugstack = fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    let dir = lab.fresh_dir("prologs");
    for (name, text) in [
        ("prolog", "#!/bin/sh\necho print prolog in $IMAGE_NAME $(grep -c Crane /etc/os-release)\necho export SET=1\n"),
        ("epilog", "#!/bin/sh\ngrep -c Crane /etc/os-release >epilog.out\ntrue\n"),
    ] {
        fs::write(dir.join(name), text).expect("a fresh directory");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).expect("own file");
    }
    let with = Cluster::builder("prologs").nodes(1).plugstack(&plugstack);
    let with = with.extra(&format!("TaskProlog={}/prolog", dir.display()));
    let with = with.extra(&format!("TaskEpilog={}/epilog", dir.display()));
    let with = with.up().expect("a lab with task prologs comes up");
    let mount = format!("--mount={0}:{0}", dir.display());
    let out = with.fresh_dir("out");
    let run = with.user("srun").args([&image(lab), &mount, "sh", "-c", "echo task $SET"]).cwd(&out).run();
    let _ = run.success().stdout_is("prolog in busybox 2\ntask 1");
    assert_eq!(fs::read_to_string(out.join("epilog.out")).expect("the epilog wrote").trim(), "0");
}
