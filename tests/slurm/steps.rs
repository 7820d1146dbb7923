//! `grus ps` and `grus exec`: running steps, and a command in one of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use grus_tests::command::Running;
use grus_tests::daemon::wait_until;
use serde_json::Value;

use crate::lab::Lab;

crate::tests![
    steps_are_listed_with_their_images,
    a_command_joins_a_running_step,
    steps_of_a_job_array_are_found_by_either_number,
    what_cannot_be_joined_is_told,
    tasks_know_the_name_of_their_image,
];

const LIMIT: Duration = Duration::from_secs(60);

/// A step that runs until `stop` is in its directory; with its id.
struct Step {
    running: Running,
    id: String,
}

fn start(lab: &Lab, dir: &Path, options: &[&str]) -> Step {
    let script =
        "echo $SLURM_JOB_ID.$SLURM_STEP_ID >id.new; mv id.new id; while [ ! -e stop ]; do sleep 0.1; done";
    let running = lab.srun(options).args(["sh", "-c", script]).cwd(dir).spawn();
    let id = || fs::read_to_string(dir.join("id")).unwrap_or_default().trim().to_owned();
    assert!(wait_until(LIMIT, || !id().is_empty()), "the step did not start");
    Step { running, id: id() }
}

impl Step {
    fn stop(self, dir: &Path) {
        fs::write(dir.join("stop"), "").expect("a fresh directory");
        let _ = self.running.wait().success();
    }
}

fn image(lab: &Lab) -> String {
    lab.system_image("busybox")
}

fn steps_are_listed_with_their_images(lab: &Lab) {
    let before = lab.snapshot();
    let (inside, outside) = (lab.fresh_dir("inside"), lab.fresh_dir("outside"));
    let option = format!("--container-image={}", image(lab));
    let contained = start(lab, &inside, &["-N1", "-n2", &option]);
    let host = start(lab, &outside, &["-N1", "-n1"]);
    let listed = lab.grus(&["ps"]).run().success();
    let lines: Vec<Vec<&str>> = listed.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["STEP", "IMAGE", "NODES", "TIME", "NAME"], "{listed}");
    assert_eq!(lines.len(), 2, "{listed}");
    assert_eq!((lines[1][0], lines[1][1], lines[1][4]), (&*contained.id, &*image(lab), "sh"), "{listed}");
    let all = lab.grus(&["ps", "--all", "--json"]).run().success();
    let all: Value = serde_json::from_str(&all.stdout).expect("JSON");
    let of = |id: &str| {
        all.as_array().expect("a list").iter().find(|step| step["ID"] == id).expect("listed").clone()
    };
    assert_eq!(of(&host.id)["Image"], "");
    assert!(of(&contained.id)["Processes"].as_u64().is_some_and(|n| n >= 2), "{all:#}");
    let _ = lab.grus(&["ps", "-q"]).run().success().stdout_is(&contained.id);
    // Another user sees none of it.
    let root = lab.root(&lab.grus_program().to_string_lossy()).env("GRUS_CONFIG", lab.site_file());
    let _ = root.args(["ps", "--all", "-q"]).run().success().stdout_is("");
    contained.stop(&inside);
    host.stop(&outside);
    before.assert_nothing_left();
}

fn a_command_joins_a_running_step(lab: &Lab) {
    let before = lab.snapshot();
    let dir = lab.fresh_dir("exec");
    let option = format!("--container-image={}", image(lab));
    let step = start(
        lab,
        &dir,
        &["-N1", &format!("--nodelist={}", lab.node(2)), &option, "--writable-volatile=/opt/work"],
    );
    let job = step.id.split('.').next().expect("a job").to_owned();
    let exec = |args: &[&str]| lab.grus(&["exec"]).args(args).cwd(&dir).run();
    let _ =
        exec(&[&step.id, "sh", "-c", "echo $IMAGE_NAME; touch /opt/work/x"]).success().stdout_is("busybox");
    // The same container; a job's name is enough, and Docker's letters are understood.
    let _ = exec(&["-it", &job, "ls", "/opt/work"]).success().stdout_has("x");
    let _ = exec(&["-e", "WHO=crane bird", "-w", "/usr", &job, "sh", "-c", "echo $WHO; pwd"])
        .success()
        .stdout_is("crane bird\n/usr");
    // Over what the image and Grus set.
    let _ =
        exec(&["-e", "IMAGE_NAME=mine", "-e", "PATH=/x:/bin", &job, "sh", "-c", "echo $IMAGE_NAME $PATH"])
            .success()
            .stdout_is("mine /x:/bin");
    let _ = exec(&[&step.id, "sh", "-c", "exit 7"]).exit_code(7);
    let shown = exec(&["--dry-run", &step.id, "echo", "two words"]).success().stdout;
    assert!(
        shown.starts_with(&format!("srun --overlap --jobid={job} --nodelist={} ", lab.node(2)))
            && shown.trim_end().ends_with(&format!("--container-name={} echo 'two words'", step.id)),
        "{shown}"
    );
    let _ = exec(&["--node", &lab.node(1), &step.id, "true"]).exit_code(2).stderr_has("is not on node");
    step.stop(&dir);
    before.assert_nothing_left();
}

fn steps_of_a_job_array_are_found_by_either_number(lab: &Lab) {
    let dir = lab.fresh_dir("array");
    let step = "n=$SLURM_ARRAY_TASK_ID; echo $SLURM_JOB_ID.$SLURM_STEP_ID >new.$n; mv new.$n id.$n; \
                while [ ! -e stop ]; do sleep 0.1; done";
    let option = format!("--container-image={}", image(lab));
    let script = format!("#!/bin/sh\ncd {}\nsrun -n1 {option} sh -c '{step}'\n", dir.display());
    let array = lab.sbatch(&["-N1", "--array=4-5"], &script).id;
    let id =
        |task: u32| fs::read_to_string(dir.join(format!("id.{task}"))).unwrap_or_default().trim().to_owned();
    assert!(wait_until(LIMIT, || !id(4).is_empty() && !id(5).is_empty()), "the steps did not start");
    let listed = lab.grus(&["ps", "-q"]).run().success();
    for task in [4, 5] {
        assert!(listed.stdout.lines().any(|line| line == id(task)), "{listed}");
        for name in [id(task), format!("{array}_{task}.0"), format!("{array}_{task}")] {
            let run = lab.grus(&["exec", &name, "sh", "-c", "echo $IMAGE_NAME; ls id.*"]).cwd(&dir).run();
            let _ = run.success().stdout_has("busybox");
        }
    }
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let ended = || lab.grus(&["ps", "--all", "-q"]).run().success().stdout.is_empty();
    assert!(wait_until(LIMIT, ended), "the steps did not end");
}

fn what_cannot_be_joined_is_told(lab: &Lab) {
    let _ = lab
        .grus(&["exec", "99999999.0", "true"])
        .run()
        .exit_code(2)
        .stderr_has("no step 99999999.0 of yours");
    let _ = lab.grus(&["exec", "dev", "true"]).run().exit_code(2).stderr_has("write JOBID.STEPID");
    let dir = lab.fresh_dir("host-step");
    let step = start(lab, &dir, &["-N1"]);
    let run = lab.grus(&["exec", &step.id, "true"]).cwd(&dir).run().failure();
    let _ = run.stderr_has("container");
    step.stop(&dir);
}

fn tasks_know_the_name_of_their_image(lab: &Lab) {
    let option = format!("--container-image={}", image(lab));
    let _ = lab.srun(&[&option, "sh", "-c", "echo $GRUS_IMAGE"]).run().success().stdout_is(&image(lab));
    let _ = lab.srun(&["sh", "-c", "echo ${GRUS_IMAGE-none}"]).run().success().stdout_is("none");
}
