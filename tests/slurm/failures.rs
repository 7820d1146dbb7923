//! The failure matrix: whatever goes wrong, a job that asked for a container never runs on the host, its node is
//! never drained, and the user reads what failed and the way out. Each row runs by srun, by the steps of a batch
//! job, and as a batch script inside; with `required` and with `optional` in plugstack.conf.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grus_tests::installation::{OPTIONAL, REQUIRED};
use grus_tests::Cluster;

use crate::lab::Lab;

crate::tests![
    image_not_in_the_repository,
    image_file_missing,
    image_not_readable,
    image_truncated_mounted_by_the_kernel,
    image_truncated_served_by_fuse,
    image_is_no_image,
    image_is_a_directory,
    image_of_another_architecture,
    bind_source_missing,
    bind_source_not_readable,
    bind_source_is_a_file_for_a_directory,
    bind_destination_in_a_loop_of_links,
    bind_destination_below_a_file,
    volatile_directory_missing,
    option_text_bad,
    option_unknown_pull_policy,
    site_file_missing,
    site_file_malformed,
    site_file_with_an_unknown_key,
    site_file_writable_by_its_group,
    site_file_not_of_root,
    squashfuse_unavailable,
    loop_devices_unavailable,
    fuse_device_unavailable,
    user_images_refused_by_the_site,
    registry_down,
    slurms_own_container_option_is_refused,
    command_missing_in_the_image,
];

/// One row: what is asked for, and what must be read in the answer.
struct Row<'a> {
    options: Vec<String>,
    /// All of these, in any order.
    says: &'a [&'a str],
}

/// Runs a row in all ways.
#[track_caller]
fn refused(lab: &Lab, row: &Row<'_>) {
    refused_under(lab, row, || ());
}

/// The same after `spoil` has changed the site's files, which are put back afterwards.
#[track_caller]
fn refused_under(lab: &Lab, row: &Row<'_>, spoil: impl Fn()) {
    for plugstack in [REQUIRED, OPTIONAL] {
        lab.with_plugstack(plugstack, || {
            spoil();
            all_ways(lab, row);
        });
        lab.assert_nodes_idle();
    }
}

#[track_caller]
fn all_ways(lab: &Cluster, row: &Row<'_>) {
    by_srun(lab, row);
    by_sbatch(lab, row, false);
    by_sbatch(lab, row, true);
}

/// A command that leaves a mark on the host wherever a rank runs, in the container or out of it.
fn marking(dir: &Path) -> String {
    format!("echo ran >>{}/$SLURMD_NODENAME", dir.display())
}

#[track_caller]
fn no_rank_ran(dir: &Path) {
    let ran: Vec<_> =
        fs::read_dir(dir).expect("a fresh directory").flatten().map(|e| e.file_name()).collect();
    assert!(ran.is_empty(), "ranks ran on {ran:?}");
}

#[track_caller]
fn tells(row: &Row<'_>, text: &str) {
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("grus: ")).collect();
    assert!(!lines.is_empty(), "no line says what failed:\n{text}");
    assert!(text.contains("hint: "), "no line names the way out:\n{text}");
    for said in row.says {
        assert!(text.contains(said), "wanted {said:?} in:\n{text}");
    }
}

#[track_caller]
fn by_srun(lab: &Cluster, row: &Row<'_>) {
    let dir = lab.fresh_dir("marks");
    let run = lab
        .user("srun")
        .arg(format!("-N{}", lab.nodes()))
        .args(&row.options)
        .args(["sh", "-c", &marking(&dir)])
        .run()
        .failure();
    tells(row, &run.stderr);
    no_rank_ran(&dir);
}

#[track_caller]
fn by_sbatch(lab: &Cluster, row: &Row<'_>, inside: bool) {
    let dir = lab.fresh_dir("marks");
    let mark = marking(&dir);
    let (script, more) = match inside {
        true => (format!("#!/bin/sh\n{mark}\n"), &["--container-batch"][..]),
        false => (format!("#!/bin/sh\nsrun sh -c '{mark}'\n"), &[][..]),
    };
    let sbatch =
        lab.user("sbatch").args(["--parsable", "--output=batch-%j.out"]).arg(format!("-N{}", lab.nodes()));
    let submitted = sbatch.args(more).args(&row.options).stdin(script).run();
    if submitted.status.success() {
        let end = lab.submitted(&submitted).wait(Duration::from_secs(60));
        assert_eq!((end.state.as_str(), end.restarts), ("FAILED", 0), "inside: {inside}: {end:#?}");
        tells(row, &end.output);
    } else {
        // Refused before there was a job: as good.
        tells(row, &submitted.stderr);
    }
    no_rank_ran(&dir);
}

fn image_option(value: impl std::fmt::Display) -> String {
    format!("--container-image={value}")
}

/// The busybox image and one more option.
fn busybox_and(lab: &Lab, option: &str) -> Vec<String> {
    vec![image_option(lab.system_image("busybox")), option.to_owned()]
}

/// The SquashFS file of the busybox image in the system repository.
fn squashfs(lab: &Lab) -> PathBuf {
    lab.system_file("busybox")
}

fn image_not_in_the_repository(lab: &Lab) {
    let options = vec![image_option("lab.test/absent:1"), "--container-pull=never".into()];
    refused(lab, &Row { options, says: &["lab.test/absent:1", "grus pull"] });
}

fn image_file_missing(lab: &Lab) {
    let options = vec![image_option("/no/such/image.squashfs")];
    refused(lab, &Row { options, says: &["/no/such/image.squashfs", "No such file or directory"] });
}

fn image_not_readable(lab: &Lab) {
    let file = lab.dir().join("unreadable.squashfs");
    fs::copy(squashfs(lab), &file).expect("the repository's file can be read by root");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("root may chmod");
    let options = vec![image_option(file.display())];
    refused(lab, &Row { options, says: &["unreadable.squashfs", "Permission denied"] });
}

fn truncated(lab: &Lab, name: &str) -> PathBuf {
    let file = lab.dir().join(name);
    let bytes = fs::read(squashfs(lab)).expect("the repository's file can be read by root");
    fs::write(&file, &bytes[..bytes.len() / 2]).expect("the lab's directory is writable");
    file
}

fn image_truncated_mounted_by_the_kernel(lab: &Lab) {
    let file = truncated(lab, "truncated.squashfs");
    refused(lab, &Row { options: vec![image_option(file.display())], says: &["truncated.squashfs"] });
}

fn image_truncated_served_by_fuse(lab: &Lab) {
    let file = truncated(lab, "work/truncated-mine.squashfs");
    lab.give(&file);
    refused(lab, &Row { options: vec![image_option(file.display())], says: &["truncated-mine.squashfs"] });
}

fn image_is_no_image(lab: &Lab) {
    let file = lab.work_dir().join("text.squashfs");
    fs::write(&file, "this is no image\n".repeat(5000)).expect("the work directory is there");
    lab.give(&file);
    refused(lab, &Row { options: vec![image_option(file.display())], says: &["text.squashfs"] });
}

fn image_is_a_directory(lab: &Lab) {
    refused(lab, &Row { options: vec![image_option("/etc")], says: &["/etc"] });
}

fn image_of_another_architecture(lab: &Lab) {
    let options = vec![image_option(lab.pushed_image("other-arch"))];
    refused(lab, &Row { options, says: &["other-arch", "s390x"] });
}

fn bind_source_missing(lab: &Lab) {
    let options = busybox_and(lab, "--mount=/no/such/source:/mnt");
    refused(lab, &Row { options, says: &["/no/such/source", "/mnt", "No such file or directory"] });
}

fn bind_source_not_readable(lab: &Lab) {
    // A directory behind one that only root may enter: opening it as root would show it.
    let dir = lab.dir().join("closed/inner");
    fs::create_dir_all(&dir).expect("the lab's directory is writable");
    fs::set_permissions(lab.dir().join("closed"), PermissionsExt::from_mode(0o700)).expect("root may chmod");
    let options = busybox_and(lab, &format!("--mount={}:/mnt", dir.display()));
    refused(lab, &Row { options, says: &["closed/inner", "Permission denied"] });
}

fn bind_source_is_a_file_for_a_directory(lab: &Lab) {
    let options = busybox_and(lab, "--mount=/etc/hosts:/opt/work");
    refused(lab, &Row { options, says: &["/opt/work"] });
}

fn bind_destination_in_a_loop_of_links(lab: &Lab) {
    let options = vec![image_option(lab.system_image("tmp-link")), "--mount=/usr:/loop/x".into()];
    refused(lab, &Row { options, says: &["/loop/x", "symbolic links"] });
}

fn bind_destination_below_a_file(lab: &Lab) {
    let options = busybox_and(lab, "--mount=/usr:/etc/passwd/x");
    refused(lab, &Row { options, says: &["/etc/passwd/x"] });
}

fn volatile_directory_missing(lab: &Lab) {
    let options = busybox_and(lab, "--writable-volatile=/no/such/dir");
    refused(lab, &Row { options, says: &["/no/such/dir"] });
}

fn option_text_bad(lab: &Lab) {
    for bad in ["--mount=type=bind,source=/usr", "--mount=/a:/b:ro:more", "--writable-volatile=relative"] {
        refused(lab, &Row { options: busybox_and(lab, bad), says: &[] });
    }
    refused(lab, &Row { options: vec![image_option("UPPER//case:")], says: &["UPPER//case:"] });
}

fn option_unknown_pull_policy(lab: &Lab) {
    let options = busybox_and(lab, "--container-pull=sometimes");
    refused(lab, &Row { options, says: &["sometimes"] });
}

fn site_file_missing(lab: &Lab) {
    let options = vec![image_option(squashfs(lab).display())];
    for word in ["required", "optional"] {
        lab.with_plugstack(&format!("{word} PLUGIN config=/no/such/grus.toml\n"), || {
            all_ways(lab, &Row { options: options.clone(), says: &["/no/such/grus.toml"] });
        });
        lab.assert_nodes_idle();
    }
}

fn site_file_malformed(lab: &Lab) {
    let options = vec![image_option(squashfs(lab).display())];
    let spoil = || lab.write_site("this is = = no TOML\n").expect("the site file can be written");
    refused_under(lab, &Row { options, says: &["grus.toml"] }, spoil);
}

fn site_file_with_an_unknown_key(lab: &Lab) {
    let options = vec![image_option(squashfs(lab).display())];
    let spoil = || lab.write_site("mounts.hoem = true\n").expect("the site file can be written");
    refused_under(lab, &Row { options, says: &["hoem", "mounts.home"] }, spoil);
}

fn site_file_writable_by_its_group(lab: &Lab) {
    let options = vec![image_option(squashfs(lab).display())];
    let spoil =
        || fs::set_permissions(lab.site_file(), PermissionsExt::from_mode(0o664)).expect("root may chmod");
    refused_under(lab, &Row { options, says: &["grus.toml"] }, spoil);
}

fn site_file_not_of_root(lab: &Lab) {
    let options = vec![image_option(squashfs(lab).display())];
    refused_under(lab, &Row { options, says: &["grus.toml"] }, || lab.give(&lab.site_file()));
}

fn squashfuse_unavailable(lab: &Lab) {
    let file = lab.work_dir().join("mine.squashfs");
    fs::copy(squashfs(lab), &file).expect("the repository's file can be read by root");
    lab.give(&file);
    let options = vec![image_option(file.display())];
    let site = "security.squashfuse = '/no/such/squashfuse_ll'\n";
    let spoil = || lab.write_site(site).expect("the site file can be written");
    refused_under(lab, &Row { options, says: &["/no/such/squashfuse_ll"] }, spoil);
}

fn loop_devices_unavailable(lab: &Lab) {
    let options = vec![image_option(squashfs(lab).display())];
    on_nodes_without(lab, "loop*", &Row { options, says: &["loop"] });
}

fn fuse_device_unavailable(lab: &Lab) {
    let file = lab.work_dir().join("not-roots.squashfs");
    fs::copy(squashfs(lab), &file).expect("the repository's file can be read by root");
    lab.give(&file);
    let options = vec![image_option(file.display())];
    on_nodes_without(lab, "fuse", &Row { options, says: &["/dev/fuse"] });
}

/// The same on a cluster whose nodes lack devices; Grus is the one installed in `lab`.
#[track_caller]
fn on_nodes_without(lab: &Lab, devices: &str, row: &Row<'_>) {
    let plugstack = fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    for word in ["required", "optional"] {
        let plugstack = plugstack.replace("required", word);
        let bare = Cluster::builder("bare").nodes(1).hidden_devices(devices).plugstack(&plugstack).up();
        let bare = bare.expect("a lab without these devices comes up");
        all_ways(&bare, row);
        bare.assert_nodes_idle();
    }
}

fn user_images_refused_by_the_site(lab: &Lab) {
    let file = lab.work_dir().join("mine-too.squashfs");
    fs::copy(squashfs(lab), &file).expect("the repository's file can be read by root");
    lab.give(&file);
    let options = vec![image_option(file.display())];
    let spoil = || lab.write_site("security.user-images = 'refuse'\n").expect("the site file can be written");
    refused_under(lab, &Row { options, says: &["system repository"] }, spoil);
}

fn registry_down(lab: &Lab) {
    // Port 1 of loopback: nobody listens there.
    let options = vec![image_option("127.0.0.1:1/some/image:1")];
    refused(lab, &Row { options, says: &["127.0.0.1:1"] });
}

fn slurms_own_container_option_is_refused(lab: &Lab) {
    // Slurm's --container=IMAGE without an oci.conf would run on the host and exit 0.
    let dir = lab.fresh_dir("marks");
    let image = lab.system_image("busybox");
    let run = lab.srun(&[&format!("--container={image}"), "sh", "-c", &marking(&dir)]).run().failure();
    let _ = run.stderr_has("--container-image");
    no_rank_ran(&dir);
}

fn command_missing_in_the_image(lab: &Lab) {
    // On the host it exists: falling back to the host would succeed.
    let image = image_option(lab.system_image("static"));
    for plugstack in [REQUIRED, OPTIONAL] {
        lab.with_plugstack(plugstack, || {
            let run = lab.srun(&["-N2", &image, "/usr/bin/true"]).run().failure();
            let _ = run.stderr_has("/usr/bin/true").stderr_has("No such file or directory");
            let script = format!("#!/bin/sh\nsrun {image} /usr/bin/true\n");
            let end = lab.sbatch(&["-N2"], &script).wait(Duration::from_secs(60)).failed("2:0");
            let _ = end.output_has("No such file or directory");
        });
        lab.assert_nodes_idle();
    }
}
