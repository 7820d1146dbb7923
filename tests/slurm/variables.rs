//! Options given by the environment: which say wins over which, and what becomes of the variables.

use std::time::Duration;

use crate::lab::Lab;

crate::tests![
    a_variable_is_an_option,
    pyxis_names_are_understood,
    the_command_line_wins_over_variables,
    variables_win_over_what_the_job_said,
    a_wrong_value_is_refused_at_submission_by_the_variables_name,
    variables_without_an_image_are_silent,
    sbatch_takes_its_variables_in,
    a_script_may_set_variables_for_its_steps,
    salloc_takes_its_variables_in,
    a_job_submitted_where_grus_is_unknown_has_containers_by_variables,
];

const LIMIT: Duration = Duration::from_secs(60);
const WHERE: &str = "echo in $IMAGE_NAME";

fn a_variable_is_an_option(lab: &Lab) {
    let run = lab.srun(&["sh", "-c", &format!("{WHERE}; cat /mnt/only-in-image; pwd")]);
    let run = run
        .env("GRUS_CONTAINER_IMAGE", lab.system_image("busybox"))
        .env("GRUS_CONTAINER_MOUNTS", "/etc:/mnt:ro,/usr:/usr-of-host:ro")
        .env("GRUS_CONTAINER_MOUNT", "/usr:/two:ro")
        .env("GRUS_CONTAINER_MOUNT_HOME", "0")
        .env("GRUS_CONTAINER_WORKDIR", "/two")
        .run();
    // The host's /etc has no such file.
    let _ = run.stdout_has("in busybox").stdout_has("/two").stderr_has("only-in-image");
}

fn pyxis_names_are_understood(lab: &Lab) {
    let run = lab.srun(&["-N2", "sh", "-c", &format!("{WHERE}; touch /opt/data/x && echo $A")]);
    let run = run
        .env("PYXIS_CONTAINER_IMAGE", lab.system_image("busybox"))
        .env("PYXIS_CONTAINER_ENV", "A")
        .env("GRUS_CONTAINER_WRITABLE_VOLATILE", "/opt/data")
        .env("PYXIS_CONTAINER_ENTRYPOINT_LOG", "yes")
        .env("A", "mine");
    let run = run.run().success();
    assert_eq!(run.sorted_lines(), ["in busybox", "in busybox", "mine", "mine"], "{run}");
    let both = lab.srun(&["true"]).env("PYXIS_CONTAINER_IMAGE", "a").env("GRUS_CONTAINER_IMAGE", "b").run();
    let _ = both.failure().stderr_has("grus: GRUS_CONTAINER_IMAGE and PYXIS_CONTAINER_IMAGE differ");
}

fn the_command_line_wins_over_variables(lab: &Lab) {
    let image = lab.system_image("busybox");
    let other = format!("--container-image={}", lab.system_image("no-passwd"));
    let with = |args: &[&str], script: &str| {
        let run = lab.srun(args).args(["sh", "-c", script]).env("GRUS_CONTAINER_IMAGE", &image);
        run.env("GRUS_CONTAINER_MOUNTS", "/usr:/one:ro").env("GRUS_CONTAINER_MOUNT_HOME", "no").run()
    };
    let _ = with(&[&other], WHERE).success().stdout_is("in no-passwd");
    let _ = with(&["--container-image=none"], WHERE).success().stdout_is("in");
    // A list of the command line replaces the variable's.
    let _ = with(&["--mount=/usr:/two:ro"], "ls -d /one /two").stdout_is("/two");
    let home = lab.account().home.display().to_string();
    let mounted = format!("grep -c ' {home} ' /proc/self/mounts");
    let _ = with(&["--no-container-mount-workdir"], &mounted).stdout_is("0");
    let _ = with(&["--no-container-mount-workdir", "--container-mount-home"], &mounted).stdout_is("1");
}

fn variables_win_over_what_the_job_said(lab: &Lab) {
    let (image, other) = (lab.system_image("busybox"), lab.system_image("no-passwd"));
    let script = format!(
        "#!/bin/sh\n#SBATCH --container-image={image}\nsrun sh -c '{WHERE}'\n\
         GRUS_CONTAINER_IMAGE={other} srun sh -c '{WHERE}'\nPYXIS_CONTAINER_IMAGE=none srun sh -c '{WHERE}'\n"
    );
    let end = lab.sbatch(&[], &script).wait(LIMIT).completed();
    let _ = end.output_has("in busybox\nin no-passwd\nin\n");
}

fn a_wrong_value_is_refused_at_submission_by_the_variables_name(lab: &Lab) {
    for (name, value, what) in [
        ("GRUS_CONTAINER_UNSHARE", "pid", "GRUS_CONTAINER_UNSHARE: --container-unshare=pid is not known"),
        ("PYXIS_CONTAINER_WRITABLE", "maybe", "PYXIS_CONTAINER_WRITABLE=maybe is neither true nor false"),
        ("PYXIS_CONTAINER_MOUNTS", "/a:/b:zz", "PYXIS_CONTAINER_MOUNTS: "),
    ] {
        for program in ["srun", "salloc"] {
            let run = lab.user(program).args(["touch", "ran"]).env(name, value).run().exit_code(1);
            let _ = run.stderr_has(&format!("grus: {what}")).stderr_has("hint: ");
        }
    }
    assert!(!lab.work_dir().join("ran").exists());
}

fn variables_without_an_image_are_silent(lab: &Lab) {
    let run = lab.srun(&["sh", "-c", WHERE]).env("GRUS_CONTAINER_MOUNTS", "/usr:/one").run().success();
    let _ = run.stdout_is("in").stderr_lacks("grus");
}

fn sbatch_takes_its_variables_in(lab: &Lab) {
    let image = lab.system_image("busybox");
    let script = format!(
        "#!/bin/sh\nenv | grep CONTAINER\nsrun sh -c '{WHERE}; ls -d /one /two; env | grep CONTAINER'\n"
    );
    let submit = |options: &[&str]| {
        let sbatch = lab.user("sbatch").env("GRUS_CONTAINER_IMAGE", &image);
        let sbatch = sbatch.env("PYXIS_CONTAINER_MOUNTS", "/usr:/one:ro").args(options);
        let submitted =
            sbatch.args(["--parsable", "--output=batch-%j.out"]).stdin(script.clone()).run().success();
        lab.submitted(&submitted).wait(LIMIT)
    };
    let _ = submit(&[]).output_has("in busybox\n").output_has("/one\n").output_lacks("CONTAINER_");
    // What the job's command line overrode is not brought back by its steps.
    let end = submit(&["--mount=/usr:/two:ro"]).output_has("in busybox\n").output_has("/two\n");
    let _ = end.output_has("/one: No such file").output_lacks("CONTAINER_");
    let _ = submit(&["--container-image=none"]).output_has("in\n").output_lacks("busybox");
}

fn a_script_may_set_variables_for_its_steps(lab: &Lab) {
    let image = lab.system_image("busybox");
    let script = format!("#!/bin/sh\nexport GRUS_CONTAINER_IMAGE={image}\nsrun -N2 sh -c '{WHERE}'\n");
    let end = lab.sbatch(&["-N2"], &script).wait(LIMIT).completed();
    let _ = end.output_has("in busybox\nin busybox\n");
}

fn salloc_takes_its_variables_in(lab: &Lab) {
    let script =
        format!("echo [$GRUS_CONTAINER_IMAGE]; srun --mount=/usr:/two:ro sh -c '{WHERE}; ls -d /one /two'");
    let salloc = lab.user("salloc").env("GRUS_CONTAINER_IMAGE", lab.system_image("busybox"));
    let salloc = salloc.env("GRUS_CONTAINER_MOUNT", "/usr:/one:ro");
    let run = salloc.args(["sh", "-c", &script]).run();
    let _ = run.stdout_is("[]\nin busybox\n/two");
}

fn a_job_submitted_where_grus_is_unknown_has_containers_by_variables(lab: &Lab) {
    // slurmrestd loads no plugin of ours: all that comes with the job is its environment.
    let image = lab.system_image("busybox");
    let script = format!("#!/bin/sh\nsrun sh -c '{WHERE}'\n");
    let submitted = lab.with_plugstack("", || {
        let sbatch = lab.user("sbatch").env("GRUS_CONTAINER_IMAGE", &image).args(["--hold", "--parsable"]);
        sbatch.arg("--output=batch-%j.out").stdin(script).run().success()
    });
    let _ = lab.user("scontrol").args(["release", submitted.trimmed()]).run().success();
    let _ = lab.submitted(&submitted).wait(LIMIT).completed().output_has("in busybox\n");
}
