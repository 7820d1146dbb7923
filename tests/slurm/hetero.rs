//! Heterogeneous jobs and steps: components with containers of their own.

use std::time::Duration;

use crate::lab::Lab;

crate::tests![
    components_share_a_container,
    components_of_a_job_have_their_own,
    a_component_may_stay_on_the_host,
    components_of_a_step_in_an_allocation_have_their_own,
    steps_of_a_heterogeneous_batch_job_choose,
    chosen_components_cannot_differ,
    a_job_whose_components_differ_is_refused,
    a_component_that_cannot_have_its_container_fails_the_step,
];

const LIMIT: Duration = Duration::from_secs(60);
/// Says which image it runs in, if any.
const WHERE: &str = "echo $SLURM_PROCID in $IMAGE_NAME";

fn image(lab: &Lab, name: &str) -> String {
    format!("--container-image={}", lab.system_image(name))
}

fn components_share_a_container(lab: &Lab) {
    let image = image(lab, "busybox");
    let one = ["-n1", &image, "sh", "-c", WHERE];
    let run = lab.srun(&one).arg(":").args(one).run().success();
    assert_eq!(run.sorted_lines(), ["0 in busybox", "1 in busybox"], "{run}");
}

fn components_of_a_job_have_their_own(lab: &Lab) {
    let (a, b) = (image(lab, "busybox"), image(lab, "no-passwd"));
    let run =
        lab.srun(&["-N1", "-n2", &a, "--mount=/usr:/one:ro", "sh", "-c", &format!("{WHERE}; ls -d /one")]);
    let run = run.args([":", "-N1", "-n1", &b, "sh", "-c", &format!("{WHERE}; ls -d /one")]).run();
    let lines = run.sorted_lines();
    assert_eq!(lines, ["/one", "/one", "0 in busybox", "1 in busybox", "2 in no-passwd"], "{run}");
}

fn a_component_may_stay_on_the_host(lab: &Lab) {
    let a = image(lab, "busybox");
    for none in [&["-n1"][..], &["-n1", "--container-image=none"]] {
        let run = lab.srun(&["-n1", &a, "sh", "-c", WHERE]).arg(":").args(none).args(["sh", "-c", WHERE]);
        let run = run.run().success();
        assert_eq!(run.sorted_lines(), ["0 in busybox", "1 in"], "{run}");
        let run = lab.srun(none).args(["sh", "-c", WHERE, ":", "-n1", &a, "sh", "-c", WHERE]).run().success();
        assert_eq!(run.sorted_lines(), ["0 in", "1 in busybox"], "{run}");
    }
}

fn components_of_a_step_in_an_allocation_have_their_own(lab: &Lab) {
    let (a, b) = (image(lab, "busybox"), image(lab, "no-passwd"));
    let in_allocation = |job: &[&str], second: &str| {
        let srun = format!("srun -n1 {a} sh -c '{WHERE}' : -n1 {second} sh -c '{WHERE}'");
        let run = lab.user("salloc").arg("-N2").args(job).args(["sh", "-c", &srun]).run().success();
        run.sorted_lines().join(", ")
    };
    let before = lab.snapshot();
    assert_eq!(in_allocation(&[], &b), "0 in busybox, 1 in no-passwd");
    assert_eq!(in_allocation(&[], ""), "0 in busybox, 1 in");
    // What the job said holds for those that say nothing.
    assert_eq!(in_allocation(&[&b], ""), "0 in busybox, 1 in no-passwd");
    assert_eq!(in_allocation(&[&b], "--container-image=none"), "0 in busybox, 1 in");
    before.assert_nothing_left();
}

fn steps_of_a_heterogeneous_batch_job_choose(lab: &Lab) {
    let (a, b) = (image(lab, "busybox"), image(lab, "no-passwd"));
    let script = format!(
        "#!/bin/sh\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1\n\
         srun {a} sh -c '{WHERE}' : {b} sh -c '{WHERE}'\n\
         srun --het-group=1 {a} sh -c 'echo group {WHERE}'\n\
         srun --het-group=0,1 {b} sh -c 'echo both {WHERE}'\n"
    );
    let end = lab.sbatch(&[], &script).wait(LIMIT).completed();
    for line in
        ["0 in busybox\n", "1 in no-passwd\n", "group echo 0 in busybox\n", "both echo 1 in no-passwd\n"]
    {
        assert!(end.output.contains(line), "{line:?} is not in {end:#?}");
    }
}

fn chosen_components_cannot_differ(lab: &Lab) {
    let (a, b) = (image(lab, "busybox"), image(lab, "no-passwd"));
    let script = format!(
        "#!/bin/sh\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1\n\
         srun --het-group=1 {a} sh -c '{WHERE}' : --het-group=0 {b} sh -c '{WHERE}'\n"
    );
    let end = lab.sbatch(&[], &script).wait(LIMIT).failed("1:0");
    let _ = end.output_has("and --het-group is in use").output_has("hint: ").output_lacks(" in busybox");
}

fn a_job_whose_components_differ_is_refused(lab: &Lab) {
    let a = image(lab, "busybox");
    let sbatch = lab.user("sbatch").args(["-n1", &a, ":", "-n1", "--wrap", "hostname"]).run().failure();
    let _ = sbatch.stderr_has("grus: the components of a heterogeneous job").stderr_has("hint: ");
}

fn a_component_that_cannot_have_its_container_fails_the_step(lab: &Lab) {
    let a = image(lab, "busybox");
    let dir = lab.fresh_dir("het");
    let mark = format!("touch {}/ran", dir.display());
    let run = lab.srun(&["-n1", &a, "--mount=/usr:/etc/passwd", "sh", "-c", &mark]);
    let run = run.args([":", "-n1", &image(lab, "no-passwd"), "true"]).run().failure();
    let _ = run.stderr_has("grus: ").stderr_has("a directory cannot be mounted on a file");
    assert_eq!(std::fs::read_dir(dir).expect("a fresh directory").count(), 0, "a rank ran");
    lab.assert_nodes_idle();
}
