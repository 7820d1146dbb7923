//! Batch jobs and allocations: the script stays on the host, its steps inherit, each may choose otherwise.

use std::time::Duration;

use grus_tests::JobEnd;

use crate::lab::Lab;

crate::tests![
    steps_of_a_batch_script_inherit,
    the_script_itself_stays_on_the_host_and_sbatch_says_so,
    a_step_opts_out_with_none,
    a_step_overrides_image_and_mounts,
    steps_inherit_under_export_none,
    steps_of_an_allocation_inherit,
    a_batch_script_runs_inside_when_asked,
    a_batch_script_runs_inside_where_the_site_says_so,
    a_step_in_a_plain_batch_job_may_ask_for_a_container,
    several_steps_at_once_work_in_one_job,
];

const LIMIT: Duration = Duration::from_secs(60);

/// Submits a script whose #SBATCH lines ask for the busybox image and `more`.
fn run(lab: &Lab, more: &[&str], body: &str) -> JobEnd {
    let image = lab.system_image("busybox");
    let mut script = format!("#!/bin/bash\n#SBATCH -N2\n#SBATCH --container-image={image}\n");
    for line in more {
        script.push_str(&format!("#SBATCH {line}\n"));
    }
    lab.sbatch(&[], &(script + body + "\n")).wait(LIMIT)
}

fn steps_of_a_batch_script_inherit(lab: &Lab) {
    let body = "srun ls /doc/grus-test; srun grep PRETTY_NAME /etc/os-release";
    let dir = lab.fresh_dir("inherited");
    std::fs::write(dir.join("grus-test"), "").expect("a fresh directory");
    let end = run(lab, &[&format!("--mount={}:/doc:ro", dir.display())], body).completed();
    assert_eq!(end.output.matches("Crane 1").count(), 2, "{end:#?}");
    assert_eq!(end.output.matches("/doc/grus-test").count(), 2, "{end:#?}");
}

fn the_script_itself_stays_on_the_host_and_sbatch_says_so(lab: &Lab) {
    let end = run(lab, &[], "grep PRETTY_NAME /etc/os-release").completed().output_lacks("Crane");
    assert!(end.submit_stderr.contains("grus: "), "sbatch says that the script stays on the host: {end:#?}");
    assert!(end.submit_stderr.contains("host"), "sbatch says that the script stays on the host: {end:#?}");
}

fn a_step_opts_out_with_none(lab: &Lab) {
    let end =
        run(lab, &[], "srun -N1 -n1 --container-image=none grep PRETTY_NAME /etc/os-release").completed();
    let _ = end.output_lacks("Crane").output_has("PRETTY_NAME");
}

fn a_step_overrides_image_and_mounts(lab: &Lab) {
    let other = lab.system_image("no-passwd");
    let body = format!(
        "srun -N1 -n1 --container-image={other} sh -c 'echo $IMAGE_NAME'; srun -N1 -n1 sh -c 'echo $IMAGE_NAME'"
    );
    let _ = run(lab, &[], &body).completed().output_has("no-passwd\nbusybox\n");
    let body = "srun -N1 -n1 --mount=/usr:/other:ro ls -d /other /one; srun -N1 -n1 ls -d /one";
    let end = run(lab, &["--mount=/etc:/one:ro"], body).completed().output_has("/other\n");
    assert_eq!(
        end.output.matches("/one\n").count(),
        1,
        "a step's own list of mounts replaces the job's: {end:#?}"
    );
}

fn steps_inherit_under_export_none(lab: &Lab) {
    let end = run(lab, &["--export=NONE"], "srun -N1 -n1 grep PRETTY_NAME /etc/os-release").completed();
    let _ = end.output_has("Crane 1");
}

fn steps_of_an_allocation_inherit(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let command = "grep PRETTY_NAME /etc/os-release; srun grep PRETTY_NAME /etc/os-release";
    let run = lab.user("salloc").args(["-N2", &image, "sh", "-c", command]).run().success();
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{run}");
    assert!(!lines[0].contains("Crane"), "salloc's command runs on the submitting host: {run}");
    assert!(lines[1].contains("Crane 1") && lines[2].contains("Crane 1"), "{run}");
}

fn a_batch_script_runs_inside_when_asked(lab: &Lab) {
    let image = lab.system_image("busybox");
    let script = format!(
        "#!/bin/sh\n#SBATCH --container-image={image}\n#SBATCH --container-batch\n\
         grep PRETTY_NAME /etc/os-release; only-in-image x; exit 6\n"
    );
    let end = lab.sbatch(&["-N2"], &script).wait(LIMIT).failed("6:0");
    let _ = end.output_has("Crane 1").output_has("a tool of the image: x");
    lab.assert_nodes_idle();
}

fn a_batch_script_runs_inside_where_the_site_says_so(lab: &Lab) {
    lab.with_site("batch.container = true\n", || {
        let image = lab.system_image("busybox");
        let script =
            format!("#!/bin/sh\n#SBATCH --container-image={image}\ngrep PRETTY_NAME /etc/os-release\n");
        let _ = lab.sbatch(&[], &script).wait(LIMIT).completed().output_has("Crane 1");
    });
}

fn a_step_in_a_plain_batch_job_may_ask_for_a_container(lab: &Lab) {
    let image = lab.system_image("busybox");
    let body = format!("#!/bin/sh\nsrun --container-image={image} grep PRETTY_NAME /etc/os-release\n");
    let end = lab.sbatch(&["-N2"], &body).wait(LIMIT).completed();
    assert_eq!(end.output.matches("Crane 1").count(), 2, "{end:#?}");
}

fn several_steps_at_once_work_in_one_job(lab: &Lab) {
    let body =
        "for i in 1 2 3 4; do srun --exact -N1 -n1 -c1 sh -c 'sleep 0.5; echo $IMAGE_NAME' & done; wait";
    let end = run(lab, &["--ntasks-per-node=2"], body).completed();
    assert_eq!(end.output.matches("busybox\n").count(), 4, "{end:#?}");
}
