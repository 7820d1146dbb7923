//! --container-remap-root: root in name, and no right more than the user has.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use crate::lab::Lab;

crate::tests![
    nothing_of_the_nodes_root_can_be_touched,
    nothing_of_the_node_can_be_changed,
    mounts_and_namespaces_stay_as_they_are,
    no_group_is_dropped_or_gained,
    the_user_is_shown_as_root,
    groups_keep_their_names,
    files_belong_to_the_user,
    changes_of_owner_and_identity_appear_to_succeed,
    volatile_directories_are_writable,
    a_batch_script_is_root_too,
    output_signals_and_exit_codes_are_as_ever,
    the_site_may_make_it_the_default,
];

/// A script that runs each line and says which of them succeeded.
fn attempts(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("({line}) >/dev/null 2>&1 && echo 'done: {line}';\n")).collect::<String>()
        + "true"
}

fn root(lab: &Lab, options: &[&str], script: &str) -> grus_tests::Output {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    lab.srun(&[&image, "--container-remap-root"]).args(options).args(["sh", "-c", script]).run()
}

fn nothing_of_the_nodes_root_can_be_touched(lab: &Lab) {
    let dir = lab.fresh_dir("roots");
    fs::write(dir.join("secret"), "secret\n").expect("a fresh directory");
    fs::write(dir.join("shown"), "as it was\n").expect("a fresh directory");
    for (name, mode) in [("secret", 0o600), ("shown", 0o644)] {
        fs::set_permissions(dir.join(name), PermissionsExt::from_mode(mode)).expect("root may chmod");
        std::os::unix::fs::chown(dir.join(name), Some(0), Some(0)).expect("root may chown");
    }
    let at = dir.display();
    let script = attempts(&[
        "cat /host-etc/shadow",
        &format!("cat {at}/secret"),
        &format!("echo changed >> {at}/shown"),
        &format!("chmod 666 {at}/shown"),
        &format!("chmod 4755 {at}/shown"),
        "echo x >> /etc/hosts",
        "echo x >> /etc/passwd",
        "touch /etc/new",
        "cat /opt/work/secret",
        "kill -0 1",
        "cat /proc/1/environ",
        "ls /proc/1/root/",
    ]);
    let run = root(lab, &["--mount=/etc:/host-etc:ro"], &script).success().stdout_is("");
    let _ = run.stderr_lacks("grus");
    let _ = root(lab, &[], &format!("chown 12345:12345 {at}/shown")).success();
    let shown = fs::metadata(dir.join("shown")).expect("still there");
    assert_eq!((shown.uid(), shown.gid(), shown.mode() & 0o7777), (0, 0, 0o644));
    assert_eq!(fs::read_to_string(dir.join("shown")).expect("still there"), "as it was\n");
}

fn nothing_of_the_node_can_be_changed(lab: &Lab) {
    let script = attempts(&[
        "hostname other",
        "echo other > /proc/sys/kernel/hostname",
        "echo 1 > /proc/sys/kernel/sysrq",
        "ip link set lo down",
        "ip link add dummy9 type dummy",
        "ip tuntap add tap9 mode tap",
        "mknod /tmp/grus-node b 7 0",
        "nice -n -5 true",
        "renice -n -5 1",
        "swapoff -a",
        "insmod /nothing; test $? = 0",
        "dmesg -c",
    ]);
    let _ = root(lab, &[], &script).success().stdout_is("");
    let capable = "grep -E 'NoNewPrivs|Seccomp:|Uid' /proc/self/status; cat /proc/self/setgroups; cat /proc/self/uid_map";
    let run = root(lab, &[], capable).success().stdout_has("NoNewPrivs:\t1").stdout_has("Seccomp:\t2");
    let map = format!("0 {} 1", lab.account().uid);
    let shown: Vec<String> =
        run.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(shown.contains(&map) && shown.contains(&"deny".to_owned()), "{run}");
}

fn mounts_and_namespaces_stay_as_they_are(lab: &Lab) {
    let script = attempts(&[
        "mount -t tmpfs none /mnt",
        "mount --bind /tmp /mnt",
        "mount -o remount,rw /",
        "mount -o remount,suid,dev /tmp",
        "umount /etc/passwd",
        "umount -l /proc",
        "pivot_root /tmp /tmp",
        "nsenter --mount=/proc/1/ns/mnt true",
        "nsenter -t 1 -m true",
        "nsenter -t $PPID -m true",
        // In a mount namespace of one's own, as any user may have one, nothing that covers the image comes off.
        "unshare -m umount /etc/passwd",
        "unshare -m umount -l /etc/hosts",
        "unshare -m mount -o remount,rw,bind /sys",
        "unshare -m mount -o remount,rw,bind /etc/hosts",
        "unshare -m mount -o remount,suid,bind /tmp",
        "unshare -m mount -t squashfs /dev/loop0 /mnt",
        "unshare -m mount -t ext4 /dev/loop0 /mnt",
    ]);
    let _ = root(lab, &[], &script).success().stdout_is("");
}

fn no_group_is_dropped_or_gained(lab: &Lab) {
    let dir = lab.fresh_dir("groups");
    let [a, _] = lab.account().extra_groups();
    let gid = grus_tests::Cmd::new("getent").args(["group", &a]).run().success();
    let gid: u32 = gid.trimmed().split(':').nth(2).and_then(|gid| gid.parse().ok()).expect("a group");
    // Members are shut out, everybody else may read; and the other way round for a group that is not the user's.
    for (name, group, mode) in [("shut-out", gid, 0o604), ("not-mine", 1, 0o640), ("mine", gid, 0o640)] {
        fs::write(dir.join(name), "x\n").expect("a fresh directory");
        std::os::unix::fs::chown(dir.join(name), Some(0), Some(group)).expect("root may chown");
        fs::set_permissions(dir.join(name), PermissionsExt::from_mode(mode)).expect("root may chmod");
    }
    let at = dir.display();
    let read = |name: &str, by: &str| format!("{by} cat {at}/{name}");
    let lines = [
        read("shut-out", ""),
        format!("su imageuser -c '{}'", read("shut-out", "")),
        read("shut-out", "chroot /"),
        read("not-mine", ""),
        read("not-mine", "chroot /"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let _ = root(lab, &[], &attempts(&lines)).success().stdout_is("");
    let _ = root(lab, &[], &read("mine", "")).success().stdout_is("x");
}

fn the_user_is_shown_as_root(lab: &Lab) {
    let run = root(lab, &["-N2"], "id -u; id -g; id -un; whoami; echo $HOME ~root").success();
    let home = lab.account().home.display().to_string();
    let homes = format!("{home} {home}");
    assert_eq!(
        run.sorted_lines(),
        [homes.as_str(), &homes, "0", "0", "0", "0", "root", "root", "root", "root"],
        "{run}"
    );
    let own = lab.account().uid.to_string();
    let _ = root(lab, &["--no-container-remap-root"], "id -u").success().stdout_is(&own);
}

fn groups_keep_their_names(lab: &Lab) {
    let [a, b] = lab.account().extra_groups();
    let run = root(lab, &[], "id -Gn").success();
    let _ = run.stdout_has("root").stdout_has(&a).stdout_has(&b).stdout_lacks("nogroup");
}

fn files_belong_to_the_user(lab: &Lab) {
    let dir = lab.fresh_dir("owned");
    let script = format!(
        "touch {0}/file && mkdir {0}/dir && chown 7:7 {0}/file && stat -c %u {0}/file",
        dir.display()
    );
    let _ = root(lab, &[], &script).success().stdout_is("0");
    let account = lab.account();
    for name in ["file", "dir"] {
        let meta = fs::metadata(dir.join(name)).expect("made");
        assert_eq!((meta.uid(), meta.gid()), (account.uid, account.gid), "{name}");
    }
}

fn changes_of_owner_and_identity_appear_to_succeed(lab: &Lab) {
    let dir = lab.fresh_dir("faked");
    let script = format!(
        "cd {} && touch f && chown 33:33 f && chown -h 1:1 f && tar c f | (mkdir x && cd x && tar xp) && \
         su imageuser -c 'id -u' && chroot / id -u && echo fine",
        dir.display()
    );
    let _ = root(lab, &[], &script).success().stdout_is("0\n0\nfine");
}

fn volatile_directories_are_writable(lab: &Lab) {
    let script =
        "echo new > /opt/data/sub/new && echo more >> /opt/data/kept && cat /opt/data/kept /opt/data/sub/new";
    let run = root(lab, &["--writable-volatile=/opt/data"], script).success();
    let _ = run.stdout_is("kept\nmore\nnew");
}

fn a_batch_script_is_root_too(lab: &Lab) {
    let script = format!(
        "#!/bin/sh\n#SBATCH --container-image={}\n#SBATCH --container-batch\n#SBATCH --container-remap-root\nid -un\nexit 4\n",
        lab.system_image("busybox")
    );
    let _ = lab.sbatch(&[], &script).wait(Duration::from_secs(60)).failed("4:0").output_has("root\n");
}

fn output_signals_and_exit_codes_are_as_ever(lab: &Lab) {
    let before = lab.snapshot();
    let _ = root(lab, &["-N2", "-n4"], "exit $SLURM_PROCID").exit_code(3);
    let killed = root(lab, &[], "kill -SEGV $$").failure();
    let _ = killed.stderr_has("Segmentation fault");
    let timed_out = root(lab, &["--time=0:01", "--job-name=rooted"], "echo started; exec sleep 3").success();
    let _ = timed_out.stdout_is("started");
    before.assert_nothing_left();
}

fn the_site_may_make_it_the_default(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    lab.with_site("container.remap-root = true\n", || {
        let _ = lab.srun(&[&image, "id", "-u"]).run().success().stdout_is("0");
        let uid = lab.account().uid.to_string();
        let _ = lab.srun(&[&image, "--no-container-remap-root", "id", "-u"]).run().success().stdout_is(&uid);
        // Root is root: nothing is remapped.
        let map = ["-c", "cat /proc/self/uid_map"];
        let run = lab.root("srun").args([&image, "sh"]).args(map).run().success();
        assert!(run.stdout.contains("4294967295"), "{run}");
    });
}
