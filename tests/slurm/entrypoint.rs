//! --container-entrypoint: the image's ENTRYPOINT first, the task's command as its arguments.

use std::fs;
use std::time::Duration;

use grus_tests::daemon::wait_until;

use crate::lab::Lab;

crate::tests![
    it_runs_only_where_it_is_asked_for,
    an_image_without_a_shell_has_one_too,
    an_image_without_one_runs_the_command,
    the_site_may_make_it_the_default,
    each_program_of_multi_prog_goes_through_it,
    a_batch_script_goes_through_it,
    environment_limits_and_directory_are_a_tasks,
    exit_codes_and_signals_are_the_commands,
    one_that_is_hidden_by_a_mount_fails_the_task,
    it_goes_with_a_remapped_root,
];

fn image(lab: &Lab) -> String {
    format!("--container-image={}", lab.system_image("entry"))
}

fn it_runs_only_where_it_is_asked_for(lab: &Lab) {
    let command = ["echo", "a", "b c", ""];
    let _ = lab.srun(&[&image(lab)]).args(command).run().success().stdout_is("a b c");
    let run = lab.srun(&[&image(lab), "--container-entrypoint"]).args(command).run().success();
    assert_eq!(run.stdout, "entry: -- echo a b c \na b c \n", "{run}");
    let run = lab.srun(&["-N2", "-n4", &image(lab), "--container-entrypoint", "true"]).run().success();
    let _ = run.stdout_is(&["entry: -- true"; 4].join("\n"));
}

fn an_image_without_a_shell_has_one_too(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("static"));
    let _ = lab.srun(&[&image, "--container-entrypoint", "echo", "hi"]).run().success().stdout_is("hi");
}

fn an_image_without_one_runs_the_command(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let _ = lab.srun(&[&image, "--container-entrypoint", "echo", "hi"]).run().success().stdout_is("hi");
}

fn the_site_may_make_it_the_default(lab: &Lab) {
    lab.with_site("container.entrypoint = true\n", || {
        let _ = lab.srun(&[&image(lab), "true"]).run().success().stdout_is("entry: -- true");
        let run = lab.srun(&[&image(lab), "--no-container-entrypoint", "true"]).run().success();
        let _ = run.stdout_is("");
    });
}

fn each_program_of_multi_prog_goes_through_it(lab: &Lab) {
    let dir = lab.fresh_dir("multi-prog-entry");
    fs::write(dir.join("conf"), "# programs\n0 only-in-image first\n1-2 busybox echo %t %o x\n")
        .expect("a fresh directory");
    let run =
        lab.srun(&["-n3", &image(lab), "--container-entrypoint", "--multi-prog", "conf"]).cwd(&dir).run();
    let run =
        run.success().stdout_has("entry: -- only-in-image first").stdout_has("a tool of the image: first");
    let _ = run.stdout_has("1 0 x").stdout_has("2 1 x").stdout_has("entry: -- busybox echo 2 1 x");
}

fn a_batch_script_goes_through_it(lab: &Lab) {
    let script = format!(
        "#!/bin/sh\n#SBATCH {}\n#SBATCH --container-batch\n#SBATCH --container-entrypoint\necho script $1\nexit 7\n",
        image(lab)
    );
    let end = lab.sbatch(&[], &script).wait(Duration::from_secs(60)).failed("7:0");
    let _ = end.output_has("entry: -- /").output_has("script\n");
}

fn environment_limits_and_directory_are_a_tasks(lab: &Lab) {
    let script = "env | grep -v -E '^(SLURM_STEP|SLURM_JOB_?ID|SLURM_TASK_PID|SLURM_SRUN|SLURM_LAUNCH|SLURM_STEPID|_|SHLVL)' \
                  | grep -v -E 'PORT|CPU|TIME' | sort; ulimit -a; umask; pwd; ls /proc/self/fd";
    // The same node for both, as some variables name it.
    let image = format!("-w{} {}", lab.node(1), image(lab));
    for options in ["", "--propagate=NOFILE"] {
        let task = |through: &str| {
            let line =
                format!("ulimit -n 517; umask 27; srun {options} {image} {through} sh -c \"{script}\"");
            lab.user("sh").args(["-c", &line]).run().success()
        };
        let (plain, through) = (task(""), task("--container-entrypoint"));
        let own =
            through.stdout.lines().filter(|line| !line.starts_with("entry: ") && !line.starts_with("\t"));
        let own: Vec<&str> = own.collect();
        let rest: Vec<&str> = plain.stdout.lines().collect();
        let tail = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        // The entry's own line spans several, since it says the script.
        let from = own.iter().position(|line| *line == rest[0]).expect("the first variable");
        assert_eq!(tail(&own[from..]), tail(&rest), "{through}");
    }
}

fn exit_codes_and_signals_are_the_commands(lab: &Lab) {
    let image = image(lab);
    let through = |script: &str| lab.srun(&[&image, "--container-entrypoint", "sh", "-c", script]);
    let _ = through("exit 42").run().exit_code(42);
    let _ = through("kill -SEGV $$").run().failure().stderr_has("Segmentation fault");
    let dir = lab.fresh_dir("entry-signals");
    let script = "trap 'echo got USR1; exit 9' USR1; touch ready; for i in $(seq 300); do sleep 0.1; done";
    let run = lab.srun(&["--job-name=entered", &image, "--container-entrypoint", "sh", "-c", script]);
    let running = run.cwd(&dir).spawn();
    assert!(wait_until(Duration::from_secs(20), || dir.join("ready").exists()), "the rank did not start");
    let jobs = lab.user("squeue").args(["--noheader", "--name=entered", "--format=%i"]).run().success();
    let _ = lab.user("scancel").args(["--signal=USR1", jobs.trimmed()]).run().success();
    let _ = running.wait().exit_code(9).stdout_has("got USR1");
}

fn one_that_is_hidden_by_a_mount_fails_the_task(lab: &Lab) {
    let hidden = ["--mount=/usr:/opt/tools:ro", "--container-entrypoint", "touch", "ran"];
    let dir = lab.fresh_dir("no-entry");
    let run = lab.srun(&["-n2", &image(lab)]).args(hidden).cwd(&dir).run().exit_code(1);
    let run = run.stderr_has("the image's ENTRYPOINT 'entry' is no program in the container");
    let _ = run.stderr_has("hint: ");
    assert!(!dir.join("ran").exists());
    lab.assert_nodes_idle();
}

fn it_goes_with_a_remapped_root(lab: &Lab) {
    let options = ["--container-entrypoint", "--container-remap-root", "id", "-u"];
    let run = lab.srun(&[&image(lab)]).args(options).run().success();
    let _ = run.stdout_is("entry: -- id -u\n0");
}
