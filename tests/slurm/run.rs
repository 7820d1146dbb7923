//! `grus run`: a container without Slurm's help and without root, by an ordinary user; with FUSE and where it is
//! refused.

use std::fs;
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::{Cmd, Fuse, Output};
use rustix::process::Signal;

use crate::lab::Lab;

crate::tests![
    an_ordinary_user_is_in_the_container_and_nobody_more,
    entrypoint_and_cmd_run_as_docker_runs_them,
    the_exit_status_is_the_programs_or_tells_whose_fault_it_is,
    the_program_gets_signals_itself_and_leaves_nothing,
    a_terminal_is_the_callers_and_its_keys_work,
    options_that_are_known_do_what_docker_does,
    options_that_cannot_be_had_say_why,
    a_writable_container_forgets_its_changes,
    root_is_shown_and_no_right_is_gained,
    a_missing_image_is_pulled_first,
    without_fuse_the_image_is_unpacked_once_and_said_so,
    an_unpacked_image_in_use_is_not_pruned,
    odd_images_unpack_without_harm,
    a_host_without_user_namespaces_says_what_to_do,
    the_view_is_that_of_a_step_but_for_a_list,
    the_plan_is_that_of_a_step_but_for_a_list,
    files_and_scratch_are_mounted_as_far_as_a_user_can,
    containers_are_listed_and_joined,
];

/// `grus run` as the user.
fn run(lab: &Lab, args: &[&str]) -> Cmd {
    lab.grus(&["run"]).args(args)
}

/// A script in the small image.
fn sh(lab: &Lab, options: &[&str], script: &str) -> Output {
    let image = lab.system_image("busybox");
    run(lab, options).arg(image).args(["sh", "-c", script]).run()
}

/// Once with FUSE, once without.
fn both_ways(test: impl Fn()) {
    for yes in [true, false] {
        let _fuse = Fuse::for_everyone(yes);
        test();
    }
}

fn an_ordinary_user_is_in_the_container_and_nobody_more(lab: &Lab) {
    let account = lab.account();
    let expected = format!("{} {} {} 022", account.name, account.uid, account.gid);
    let script =
        "echo $(id -un) $(id -u) $(id -g) $(umask | tail -c 4); echo $IMAGE_NAME; cat /etc/passwd | wc -l";
    both_ways(|| {
        let out = sh(lab, &[], script).success().stdout_has(&expected).stdout_has("busybox");
        let _ = out.stderr_lacks("warning");
        let rights =
            sh(lab, &[], "grep -E '^(NoNewPrivs|CapEff|CapPrm)' /proc/self/status; cat /proc/self/setgroups");
        let _ = rights
            .success()
            .stdout_is("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\ndeny");
        let map = sh(lab, &[], "wc -l </proc/self/uid_map; wc -l </proc/self/gid_map");
        let _ = map.success().stdout_is("1\n1");
        let denied = "touch /new || umount /etc/passwd || mount -t tmpfs x /mnt || cat /etc/shadow";
        let _ = sh(lab, &[], denied).failure();
    });
}

fn entrypoint_and_cmd_run_as_docker_runs_them(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let (entry, busybox) = (lab.system_image("entry"), lab.system_image("busybox"));
    let _ = run(lab, &[&entry, "echo", "hi"]).run().success().stdout_is("entry: -- echo hi\nhi");
    let _ = run(lab, &["--entrypoint=echo", &entry, "hi"]).run().success().stdout_is("hi");
    let _ = run(lab, &[&busybox]).stdin("echo by the CMD\n").run().success().stdout_is("by the CMD");
    let _ = run(lab, &[&busybox, "echo", "-e", "--rm"]).run().success().stdout_is("--rm");
    let none = run(lab, &["--entrypoint=/bin/true", &busybox]).run();
    let _ = none.success().stdout_is("");
}

fn the_exit_status_is_the_programs_or_tells_whose_fault_it_is(lab: &Lab) {
    both_ways(|| {
        let _ = sh(lab, &[], "exit 3").exit_code(3).stderr_lacks("grus:");
        let _ = sh(lab, &[], "kill -9 $$").killed_by(9);
        let busybox = lab.system_image("busybox");
        let missing = run(lab, &[&busybox, "no-such-program"]).run();
        let _ = missing.exit_code(127).stderr_has("cannot run 'no-such-program': there is no such program");
        let _ = run(lab, &[&busybox, "/etc/passwd"])
            .run()
            .exit_code(126)
            .stderr_has("cannot run '/etc/passwd': ");
        let _ = run(lab, &["--nonsense", &busybox]).run().exit_code(125).stderr_has("--nonsense");
        let _ = run(lab, &["--pull=never", "no/such:image"]).run().exit_code(125).stderr_has("grus pull ");
        let _ = run(lab, &["./nothing.squashfs"]).run().exit_code(125).stderr_has("nothing.squashfs");
        let _ = run(lab, &[]).run().exit_code(125);
    });
}

fn the_program_gets_signals_itself_and_leaves_nothing(lab: &Lab) {
    both_ways(|| {
        let dir = lab.fresh_dir("signals");
        // Where it is unpacked, the tree stays for the next run.
        let _ = sh(lab, &[], "true").success();
        let before = lab.snapshot();
        for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
            let image = lab.system_image("busybox");
            let running = run(lab, &[&image, "sh", "-c", "echo >ready; exec sleep 60"]).cwd(&dir).spawn();
            assert!(wait_until(Duration::from_secs(20), || dir.join("ready").exists()), "it did not start");
            fs::remove_file(dir.join("ready")).expect("made by the program");
            running.signal(signal);
            let _ = running.wait().killed_by(signal.as_raw());
        }
        before.assert_nothing_left();
    });
}

/// `grus run` on a terminal of script(1)'s; `keys` is a command that types.
fn on_a_terminal(lab: &Lab, keys: &str, script: &str) -> Output {
    let image = lab.system_image("busybox");
    let program = lab.grus_program();
    let line = format!("{} run -it {image} sh -c '{script}'", program.display());
    let typed = format!("({keys}) | script --quiet --return --flush --command \"$1\" /dev/null");
    let shell = lab.user("bash").env("GRUS_CONFIG", lab.site_file());
    shell.args(["-c", &typed, "bash", &line]).limit(Duration::from_secs(60)).run()
}

fn a_terminal_is_the_callers_and_its_keys_work(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let before = lab.snapshot();
    let asked = "test -t 0 && test -t 1 && echo on a terminal";
    let _ = on_a_terminal(lab, "sleep 1", asked).success().stdout_has("on a terminal");
    let ended = on_a_terminal(lab, r"sleep 2; printf '\003'; sleep 1", "echo started; sleep 30");
    let _ = ended.exit_code(130).stdout_has("started");
    before.assert_nothing_left();
    let none = run(lab, &["-t", &lab.system_image("busybox"), "true"]).run();
    let _ = none.exit_code(125).stderr_has("--tty: standard input is no terminal").stderr_has("hint: ");
}

fn options_that_are_known_do_what_docker_does(lab: &Lab) {
    let dir = lab.fresh_dir("options");
    fs::write(dir.join("file"), "content\n").expect("a fresh directory");
    fs::write(dir.join("variables"), "# a comment\nFROM_FILE=a b\nBOTH=file\n").expect("a fresh directory");
    let at = dir.display();
    let cases: &[(&[&str], &str, &str)] = &[
        (&["-e", "A=1,2", "--env=B"], "echo $A$B", "1,2set"),
        (&[&format!("--env-file={at}/variables"), "-e", "BOTH=word"], "echo $FROM_FILE $BOTH", "a b word"),
        (&["-v", &format!("{at}:/in")], "cat /in/file; touch /in/made", "content"),
        (&["-v", &format!("{at}:/in:ro,z")], "touch /in/x 2>/dev/null || cat /in/file", "content"),
        (&[&format!("--mount=type=bind,src={at},dst=/in,readonly")], "cat /in/file", "content"),
        (&["--mount=type=tmpfs,destination=/fast,size=4m"], "stat -f -c %T /fast; touch /fast/x", "tmpfs"),
        (&["-w", "/opt/work"], "pwd", "/opt/work"),
        (&["--rm", "-i", "--pull=missing", "--mpi=image", "--read-only"], "echo all", "all"),
        (&["--network=none"], "ip link 2>/dev/null | grep -c ^[0-9]", "1"),
        (&["--network=host", "--hostname=box.one"], "hostname", "box.one"),
        (&["--device=/dev/null"], "echo x >/dev/null && echo good", "good"),
        (&["--no-home"], "ls $HOME 2>/dev/null | wc -l", "0"),
        (&["--platform=linux/amd64"], "echo here", "here"),
    ];
    let _fuse = Fuse::for_everyone(true);
    for (options, script, expected) in cases {
        let image = lab.system_image("busybox");
        let out = run(lab, options).arg(image).args(["sh", "-c", script]).env("B", "set").run();
        let _ = out.success().stdout_is(expected);
    }
    assert!(dir.join("made").exists());
}

fn options_that_cannot_be_had_say_why(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let before = lab.snapshot();
    for (option, why) in [
        ("--detach", "--detach: there is no daemon"),
        ("-p80:80", "--publish: the container has the host's network"),
        ("--name=x", "--name: nothing is kept"),
        ("--privileged", "--privileged: no right is gained"),
        ("--gpus=all", "--gpus=all: this node describes no GPU"),
        ("--gpus=2", "--gpus=2: nobody counts GPUs out here"),
        ("--device=a.b/c=d", "--device=a.b/c=d: no file of this node describes a device"),
        ("--user=www-data", "--user=www-data: without root you can be yourself"),
        ("--network=bridge", "--network=bridge: there is no such network"),
        ("--hostname=a_b", "--hostname=a_b is no host name"),
        ("-vdata:/data", "--volume=data:/data: no volumes are kept by name"),
        ("-v/no/such:/data", "cannot bind /no/such on /data: No such file or directory"),
        ("--device=/dev/no-such", "--device=/dev/no-such: there is no such device"),
        ("--workdir=/no/such", "--workdir=/no/such: there is no such directory"),
        ("--pull=sometimes", "--pull=sometimes is not known"),
        ("--mount=type=volume,dst=/x", "type"),
        ("--env==x", "--env: '=x' is no variable"),
        ("--mpi=no-such-stack", "no-such-stack"),
        ("--platform=linux/s390x", ""),
    ] {
        let image = lab.system_image("busybox");
        let out = run(lab, &["--pull=never"][..usize::from(!option.contains("pull"))])
            .arg(option)
            .arg(image)
            .arg("true")
            .run();
        let _ = out
            .exit_code(125)
            .stderr_has("grus: ")
            .stderr_has(why)
            .stderr_has("hint: ")
            .stderr_lacks("--container-");
    }
    before.assert_nothing_left();
}

fn a_writable_container_forgets_its_changes(lab: &Lab) {
    both_ways(|| {
        let script =
            "echo new >/etc/new && echo x >>/etc/passwd-; rm /bin/vi && mkdir /opt/a && mv /opt/a /opt/b \
                      && chmod 700 /opt/b && ls -d /opt/b && stat -c %U /etc/new";
        let name = &lab.account().name;
        let _ = sh(lab, &["--writable"], script).success().stdout_is(&format!("/opt/b\n{name}"));
        let _ = sh(lab, &[], "ls /etc/new").failure();
        let volatile = "touch /opt/work/a && ls /opt/work/a && touch /etc/x";
        let _ = sh(lab, &["--writable-volatile=/opt/work"], volatile).failure().stdout_is("/opt/work/a");
    });
}

fn root_is_shown_and_no_right_is_gained(lab: &Lab) {
    both_ways(|| {
        let script = "id -u; id -un; touch /tmp/grus-run-root; stat -c %u /tmp/grus-run-root; rm /tmp/grus-run-root; \
                      chown 33:33 /opt/work && echo appeared; cat /etc/shadow; mount -t tmpfs x /mnt || echo no mount";
        let out = sh(lab, &["--user=root", "--writable", "-v/etc:/host-etc:ro"], script);
        let _ = out.success().stdout_is("0\nroot\n0\nappeared\nno mount").stdout_lacks("root:");
        let _ = sh(lab, &["--user=root", "-v/etc:/host-etc:ro"], "cat /host-etc/shadow").failure();
        let own = lab.account().uid.to_string();
        let _ = sh(lab, &[&format!("--user={own}")], "id -u").success().stdout_is(&own);
    });
}

fn a_missing_image_is_pulled_first(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let image = lab.pushed_image("musl");
    let _ = lab.grus(&["rmi", &image]).run();
    let out = run(lab, &[&image, "echo", "pulled"]).run().success().stdout_is("pulled");
    let _ = out.stderr_has("pull");
    let again = run(lab, &[&image, "echo", "there"]).run().success().stdout_is("there");
    let _ = again.check(true, "").stderr_lacks("pull");
    let always = run(lab, &["--pull=always", &image, "echo", "asked"]).run().success().stdout_is("asked");
    let _ = always.stderr_has("up to date");
}

/// Where the user's trees are.
fn trees(lab: &Lab) -> Vec<String> {
    let found = lab.root("find").args([lab.account().home.as_os_str(), lab.dir().as_os_str()]);
    let found = found.args(["-path", "*/unpacked/*", "-prune", "-print"]).run();
    found.stdout.lines().map(str::to_owned).collect()
}

fn without_fuse_the_image_is_unpacked_once_and_said_so(lab: &Lab) {
    let _fuse = Fuse::for_everyone(false);
    let _ = lab.grus(&["prune"]).run().success();
    let first = sh(lab, &[], "echo ran; ls -l /bin/sh").success().stdout_has("ran");
    let _ = first.stderr_has("grus: no FUSE here (").stderr_has("/dev/fuse").stderr_has("unpacking ");
    let again = sh(lab, &[], "stat -c '%u %a' /bin/busybox; touch /bin/x").failure();
    let _ = again.stdout_is(&format!("{} 755", lab.account().uid)).stderr_lacks("unpacking");
    assert!(!trees(lab).is_empty());
    let _ = lab.grus(&["prune"]).run().success().stdout_has("unpacked images");
    assert!(trees(lab).is_empty(), "{:?}", trees(lab));
    let squashfs = sh(lab, &["--mount=type=squashfs,src=/nothing,dst=/d"], "true");
    let _ = squashfs.exit_code(125);
}

fn an_unpacked_image_in_use_is_not_pruned(lab: &Lab) {
    let _fuse = Fuse::for_everyone(false);
    let dir = lab.fresh_dir("in-use");
    let image = lab.system_image("busybox");
    let script = "echo >ready; while [ ! -e go ]; do sleep 0.1; done; ls /bin/busybox";
    let running = run(lab, &[&image, "sh", "-c", script]).cwd(&dir).spawn();
    assert!(wait_until(Duration::from_secs(60), || dir.join("ready").exists()), "it did not start");
    let _ = lab.grus(&["prune"]).run().success().stdout_lacks("unpacked images");
    fs::write(dir.join("go"), "").expect("a fresh directory");
    let _ = running.wait().success().stdout_is("/bin/busybox");
    let _ = lab.grus(&["prune"]).run().success().stdout_has("unpacked images");
}

fn odd_images_unpack_without_harm(lab: &Lab) {
    let _fuse = Fuse::for_everyone(false);
    // The directory of trees stays.
    let _ = sh(lab, &[], "true").success();
    let _ = lab.grus(&["prune"]).run().success();
    let before = lab.snapshot();
    let linked = lab.system_image("tmp-link");
    let _ = run(lab, &[&linked, "ls", "/bin/busybox"]).run().success().stdout_is("/bin/busybox");
    let alone = lab.system_image("static");
    let _ = run(lab, &[&alone, "echo", "static"]).run().success().stdout_is("static");
    let _ = lab.grus(&["prune"]).run().success();
    before.assert_nothing_left();
}

fn a_host_without_user_namespaces_says_what_to_do(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let image = lab.system_file("busybox");
    // In a user namespace of its own the user sets the limit, for what is below it.
    let script = "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"";
    let program = lab.grus_program();
    let out = lab.user("unshare").env("GRUS_CONFIG", lab.site_file()).args(["--user", "--map-root-user"]);
    let out = out.args(["sh", "-c", script, "sh"]).arg(program).arg("run").arg(image).arg("true").run();
    let out = out.exit_code(125).stderr_has("this node gives users no user namespace");
    let _ = out.stderr_has("hint: run it in a job; ").stderr_has("user.max_user_namespaces");
}

/// What differs, and why. Everything else of the view is the same.
fn comparable(text: &str) -> Vec<String> {
    let differs = |line: &str| {
        // The root's file system; what Slurm tells its tasks; what a shell notes of itself.
        line.starts_with("mount / ")
            || [
                "SLURM",
                "SRUN",
                "env TMPDIR=",
                "env _=",
                "env SHLVL=",
                "env PMI",
                "env GRUS_CONFIG",
                "env HOSTNAME=",
            ]
            .iter()
            .any(|name| line.starts_with(name) || line.starts_with(&format!("env {name}")))
    };
    let mut lines: Vec<String> = text.lines().filter(|line| !differs(line)).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn the_view_is_that_of_a_step_but_for_a_list(lab: &Lab) {
    let dir = lab.fresh_dir("view");
    let script =
        "env | sed 's/^/env /'; pwd; umask; id -u; id -un; id -g; cat /etc/passwd /etc/group; ls /; \
                  while read a b c d at flags rest; do \
                    echo mount $at $(echo $flags | tr , '\\n' | grep -E '^(ro|rw|nosuid|nodev|noexec)$'); \
                  done </proc/self/mountinfo; ls -ld /opt/work /data /fast; find /etc -type f | sort";
    let binds = format!("--mount={}:/data:ro", dir.display());
    let mounts =
        [binds.as_str(), "--mount=type=tmpfs,destination=/fast,size=4m", "--writable-volatile=/opt/work"];
    let image = lab.system_image("busybox");
    let step =
        lab.srun(&mounts).arg(format!("--container-image={image}")).args(["sh", "-c", script]).cwd(&dir);
    let step = step.run().success();
    both_ways(|| {
        let own = run(lab, &mounts).arg(&image).args(["sh", "-c", script]).cwd(&dir).run().success();
        let (mine, theirs) = (comparable(&own.stdout), comparable(&step.stdout));
        let only = |a: &[String], b: &[String]| -> Vec<String> {
            a.iter().filter(|line| !b.contains(line)).cloned().collect()
        };
        // Files of the image's root are the user's own, and so is what is mounted for the user.
        let owners = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().filter(|line| !line.starts_with('d')).collect()
        };
        let (more, less) = (owners(only(&mine, &theirs)), owners(only(&theirs, &mine)));
        assert!(more.is_empty() && less.is_empty(), "only here: {more:#?}\nonly in a step: {less:#?}");
    });
}

/// Lines of a plan, but for those that differ: how the image is mounted, Docker's ENTRYPOINT, and the image's name, which a
/// step's tasks get from the plugin.
fn plan(text: &str) -> Vec<&str> {
    let differs = |line: &&str| {
        ["image ", "entry ", "setenv    GRUS_IMAGE="].iter().any(|start| line.starts_with(start))
    };
    text.lines().filter(|line| !differs(line)).collect()
}

fn the_plan_is_that_of_a_step_but_for_a_list(lab: &Lab) {
    let dir = lab.fresh_dir("plan");
    let options = [
        format!("--mount={}:/data:ro", dir.display()),
        "--mount=type=tmpfs,destination=/fast,size=4m".into(),
        "--writable-volatile=/opt/work".into(),
    ];
    let theirs = ["--container-env=A=1,B", "--container-workdir=/opt", "--container-remap-root"];
    let ours = ["--env=A=1", "--env=B", "--workdir=/opt", "--user=root"];
    for name in ["busybox", "entry"] {
        let image = lab.system_image(name);
        let planned = lab.grus(&["plan", &image]).args(&options).args(theirs).env("B", "2").cwd(&dir).run();
        let planned = planned.success().stdout_has("tmpfs     /fast").stdout_has("identity  root");
        both_ways(|| {
            let own =
                run(lab, &["--dry-run"]).args(&options).args(ours).arg(&image).env("B", "2").cwd(&dir).run();
            let own = own.success().stdout_has("image     ");
            assert_eq!(plan(&own.stdout), plan(&planned.stdout), "{own}\n{planned}");
        });
    }
}

fn files_and_scratch_are_mounted_as_far_as_a_user_can(lab: &Lab) {
    let dir = lab.fresh_dir("sets");
    fs::copy(lab.system_file("busybox"), dir.join("set.sqsh")).expect("a fresh directory");
    let squashfs = "--mount=type=squashfs,source=./set.sqsh,destination=/set";
    let before = lab.snapshot();
    {
        let _fuse = Fuse::for_everyone(true);
        let image = lab.system_image("busybox");
        let script = "cat /set/etc/only-in-image; grep -c ' /set fuse' /proc/self/mounts; touch /set/x";
        let out = run(lab, &[squashfs, &image, "sh", "-c", script]).cwd(&dir).run().failure();
        let _ = out.stdout_is("from the image\n1").stderr_has("Read-only file system");
        let _ = run(lab, &["--mount=./none:/set:sqsh", &image, "true"]).cwd(&dir).run().exit_code(125);
    }
    both_ways(|| {
        let scratch = "--mount=type=scratch,destination=/scr,size=4m";
        let refused = sh(lab, &[scratch], "true").exit_code(125);
        let _ = refused.stderr_has("scratch").stderr_has("hint: ");
        lab.with_site("scratch.dir = '/tmp'\n", || {
            let script =
                "stat -c '%a %u' /scr; stat -f -c %T /scr; dd if=/dev/zero of=/scr/x bs=1M count=5 2>&1";
            let out = sh(lab, &[scratch], script).failure();
            let _ = out
                .stdout_has(&format!("700 {}\ntmpfs\n", lab.account().uid))
                .stdout_has("No space left on device")
                .stderr_has("/scr is in memory: without root there is no scratch on disk");
        });
    });
    {
        let _fuse = Fuse::for_everyone(false);
        let image = lab.system_image("busybox");
        let out = run(lab, &[squashfs, &image, "true"]).cwd(&dir).run().exit_code(125);
        let _ = out.stderr_has("/dev/fuse").stderr_has("hint: ");
    }
    let _ = lab.grus(&["prune"]).run().success();
    before.assert_nothing_left();
}

fn containers_are_listed_and_joined(lab: &Lab) {
    let before = lab.snapshot();
    for (fuse, own) in [(true, None), (false, None), (true, Some("--network=none"))] {
        let _fuse = Fuse::for_everyone(fuse);
        let (dir, image) = (lab.fresh_dir("listed"), lab.system_image("busybox"));
        let script = "touch /opt/work/there; echo >ready; while [ ! -e stop ]; do sleep 0.1; done";
        let options = ["--writable-volatile=/opt/work", "--env=GIVEN=1", "--workdir"];
        let running =
            run(lab, &options).arg(&dir).args(own).args([&image, "sh", "-c", script]).cwd(&dir).spawn();
        assert!(wait_until(Duration::from_secs(60), || dir.join("ready").exists()), "it did not start");
        let id = lab.grus(&["ps", "--quiet"]).run().success();
        let id = id.trimmed().to_owned();
        assert!(id.starts_with("run."), "{id}");
        let listed = lab.grus(&["ps"]).run().success().stdout_has(&id).stdout_has(&image);
        assert_eq!(listed.stdout.lines().count(), 2, "{listed}");
        let exec = |args: &[&str]| lab.grus(&["exec"]).args(args).run();
        let inside = "ls /opt/work; echo $GIVEN $MORE; pwd; grep NoNewPrivs /proc/self/status";
        let out = exec(&["-e", "MORE=2", &id, "sh", "-c", inside]).success();
        let _ = out.stdout_has(&format!("there\n1 2\n{}\nNoNewPrivs:\t1\n", dir.display()));
        let links = exec(&[&id, "ip", "link"]).success();
        assert!(own.is_none() || !links.stdout.contains("eth0"), "{links}");
        let _ = exec(&["-w", "/opt", &id, "pwd"]).success().stdout_is("/opt");
        let _ = exec(&[&id, "sh", "-c", "exit 3"]).exit_code(3);
        let _ = exec(&[&id, "no-such-program"]).exit_code(127);
        let _ = exec(&["--node=x", &id, "true"]).exit_code(2).stderr_has("hint: ");
        let _ = exec(&["run.1", "true"]).exit_code(2).stderr_has("no container run.1 of yours");
        // Another user sees none of it.
        let program = lab.grus_program();
        let root = lab.root(&program.to_string_lossy()).env("GRUS_CONFIG", lab.site_file());
        let _ = root.args(["ps", "-q"]).run().success().stdout_is("");
        fs::write(dir.join("stop"), "").expect("a fresh directory");
        let _ = running.wait().success();
        let _ = exec(&[&id, "true"]).exit_code(2);
    }
    let _ = lab.grus(&["prune"]).run().success();
    before.assert_nothing_left();
}
