//! Every type of mount and every flag, asked for by the ordinary user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use grus_tests::daemon::wait_until;

use crate::lab::Lab;

crate::tests![
    flags_of_binds,
    a_device_node_is_bound,
    paths_with_spaces_commas_and_colons,
    a_tmpfs_is_shared_on_a_node_and_gone_afterwards,
    squashfs_files_are_mounted_by_the_rule_of_images,
    a_scratch_is_private_to_the_step,
    a_scratch_that_the_site_does_not_offer_is_refused,
    volatile_directories_on_disk,
    what_would_be_mounted_is_left_out,
    an_optional_mount_without_a_source_is_left_out,
    a_missing_source_names_node_and_way_out,
    what_a_node_cannot_bear_is_refused_at_submission,
    a_cancelled_step_with_everything_leaves_nothing,
];

fn busybox(lab: &Lab) -> String {
    format!("--container-image={}", lab.system_image("busybox"))
}

fn program(path: &Path) {
    fs::write(path, "#!/bin/sh\necho ran\n").expect("a fresh directory");
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("root may chmod");
}

fn flags_of_binds(lab: &Lab) {
    let dir = lab.fresh_dir("flags");
    program(&dir.join("program"));
    let mounts = format!("--container-mounts={0}:/a:ro,{0}:/b:noexec+ro", dir.display());
    let script = "/a/program; touch /a/x /b/x; /b/program";
    let run = lab.srun(&[&busybox(lab), &mounts, "sh", "-c", script]).run().failure();
    let run = run.stdout_is("ran").stderr_has("/b/program: Permission denied");
    assert_eq!(run.stderr.matches("Read-only file system").count(), 2, "{run}");
    // /dev has mounts below it; what they cover is not for everyone.
    for norec in ["--mount=type=bind,src=/dev,dst=/mnt,recursive=false", "--container-mounts=/:/mnt:norec"] {
        let run = lab.srun(&[&busybox(lab), norec, "true"]).run().failure();
        let _ = run
            .stderr_has("alone: something is mounted below it, on /")
            .stderr_has("hint: leave 'recursive=");
    }
    let norec = format!("--mount=src={},dst=/mnt,recursive=false", dir.display());
    let _ = lab.srun(&[&busybox(lab), &norec, "/mnt/program"]).run().success().stdout_is("ran");
}

fn a_device_node_is_bound(lab: &Lab) {
    let mount = "--mount=/dev/zero:/made/device";
    let run = lab.srun(&[&busybox(lab), mount, "sh", "-c", "head -c 5 /made/device | wc -c"]).run();
    let _ = run.success().stdout_is("5");
}

fn paths_with_spaces_commas_and_colons(lab: &Lab) {
    let dir = lab.fresh_dir("odd");
    for name in ["with space", "a,b", "c:d"] {
        fs::create_dir(dir.join(name)).expect("a fresh directory");
        fs::write(dir.join(name).join("file"), format!("{name}\n")).expect("a fresh directory");
    }
    let mounts = [
        "--mount=./with space:/in side",
        "--mount=type=bind,\"src=a,b\",\"dst=/x,y\"",
        "--mount=src=c:d,dst=/z:z",
        "--container-mounts=\"./a,b:/list\",./with space:/other",
    ];
    let script = "cat '/in side/file' /x,y/file /z:z/file /list/file /other/file";
    let args = [&busybox(lab), mounts[0], mounts[1], mounts[2], mounts[3], "sh", "-c", script];
    let run = lab.srun(&args).cwd(&dir).run();
    let _ = run.success().stdout_is("with space\na,b\nc:d\na,b\nwith space");
}

fn a_tmpfs_is_shared_on_a_node_and_gone_afterwards(lab: &Lab) {
    let mounts =
        ["--mount=type=tmpfs,dst=/fast,size=8m,mode=1777", "--container-mounts=tmpfs:/other:size=1m"];
    let script = "stat -c '%a %u' /fast /other >/fast/$SLURM_PROCID
        for i in $(seq 100); do [ $(ls /fast | wc -l) -ge 2 ] && break; sleep 0.1; done
        cat /fast/*; ls /fast | wc -l; dd if=/dev/zero of=/other/x bs=1M count=2; true";
    let image = busybox(lab);
    let args = ["-N2", "-n4", "--ntasks-per-node=2", &image, mounts[0], mounts[1], "sh", "-c", script];
    let run = lab.srun(&args).run().success();
    let uid = lab.account().uid;
    assert_eq!(run.stdout.matches(&format!("1777 {uid}\n700 {uid}\n")).count(), 8, "{run}");
    assert_eq!(run.stdout.lines().filter(|line| *line == "2").count(), 4, "{run}");
    assert!(run.stderr.contains("No space left on device"), "{run}");
}

fn squashfs_files_are_mounted_by_the_rule_of_images(lab: &Lab) {
    let dir = lab.fresh_dir("sets");
    let roots = lab.system_file("busybox");
    fs::copy(&roots, dir.join("set.sqsh")).expect("a fresh directory");
    lab.give(&dir.join("set.sqsh"));
    let mounts = [
        format!("--mount=type=squashfs,src={},dst=/roots", roots.display()),
        "--mount=./set.sqsh:/users:sqsh".into(),
    ];
    let before = lab.snapshot();
    let script = "cat /roots/etc/only-in-image /users/etc/only-in-image >ready; cp ready done
        grep -c -E ' /(roots squashfs|users fuse.squashfuse) ' /proc/self/mounts
        while [ ! -e stop ]; do sleep 0.1; done; touch /roots/x /users/x";
    let running = lab.srun(&[&busybox(lab), &mounts[0], &mounts[1], "sh", "-c", script]).cwd(&dir).spawn();
    let ready = wait_until(Duration::from_secs(20), || dir.join("done").exists());
    let things = before.new_things();
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let run = running.wait().failure().stdout_is("2");
    assert!(ready, "the step did not start: {run}");
    assert_eq!(run.stderr.matches("Read-only file system").count(), 2, "{run}");
    assert_eq!(fs::read_to_string(dir.join("ready")).expect("it is there"), "from the image\n".repeat(2));
    // Loop devices are not counted: one of the same file may just be going, of a step before.
    let servers = things.iter().filter(|thing| thing.contains("squashfuse_ll")).count();
    assert_eq!(servers, 1, "{things:#?}");
    before.assert_nothing_left();
    let fifo = dir.join("fifo");
    let _ = grus_tests::Cmd::new("mkfifo").arg(&fifo).run().success();
    for (name, why) in [("fifo", "it is not a file"), ("ready", "it is not a SquashFS file")] {
        let mount = format!("--mount=./{name}:/set:sqsh");
        let _ = lab.srun(&[&busybox(lab), &mount, "true"]).cwd(&dir).run().failure().stderr_has(why);
    }
    before.assert_nothing_left();
}

/// Site lines for scratch and volatile directories on a disk; only root can read the directory.
fn disk(lab: &Lab) -> String {
    let dir = lab.dir().join("disk");
    fs::create_dir_all(&dir).expect("the lab's directory");
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).expect("root may chmod");
    let dir = dir.display();
    format!(
        "scratch.dir = '{dir}'\nscratch.size-limit = '1g'\nvolatile.dir = '{dir}'\nvolatile.size = '64m'\n"
    )
}

fn a_scratch_is_private_to_the_step(lab: &Lab) {
    let before = lab.snapshot();
    lab.with_site(&disk(lab), || {
        let image = busybox(lab);
        let script = "echo $SLURM_PROCID >/scr/$SLURM_PROCID
            for i in $(seq 100); do [ $(ls /scr | wc -l) -ge 2 ] && break; sleep 0.1; done
            [ $(ls /scr | wc -l) -ge 2 ] && echo both; cd /scr; for i in $(seq 500); do echo $i >$SLURM_PROCID-$i; done
            stat -c '%a %u' .; grep -c ' /scr ext4 rw,nosuid,nodev' /proc/self/mounts";
        let mount = "--mount=type=scratch,dst=/scr,size=64m";
        let args = ["-N2", "-n4", "--ntasks-per-node=2", &image, mount, "sh", "-c", script];
        let run = lab.srun(&args).run().success();
        let lines = |wanted: &str| run.stdout.lines().filter(|line| *line == wanted).count();
        let own = format!("700 {}", lab.account().uid);
        assert_eq!((lines("both"), lines(&own), lines("1")), (4, 4, 4), "{run}");
        let full = lab.srun(&[&image, mount, "sh", "-c", "dd if=/dev/zero of=/scr/x bs=1M count=80"]).run();
        let _ = full.failure().stderr_has("No space left on device");
        let _ = lab.srun(&[&image, mount, "ls", "-A", "/scr"]).run().success().stdout_is("");
        let more = lab.srun(&[&image, "--mount=type=scratch,dst=/scr,size=2g", "true"]).run();
        let _ = more.failure().stderr_has("this site allows a step 1g altogether").stderr_has("hint: ");
    });
    before.assert_nothing_left();
    assert_eq!(fs::read_dir(lab.dir().join("disk")).expect("it is there").count(), 0);
}

fn a_scratch_that_the_site_does_not_offer_is_refused(lab: &Lab) {
    let run = lab.srun(&[&busybox(lab), "--mount=type=scratch,dst=/scr,size=1g", "true"]).run();
    let what = "test1: cannot make a scratch directory on /scr: this site offers none";
    let _ = run.exit_code(1).stderr_has(what).stderr_has("hint: use type=tmpfs");
    lab.assert_nodes_idle();
}

fn volatile_directories_on_disk(lab: &Lab) {
    let before = lab.snapshot();
    lab.with_site(&disk(lab), || {
        let image = busybox(lab);
        let volatile = ["--writable-volatile=/opt/work,/opt/data", "--writable-volatile=/opt/tools"];
        let script = "set -e
            cat /opt/work/here /opt/data/kept; echo changed >/opt/work/here; rm /opt/data/sub/deep
            cat /opt/work/here; ls /opt/data/sub; only-in-image a; rm /opt/tools/only-in-image";
        let run = lab.srun(&[&image, volatile[0], volatile[1], "sh", "-c", script]).run();
        let seen = "the image's working directory\nkept\nchanged\na tool of the image: a";
        let _ = run.success().stdout_is(seen);
        let _ = lab
            .srun(&[&image, volatile[0], "cat", "/opt/work/here"])
            .run()
            .success()
            .stdout_has("the image's");
        let full = ["sh", "-c", "dd if=/dev/zero of=/opt/work/x bs=1M count=80"];
        let run = lab.srun(&[&image, volatile[0]]).args(full).run();
        let _ = run.failure().stderr_has("No space left on device");
    });
    before.assert_nothing_left();
}

fn what_would_be_mounted_is_left_out(lab: &Lab) {
    let image = busybox(lab);
    let tmp = format!("grus-test-{}", std::process::id());
    fs::write(format!("/tmp/{tmp}"), "").expect("/tmp");
    let see = "ls /tmp; ls ~; grep -c ' /tmp ' /proc/self/mounts; true";
    fs::write(lab.account().home.join("here"), "").expect("the home is there");
    let home = format!("--mount=type=umount,dst={}", lab.account().home.display());
    let run = lab.srun(&[&image, "--container-mounts=umount:/tmp", &home, "sh", "-c", see]).run();
    fs::remove_file(format!("/tmp/{tmp}")).expect("/tmp");
    let run = run.success().stdout_lacks(&tmp).stdout_lacks("here");
    assert_eq!(run.stdout.lines().last(), Some("0"), "{run}");
    let nothing = lab.srun(&[&image, "--container-mounts=umount:/opt", "true"]).run();
    let _ = nothing.failure().stderr_has("cannot leave out /opt: nothing is mounted there");
}

fn an_optional_mount_without_a_source_is_left_out(lab: &Lab) {
    let mounts = "--container-mounts=/nowhere:/a:optional,/nowhere.sqsh:/b:sqsh+nofail";
    let run = lab.srun(&[&busybox(lab), mounts, "sh", "-c", "ls -d /a /b; echo ran"]).run();
    let _ = run.success().stdout_is("ran");
}

fn a_missing_source_names_node_and_way_out(lab: &Lab) {
    for mount in ["--mount=/nowhere:/a", "--mount=/nowhere:/a:sqsh"] {
        let run = lab.srun(&["-N2", &busybox(lab), mount, "true"]).run().exit_code(1);
        for node in ["test1", "test2"] {
            let said = run.stderr.lines().any(|line| {
                line.contains(&format!("{node}: cannot "))
                    && line.ends_with("/nowhere on /a: No such file or directory")
            });
            assert!(said, "{node}: {run}");
        }
        let _ = run
            .stderr_has("hint: check the path; it must exist on every node of the job, or pass 'optional'");
    }
    lab.assert_nodes_idle();
}

fn what_a_node_cannot_bear_is_refused_at_submission(lab: &Lab) {
    let sets: Vec<String> = (0..17).map(|n| format!("/set:/set{n}:sqsh")).collect();
    let mounts = format!("--container-mounts={}", sets.join(","));
    let run = lab.srun(&[&busybox(lab), &mounts, "true"]).run().failure();
    let _ = run.stderr_has("more than 16 SquashFS files are to be mounted").stderr_lacks("test1");
}

fn a_cancelled_step_with_everything_leaves_nothing(lab: &Lab) {
    let before = lab.snapshot();
    lab.with_site(&disk(lab), || {
        for round in 0..4 {
            let dir = lab.fresh_dir("everything");
            fs::copy(lab.system_file("busybox"), dir.join("set.sqsh")).expect("a fresh directory");
            lab.give(&dir.join("set.sqsh"));
            let script = "echo $SLURM_JOB_ID >started; while :; do sleep 0.2; done";
            let mounts = "--container-mounts=tmpfs:/t,./set.sqsh:/s:sqsh";
            let scratch = "--mount=type=scratch,dst=/scr,size=64m";
            let volatile = "--writable-volatile=/opt/work";
            let args = [&busybox(lab), mounts, scratch, volatile, "sh", "-c", script];
            let running = lab.srun(&args).cwd(&dir).spawn();
            let job = || fs::read_to_string(dir.join("started")).unwrap_or_default();
            let started = wait_until(Duration::from_secs(60), || job().ends_with('\n'));
            let signal = ["TERM", "KILL"][round % 2];
            let _ = lab.user("scancel").arg(format!("--signal={signal}")).arg(job().trim()).run().success();
            let run = running.wait().failure();
            assert!(started, "{run}");
        }
    });
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}
