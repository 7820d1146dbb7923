//! `grus run` as the ranks of a launch: one container for those of a node.

use std::collections::BTreeSet;

use grus_tests::{Fuse, Output};

use crate::lab::Lab;

crate::tests![
    ranks_of_a_step_share_one_container,
    ranks_of_a_process_manager_share_one_container,
    ranks_with_other_options_or_alone_have_their_own,
    a_first_rank_that_ends_early_harms_nobody,
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
