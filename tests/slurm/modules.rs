//! Modules of the site that bring libraries: a fabric with a stand-in device, whose libfabric and provider (Intel's) take
//! the place of the image's below an MPI that stays. 4 ranks on two nodes talk over it, and each proves by its own
//! /proc/self/maps whose files it runs on.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use grus_tests::{Cmd, Output};

use crate::lab::Lab;
use crate::swap::{file_name, host, inode, inodes, normal};

crate::tests![
    a_fabrics_module_brings_libfabric_and_its_provider,
    a_module_that_is_asked_for_is_decided_at_submission,
    an_image_with_a_newer_libfabric_is_refused_or_keeps_its_own,
    a_stack_that_the_site_lacks_is_refused_or_told,
    who_contradicts_a_module_is_told,
    steps_of_a_job_inherit_the_module,
];

const STACK: &str = "intel-fabric";

/// Its libfabric is older than MPICH 5's.
const OLDER: &str =
    "libfabric.so.1 has FABRIC_1.9, which the older libfabric of host stack 'intel-fabric' lacks";

/// A device node that stands for a fabric's; gone when dropped.
struct Device(PathBuf);

impl Device {
    fn new() -> Self {
        let device = Self("/dev/grus-fabric0".into());
        let _ = fs::remove_file(&device.0);
        let _ = Cmd::new("mknod").arg("--mode=666").arg(&device.0).args(["c", "1", "7"]).run().success();
        device
    }

    /// Runs `body` at a site with the module `fabric`, for nodes with this device, and the stack.
    fn with(&self, lab: &Lab, stacks: &[&str], module: &str, body: impl FnOnce()) {
        // The image's own libraries, unless the module says otherwise.
        let site = format!("mpi.default = 'image'\n[module.fabric]\ndevices = [{:?}]\n{module}\n", self.0);
        lab.with_stacks(stacks, || lab.with_site(&site, body));
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// 4 ranks on two nodes.
fn run(lab: &Lab, image: &str, options: &[&str]) -> Output {
    // MPICH would else talk by UCX, where it has it.
    let srun =
        lab.srun(&["-N2", "-n4", "--ntasks-per-node=2", "--mpi=pmi2"]).env("MPIR_CVAR_CH4_NETMOD", "ofi");
    srun.arg(format!("--container-image={}", lab.system_image(image)))
        .args(options)
        .args(["mpi-hello", "libraries"])
        .run()
}

/// All ranks have talked, by the image's own MPI, on the host's libfabric and its TCP provider or on the image's.
#[track_caller]
fn ran_on(lab: &Lab, output: Output, hosts: bool) -> Output {
    let output = output.success().stdout_has("4 ranks, sum of ranks 6");
    let lines: Vec<String> = output.stdout.lines().map(normal).collect();
    let libraries = inodes(&host(lab, "intel"));
    for rank in 0..4 {
        let node = if rank < 2 { "test1" } else { "test2" };
        assert!(lines.iter().any(|l| l.starts_with(&format!("rank {rank} of 4 on {node} in "))), "{output}");
        let maps = |of: &dyn Fn(&str) -> bool| -> BTreeSet<u64> {
            let of_rank = lines.iter().filter(|l| l.starts_with(&format!("rank {rank} maps ")));
            of_rank.filter(|l| of(file_name(l))).map(|l| inode(l)).collect()
        };
        let mpi = maps(&|name| name.starts_with("libmpi"));
        assert!(!mpi.is_empty() && mpi.is_disjoint(&libraries), "rank {rank}: the image's MPI\n{output}");
        let fabric = maps(&|name| name.starts_with("libfabric"));
        assert!(!fabric.is_empty(), "rank {rank} has a libfabric\n{output}");
        let tcp = maps(&|name| name == "libtcp-fi.so");
        if hosts {
            assert!(fabric.is_subset(&libraries), "rank {rank}: the host's libfabric\n{output}");
            assert!(!tcp.is_empty() && tcp.is_subset(&libraries), "rank {rank}: its provider\n{output}");
        } else {
            assert!(fabric.is_disjoint(&libraries), "rank {rank}: the image's libfabric\n{output}");
            assert!(tcp.is_empty(), "rank {rank}: no provider of the host\n{output}");
        }
    }
    output
}

#[track_caller]
fn refused(output: Output, words: &[&str]) {
    let output = words.iter().fold(output.failure(), |output, word| output.stderr_has(word));
    assert!(!output.stdout.contains("rank 0"), "no rank has run\n{output}");
}

fn by_itself(stack: &str) -> String {
    format!("when = 'if device present'\nlibraries = '{stack}'\nenvironment.set = {{ FI_PROVIDER = 'tcp' }}")
}

fn a_fabrics_module_brings_libfabric_and_its_provider(lab: &Lab) {
    let device = Device::new();
    device.with(lab, &[STACK], &by_itself(STACK), || {
        let output = ran_on(lab, run(lab, "mpi-mpich-4.2.3", &[]), true);
        assert!(!output.stderr.contains("grus:"), "nothing to say\n{output}");
        // Nothing comes where the user says so, nor where the device is not.
        for without in ["--container-module=none", "--container-mpi=image"] {
            let _ = ran_on(lab, run(lab, "mpi-mpich-4.2.3", &[without]), false);
        }
        fs::remove_file(&device.0).expect("it is there");
        let _ = ran_on(lab, run(lab, "mpi-mpich-4.2.3", &[]), false);
    });
}

fn a_module_that_is_asked_for_is_decided_at_submission(lab: &Lab) {
    let device = Device::new();
    let module = format!("libraries = '{STACK}'\nenvironment.set = {{ FI_PROVIDER = 'tcp' }}");
    device.with(lab, &[STACK], &module, || {
        let _ = ran_on(lab, run(lab, "mpi-mpich-4.2.3", &["--container-module=fabric"]), true);
        let _ = ran_on(lab, run(lab, "mpi-mpich-4.2.3", &[]), false);
        // A container that is kept has no ruling of submission's.
        let kept = ["--container-module=fabric", "--container-name=fabric"];
        let _ = ran_on(lab, run(lab, "mpi-mpich-4.2.3", &kept), true);
        fs::remove_file(&device.0).expect("it is there");
        let words = ["the module 'fabric' cannot be had: this node has none of its devices"];
        refused(run(lab, "mpi-mpich-4.2.3", &["--container-module=fabric"]), &words);
    });
}

fn an_image_with_a_newer_libfabric_is_refused_or_keeps_its_own(lab: &Lab) {
    let device = Device::new();
    // Were its variable there without its libraries, no rank could start.
    let module = by_itself(STACK).replace("'tcp'", "'nosuch'");
    device.with(lab, &[STACK], &module, || {
        let left_out =
            ["warning: the module 'fabric' is left out: image lab.test/mpi-mpich-5.0.2:1: ", OLDER];
        let output = ran_on(lab, run(lab, "mpi-mpich-5.0.2", &[]), false);
        let output = left_out.iter().fold(output, |output, word| output.stderr_has(word));
        assert_eq!(output.stderr.matches(OLDER).count(), 1, "told once\n{output}");
        let words = ["error: grus: the module 'fabric' cannot be had: image lab.test/mpi-mpich-5.0.2:1: ", OLDER];
        let output = run(lab, "mpi-mpich-5.0.2", &["--container-module=fabric"]);
        let hint =
            "hint: leave it out, take another image, or ask the administrator; 'grus explain IMAGE --stack intel-fabric'";
        assert!(!output.stderr.contains("task 0"), "nothing was started\n{output}");
        refused(output, &[&words[..], &[hint]].concat());
    });
}

fn a_stack_that_the_site_lacks_is_refused_or_told(lab: &Lab) {
    let device = Device::new();
    device.with(lab, &[], &by_itself("gone"), || {
        let told = "the module 'fabric' is left out: there is no host stack 'gone'";
        let output = ran_on(lab, run(lab, "mpi-mpich-4.2.3", &[]), false).stderr_has(told);
        assert_eq!(output.stderr.matches(told).count(), 1, "told once\n{output}");
        let words =
            ["the module 'fabric' cannot be had: there is no host stack 'gone'", "ask the administrator"];
        refused(run(lab, "mpi-mpich-4.2.3", &["--container-module=fabric"]), &words);
        // An image that has nothing to replace hears of nothing.
        let image = format!("--container-image={}", lab.system_image("busybox"));
        let quiet = lab.srun(&[&image, "true"]).run().success();
        assert!(!quiet.stderr.contains("grus"), "{quiet}");
    });
}

fn who_contradicts_a_module_is_told(lab: &Lab) {
    let device = Device::new();
    device.with(lab, &[STACK, "intel"], &by_itself(STACK), || {
        let run = |mpi: &str| run(lab, "mpi-mpich-4.2.3", &["--container-module=fabric", mpi]);
        let words = [
            "the module 'fabric' brings host stack 'intel-fabric', and --container-mpi=intel contradicts it",
        ];
        refused(run("--container-mpi=intel"), &words);
        refused(run("--container-mpi=image"), &["--container-mpi=image contradicts it"]);
        for good in ["--container-mpi=auto", "--container-mpi=intel-fabric"] {
            let _ = ran_on(lab, run(good), true);
        }
    });
}

fn steps_of_a_job_inherit_the_module(lab: &Lab) {
    let device = Device::new();
    let module = format!("libraries = '{STACK}'\nenvironment.set = {{ FI_PROVIDER = 'tcp' }}");
    device.with(lab, &[STACK], &module, || {
        let image = lab.system_image("mpi-mpich-4.2.3");
        let script = format!(
            "#!/bin/bash\n#SBATCH -N2\n#SBATCH -n4\n#SBATCH --container-image={image}\n\
             #SBATCH --container-module=fabric\nexport MPIR_CVAR_CH4_NETMOD=ofi\nsrun --mpi=pmi2 mpi-hello libraries\n"
        );
        let end = lab.sbatch(&[], &script).wait(std::time::Duration::from_secs(60)).completed();
        let end = end.output_has("4 ranks, sum of ranks 6").output_has("libtcp-fi.so");
        let files = inodes(&host(lab, "intel"));
        let fabric = end.output.lines().filter(|line| line.contains("/libfabric.so"));
        assert!(fabric.clone().count() >= 4 && fabric.map(inode).all(|i| files.contains(&i)), "{end:#?}");
    });
}
