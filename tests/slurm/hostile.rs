//! Hostile users on a real Slurm: what is handed to slurmstepd by the environment, servers that are killed or stopped,
//! and calls that the site takes away. No task runs on the host, no node is drained, nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use grus_tests::command::Running;
use grus_tests::daemon::wait_until;
use grus_tests::{Cmd, Snapshot};
use rustix::process::Signal;

use crate::lab::Lab;

crate::tests![
    hostile_requests_open_nothing_and_drain_no_node,
    a_hostile_environment_reaches_no_program_of_roots,
    no_directory_to_start_in_leads_to_what_slurmstepd_has_open,
    a_stopped_server_does_not_keep_a_step_from_being_cancelled,
    a_stolen_connection_does_not_keep_a_step_from_being_cancelled,
    a_launch_that_nobody_answers_drains_no_node,
    a_server_is_in_the_cgroups_of_its_step,
    calls_that_the_site_denies_fail_and_others_do_not,
    a_node_caches_what_users_bring_and_the_kernel_mounts_the_copy,
];

/// What a user puts into the job's request, well-formed: the image, what else, and what must be read in the answer.
/// `USER` is a readable image of the user's own.
const HOSTILE_REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("/etc/shadow as the image", "/etc/shadow", "", "/etc/shadow"),
    ("what slurmstepd has open", "/proc/self/fd/3", "", "/proc/self/fd/3"),
    ("slurmstepd's memory", "/proc/self/mem", "", "/proc/self/mem"),
    ("another's root", "/proc/1/root/etc/shadow", "", "/proc/1/root"),
    ("a device without an end", "/dev/zero", "", "/dev/zero"),
    ("a terminal", "/dev/tty", "", "/dev/tty"),
    ("a directory", "/etc", "", "/etc"),
    (
        "a directory in one of root's",
        "USER",
        r#","mounts":[{"what":{"bind":{"source":"/root/.ssh","recursive":true}},"destination":"/mnt/x"}]"#,
        "/root/.ssh",
    ),
    (
        "a directory of root's by a link of /proc",
        "USER",
        r#","mounts":[{"what":{"bind":{"source":"/proc/1/cwd","recursive":true}},"destination":"/mnt/x"}]"#,
        "/proc/1/cwd",
    ),
    (
        "a data set that is no file",
        "USER",
        r#","mounts":[{"what":{"squashfs":{"source":"/dev/zero"}},"destination":"/mnt/x"}]"#,
        "/dev/zero",
    ),
    (
        "all memory",
        "USER",
        r#","mounts":[{"what":{"tmpfs":{"size":1152921504606846976,"mode":448,"huge":null}},"destination":"/mnt/x"}]"#,
        "too large",
    ),
    (
        "a disk that is not offered",
        "USER",
        r#","mounts":[{"what":{"scratch":{"size":1073741824}},"destination":"/mnt/x"}]"#,
        "scratch",
    ),
    ("root's directory to start in", "USER", r#","workdir":"/root/x""#, "/root/x"),
];

/// Directories to start in that lead to what slurmstepd has open (CVE-2024-21626 was runc's).
const HOSTILE_DIRECTORIES: &[&str] = &[
    "/proc/self/fd/N",
    "/proc/thread-self/fd/N",
    "/dev/fd/N",
    "/proc/self/fd/N/../../etc",
    "/proc/self/cwd",
];

fn no_directory_to_start_in_leads_to_what_slurmstepd_has_open(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    // One job of steps, each of which ends before its command or starts where it may.
    let mut script = String::from("#!/bin/sh\n");
    for directory in HOSTILE_DIRECTORIES.iter().filter(|directory| !directory.contains("..")) {
        let numbers: &[u32] = if directory.contains('N') { &[3, 7, 12] } else { &[0] };
        for number in numbers {
            let directory = directory.replace('N', &number.to_string());
            script +=
                &format!("srun {image} --container-workdir={directory} sh -c 'echo started in $(pwd)'\n");
        }
    }
    let end = lab.sbatch(&["-N1"], &script).wait(Duration::from_secs(90));
    let _ = end.output_lacks("started in").output_has("there is no such directory");
    // One with `..` is refused before there is a job.
    let above = format!("--container-workdir={}", HOSTILE_DIRECTORIES[3]);
    let _ = lab.srun(&[&image, &above, "true"]).run().failure().stderr_has("has '..' in it");
}

fn users_image(lab: &Lab) -> String {
    let file = lab.fresh_dir("users").join("image.squashfs");
    fs::copy(lab.system_file("busybox"), &file).expect("root can read the repository");
    lab.give(&file);
    file.to_string_lossy().into_owned()
}

fn hostile_requests_open_nothing_and_drain_no_node(lab: &Lab) {
    let own = users_image(lab);
    let before = lab.snapshot();
    for (name, image, more, says) in HOSTILE_REQUESTS {
        let mark = lab.fresh_dir("marks").join("ran");
        let image = image.replace("USER", &own);
        let fields = format!(r#""image":{{"file":"{image}"}},"resolved":{{"path":"{image}","digest":null}}"#);
        let task = format!("touch {}", mark.display());
        let job =
            lab.srun(&["sh", "-c", &task]).env("SLURM_SPANK_GRUS_REQUEST", format!("{{{fields}{more}}}"));
        let run = job.limit(Duration::from_secs(30)).run();
        assert!(!run.status.success() && !mark.exists(), "{name}: a task ran: {run}");
        let _ = run.stderr_has("grus: ").stderr_has(says);
    }
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

/// What a loader, a shell or a C library obeys.
const HOSTILE_VARIABLES: &[(&str, &str)] = &[
    ("LD_PRELOAD", "/no/such/evil.so"),
    ("LD_LIBRARY_PATH", "/no/such"),
    ("LD_AUDIT", "/no/such/evil.so"),
    ("GCONV_PATH", "/no/such"),
    ("LOCPATH", "/no/such"),
    ("MALLOC_CHECK_", "3"),
    ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
    ("BASH_ENV", "/no/such/evil.sh"),
    ("MKE2FS_CONFIG", "/no/such/mke2fs.conf"),
    ("PATH", "/no/such"),
    ("TMPDIR", "/no/such"),
    ("GRUS_CONFIG", "/no/such/grus.toml"),
];

fn a_hostile_environment_reaches_no_program_of_roots(lab: &Lab) {
    let image = format!("--container-image={}", users_image(lab));
    let started = lab.fresh_dir("started").join("up");
    let before = lab.snapshot();
    let task = format!("/bin/touch {}; /bin/sleep 5", started.display());
    let exported: Vec<String> =
        HOSTILE_VARIABLES.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let export = format!("--export=ALL,{}", exported.join(","));
    // The variables go with the job, as a user has them in a shell; srun itself runs without.
    let running = lab.srun(&[&export, &image, "/bin/sh", "-c", &task]).spawn();
    assert!(wait_until(Duration::from_secs(20), || started.exists()), "the step did not start");
    let mut servers = 0;
    for thing in before.new_things() {
        let Some((pid, command)) = thing.strip_prefix("process ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        if command.contains("squashfuse") {
            servers += 1;
            let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("it lives");
            assert_eq!(environment, "", "the server's environment");
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
            assert!(!maps.contains("/no/such"), "{maps}");
        }
    }
    assert_eq!(servers, 1);
    let _ = running.wait().success();
    before.assert_nothing_left();
}

/// The server is stopped at some moment, most likely in the middle of an answer.
fn a_stopped_server_does_not_keep_a_step_from_being_cancelled(lab: &Lab) {
    cancelled_while_it_hangs(lab, |before| {
        before.kill_new(Signal::STOP, |command| command.contains("squashfuse"));
        std::thread::sleep(Duration::from_millis(500));
        None
    });
}

/// Takes the connection from the server, and a request out of it that somebody waits for: a FUSE_LOOKUP (linux/fuse.h).
const THIEF: &str = r#"
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static unsigned request[1 << 19];
    int main(int argc, char **argv) {
        pid_t server = atoi(argv[1]);
        int device = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, server, 0), 4, 0);
        if (device < 0)
            return perror("pidfd_getfd"), 1;
        do
            if (read(device, request, sizeof request) <= 0)
                return perror("no request"), 1;
        while (request[1] != 1);
        kill(server, SIGSTOP);
        return fclose(fopen(argv[2], "w")), pause();
    }
"#;

/// Nobody answers a request that somebody has taken: neither SIGCONT nor the server's end would set the task free. The
/// user cannot take it, since the server is not the user's to trace; so that the guard is seen to work, root does here.
fn a_stolen_connection_does_not_keep_a_step_from_being_cancelled(lab: &Lab) {
    let dir = lab.fresh_dir("thief");
    let (file, program, taken) = (dir.join("thief.c"), dir.join("thief"), dir.join("taken"));
    fs::write(&file, THIEF).expect("a fresh directory");
    let _ = Cmd::new("cc").arg("-o").arg(&program).arg(&file).run().success();
    cancelled_while_it_hangs(lab, |before| {
        let new = before.new_things();
        let server = new.iter().find(|thing| thing.contains("squashfuse")).expect("it runs");
        let pid = server.split(' ').nth(1).expect("'process PID COMMAND'");
        let users = Cmd::as_user(lab.account(), &program).arg(pid).arg(&taken).run().failure();
        let _ = users.stderr_has("pidfd_getfd: Operation not permitted");
        let thief = lab.root(&program.to_string_lossy()).arg(pid).arg(&taken).spawn();
        assert!(wait_until(Duration::from_secs(20), || taken.exists()), "no request was taken");
        Some(thief)
    });
}

/// Tasks ask what only the server can tell them, while `hang` sees to it that it does not. A look-up that has been begun
/// waits for its answer whatever signal comes (fs/fuse/dev.c, request_wait_answer; reading a file does not). scancel ends
/// the step all the same; nothing is left of it, and the node stays usable.
fn cancelled_while_it_hangs(lab: &Lab, hang: impl FnOnce(&Snapshot) -> Option<Running>) {
    let image = format!("--container-image={}", users_image(lab));
    let started = lab.fresh_dir("hangs").join("up");
    let before = lab.snapshot();
    let body =
        format!("touch {}; n=0; while :; do [ -e /no-such-$n ]; n=$((n + 1)); done", started.display());
    let running = lab.srun(&["-n2", &image, "sh", "-c", &body]).spawn();
    assert!(wait_until(Duration::from_secs(20), || started.exists()), "the step did not start");
    let thief = hang(&before);
    let account = lab.account().name.clone();
    let _ = lab.root("scancel").args(["--user", &account]).run().success();
    // Its status is 0 where Slurm itself gave up waiting for the tasks before they had ended.
    let _ = running.wait().stderr_has("CANCELLED");
    let idle = wait_until(Duration::from_secs(40), || {
        !before.new_things().iter().any(|thing| thing.contains("slurmstepd: ["))
    });
    assert!(idle, "{:#?}", before.new_things());
    if let Some(thief) = thief {
        thief.signal(Signal::KILL);
        let _ = thief.wait().killed_by(9);
    }
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

/// The builder thread waits for a server that is killed after 60 s, and still nobody answers: a child of it has its
/// connection, as a thief's process could. Slurm's seteuid(2), which comes next, waits for that thread. The step fails, and
/// slurmstepd with it ends.
fn a_launch_that_nobody_answers_drains_no_node(lab: &Lab) {
    let image = format!("--container-image={}", users_image(lab));
    let program = lab.dir().join("hangs");
    fs::write(&program, "#!/bin/sh\nsleep 4321 &\nexec sleep 4321\n").expect("the lab's directory is root's");
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("root");
    let before = lab.snapshot();
    let site = format!("security.squashfuse = '{}'\n", program.display());
    let run = lab.with_site(&site, || lab.srun(&[&image, "true"]).limit(Duration::from_secs(90)).run());
    let _ = run.failure().stderr_has("squashfuse_ll did not answer within 60 s");
    let ended = wait_until(Duration::from_secs(20), || {
        !before.new_things().iter().any(|thing| thing.contains("slurmstepd: ["))
    });
    before.kill_new(Signal::KILL, |command| command.contains("sleep 4321"));
    assert!(ended, "slurmstepd hangs");
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

/// What a server takes of memory is then the job's, as far as Slurm puts slurmstepd into the job's cgroups.
fn a_server_is_in_the_cgroups_of_its_step(lab: &Lab) {
    let image = format!("--container-image={}", users_image(lab));
    let started = lab.fresh_dir("grouped").join("up");
    let before = lab.snapshot();
    let task = format!("touch {}; sleep 5", started.display());
    let running = lab.srun(&[&image, "sh", "-c", &task]).spawn();
    assert!(wait_until(Duration::from_secs(20), || started.exists()), "the step did not start");
    let groups = |of: &str| {
        let new = before.new_things();
        let pid = new.iter().find_map(|thing| {
            let (pid, command) = thing.strip_prefix("process ")?.split_once(' ')?;
            command.contains(of).then(|| pid.to_owned())
        });
        let pid = pid.unwrap_or_else(|| panic!("no {of} in {new:#?}"));
        fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives")
    };
    assert_eq!(groups("squashfuse_ll"), groups("slurmstepd: ["));
    let _ = running.wait().success();
}

/// Calls by their numbers, by a program that is made here: what a task gets for each.
fn calls_that_the_site_denies_fail_and_others_do_not(lab: &Lab) {
    let dir = lab.fresh_dir("calls");
    let source = r#"
        #include <errno.h>
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void) {
            long calls[] = {SYS_keyctl, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup,
                SYS_mount, SYS_fsopen, SYS_open_tree, SYS_finit_module, SYS_kexec_load};
            for (int i = 0; i < 10; i++) {
                errno = 0;
                syscall(calls[i], -1L, 0L, 0L, 0L, 0L, 0L);
                printf("%d ", errno == ENOSYS);
            }
        #ifdef __x86_64__
            /* getpid by the numbers of 32-bit programs, and of x32 */
            long pid = 20;
            __asm__ volatile("int $0x80" : "+a"(pid) : : "memory", "r8", "r9", "r10", "r11");
            printf("%d %d", pid == -ENOSYS, (int) (syscall(0x40000000 | SYS_getpid) == -1));
        #endif
            printf(" %d\n", getpid() > 0);
            return 0;
        }
    "#;
    let (file, program) = (dir.join("calls.c"), dir.join("calls"));
    fs::write(&file, source).expect("a fresh directory");
    let compile = Cmd::new("cc").args(["-static", "-o"]).arg(&program).arg(&file);
    let _ = compile.run().success();
    let [kernel, fuse] = lab.both_kinds("busybox");
    let program = program.to_string_lossy().into_owned();
    let mount = format!("--mount={}:/calls:ro", dir.display());
    let others = if cfg!(target_arch = "x86_64") { "1 1 1" } else { " 1" };
    lab.with_site("security.seccomp = 'default'\n", || {
        for image in [&kernel, &fuse] {
            let run = lab.srun(&[image, &mount, "/calls/calls"]).run().success();
            let _ = run.stdout_is(&format!("1 1 1 1 1 1 1 1 1 1 {others}"));
        }
        // A task that is shown as root has both filters.
        let run = lab.srun(&[&kernel, "--container-remap-root", &mount, "/calls/calls"]).run().success();
        let _ = run.stdout_is(&format!("1 1 1 1 1 1 1 1 1 1 {others}"));
        // On the host nothing is taken away.
        let run = lab.srun(&[&program]).run().success();
        let _ = run.stdout_lacks("1 1 1 1 1 1 1 1 1 1");
    });
    let run = lab.srun(&[&kernel, &mount, "/calls/calls"]).run().success();
    let _ = run.stdout_lacks("1 1 1 1 1 1 1 1 1 1");
}

/// Only what has been checked: `grus verify` says so, or there is no copy.
fn a_node_caches_what_users_bring_and_the_kernel_mounts_the_copy(lab: &Lab) {
    let cache = lab.dir().join("node-cache");
    let _ = fs::remove_dir_all(&cache);
    fs::create_dir(&cache).expect("root may");
    let own = users_image(lab);
    let image = format!("--container-image={own}");
    let kind = ["sh", "-c", "grep ' / ' /proc/self/mounts"];
    let site = format!("node-cache.dir = '{}'\n", cache.display());
    lab.with_site(&site, || {
        for _ in 0..3 {
            let run = lab.srun(&[&[image.as_str()][..], &kind].concat()).run().success();
            let _ = run.stdout_lacks("fuse");
        }
        let copies = || fs::read_dir(cache.join("images")).map_or(0, |dir| dir.count());
        assert_eq!(copies(), 1);
        // An image that a kernel parser should not meet is served by the user's own process, or not at all.
        let mut bytes = fs::read(&own).expect("root");
        let end = bytes.len() - 1;
        bytes[96..4096.min(end)].fill(0xa5);
        fs::write(&own, bytes).expect("root");
        let _ = lab.srun(&[&image, "true"]).run();
        assert_eq!(copies(), 1, "the damaged one is in the cache");
    });
    lab.assert_nodes_idle();
    fs::remove_dir_all(&cache).expect("root may");
}
