//! `--container-save`: what is written, by whom, when, and what is never touched.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::Cmd;

use crate::lab::Lab;

crate::tests![
    a_container_that_cannot_change_is_copied,
    changes_are_saved_and_mounts_are_not,
    a_saved_image_is_what_the_image_was,
    a_users_own_image_is_saved_too,
    the_first_node_saves,
    a_file_of_the_name_is_replaced_and_nothing_else_is,
    a_step_that_is_cancelled_saves_nothing,
    cancelling_ends_the_saving_too,
    who_keeps_what_the_program_writes_to_does_not_keep_the_step,
    a_full_disk_leaves_nothing,
    a_batch_jobs_steps_save,
    a_writable_and_a_named_container_are_saved_whole,
];

/// Makes what takes a while to save.
pub const BIG: &str = "dd if=/dev/urandom of=/opt/big bs=1M count=200 2>/dev/null";

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

/// `ls -la`, as unsquashfs shows it, of what matches.
fn listed(image: &Path, paths: &[&str]) -> String {
    let list = Cmd::new("unsquashfs").args(["-lln", "-d", ""]).arg(image).args(paths).run().success();
    list.stdout
}

fn content(image: &Path, path: &str) -> String {
    Cmd::new("unsquashfs").arg("-cat").arg(image).arg(path).run().success().stdout
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn a_container_that_cannot_change_is_copied(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("save-copy");
    let run = lab.srun(&[&image, "--container-save=./copy.squashfs", "true"]).cwd(&dir).run().success();
    let _ = run.stderr_has("saved ").stderr_has("/save-copy/copy.squashfs (");
    let copy = dir.join("copy.squashfs");
    assert!(fs::read(&copy).expect("a copy") == fs::read(lab.system_file("busybox")).expect("an image"));
    assert_eq!(fs::metadata(&copy).expect("a copy").uid(), lab.account().uid);
    assert_eq!(names(&dir), ["copy.json", "copy.squashfs"]);
    // Its environment goes with it.
    let run =
        lab.srun(&["--container-image=./copy.squashfs", "sh", "-c", "echo $IMAGE_NAME"]).cwd(&dir).run();
    let _ = run.success().stdout_is("busybox");
    lab.assert_nodes_idle();
}

fn changes_are_saved_and_mounts_are_not(lab: &Lab) {
    let before = lab.snapshot();
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let dir = lab.fresh_dir("save-changes");
    fs::write(dir.join("host"), "the host's\n").expect("a fresh directory");
    let mount = format!("--mount={}:/opt/work/mounted", dir.display());
    let change = "set -e
        test -f /opt/work/mounted/host
        echo new >/opt/work/new; echo changed >/opt/work/here; rm /opt/tools/only-in-image
        ln /opt/work/new /opt/work/also-new; ln -s new /opt/work/link; mkdir -m 750 /opt/work/dir
        truncate -s 3M /opt/work/hole; mkdir /opt/work/other; chmod 700 /opt/work/dir";
    let args =
        [&image, &mount, "--writable-volatile=/opt", "--container-save=changed.squashfs", "sh", "-c", change];
    let run = lab.srun(&args).cwd(&dir).run().success();
    let _ = run.stderr_has("saved ").stderr_lacks("not in");
    let saved = dir.join("changed.squashfs");
    assert_eq!(content(&saved, "opt/work/new"), "new\n");
    assert_eq!(content(&saved, "opt/work/here"), "changed\n");
    // Readable for the user in the container, so it is in the image; and as secret as it was.
    assert_eq!(content(&saved, "opt/work/secret"), "of root alone\n");
    let all = listed(&saved, &[]);
    for (line, why) in [
        ("drwx------ 0/0", "root's home, which the user may not read"),
        ("-rw------- 0/0", "a secret file"),
        ("drwxr-s--- 1234/5678", "set-group-id, group without write"),
        ("-rw-r----- 1234/5678", "a group's file"),
    ] {
        assert!(all.contains(line), "{why}: no {line} in\n{all}");
    }
    for (path, there) in [
        ("/opt/work/mounted", false),
        ("/opt/tools/only-in-image", false),
        ("/etc/only-in-image", true),
        ("/opt/work/link -> new", true),
        ("/opt/work/other", true),
        ("/root", true),
        ("/etc/hosts", false),
        ("/bin/sh", true),
        (&text(&dir), false),
    ] {
        let line = all.lines().any(|line| line.ends_with(path) || line.contains(&format!(" {path} ->")));
        assert_eq!(line, there, "{path} in\n{all}");
    }
    assert!(fs::metadata(&saved).expect("an image").size() < 8 << 20, "holes are holes");
    before.assert_nothing_left();
}

/// Entry for entry, in owner, mode and content, but for what was changed.
fn a_saved_image_is_what_the_image_was(lab: &Lab) {
    for image in ["busybox", "debian"] {
        let dir = lab.fresh_dir("save-same");
        let option = format!("--container-image={}", lab.system_image(image));
        let volatile =
            if image == "debian" { "--writable-volatile=/usr,/etc" } else { "--writable-volatile=/opt,/etc" };
        let run = lab.srun(&[&option, volatile, "--container-save=same.squashfs", "true"]).cwd(&dir).run();
        let _ = run.success().stderr_has("saved ");
        let list = |file: &Path| -> BTreeSet<String> {
            let line = |line: &str| match line.starts_with('d') {
                // Sizes of directories are the writer's own business, and where Grus made a mount point, the time of the
                // directory is that of the launch.
                true => {
                    let words = line.split_whitespace().enumerate();
                    words
                        .filter(|(i, _)| !(2..5).contains(i))
                        .map(|(_, word)| word)
                        .collect::<Vec<_>>()
                        .join(" ")
                }
                false => line.to_owned(),
            };
            listed(file, &[]).lines().map(line).collect()
        };
        let (was, is) = (list(&lab.system_file(image)), list(&dir.join("same.squashfs")));
        let differ: Vec<_> = was.symmetric_difference(&is).collect();
        assert!(differ.is_empty(), "{image}: {differ:#?}");
    }
}

fn a_users_own_image_is_saved_too(lab: &Lab) {
    let before = lab.snapshot();
    let reference = lab.pushed_image("busybox");
    let dir = lab.fresh_dir("save-fuse");
    let option = format!("--container-image={reference}");
    let args =
        [&option, "--writable-volatile=/opt/work", "--container-save=own.squashfs", "touch", "/opt/work/x"];
    let _ = lab.srun(&args).cwd(&dir).run().success().stderr_has("saved ");
    let run = lab.srun(&["--container-image=./own.squashfs", "ls", "/opt/work"]).cwd(&dir).run();
    let _ = run.success().stdout_is("here\nsecret\nx");
    before.assert_nothing_left();
}

fn the_first_node_saves(lab: &Lab) {
    let dir = lab.fresh_dir("save-first");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let script = "sleep 0.$SLURM_PROCID; echo $SLURMD_NODENAME.$SLURM_PROCID >>/opt/work/nodes";
    let args = ["-N2", "-n4", "-O", &image, "--writable-volatile=/opt", "--container-save=one.squashfs"];
    let run = lab.srun(&args).args(["sh", "-c", script]).cwd(&dir).run().success();
    assert_eq!(run.stderr.matches("saved ").count(), 1, "{run}");
    let node = lab.node(1);
    assert_eq!(content(&dir.join("one.squashfs"), "opt/work/nodes"), format!("{node}.0\n{node}.1\n"));
}

fn a_file_of_the_name_is_replaced_and_nothing_else_is(lab: &Lab) {
    let dir = lab.fresh_dir("save-targets");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let make = |name: &str| {
        fs::write(dir.join(name), "precious").expect("a fresh directory");
        lab.give(&dir.join(name));
    };
    fs::create_dir(dir.join("dir")).expect("a fresh directory");
    make("dir/inside");
    make("old.squashfs");
    make("data.json");
    symlink("old.squashfs", dir.join("link.squashfs")).expect("a fresh directory");
    symlink("dir", dir.join("dirlink")).expect("a fresh directory");
    fs::create_dir(dir.join("closed")).expect("a fresh directory");
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o755)).expect("a fresh directory");
    for (file, why) in [
        ("dir", "it is there and no regular file"),
        ("link.squashfs", "it is a symbolic link"),
        ("dirlink", "it is a symbolic link"),
        ("data.squashfs", "where its metadata go, is something else"),
        ("closed/x.squashfs", "Permission denied"),
        ("missing/x.squashfs", "is no directory here"),
        ("x.json", "its ending is that of the metadata"),
        ("dir/", "it names no file"),
        (".", "it names no file"),
    ] {
        let save = format!("--container-save={file}");
        // Told before any work is done.
        let run = lab.srun(&[&image, &save, "echo", "worked"]).cwd(&dir).run().failure();
        let _ = run.stderr_has(why).stderr_has("hint: ").stdout_lacks("worked");
    }
    let run = lab.srun(&[&image, "--container-save=old.squashfs", "true"]).cwd(&dir).run().success();
    let _ = run.stderr_has("saved ");
    let _ = lab.srun(&["--container-image=./old.squashfs", "true"]).cwd(&dir).run().success();
    // Once more, over itself, with its metadata there.
    let args = ["--container-image=./old.squashfs", "--container-save=old.squashfs", "true"];
    let _ = lab.srun(&args).cwd(&dir).run().success().stderr_has("saved ");
    let found = names(&dir);
    assert_eq!(
        found,
        ["closed", "data.json", "dir", "dirlink", "link.squashfs", "old.json", "old.squashfs"],
        "no more and no less"
    );
    for kept in ["dir/inside", "data.json"] {
        assert_eq!(fs::read_to_string(dir.join(kept)).expect("untouched"), "precious");
    }
    lab.assert_nodes_idle();
}

/// Cancels the user's jobs when `when` holds.
fn cancelled_when(
    lab: &Lab,
    dir: &Path,
    args: &[&str],
    when: impl Fn() -> bool,
) -> grus_tests::command::Output {
    let running = lab.srun(args).cwd(dir).spawn();
    let begun = wait_until(Duration::from_secs(30), when);
    let _ = lab.user("scancel").arg(format!("--user={}", lab.account().name)).run().success();
    let output = running.wait();
    assert!(begun, "it did not get so far: {output}");
    output
}

fn a_step_that_is_cancelled_saves_nothing(lab: &Lab) {
    let dir = lab.fresh_dir("save-cancelled");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let args = [
        &image,
        "--writable-volatile=/opt",
        "--container-save=x.squashfs",
        "sh",
        "-c",
        "touch ready; sleep 60",
    ];
    let output = cancelled_when(lab, &dir, &args, || dir.join("ready").exists());
    let _ = output.failure().stderr_lacks(": saved ");
    // srun has gone by the time that a step's last words come; they are in the log.
    let log = fs::read_to_string(lab.dir().join(format!("log/slurmd-{}.log", lab.node(1)))).expect("a log");
    let told = "save-cancelled/x.squashfs: the step was cancelled or killed";
    assert!(log.contains(told), "{log}");
    assert_eq!(names(&dir), ["ready"]);
    lab.assert_nodes_idle();
}

/// A program that is saving a container, by its directory in /proc. Not any `grus`: one may be asked about the image's MPI
/// when the step is submitted.
pub fn saver() -> Option<PathBuf> {
    let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path());
    processes.find(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("\0save-container\0")
    })
}

fn cancelling_ends_the_saving_too(lab: &Lab) {
    let before = lab.snapshot();
    let dir = lab.fresh_dir("save-interrupted");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let args = [&image, "--writable-volatile=/opt", "--container-save=x.squashfs", "sh", "-c", BIG];
    // The tasks have ended, and well; what srun makes of a step that is then cancelled differs from run to run.
    let _ = cancelled_when(lab, &dir, &args, || saver().is_some()).stderr_lacks(": saved ");
    lab.assert_nodes_idle();
    assert_eq!(names(&dir), Vec::<String>::new(), "nothing of an unfinished file");
    before.assert_nothing_left();
}

/// Takes what the program that saves writes to (pidfd_getfd(2)), and keeps it; or writes to it without end.
const KEEPER: &str = r#"
    #include <dirent.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    int main(int argc, char **argv) {
        static char words[4096], path[300], noise[4096];
        memset(noise, 'x', sizeof noise);
        signal(SIGPIPE, SIG_IGN);
        for (int got = -1;;) {
            DIR *all = opendir("/proc");
            for (struct dirent *entry; got < 0 && (entry = readdir(all));) {
                snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
                FILE *file = fopen(path, "r");
                memset(words, 0, sizeof words);
                if (file && fread(words, 1, 4000, file) && !strcmp(words + strlen(words) + 1, "save-container"))
                    got = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, atoi(entry->d_name), 0), 1, 0);
                if (file)
                    fclose(file);
            }
            closedir(all);
            if (got < 0)
                continue;
            fclose(fopen(argv[1], "w"));
            while (argv[2] && write(got, noise, sizeof noise) > 0)
                ;
            return sleep(100);
        }
    }
"#;

/// Processes of another step of the user's, which may do with the program what the user may.
fn who_keeps_what_the_program_writes_to_does_not_keep_the_step(lab: &Lab) {
    let before = lab.snapshot();
    let dir = lab.fresh_dir("save-keeper");
    let (file, program) = (dir.join("keeper.c"), dir.join("keeper"));
    fs::write(&file, KEEPER).expect("a fresh directory");
    let _ = Cmd::new("cc").arg("-o").arg(&program).arg(&file).run().success();
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let args = [&image, "--writable-volatile=/opt", "--container-save=x.squashfs", "sh", "-c", BIG];
    for (way, said) in [(None, ": saved "), (Some("flood"), "it says more than 1 MiB")] {
        let kept = dir.join(format!("kept-{}", way.unwrap_or_default()));
        let keeper = Cmd::as_user(lab.account(), &program).arg(&kept).args(way).spawn();
        let run = lab.srun(&args).cwd(&dir).limit(Duration::from_secs(60)).run();
        keeper.signal(rustix::process::Signal::KILL);
        let _ = keeper.wait().killed_by(9);
        assert!(kept.exists(), "nothing was kept");
        let _ = run.success().stderr_has(said);
    }
    lab.assert_nodes_idle();
    before.assert_nothing_left();
}

fn a_full_disk_leaves_nothing(lab: &Lab) {
    let dir = lab.fresh_dir("save-full");
    let mount = ["-t", "tmpfs", "-o", "size=8m,mode=0777", "grus-test"];
    let _ = Cmd::new("mount").args(mount).arg(&dir).run().success();
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let args = [&image, "--writable-volatile=/opt", "--container-save=x.squashfs", "sh", "-c", BIG];
    let run = lab.srun(&args).cwd(&dir).run();
    let left = names(&dir);
    let _ = Cmd::new("umount").arg("--lazy").arg(&dir).run().success();
    // The tasks have ended well by then.
    let _ = run.success().stderr_has("not saved").stderr_has("No space left on device").stderr_has("hint: ");
    assert_eq!(left, Vec::<String>::new());
    lab.assert_nodes_idle();
}

fn a_batch_jobs_steps_save(lab: &Lab) {
    let dir = lab.fresh_dir("save-batch");
    let image = lab.system_image("busybox");
    let script = format!(
        "#!/bin/sh\n#SBATCH --container-image={image}\n#SBATCH --writable-volatile=/opt\n\
         srun --container-save={0}/a.squashfs touch /opt/a\n\
         srun --container-image={0}/a.squashfs --container-save={0}/b.squashfs touch /opt/b\n\
         srun --container-image={0}/b.squashfs ls /opt\n",
        dir.display()
    );
    let end = lab.sbatch(&[], &script).wait(Duration::from_secs(60)).completed();
    let _ = end.output_has("/a.squashfs (").output_has("/b.squashfs (").output_has("a\nb\ndata\n");
}

fn a_writable_and_a_named_container_are_saved_whole(lab: &Lab) {
    let dir = lab.fresh_dir("save-whole");
    let image = lab.system_image("busybox");
    let change = "rm /etc/only-in-image; echo new >/etc/new; mkdir /mine; test -r /proc/self/status";
    let script = format!(
        "#!/bin/sh\n#SBATCH --container-image={image}\ncd {0}\n\
         srun --container-writable --container-save=writable.squashfs sh -c '{change}'\n\
         srun --container-name=kept sh -c '{change}'\n\
         srun --container-name=kept --container-save=named.squashfs touch /etc/newer\n",
        dir.display()
    );
    let _ = lab.sbatch(&[], &script).wait(Duration::from_secs(60)).completed();
    for (file, newer) in [("writable.squashfs", false), ("named.squashfs", true)] {
        let saved = dir.join(file);
        assert_eq!(content(&saved, "etc/new"), "new\n", "{file}");
        let all = listed(&saved, &[]);
        let there = |path: &str| all.lines().any(|line| line.ends_with(path));
        for (path, wanted) in [
            ("/etc/only-in-image", false),
            ("/etc/newer", newer),
            ("/mine", true),
            ("/opt/data/sub/deep", true),
            ("/proc/self", false),
            // Empty: a mount point that an earlier step left in the container that is kept.
            (&text(&dir), newer),
        ] {
            assert_eq!(there(path), wanted, "{file}: {path} in\n{all}");
        }
        // Access lists that let the user in are not the image's: what was root's alone is so again.
        assert!(all.contains("drwx------ 0/0") && all.contains("drwxr-s--- 1234/5678"), "{file}:\n{all}");
        let image = format!("--container-image={}", saved.display());
        let run = lab.srun(&[&image, "sh", "-c", "cat /etc/new; echo $IMAGE_NAME"]).run().success();
        let _ = run.stdout_is("new\nbusybox");
    }
}
