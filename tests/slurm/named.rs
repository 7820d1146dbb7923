//! Writable roots, containers that the job keeps (`--container-name`), and joining a running step.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::{Cluster, JobEnd};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::plugin::with_private_directories;

crate::tests![
    a_writable_root_can_be_changed_everywhere,
    later_steps_have_what_earlier_ones_changed,
    steps_at_the_same_time_share_a_container_and_not_their_mounts,
    a_name_is_made_once_and_taken_as_asked,
    a_name_is_the_jobs_own,
    a_container_is_as_new_after_a_requeue,
    no_write_is_lost_by_64_ranks_and_4_nodes,
    five_hundred_overlapping_steps_take_one_container,
    a_killed_slurmstepd_takes_no_container_with_it,
    a_killed_image_server_breaks_the_container_and_says_so,
    a_stopped_image_server_ends_with_its_job,
    a_stopped_image_server_hangs_no_later_step_and_drains_no_node,
    a_running_step_is_joined,
    a_step_with_namespaces_of_its_own_is_joined_in_all_of_them,
    nobody_joins_what_is_not_his,
    a_users_memory_file_is_not_taken_for_slurmstepds,
    names_and_places_lead_nowhere_else,
    a_jobs_private_directories_are_no_hindrance,
];

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `steps` as a batch job on one node, with `$I` for the image's option.
fn job(lab: &Lab, image: &str, steps: &str) -> JobEnd {
    lab.sbatch(&["-N1", "-n8"], &script(image, steps)).wait(LIMIT)
}

fn script(image: &str, steps: &str) -> String {
    format!("#!/bin/bash\nI={image}\none() {{ srun --overlap -N1 -n1 \"$@\"; }}\n{steps}\n")
}

fn a_writable_root_can_be_changed_everywhere(lab: &Lab) {
    let before = lab.snapshot();
    let change = "set -e
        mkdir -p /usr/local/bin /new/dir; echo 'echo installed' >/usr/local/bin/tool; sh /usr/local/bin/tool
        echo replaced >/etc/only-in-image; cat /etc/only-in-image
        rm -r /opt/tools; mv /opt/work /opt/moved; ls /opt | tr '\\n' ' '; id -u";
    for image in lab.both_kinds("busybox") {
        let run = lab.srun(&[&image, "--container-writable", "sh", "-c", change]).run().success();
        let _ = run.stdout_is(&format!("installed\nreplaced\ndata moved {}", lab.account().uid));
        let again = ["--container-writable", &image, "sh", "-c", "ls /new /usr/local/bin/tool"];
        let _ = lab.srun(&again).run().failure();
        // A missing mount point is made in it too, and mounts keep their own rules.
        let mount = ["--container-writable", "--mount=/etc:/host/etc:ro", &image];
        let look = "touch /host/made && ls /host && ! touch /host/etc/x 2>/dev/null";
        let _ = lab.srun(&mount).args(["sh", "-c", look]).run().success().stdout_is("etc\nmade");
        let _ = lab.srun(&[&image, "touch", "/usr/x"]).run().failure().stderr_has("Read-only file system");
    }
    before.assert_nothing_left();
}

fn later_steps_have_what_earlier_ones_changed(lab: &Lab) {
    let before = lab.snapshot();
    for image in lab.both_kinds("busybox") {
        let end = job(
            lab,
            &image,
            "one $I --container-name=env sh -c 'echo one >/usr/one; rm /etc/only-in-image'
             one $I --container-name=env --mount=/etc:/there sh -c 'cat /usr/one; ls /etc/only-in-image; ls /there/passwd; echo two >/usr/two'
             one --container-name=env sh -c 'cat /usr/one /usr/two; ls /there; echo $IMAGE_NAME'",
        );
        let end = end.completed().output_has("one\n").output_has("/there/passwd\n");
        let end = end.output_has("one\ntwo\nbusybox\n").output_has("ls: /etc/only-in-image: No such file");
        // The mount point is there for the third step, the mount is not.
        let _ = end.output_lacks("hosts\n");
        before.assert_nothing_left();
    }
    lab.assert_nodes_idle();
}

fn steps_at_the_same_time_share_a_container_and_not_their_mounts(lab: &Lab) {
    let (a, b) = (lab.fresh_dir("mount-a"), lab.fresh_dir("mount-b"));
    fs::write(a.join("a"), "").expect("a fresh directory");
    fs::write(b.join("b"), "").expect("a fresh directory");
    let wait =
        "for i in $(seq 200); do [ -e /usr/from-$OTHER ] && break; sleep 0.1; done; ls /mnt /usr/from-$OTHER";
    let [kernel, _] = lab.both_kinds("busybox");
    let steps = format!(
        "for me in a b; do
             other=$([ $me = a ] && echo b || echo a)
             OTHER=$other one $I --container-name=env --mount=$PWD/mount-$me:/mnt sh -c \"touch /usr/from-$me; {wait}\" &
         done; wait",
        wait = wait.replace('$', "\\$")
    );
    let end = job(lab, &kernel, &steps).completed();
    for seen in ["/mnt:\na\n", "/mnt:\nb\n", "/usr/from-a\n", "/usr/from-b\n"] {
        assert!(end.output.contains(seen), "{seen:?}: {end:#?}");
    }
}

fn a_name_is_made_once_and_taken_as_asked(lab: &Lab) {
    let [kernel, fuse] = lab.both_kinds("busybox");
    let other = lab.system_image("no-passwd");
    let end = job(
        lab,
        &kernel,
        &format!(
            "one $I --container-name=a:exec true; one --container-name=b true
             one $I --container-name=a:create true && one $I --container-name=a:create true
             one --container-image={other} --container-name=a true
             one --container-name=a:exec echo taken; one $I --container-name=a:no_exec echo again; true"
        ),
    );
    let end = end.completed().output_has("this job has no container 'a' on this node\n");
    let end = end.output_has("without ':exec' it is made of --container-image");
    let end =
        end.output_has("this job has no container 'b' on this node\n").output_has("pass --container-image");
    let end = end.output_has("container 'a' exists, made by step ").output_has("leave ':create' out");
    let end = end.output_has(&format!("container 'a' was made of {}, and now ", lab.system_image("busybox")));
    let _ = end.output_has("taken\nagain\n");
    // At submission already.
    let run = lab.srun(&[&fuse, "--container-name=a:creat", "true"]).run().failure();
    let _ = run.stderr_has("did you mean 'create'?");
    let run = lab.srun(&[&fuse, "--container-name=a", "--container-readonly", "true"]).run().failure();
    let _ = run.stderr_has("--container-readonly and --container-name contradict each other");
}

fn a_name_is_the_jobs_own(lab: &Lab) {
    let [kernel, _] = lab.both_kinds("busybox");
    let dir = lab.fresh_dir("other-job");
    let steps = format!("cd {}; one $I --container-name=x sh -c 'touch /usr/mine'; touch ready; while [ ! -e stop ]; do sleep 0.1; done", dir.display());
    let script = script(&kernel, &steps);
    let first = lab.sbatch(&["-N1", "-n1"], &script);
    assert!(wait_until(LIMIT, || dir.join("ready").exists()), "{}", first.read_output());
    let look = ["--nodelist=test1", &kernel, "--container-name=x", "ls", "/usr/mine"];
    let run = lab.srun(&look).run().failure();
    let _ = run.stderr_has("No such file");
    // Where they are kept is root's alone.
    let _ = lab.user("ls").arg(lab.dir().join("named")).run().failure().stderr_has("Permission denied");
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let _ = first.wait(LIMIT).completed();
}

fn a_container_is_as_new_after_a_requeue(lab: &Lab) {
    let [_, fuse] = lab.both_kinds("busybox");
    let before = lab.snapshot();
    let steps = "one $I --container-name=x sh -c 'ls /usr/mine; echo run >>/usr/mine; cat /usr/mine'
        if [ -z \"$SLURM_RESTART_COUNT\" ]; then scontrol requeue $SLURM_JOB_ID; sleep 60; fi
        # A run whose end was missed left this one's name behind.
        SLURM_RESTART_COUNT=7 one $I --container-name=x ls /usr/mine; true";
    let script = script(&fuse, steps);
    let batch = lab.sbatch(&["-N1", "-n1", "--requeue", "--open-mode=append"], &script);
    let pends = |record: String| record.contains("Restarts=1") && record.contains("JobState=PENDING");
    assert!(wait_until(LIMIT, || batch.record().is_ok_and(pends)), "{}", batch.read_output());
    // Slurm would let it wait for two minutes.
    let now = ["update", &format!("JobId={}", batch.id), "StartTime=now"];
    let _ = lab.root("scontrol").args(now).run().success();
    let end = batch.wait(LIMIT).completed();
    assert_eq!(end.restarts, 1, "{end:#?}");
    assert_eq!(end.output.matches("No such file").count(), 3, "{end:#?}");
    let _ = end.output_lacks("run\nrun\n");
    before.assert_nothing_left();
}

fn no_write_is_lost_by_64_ranks_and_4_nodes(lab: &Lab) {
    let plugstack = fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    let four = Cluster::builder("kept").nodes(4).plugstack(&plugstack).up().expect("a lab of four nodes");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let before = lab.snapshot();
    // Every rank writes a file of its own and a line to one that all of the node have.
    let write = "echo $SLURM_PROCID >/usr/rank-$SLURM_PROCID; echo $SLURM_PROCID >>/usr/all";
    let count = "echo $(ls /usr | grep -c rank-) $(sort -u /usr/all | wc -l)";
    let steps = format!(
        "srun -N1 -n64 -O {image} --container-name=one sh -c '{write}'
         srun -N1 -n1 --container-name=one sh -c '{count}'
         srun -N4 -n64 -O {image} --container-name=four sh -c '{write}'
         srun -N4 -n4 --ntasks-per-node=1 --container-name=four sh -c '{count}'
         srun -N4 -n64 -O {image} --writable-volatile=/opt/work sh -c 'echo x >>/opt/work/all; sleep 2; echo volatile $(wc -l </opt/work/all)'"
    );
    let end = four.sbatch(&["-N4", "-n32"], &format!("#!/bin/bash\n{steps}\n")).wait(LIMIT).completed();
    assert_eq!(end.output.matches("64 64\n").count(), 1, "{end:#?}");
    assert_eq!(end.output.matches("16 16\n").count(), 4, "{end:#?}");
    assert_eq!(end.output.matches("volatile 16\n").count(), 64, "{end:#?}");
    four.assert_nodes_idle();
    before.assert_nothing_left();
}

fn five_hundred_overlapping_steps_take_one_container(lab: &Lab) {
    let [_, fuse] = lab.both_kinds("busybox");
    let before = lab.snapshot();
    let steps = "for round in $(seq 63); do
            for k in 1 2 3 4 5 6 7 8; do one -O $I --container-name=x sh -c 'echo line >>/usr/all' & done
            wait
        done
        one --container-name=x sh -c 'echo $(wc -l </usr/all) lines'";
    let script = script(&fuse, steps);
    let end = lab.sbatch(&["-N1", "-n8"], &script).wait(Duration::from_secs(600)).completed();
    let _ = end.output_has("504 lines\n");
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

fn a_killed_slurmstepd_takes_no_container_with_it(lab: &Lab) {
    let [_, fuse] = lab.both_kinds("busybox");
    let dir = lab.fresh_dir("killed");
    let before = lab.snapshot();
    let steps = format!(
        "cd {}; one $I --container-name=x sh -c 'echo kept >/usr/kept; touch started; sleep 77' &
         while [ ! -e killed ]; do sleep 0.1; done
         timeout 30 srun --overlap -N1 -n1 --container-name=x cat /usr/kept; scancel $SLURM_JOB_ID; sleep 20",
        dir.display()
    );
    let script = script(&fuse, &steps);
    let batch = lab.sbatch(&["-N1", "-n2"], &script);
    assert!(wait_until(LIMIT, || dir.join("started").exists()), "{}", batch.read_output());
    before.kill_new(Signal::KILL, |command| command.contains("slurmstepd: [") && command.contains(".0]"));
    before.kill_new(Signal::KILL, |command| command.ends_with("sleep 77") && !command.contains("srun"));
    fs::write(dir.join("killed"), "").expect("a fresh directory");
    let _ = batch.wait(LIMIT).output_has("kept\n");
    before.assert_nothing_left();
    lab.resume_nodes().expect("nodes can be resumed");
    lab.assert_nodes_idle();
}

fn a_killed_image_server_breaks_the_container_and_says_so(lab: &Lab) {
    let [_, fuse] = lab.both_kinds("busybox");
    let dir = lab.fresh_dir("server-killed");
    let before = lab.snapshot();
    let steps = format!(
        "cd {}; one $I --container-name=x true; touch made
         while [ ! -e killed ]; do sleep 0.1; done
         one $I --container-name=x true
         one $I --container-name=x:create cat /etc/only-in-image",
        dir.display()
    );
    let script = script(&fuse, &steps);
    let batch = lab.sbatch(&["-N1", "-n1"], &script);
    assert!(wait_until(LIMIT, || dir.join("made").exists()), "{}", batch.read_output());
    before.kill_new(Signal::KILL, |command| command.contains("squashfuse_ll"));
    fs::write(dir.join("killed"), "").expect("a fresh directory");
    let end = batch.wait(LIMIT).completed();
    let end = end.output_has("container 'x' is broken: squashfuse_ll, which served its image ");
    let _ =
        end.output_has("--container-name=x:create makes the container anew").output_has("from the image\n");
    before.assert_nothing_left();
}

/// It is in none of the job's control groups, and a process that is stopped does not see its mount go.
fn a_stopped_image_server_ends_with_its_job(lab: &Lab) {
    let [_, fuse] = lab.both_kinds("busybox");
    let dir = lab.fresh_dir("server-stopped");
    let before = lab.snapshot();
    let steps = format!(
        "cd {}; one $I --container-name=x true; touch made; while [ ! -e stopped ]; do sleep 0.1; done",
        dir.display()
    );
    let script = script(&fuse, &steps);
    let batch = lab.sbatch(&["-N1", "-n1"], &script);
    assert!(wait_until(LIMIT, || dir.join("made").exists()), "{}", batch.read_output());
    before.kill_new(Signal::STOP, |command| command.contains("squashfuse_ll"));
    fs::write(dir.join("stopped"), "").expect("a fresh directory");
    let _ = batch.wait(LIMIT).completed();
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

/// A later step looks for what nobody has looked for before: only the server could say that it is not there.
fn a_stopped_image_server_hangs_no_later_step_and_drains_no_node(lab: &Lab) {
    let [_, fuse] = lab.both_kinds("busybox");
    let dir = lab.fresh_dir("server-silent");
    let before = lab.snapshot();
    let steps = format!(
        "cd {}; one $I --container-name=x true; touch made; while [ ! -e stopped ]; do sleep 0.1; done
         one --container-name=x --mount=/etc:/absent/x true
         one --container-name=x true",
        dir.display()
    );
    let script = script(&fuse, &steps);
    let batch = lab.sbatch(&["-N1", "-n1"], &script);
    assert!(wait_until(LIMIT, || dir.join("made").exists()), "{}", batch.read_output());
    before.kill_new(Signal::STOP, |command| command.contains("squashfuse_ll"));
    fs::write(dir.join("stopped"), "").expect("a fresh directory");
    let end = batch.wait(LIMIT);
    let _ = end.output_has("within 60 s").output_has("container 'x' is broken: squashfuse_ll");
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

fn a_step_with_namespaces_of_its_own_is_joined_in_all_of_them(lab: &Lab) {
    let dir = lab.fresh_dir("joined-all");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let look = "for kind in mnt net ipc uts user; do readlink /proc/self/ns/$kind; done; id -u";
    let script = format!("({look}) >first; echo $SLURM_JOB_ID >id; while [ ! -e stop ]; do sleep 0.1; done");
    let args = [&image, "--container-unshare=net,ipc,uts", "--container-remap-root", "sh", "-c", &script];
    let running = lab.srun(&args).cwd(&dir).spawn();
    let id = || fs::read_to_string(dir.join("id")).unwrap_or_default().trim().to_owned();
    assert!(wait_until(LIMIT, || !id().is_empty()), "the step did not start");
    let (job, name) = (format!("--jobid={}", id()), format!("--container-name={}.0", id()));
    let run = lab.srun(&["--overlap", "-n1", &job, &name, "sh", "-c", look]).run();
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let _ = running.wait().success();
    let first = fs::read_to_string(dir.join("first")).expect("the step wrote");
    assert_eq!(run.success().trimmed(), first.trim());
    assert!(first.ends_with("\n0\n"), "{first}");
}

fn a_running_step_is_joined(lab: &Lab) {
    let before = lab.snapshot();
    let [kernel, _] = lab.both_kinds("busybox");
    let dir = lab.fresh_dir("joined");
    let script = "touch /opt/work/volatile; echo $SLURM_JOB_ID >id; while [ ! -e stop ]; do sleep 0.1; done";
    let volatile = "--writable-volatile=/opt/work";
    let first = lab.srun(&["-N1", &kernel, volatile, "sh", "-c", script]).cwd(&dir).spawn();
    let id = || fs::read_to_string(dir.join("id")).unwrap_or_default().trim().to_owned();
    assert!(wait_until(LIMIT, || !id().is_empty()), "the step did not start");
    let (job, name) = (format!("--jobid={}", id()), format!("--container-name={}.0", id()));
    let join = ["--overlap", "-N1", "-n1", &job];
    let look = "ls /opt/work; echo $IMAGE_NAME; pwd";
    let run = lab.srun(&join).args([&name, "sh", "-c", look]).cwd(&dir).run().success();
    let _ = run.stdout_has("volatile\nbusybox\n").stdout_has(&dir.to_string_lossy());
    let run =
        lab.srun(&join).args([&name, "--mount=/etc:/x", volatile, "--pty", "ls", "/opt/work"]).cwd(&dir);
    let run = run.run().success().stdout_has("volatile");
    let _ = run.stderr_has("is joined as it is, so these have no effect: --mount, --writable-volatile");
    for (id, what) in [("17.5".to_owned(), "no step 17.5 of yours"), (format!("{}.9", id()), "no step ")] {
        let name = format!("--container-name={id}");
        let run = lab.srun(&join).args([&name, "true"]).run().failure();
        let _ = run.stderr_has(what).stderr_has("squeue --steps --me");
    }
    // Another user, root even, is told the same.
    let run = lab.root("srun").args(["-N1", "-n1", "--overlap", "--nodelist=test1", &name, "true"]).run();
    let _ = run.failure().stderr_has("of yours runs in a container on this node");
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let _ = first.wait().success();
    before.assert_nothing_left();
}

/// A process of the user's with slurmstepd's title, and even its program's name, is no slurmstepd.
fn nobody_joins_what_is_not_his(lab: &Lab) {
    let dir = lab.fresh_dir("slurmstepd-like");
    let program = dir.join("slurmstepd");
    fs::copy("/bin/sleep", &program).expect("sleep is there");
    let mut like = Command::new(&program);
    like.arg0("slurmstepd: [99.0]").arg("60").uid(lab.account().uid).gid(lab.account().gid);
    let mut like = like.spawn().expect("a program can be started");
    let run = lab.srun(&["-N1", "--container-name=99.0", "true"]).run().failure();
    let _ = like.kill().and_then(|()| like.wait());
    let _ = run.stderr_has("no step 99.0 of yours runs in a container on this node");
}

/// slurmstepd has files open that the user named: one for each task's output, opened as the user, links of /proc too. The
/// first task's becomes its standard error, which comes before all that Grus opens.
fn a_users_memory_file_is_not_taken_for_slurmstepds(lab: &Lab) {
    let dir = lab.fresh_dir("forged");
    let account = lab.account();
    let memory = rustix::fs::memfd_create("grus-container", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let mut memory = fs::File::from(memory);
    std::os::unix::fs::fchown(&memory, Some(account.uid), Some(account.gid)).expect("root may");
    let mut holder = Command::new("/bin/sleep");
    holder.arg("100").uid(account.uid).gid(account.gid).stdin(memory.try_clone().expect("a descriptor"));
    let mut holder = holder.spawn().expect("a program can be started");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let errors = format!("/proc/{}/fd/%t", holder.id());
    let script =
        "readlink /proc/self/ns/mnt >ns; echo $SLURM_JOB_ID >id; while [ ! -e stop ]; do sleep 0.1; done";
    let args = ["-N1", "-w", &lab.node(1), "-e", &errors, "--open-mode=append", &image, "sh", "-c", script];
    let first = lab.srun(&args).cwd(&dir).spawn();
    let said = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default().trim().to_owned();
    assert!(wait_until(LIMIT, || !said("id").is_empty()), "the step did not start");
    let mounts = said("ns").replace("mnt:[", "").replace(']', "");
    let forged = format!(
        r#"{{"uid":{},"node":"{}","image":"/forged","mounts":{mounts},"set":{{"FORGED":"yes"}},"unset":[],"workdir":null}}"#,
        account.uid,
        lab.node(1)
    );
    memory.write_all(forged.as_bytes()).expect("a memory file");
    let (job, name) = (format!("--jobid={}", said("id")), format!("--container-name={}.0", said("id")));
    let look = "echo $IMAGE_NAME, forged: $FORGED";
    let run = lab.srun(&["--overlap", "-N1", "-n1", &job, &name, "sh", "-c", look]).run();
    fs::write(dir.join("stop"), "").expect("a fresh directory");
    let end = first.wait();
    let _ = holder.kill().and_then(|()| holder.wait());
    let _ = end.success();
    let _ = run.success().stdout_is("busybox, forged:");
}

fn names_and_places_lead_nowhere_else(lab: &Lab) {
    let [kernel, _] = lab.both_kinds("busybox");
    for name in ["../x", "a/b", "..", ".", "/etc", "-x", ""] {
        let run = lab.srun(&[&kernel, &format!("--container-name={name}"), "true"]).run().failure();
        let _ = run.stderr_has("a name has 1 to 64 letters");
    }
    // Nor where the submit side is left out: slurmstepd reads the request again.
    let request = format!("{{\"image\":{{\"file\":\"{0}\"}},\"resolved\":{{\"path\":\"{0}\",\"digest\":null}},\"name\":\"../../x\"}}", lab.system_file("busybox").display());
    let script = format!("#!/bin/sh\nSLURM_SPANK_GRUS_REQUEST='{request}' srun -n1 true; exit 0\n");
    let end = lab.sbatch(&["-N1"], &script).wait(LIMIT).completed();
    let _ = end.output_has("does not hold container options");
    // A directory that a user can write is no place to keep anything.
    let theirs = lab.fresh_dir("theirs");
    let drop_in = lab.dir().join("etc/grus.d");
    fs::create_dir_all(&drop_in).expect("the lab's directory is root's");
    fs::write(drop_in.join("named.toml"), format!("named.dir = {theirs:?}\n")).expect("root can write");
    let run = lab.srun(&[&kernel, "--container-name=x", "true"]).run();
    fs::remove_dir_all(drop_in).expect("it was made above");
    let _ =
        run.failure().stderr_has("named containers cannot be kept in ").stderr_has("named.dir in grus.toml");
    assert_eq!(fs::read_dir(theirs).expect("it is there").count(), 0);
}

fn a_jobs_private_directories_are_no_hindrance(lab: &Lab) {
    let private = with_private_directories(lab, "keptpriv");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let before = lab.snapshot();
    let steps = format!(
        "srun sh -c 'echo host >/tmp/grus-kept'
         srun {image} --container-name=x sh -c 'cat /tmp/grus-kept; echo kept >/usr/kept'
         srun --container-name=x cat /tmp/grus-kept /usr/kept"
    );
    let run = private.user("salloc").args(["-N1", "sh", "-c", &steps]).run().success();
    let _ = run.stdout_is("host\nhost\nkept");
    private.assert_nodes_idle();
    before.assert_nothing_left();
}
