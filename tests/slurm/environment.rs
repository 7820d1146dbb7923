//! Which variables a rank has, where it starts, and which program a name means.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::lab::Lab;

crate::tests![
    the_images_environment_is_set,
    the_images_path_finds_its_tools,
    a_program_in_the_working_directory_runs,
    an_image_without_a_shell_runs,
    the_jobs_own_variables_win,
    the_hosts_library_paths_stay_outside,
    export_none_still_gets_the_container,
    exported_variables_arrive,
    the_images_working_directory_is_used_where_the_jobs_is_not_mounted,
    the_sites_rules_apply_last,
    the_request_is_not_visible_to_ranks,
    variables_are_kept_and_set_by_name,
    it_is_the_same_under_srun_and_sbatch,
];

fn the_images_environment_is_set(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let script = r#"echo "[$IMAGE_NAME] [$SPACED] [${EMPTY-unset}]""#;
    let run = lab.srun(&[&image, "sh", "-c", script]).env("IMAGE_NAME", "the host's").run().success();
    let _ = run.stdout_is("[busybox] [two words] []");
}

fn the_images_path_finds_its_tools(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    // In the image's PATH only, and nowhere on the host.
    let run = lab.srun(&[&image, "only-in-image", "a", "b c"]).run().success();
    let _ = run.stdout_is("a tool of the image: a b c");
    let path = lab.srun(&[&image, "sh", "-c", "echo $PATH"]).run().success();
    let _ = path.stdout_is("/opt/tools:/usr/bin:/bin");
}

fn a_program_in_the_working_directory_runs(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("app");
    fs::write(dir.join("app"), "#!/bin/sh\necho in \"$(. /etc/os-release; echo $PRETTY_NAME)\"\n")
        .expect("fresh");
    fs::set_permissions(dir.join("app"), PermissionsExt::from_mode(0o755)).expect("root may chmod");
    let run = lab.srun(&[&image, "./app"]).cwd(&dir).run().success();
    let _ = run.stdout_is("in Crane 1 (busybox)");
}

fn an_image_without_a_shell_runs(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("static"));
    let _ = lab.srun(&["-N2", &image, "/app/busybox", "echo", "hi"]).run().success().stdout_is("hi\nhi");
}

fn the_jobs_own_variables_win(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let script = "echo $HOME $USER $SLURM_JOB_NUM_NODES $SLURMD_NODENAME";
    let run = lab.srun(&[&image, "sh", "-c", script]).run().success();
    let account = lab.account();
    let _ = run.stdout_is(&format!("{} {} 1 test1", account.home.display(), account.name));
}

fn the_hosts_library_paths_stay_outside(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let run = lab.srun(&[&image, "env"]).env("LD_LIBRARY_PATH", "/opt/host/lib").env("PYTHONPATH", "/opt/py");
    let _ = run.run().success().stdout_lacks("LD_LIBRARY_PATH").stdout_lacks("PYTHONPATH");
}

fn export_none_still_gets_the_container(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("export-none");
    fs::write(dir.join("file"), "bound\n").expect("a fresh directory");
    let mount = format!("--mount={}:/mnt", dir.display());
    let args = ["--export=NONE", &image, &mount, "sh", "-c", "cat /mnt/file; echo [$MINE] $IMAGE_NAME"];
    let run = lab.srun(&args).env("MINE", "1").run().success();
    let _ = run.stdout_is("bound\n[] busybox");
}

fn exported_variables_arrive(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let args = ["--export=ALL,MORE=m", &image, "sh", "-c", "echo $MINE $MORE"];
    let _ = lab.srun(&args).env("MINE", "1").run().success().stdout_is("1 m");
    let args = ["--export=ONLY=o", &image, "sh", "-c", "echo [$MINE] $ONLY $IMAGE_NAME"];
    let _ = lab.srun(&args).env("MINE", "1").run().success().stdout_is("[] o busybox");
}

fn the_images_working_directory_is_used_where_the_jobs_is_not_mounted(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let args =
        ["--no-container-mount-workdir", "--no-container-mount-home", &image, "sh", "-c", "pwd; cat here"];
    let run = lab.srun(&args).run().success().stdout_is("/opt/work\nthe image's working directory");
    let _ = run.stderr_lacks("chdir");
    let debian = format!("--container-image={}", lab.system_image("no-passwd"));
    let args = ["--no-container-mount-workdir", "--no-container-mount-home", &debian, "pwd"];
    let _ = lab.srun(&args).run().success().stdout_is("/");
}

fn the_sites_rules_apply_last(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let site = "environment.set = { SITE = 'alps', IMAGE_NAME = 'renamed' }\n\
                environment.prepend = { PATH = '/site/bin' }\n\
                environment.append = { PATH = '/last' }\n\
                environment.unset = ['SECRET_*']\n";
    lab.with_site(site, || {
        let script = "echo $SITE $IMAGE_NAME $PATH [$SECRET_KEY]";
        let run = lab.srun(&[&image, "sh", "-c", script]).env("SECRET_KEY", "s").run().success();
        let _ = run.stdout_is("alps renamed /site/bin:/opt/tools:/usr/bin:/bin:/last []");
    });
}

fn the_request_is_not_visible_to_ranks(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let run = lab.srun(&[&image, "env"]).run().success();
    let _ = run.stdout_lacks("SLURM_GRUS_REQUEST");
}

fn variables_are_kept_and_set_by_name(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let script = "echo [$IMAGE_NAME] [$SPACED] [$LD_LIBRARY_PATH] [$A] [$LISTED] [$PATH]";
    let asked =
        ["--container-env=IMAGE_NAME,LD_LIBRARY_PATH,NOT_SET", "--container-env=A=b c,\"LISTED=1,2\""];
    let run = lab.srun(&[&image]).args(asked).args(["sh", "-c", script]);
    let run = run.env("IMAGE_NAME", "mine").env("LD_LIBRARY_PATH", "/my/lib").env("SPACED", "mine").run();
    let _ = run.success().stdout_is("[mine] [two words] [/my/lib] [b c] [1,2] [/opt/tools:/usr/bin:/bin]");
    // It has the last word, also over the site.
    lab.with_site("environment.set = { A = 'the site', B = 'the site' }\n", || {
        let run = lab.srun(&[&image, "--container-env=A=mine", "sh", "-c", "echo $A $B"]).run().success();
        let _ = run.stdout_is("mine the site");
    });
}

fn it_is_the_same_under_srun_and_sbatch(lab: &Lab) {
    let image = lab.system_image("busybox");
    // What names the job and its step differs, and what sbatch itself adds for its script.
    let script = "env | grep -v -E '^(SLURM|SRUN|SBATCH|_=|SHLVL|PWD|OLDPWD|TMPDIR)' | sort";
    let variables = [("MINE", "1"), ("LANG", "C.UTF-8"), ("LD_PRELOAD_MINE", "x"), ("SPACED", "the host's")];
    let leaking = [("LD_LIBRARY_PATH", "/opt/lib"), ("PYTHONPATH", "/opt/py"), ("PERL5LIB", "/opt/perl")];
    let with = |cmd: grus_tests::Cmd| variables.iter().chain(&leaking).fold(cmd, |cmd, (n, v)| cmd.env(n, v));
    let option = format!("--container-image={image}");
    let step = with(lab.srun(&[&option, "sh", "-c", script])).run().success();
    for more in ["", "#SBATCH --container-batch\n"] {
        let line = if more.is_empty() { format!("srun sh -c \"{script}\"") } else { script.to_owned() };
        let batch = format!("#!/bin/sh\n#SBATCH {option}\n{more}{line}\n");
        let sbatch = with(lab.user("sbatch")).args(["--parsable", "--output=batch-%j.out"]).stdin(batch);
        let end = lab.submitted(&sbatch.run().success()).wait(std::time::Duration::from_secs(60)).completed();
        let lines = |text: &str| -> Vec<String> {
            let kept = |line: &&str| {
                // Slurm's own in a batch job, on the host too.
                let of_batch = ["ENVIRONMENT=", "HOSTNAME="].iter().any(|name| line.starts_with(name));
                line.contains('=') && !of_batch
            };
            text.lines().filter(kept).map(str::to_owned).collect()
        };
        assert_eq!(lines(&end.output), lines(&step.stdout), "{more}{end:#?}");
    }
    let _ =
        step.stdout_lacks("/opt/lib").stdout_lacks("/opt/py").stdout_lacks("/opt/perl").stdout_has("MINE=1");
}
