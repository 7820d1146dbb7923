//! Getting images at submission, on the submitting host and as the user.

use std::time::Duration;

use crate::lab::Lab;

crate::tests![
    a_missing_image_is_pulled_once_at_submission,
    a_changed_tag_is_pulled_only_when_asked,
    a_batch_job_pulls_at_submission,
    an_image_in_the_repository_needs_no_registry,
    a_submission_obeys_the_sites_signature_policy,
];

const LIMIT: Duration = Duration::from_secs(60);

/// Pushes `image` as `name` and forgets what the user has pulled under that name before.
fn push(lab: &Lab, image: &str, name: &str) -> String {
    let layout = grus_tests::ImageStore::default().layout(image).expect("the image can be made");
    lab.registry().push(&layout, name).expect("skopeo can push")
}

fn a_missing_image_is_pulled_once_at_submission(lab: &Lab) {
    let reference = push(lab, "busybox", "pull/missing:1");
    let image = format!("--container-image={reference}");
    let run = lab.srun(&["-N2", "--container-pull=never", &image, "true"]).run().failure();
    let _ = run.stderr_has("grus pull");
    let _ = lab
        .srun(&["-N2", &image, "sh", "-c", "echo $IMAGE_NAME"])
        .run()
        .success()
        .stdout_is("busybox\nbusybox");
    let listed = lab.grus(&["images"]).run().success();
    let _ = listed.stdout_has("pull/missing");
    let _ = lab.srun(&["-N2", "--container-pull=never", &image, "true"]).run().success();
}

fn a_changed_tag_is_pulled_only_when_asked(lab: &Lab) {
    let reference = push(lab, "busybox", "pull/moves:1");
    let image = format!("--container-image={reference}");
    let name = |more: &[&str]| lab.srun(more).args([&image, "sh", "-c", "echo $IMAGE_NAME"]).run().success();
    let _ = name(&[]).stdout_is("busybox");
    push(lab, "no-passwd", "pull/moves:1");
    let _ = name(&[]).stdout_is("busybox");
    let _ = name(&["--container-pull=always"]).stdout_is("no-passwd");
    let _ = name(&[]).stdout_is("no-passwd");
}

fn a_batch_job_pulls_at_submission(lab: &Lab) {
    let reference = push(lab, "busybox", "pull/batch:1");
    let script =
        format!("#!/bin/sh\n#SBATCH --container-image={reference}\nsrun -N2 sh -c 'echo $IMAGE_NAME'\n");
    // Held: what the repository has now, it got at submission.
    let job = lab.sbatch(&["-N2", "--hold"], &script);
    let _ = lab.grus(&["images"]).run().success().stdout_has("pull/batch");
    let _ = lab.user("scontrol").args(["release", &job.id.to_string()]).run().success();
    let _ = job.wait(LIMIT).completed().output_has("busybox\nbusybox");
}

fn an_image_in_the_repository_needs_no_registry(lab: &Lab) {
    let reference = push(lab, "busybox", "pull/offline:1");
    let image = format!("--container-image={reference}");
    let _ = lab.grus(&["pull", &reference]).run().success();
    lab.registry().stop().expect("the registry stops");
    let run = lab.srun(&[&image, "sh", "-c", "echo $IMAGE_NAME"]).run();
    lab.registry().launch().expect("the registry starts again");
    let _ = run.success().stdout_is("busybox");
}

fn a_submission_obeys_the_sites_signature_policy(lab: &Lab) {
    let reference = push(lab, "busybox", "pull/rejected:1");
    let policy = lab.dir().join("policy.json");
    let rejects = r#"{"default": [{"type": "insecureAcceptAnything"}],
                      "transports": {"docker": {"": [{"type": "reject"}]}}}"#;
    std::fs::write(&policy, rejects).expect("the lab's own directory");
    let image = format!("--container-image={reference}");
    lab.with_site(&format!("signatures.policy = '{}'\n", policy.display()), || {
        let run = lab.srun(&[&image, "true"]).run().failure();
        let _ = run.stderr_has("is rejected by the signature policy");
        let _ = lab.grus(&["images"]).run().success().stdout_lacks("pull/rejected");
    });
    let _ = lab.srun(&[&image, "true"]).run().success();
}
