//! `--container-slurm`: the host's srun, sbatch, squeue and scancel in containers of any libc.

use std::time::Duration;

use crate::lab::Lab;

crate::tests![
    every_libc_has_the_hosts_commands,
    a_job_is_submitted_and_cancelled_from_inside,
    a_step_is_started_from_inside_a_container_in_another,
    a_batch_script_in_a_container_starts_its_steps,
    the_images_own_libraries_are_not_used,
    an_image_without_a_shell_is_refused,
    a_node_without_srun_is_refused,
];

/// The lab's Slurm lies in the lab's directory.
pub fn with_client<T>(lab: &Lab, more: &str, body: impl FnOnce() -> T) -> T {
    let dir = lab.dir().display();
    let mounts: Vec<String> = ["etc", "munge", "lib", "bin"].map(|sub| format!("'{dir}/{sub}'")).into();
    lab.with_site(&format!("slurm.mounts = [{}]\n{more}", mounts.join(", ")), body)
}

fn every_libc_has_the_hosts_commands(lab: &Lab) {
    with_client(lab, "", || {
        let script = "set -e
            test ! -e /usr/bin/srun
            test $(squeue --noheader --format=%i --jobs=$SLURM_JOB_ID) = $SLURM_JOB_ID
            sinfo --noheader --format=%N
            scontrol show job $SLURM_JOB_ID
            srun --overlap -n1 -N1 echo a step of the host
            case $PATH in *:/run/grus/slurm/bin) echo last in PATH;; esac";
        for image in ["busybox", "debian", "mpi-musl", "mpi-glibc-2.31", "tmp-link"] {
            let option = format!("--container-image={}", lab.system_image(image));
            let run = lab.srun(&["--container-slurm", &option, "sh", "-c", script]).run();
            let _ = run.success().stdout_has("a step of the host").stdout_has("last in PATH");
        }
    });
    lab.assert_nodes_idle();
}

fn a_job_is_submitted_and_cancelled_from_inside(lab: &Lab) {
    with_client(lab, "container.slurm = true\n", || {
        let option = format!("--container-image={}", lab.system_image("busybox"));
        let dir = lab.fresh_dir("from-inside");
        let script = "set -e
            job=$(sbatch --parsable --output=/dev/null --wrap='sleep 300')
            squeue --noheader --jobs=$job --format=%i
            scancel $job
            sbatch --wait --output=out -N1 --wrap='grep PRETTY_NAME /etc/os-release' | grep -o Submitted
            cat out";
        let run = lab.srun(&[&option, "sh", "-c", script]).cwd(&dir).run().success();
        let _ = run.stdout_has("Submitted").stdout_has("PRETTY_NAME").stdout_lacks("Crane");
    });
    lab.assert_nodes_idle();
}

fn a_step_is_started_from_inside_a_container_in_another(lab: &Lab) {
    with_client(lab, "", || {
        let (outer, inner) = (lab.system_image("busybox"), lab.system_image("debian"));
        let option = format!("--container-image={outer}");
        let script = format!(
            "srun --overlap -N1 -n1 --container-image={inner} sh -c 'grep ^PRETTY /etc/os-release; echo $IMAGE_NAME'
            srun --overlap -N1 -n1 --container-image=no/such:1 --container-pull=never true"
        );
        let run = lab.srun(&["--container-slurm", &option, "sh", "-c", &script]).run().failure();
        let _ = run.stdout_has("Debian").stdout_has("debian\n").stderr_has("image no/such:1 is not in");
    });
    lab.assert_nodes_idle();
}

fn a_batch_script_in_a_container_starts_its_steps(lab: &Lab) {
    with_client(lab, "", || {
        let image = lab.system_image("busybox");
        let script = format!(
            "#!/bin/sh\n#SBATCH -N2\n#SBATCH --container-image={image}\n#SBATCH --container-batch\n\
             #SBATCH --container-slurm\ngrep -c Crane /etc/os-release\n\
             srun sh -c 'echo $IMAGE_NAME on $SLURMD_NODENAME'\n"
        );
        let end = lab.sbatch(&[], &script).wait(Duration::from_secs(60)).completed();
        let _ = end
            .output_has(&format!("busybox on {}", lab.node(1)))
            .output_has(&format!("busybox on {}", lab.node(2)));
    });
}

fn the_images_own_libraries_are_not_used(lab: &Lab) {
    with_client(lab, "", || {
        let option = format!("--container-image={}", lab.system_image("debian"));
        let script =
            "export LD_PRELOAD=/nonexistent.so LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu; squeue --version";
        let run = lab.srun(&["--container-slurm", &option, "sh", "-c", script]).run().success();
        // The shell's own loader complains, once; the host's was kept from it.
        assert_eq!(run.stderr.matches("from LD_PRELOAD").count(), 1, "{run}");
        let _ = run.stdout_has("slurm");
        let own = "srun() { echo mine; }; srun; command -v squeue";
        let run = lab.srun(&["--container-slurm", &option, "sh", "-c", own]).run().success();
        let _ = run.stdout_is("mine\n/run/grus/slurm/bin/squeue");
    });
}

fn an_image_without_a_shell_is_refused(lab: &Lab) {
    with_client(lab, "", || {
        let option = format!("--container-image={}", lab.system_image("static"));
        let run = lab.srun(&["--container-slurm", &option, "/app/busybox", "true"]).run().failure();
        let _ = run.stderr_has("the image has no /bin/sh").stderr_has("hint: ");
    });
    with_client(lab, "container.slurm = true\n", || {
        let option = format!("--container-image={}", lab.system_image("static"));
        let run = lab.srun(&[&option, "/app/busybox", "echo", "runs"]).run().success().stdout_is("runs");
        let _ = run.stderr_has("no Slurm commands in the container");
    });
}

fn a_node_without_srun_is_refused(lab: &Lab) {
    with_client(lab, "slurm.commands = '/opt/nowhere'\n", || {
        let option = format!("--container-image={}", lab.system_image("busybox"));
        let run = lab.srun(&["--container-slurm", &option, "true"]).run().failure();
        let _ = run.stderr_has("this node has no /opt/nowhere/srun").stderr_has("slurm.commands");
    });
    lab.assert_nodes_idle();
}
