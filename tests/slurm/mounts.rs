//! What a container is made of: the image, the host's directories, the user's binds, volatile directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use grus_tests::daemon::wait_until;

use crate::lab::Lab;

crate::tests![
    tasks_see_the_image_and_cannot_change_it,
    a_system_image_is_mounted_by_the_kernel,
    a_users_own_image_is_served_by_fuse,
    proc_sys_and_dev_are_the_nodes,
    home_workdir_and_tmp_are_the_hosts,
    the_user_switches_home_and_workdir_off,
    the_site_switches_home_workdir_and_tmp_off,
    a_bind_in_dockers_syntax,
    a_bind_in_the_short_syntax,
    a_file_is_bound_on_a_file,
    a_relative_source_is_the_submitting_directorys,
    a_missing_destination_is_made,
    a_read_only_bind_covers_what_is_mounted_below,
    a_destination_behind_links_stays_in_the_image,
    a_volatile_directory_keeps_what_it_is,
    a_volatile_directory_is_shared_on_a_node_and_gone_afterwards,
    nothing_in_the_container_gains_privileges,
];

const IN_IMAGE: &str = "Crane 1 (busybox)";

fn tasks_see_the_image_and_cannot_change_it(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let run = lab.srun(&["-N2", &image, "grep", "PRETTY_NAME", "/etc/os-release"]).run().success();
    assert_eq!(run.stdout.matches(IN_IMAGE).count(), 2, "{run}");
    let _ = lab.srun(&[&image, "touch", "/etc/new"]).run().failure().stderr_has("Read-only file system");
    let _ =
        lab.srun(&[&image, "test", "-e", lab.site_file().to_str().expect("a plain path")]).run().exit_code(1);
}

fn a_system_image_is_mounted_by_the_kernel(lab: &Lab) {
    let things = things_of_a_running_step(lab, &lab.system_image("busybox"));
    assert!(things.contains("loop device"), "{things}");
    assert!(!things.contains("squashfuse"), "{things}");
}

fn a_users_own_image_is_served_by_fuse(lab: &Lab) {
    let reference = lab.pushed_image("busybox");
    let _ = lab.grus(&["pull", &reference]).run().success();
    let things = things_of_a_running_step(lab, &reference);
    assert!(things.contains("squashfuse_ll"), "{things}");
    assert!(!things.contains("loop device"), "{things}");
}

/// What there is while a step runs in `image`; nothing of it may be there afterwards.
fn things_of_a_running_step(lab: &Lab, image: &str) -> String {
    let dir = lab.fresh_dir("running");
    let image = format!("--container-image={image}");
    let before = lab.snapshot();
    let script = "grep -q Crane /etc/os-release && touch ready; while [ ! -e stop ]; do sleep 0.1; done";
    let running = lab.srun(&[&image, "sh", "-c", script]).cwd(&dir).spawn();
    let ready = wait_until(Duration::from_secs(20), || dir.join("ready").exists());
    let things = before.new_things().join("\n");
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let _ = running.wait().success();
    assert!(ready, "the step did not start");
    before.assert_nothing_left();
    things
}

fn proc_sys_and_dev_are_the_nodes(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let script = "set -e
        test -d /proc/$$/fd
        echo gone >/dev/null
        touch /dev/shm/grus-test-$SLURM_JOB_ID; rm /dev/shm/grus-test-$SLURM_JOB_ID
        test -e /dev/pts/ptmx
        grep ' /sys ' /proc/self/mounts";
    let run = lab.srun(&[&image, "sh", "-c", script]).run().success();
    let options = run.stdout.split(' ').nth(3).unwrap_or_default().to_owned();
    let _ = run.check(options.split(',').any(|o| o == "ro"), "a read-only /sys");
}

fn home_workdir_and_tmp_are_the_hosts(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("workdir");
    let tmp = format!("/tmp/grus-test-{}", std::process::id());
    let script = format!("pwd; echo w >from-inside; echo h >~/from-inside; echo t >{tmp}");
    let run = lab.srun(&[&image, "sh", "-c", &script]).cwd(&dir).run().success();
    let _ = run.stdout_is(dir.to_str().expect("a plain path"));
    for file in [dir.join("from-inside"), lab.account().home.join("from-inside"), tmp.into()] {
        let meta = fs::metadata(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(meta.uid(), lab.account().uid, "{}", file.display());
        fs::remove_file(file).expect("root may remove it");
    }
}

fn the_user_switches_home_and_workdir_off(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("hidden");
    fs::write(dir.join("here"), "").expect("a fresh directory");
    let home = lab.account().home.display().to_string();
    fs::write(lab.account().home.join("here"), "").expect("the home is there");
    let see = format!("ls {home} {} 2>&1; pwd", dir.display());
    let both = lab.srun(&[&image, "sh", "-c", &see]).cwd(&dir).run().success();
    assert_eq!(both.stdout.matches("here").count(), 2, "{both}");
    let off = ["--no-container-mount-home", "--no-container-mount-workdir", &image, "sh", "-c", &see];
    let neither = lab.srun(&off).cwd(&dir).run();
    assert!(!neither.stdout.lines().any(|line| line == "here"), "{neither}");
    // The image's WorkingDir.
    let _ = neither.stdout_has("/opt/work\n");
}

fn the_site_switches_home_workdir_and_tmp_off(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("hidden-by-site");
    fs::write(dir.join("here"), "").expect("a fresh directory");
    fs::write(lab.account().home.join("here"), "").expect("the home is there");
    let home = lab.account().home.display().to_string();
    let see = format!("ls {home} {} 2>&1; grep -c ' /tmp ' /proc/self/mounts; true", dir.display());
    let site = "mounts.home = false\nmounts.workdir = false\nmounts.tmp = false\n";
    lab.with_site(site, || {
        let run = lab.srun(&[&image, "sh", "-c", &see]).cwd(&dir).run().success();
        assert!(!run.stdout.lines().any(|line| line == "here"), "{run}");
        assert_eq!(run.stdout.lines().last(), Some("0"), "/tmp is still mounted: {run}");
        let on = ["--container-mount-home", "--container-mount-workdir", &image, "sh", "-c", &see];
        let run = lab.srun(&on).cwd(&dir).run().success();
        assert_eq!(run.stdout.matches("here").count(), 2, "the user may ask for both: {run}");
    });
}

fn a_bind_in_dockers_syntax(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("docker-syntax");
    fs::write(dir.join("file"), "content\n").expect("a fresh directory");
    let dir = dir.display();
    let forms = [
        (format!("type=bind,source={dir},destination=/mnt"), true),
        (format!("type=bind,src={dir},dst=/mnt,readonly"), false),
        (format!("type=bind,target=/mnt,src={dir},ro"), false),
        (format!("src={dir},dst=/mnt,type=bind,readonly=false"), true),
    ];
    for (form, writable) in forms {
        let mount = format!("--mount={form}");
        let script = "cat /mnt/file; touch /mnt/new 2>/dev/null && echo writable; true";
        let run = lab.srun(&[&image, &mount, "sh", "-c", script]).run().success().stdout_has("content");
        assert_eq!(run.stdout.contains("writable"), writable, "{form}: {run}");
    }
}

fn a_bind_in_the_short_syntax(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let (one, two) = (lab.fresh_dir("short-one"), lab.fresh_dir("short-two"));
    let mounts = [
        format!("--mount={}", one.display()),
        format!("--mount={}:/mnt/two:ro", two.display()),
        format!("--mount={}:/mnt/three", two.display()),
    ];
    let script = format!(
        "touch {}/a && touch /mnt/three/b && ! touch /mnt/two/c 2>/dev/null && ls /mnt/two",
        one.display()
    );
    let run = lab.srun(&[&image, &mounts[0], &mounts[1], &mounts[2], "sh", "-c", &script]).run();
    let _ = run.success().stdout_is("b");
    assert!(one.join("a").exists());
}

fn a_file_is_bound_on_a_file(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("file-on-file");
    fs::write(dir.join("file"), "the host's\n").expect("a fresh directory");
    let mount = format!("--mount={}:/etc/only-in-image:ro", dir.join("file").display());
    let _ = lab.srun(&[&image, &mount, "cat", "/etc/only-in-image"]).run().success().stdout_is("the host's");
}

fn a_relative_source_is_the_submitting_directorys(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("relative");
    fs::create_dir(dir.join("data")).expect("a fresh directory");
    fs::write(dir.join("data/file"), "found\n").expect("a fresh directory");
    let run = lab.srun(&[&image, "--mount=./data:/mnt", "cat", "/mnt/file"]).cwd(&dir).run();
    let _ = run.success().stdout_is("found");
}

fn a_missing_destination_is_made(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("made");
    fs::write(dir.join("file"), "found\n").expect("a fresh directory");
    let deep = format!("--mount={}:/not/in/the/image", dir.display());
    let file = format!("--mount={}:/opt/new-file", dir.join("file").display());
    let script = "cat /not/in/the/image/file /opt/new-file; stat -c %a /opt /etc /opt/data; ls /opt/work";
    let run = lab.srun(&[&image, &deep, &file, "sh", "-c", script]).run().success();
    // What the image has keeps its modes and contents beside what is new.
    let _ = run.stdout_is("found\nfound\n755\n755\n2750\nhere\nsecret");
}

fn a_read_only_bind_covers_what_is_mounted_below(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    // /dev has mounts below it (/dev/shm): a flag on the top mount alone would leave them writable.
    let run =
        lab.srun(&[&image, "--mount=/dev:/mnt:ro", "sh", "-c", "ls /mnt/shm >/dev/null && touch /mnt/shm/x"]);
    let _ = run.run().failure().stderr_has("Read-only file system");
}

fn a_destination_behind_links_stays_in_the_image(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("tmp-link"));
    let dir = lab.fresh_dir("linked");
    fs::write(dir.join("file"), "found\n").expect("a fresh directory");
    let before: Vec<_> = fs::read_dir("/etc").expect("a host has /etc").flatten().map(|e| e.path()).collect();
    // /hostile leads to /../../../etc: the image's own /etc, never the host's.
    let mount = format!("--mount={}:/hostile/grus-test", dir.display());
    let run = lab.srun(&[&image, &mount, "cat", "/etc/grus-test/file"]).run();
    let _ = run.success().stdout_is("found");
    let after: Vec<_> = fs::read_dir("/etc").expect("a host has /etc").flatten().map(|e| e.path()).collect();
    assert_eq!(before, after, "the host's /etc changed");
}

fn a_volatile_directory_keeps_what_it_is(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    // The group's bits are cut out: they show the mask of the access list that lets the user in (acl(5)).
    let look = "stat -c '%n %u %g %A' /opt/data /opt/work /opt/work/here /opt/work/secret | sed 's/...\\(...\\)$/\\1/'
        cat /opt/work/here";
    let plain =
        lab.srun(&[&image, "sh", "-c", look]).run().success().stdout_has("/opt/data 1234 5678 drwx---");
    let volatile = ["--writable-volatile=/opt/data,/opt/work", "--writable-volatile=/opt/tools"];
    let run = lab.srun(&[&image, volatile[0], volatile[1], "sh", "-c", look]).run().success();
    assert_eq!(plain.stdout, run.stdout, "names, owners, modes and contents, with and without");
    let change = "set -e
        echo new >/opt/work/new; echo changed >/opt/work/here; rm /opt/tools/only-in-image
        mkdir /opt/tools/dir; cat /opt/work/new /opt/work/here";
    let run = lab.srun(&[&image, volatile[0], volatile[1], "sh", "-c", change]).run();
    let _ = run.success().stdout_is("new\nchanged");
    let _ = lab.srun(&[&image, volatile[0], "touch", "/opt/tools/x"]).run().failure().stderr_has("Read-only");
}

fn a_volatile_directory_is_shared_on_a_node_and_gone_afterwards(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let script = "echo $SLURM_PROCID >/opt/work/rank-$SLURM_PROCID
        for i in $(seq 100); do [ $(ls /opt/work | grep -c rank-) -ge 2 ] && break; sleep 0.1; done
        ls /opt/work | grep rank- | tr '\\n' ' '; echo on $SLURMD_NODENAME";
    let args =
        ["-N2", "-n4", "--ntasks-per-node=2", &image, "--writable-volatile=/opt/work", "sh", "-c", script];
    let run = lab.srun(&args).run().success();
    let first = "rank-0 rank-1 on test1";
    let second = "rank-2 rank-3 on test2";
    assert_eq!(run.sorted_lines(), [first, first, second, second], "{run}");
    let _ = lab.srun(&["-N2", &image, "ls", "/opt/work"]).run().success().stdout_lacks("rank");
}

fn nothing_in_the_container_gains_privileges(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("torture"));
    let dir = lab.fresh_dir("setuid");
    fs::copy("/bin/busybox", dir.join("busybox")).expect("busybox is there");
    fs::set_permissions(dir.join("busybox"), PermissionsExt::from_mode(0o4755)).expect("root may chmod");
    let busybox = format!("--mount={}:/busybox", dir.join("busybox").display());
    let run = lab.srun(&[&image, &busybox, "/busybox", "id", "-u"]).run().success();
    let _ = run.stdout_is(&lab.account().uid.to_string());
    let run = lab.srun(&[
        &image,
        &busybox,
        "/busybox",
        "grep",
        "-E",
        "NoNewPrivs|CapEff|CapPrm",
        "/proc/self/status",
    ]);
    let run = run.run().success().stdout_has("NoNewPrivs:\t1");
    let _ = run.stdout_has("CapEff:\t0000000000000000").stdout_has("CapPrm:\t0000000000000000");
    // The device nodes of the image are dead: /t/null is a copy of /dev/null.
    let _ = lab.srun(&[&image, &busybox, "/busybox", "sh", "-c", "echo x >/t/null"]).run().failure();
}
