//! `grus run` as the ranks of a launch: one container for those of a node.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::{Cmd, Fuse, Output};

use crate::lab::Lab;

crate::tests![
    ranks_of_a_step_share_one_container,
    ranks_of_a_process_manager_share_one_container,
    ranks_with_other_options_or_alone_have_their_own,
    a_first_rank_that_ends_early_harms_nobody,
    ranks_share_a_container_with_what_a_module_brings,
    ranks_keep_an_unpacked_tree_when_the_first_has_ended,
    real_launchers_run_ranks_that_talk,
    real_launchers_run_ranks_in_an_allocation,
    ranks_of_a_real_launcher_run_on_the_hosts_mpi,
];

/// Says which namespaces a rank is in, and whether it may look into the memory of all that have said so, which is what
/// CMA needs (ptrace(2), access mode checks). `$1` is a fresh directory, `$2` the number of ranks.
const LOOK: &str = "echo $(readlink /proc/self/ns/user) $(readlink /proc/self/ns/mnt) >$1/$$.part; mv $1/$$.part $1/$$; \
                    while [ $(ls $1 | grep -vc part) -lt $2 ]; do sleep 0.05; done; \
                    for other in $(ls $1); do tr -d '\\0' </proc/$other/environ >/dev/null || echo denied; done; \
                    touch $1.done.$$; while [ $(ls -d $1.done.* | wc -l) -lt $2 ]; do sleep 0.05; done; cat $1/$$";

fn namespaces(out: &Output) -> BTreeSet<String> {
    out.stdout.lines().map(str::to_owned).collect()
}

fn ranks_of_a_step_share_one_container(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let (image, program) = (lab.system_image("busybox"), lab.grus_program());
    let before = lab.snapshot();
    let dir = lab.fresh_dir("ranks");
    let step = lab.srun(&["-N1", "-n4", "--overcommit"]).env("GRUS_CONFIG", lab.site_file()).arg(&program);
    let step = step.args(["run", &image, "sh", "-c", LOOK, "sh"]).arg(&dir).arg("4").run().success();
    assert_eq!((step.stdout.lines().count(), namespaces(&step).len()), (4, 1), "{step}");
    let _ = step.stdout_lacks("denied").stderr_lacks("warning");
    let _ = lab.user("sh").args(["-c", "rm -r \"$0\".done.* \"$0\""]).arg(&dir).run().success();
    before.assert_nothing_left();
}

fn ranks_of_a_process_manager_share_one_container(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let (image, program) = (lab.system_image("busybox"), lab.grus_program());
    let dir = lab.fresh_dir("ranks");
    // As Hydra's proxy starts them.
    let manager = "for rank in 1 2 3; do \"$@\" & done; wait";
    let ranks = lab.user("sh").env("GRUS_CONFIG", lab.site_file()).env("MPI_LOCALNRANKS", "3");
    let ranks = ranks.args(["-c", manager, "sh"]).arg(&program).args(["run", &image, "sh", "-c", LOOK, "sh"]);
    let ranks = ranks.arg(&dir).arg("3").run().success();
    assert_eq!((ranks.stdout.lines().count(), namespaces(&ranks).len()), (3, 1), "{ranks}");
    let _ = ranks.stdout_lacks("denied");
}

fn ranks_with_other_options_or_alone_have_their_own(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let (image, program) = (lab.system_image("busybox"), lab.grus_program());
    let which = "readlink /proc/self/ns/mnt; sleep 1";
    for (ranks, script, expected) in [
        ("2", "\"$@\" & \"$0\" run --no-home IMAGE sh -c 'SCRIPT' & wait", 2),
        ("1", "\"$@\" & \"$@\" & wait", 2),
        // A variable is a rank's own, and no other container.
        ("2", "\"$0\" run -e A=1 IMAGE sh -c 'SCRIPT; test $A = 1' & \"$0\" run -e A=2 IMAGE sh -c 'SCRIPT; test $A = 2 || echo wrong' & wait", 1),
    ] {
        let script = script.replace("IMAGE", &image).replace("SCRIPT", which);
        let out = lab.user("sh").env("GRUS_CONFIG", lab.site_file()).env("MPI_LOCALNRANKS", ranks);
        let out = out.arg("-c").arg(script).arg(&program).arg(&program).args(["run", &image, "sh", "-c", which]).run();
        let out = out.success();
        assert_eq!((out.stdout.lines().count(), namespaces(&out).len()), (2, expected), "{out}");
    }
}

fn a_first_rank_that_ends_early_harms_nobody(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let (image, program) = (lab.system_image("busybox"), lab.grus_program());
    let before = lab.snapshot();
    // The second joins while the first is there, and stays; the third comes when the first has gone.
    let manager = "\"$@\" 'sleep 1; echo first' & sleep 0.5; \"$@\" 'sleep 2; ls /bin/busybox' & sleep 1.2; \
                   \"$@\" 'ls /bin/busybox' & wait";
    let ranks = lab.user("sh").env("GRUS_CONFIG", lab.site_file()).env("MPI_LOCALNRANKS", "3");
    let ranks = ranks.args(["-c", manager, "sh"]).arg(&program).args(["run", &image, "sh", "-c"]).run();
    let ranks = ranks.success().stdout_has("first");
    assert_eq!(ranks.stdout.matches("/bin/busybox").count(), 2, "{ranks}");
    before.assert_nothing_left();
}

fn ranks_share_a_container_with_what_a_module_brings(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let (image, program) = (lab.system_image("busybox"), lab.grus_program());
    let module = "[module.marked]\nwhen = 'always'\nbinds = ['/etc/hostname:/opt/marked:ro']\n\
                  environment.set = { MARKED = 'yes' }\nenvironment.prepend = { PATH = '/opt/marked-bin' }\n";
    lab.with_site(module, || {
        let script = "echo $MARKED ${PATH%%:*} $(ls /opt/marked) $(readlink /proc/self/ns/mnt); sleep 1";
        let ranks = lab.user("sh").env("GRUS_CONFIG", lab.site_file()).env("MPI_LOCALNRANKS", "2");
        let ranks = ranks.args(["-c", "\"$@\" & \"$@\" & wait", "sh"]).arg(&program);
        let ranks = ranks
            .args(["run", &image, "sh", "-c", script])
            .run()
            .success()
            .stdout_has("yes /opt/marked-bin /opt/marked ");
        assert_eq!((ranks.stdout.lines().count(), namespaces(&ranks).len()), (2, 1), "{ranks}");
    });
}

fn ranks_keep_an_unpacked_tree_when_the_first_has_ended(lab: &Lab) {
    let _fuse = Fuse::for_everyone(false);
    let (image, program) = (lab.system_image("busybox"), lab.grus_program());
    let dir = lab.fresh_dir("kept");
    // The second joins, says so, and stays when the first has ended.
    let manager = "\"$@\" 'echo >first; while [ ! -e second ]; do sleep 0.05; done' & \
                   while [ ! -e first ]; do sleep 0.05; done; \
                   \"$@\" 'echo >second; while [ ! -e go ]; do sleep 0.1; done; ls /bin/busybox' & \
                   wait %1; echo >alone; wait";
    let ranks = lab.user("bash").env("GRUS_CONFIG", lab.site_file()).env("MPI_LOCALNRANKS", "2");
    let ranks = ranks.args(["-c", manager, "sh"]).arg(&program).args(["run", &image, "sh", "-c"]);
    let running = ranks.cwd(&dir).spawn();
    let alone = wait_until(Duration::from_secs(60), || dir.join("alone").exists());
    let pruned = lab.grus(&["prune"]).run().success();
    fs::write(dir.join("go"), "").expect("a fresh directory");
    let ranks = running.wait().success();
    assert!(alone, "{ranks}");
    let _ = pruned.stdout_lacks("unpacked images");
    let _ = ranks.stdout_is("/bin/busybox").stderr_lacks("warning");
    let _ = lab.grus(&["prune"]).run().success().stdout_has("unpacked images");
}

/// `mpirun -n 4 grus run` of the user's, by MPICH's launcher or Open MPI's, both of this machine's packages.
fn mpirun(lab: &Lab, launcher: &str, options: &[&str], program: &[&str]) -> Output {
    let shared = [("OMPI_MCA_btl", "vader,self"), ("OMPI_MCA_btl_vader_single_copy_mechanism", "cma")];
    let set = |cmd: Cmd| shared.into_iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value));
    let mpirun = set(lab.user(launcher)).env("GRUS_CONFIG", lab.site_file()).limit(Duration::from_secs(120));
    let more: &[&str] = match launcher {
        // The machine may have fewer processors, and no ssh.
        "mpirun.openmpi" => &["--oversubscribe", "--mca", "plm", "isolated"],
        _ => &[],
    };
    mpirun.args(more).args(["-n", "4"]).arg(lab.grus_program()).arg("run").args(options).args(program).run()
}

fn real_launchers_run_ranks_that_talk(lab: &Lab) {
    let before = lab.snapshot();
    for yes in [true, false] {
        let _fuse = Fuse::for_everyone(yes);
        for (launcher, name) in [("mpirun.mpich", "mpich"), ("mpirun.openmpi", "openmpi")] {
            assert!(Path::new("/usr/bin").join(launcher).exists(), "{launcher}: run ci/packages");
            let image = lab.system_image(name);
            let script =
                "echo in $(readlink /proc/self/ns/user) $(readlink /proc/self/ns/mnt); exec mpi-hello";
            let run = mpirun(lab, launcher, &[&image], &["sh", "-c", script]).success();
            let run = run
                .stdout_has("4 ranks, sum of ranks 6")
                .stdout_has("rank 3 of 4 on ")
                .stderr_lacks("warning");
            let places: BTreeSet<&str> = run.stdout.lines().filter(|line| line.starts_with("in ")).collect();
            assert_eq!(places.len(), 1, "one container: {run}");
            assert_eq!(run.stdout.matches(" in Debian GNU/Linux 12").count(), 4, "{run}");
        }
    }
    let _ = lab.grus(&["prune"]).run().success();
    before.assert_nothing_left();
}

/// mpirun starts its ranks by a step of the job's then.
fn real_launchers_run_ranks_in_an_allocation(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    let before = lab.snapshot();
    let image = lab.system_image("mpich");
    let script = "echo in $(readlink /proc/self/ns/mnt); exec mpi-hello";
    let job = lab.user("salloc").args(["-N1", "-n4", "mpirun.mpich", "-n", "4"]).arg(lab.grus_program());
    let job = job.env("GRUS_CONFIG", lab.site_file()).args(["run", &image, "sh", "-c", script]);
    let run = job.limit(Duration::from_secs(60)).run().success();
    let run = run.stdout_has("4 ranks, sum of ranks 6").stdout_has("rank 3 of 4 on ").stderr_lacks("warning");
    let places: BTreeSet<&str> = run.stdout.lines().filter(|line| line.starts_with("in ")).collect();
    assert_eq!(places.len(), 1, "one container: {run}");
    before.assert_nothing_left();
}

fn ranks_of_a_real_launcher_run_on_the_hosts_mpi(lab: &Lab) {
    let _fuse = Fuse::for_everyone(true);
    lab.with_stacks(&["mpich5"], || {
        let image = lab.system_image("mpich");
        let run =
            mpirun(lab, "mpirun.mpich", &["--mpi=mpich5", &image], &["mpi-hello", "libraries"]).success();
        let run = run.stdout_has("4 ranks, sum of ranks 6").stderr_lacks("warning");
        let of = |what: &str| run.stdout.lines().filter(|line| line.contains(what)).count();
        let versions =
            run.stdout.lines().filter(|line| line.contains(" runs ") && line.contains("5.0.2")).count();
        assert_eq!((of(" runs "), versions), (4, 4), "{run}");
        let own =
            mpirun(lab, "mpirun.mpich", &["--mpi=image", &image], &["mpi-hello", "libraries"]).success();
        let _ = own.stdout_has("4 ranks, sum of ranks 6").stdout_lacks("5.0.2");
        let refused = mpirun(lab, "mpirun.mpich", &["--mpi=mpich5", &lab.system_image("openmpi")], &["true"]);
        let _ = refused.failure().stderr_has("mpich5").stderr_has("hint: ");
    });
}
