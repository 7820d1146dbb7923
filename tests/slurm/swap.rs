//! The host's MPI in images with real MPIs of other makers and releases: 4 ranks on two nodes talk, and each proves by
//! its own /proc/self/maps which library it runs on. What cannot work is refused, with the reason.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use grus_tests::Output;

use crate::lab::Lab;

crate::tests![
    mpich_5_runs_on_intel_mpi,
    debian_mpich_runs_on_intel_mpi_under_its_own_name,
    mpich_4_of_every_release_runs_on_mpich_5,
    a_function_that_the_host_lacks_is_named,
    open_mpi_4_runs_on_5_and_back,
    debian_open_mpi_with_mpi4py_runs_on_open_mpi_5,
    mpich_on_open_mpi_is_refused_and_libfabric_offered,
    the_standard_abi_runs_on_mpich_and_intel_mpi,
    the_standard_abi_under_its_wrong_name_runs_too,
    mpi4py_of_a_virtual_environment_runs_on_the_host,
    fortran_runs_where_the_host_has_it,
    fortran_is_refused_where_the_host_has_none,
    a_conda_environment_runs_on_the_host,
    static_mpi_and_musl_are_refused,
    a_newer_glibc_is_refused_or_taken_whole,
    the_wrong_launcher_is_refused_before_ranks_are_alone,
    libfabric_alone_leaves_the_images_mpi,
    auto_takes_what_fits_and_image_takes_nothing,
    steps_of_a_batch_job_run_on_the_host,
    a_swap_is_its_steps_alone_in_a_root_that_can_be_changed,
];

/// What is run, and how.
struct Step<'a> {
    image: &'a str,
    mpi: &'a str,
    launcher: &'a str,
    program: &'a str,
    variable: (&'a str, &'a str),
    options: &'a [&'a str],
}

/// A step of `image` on the stack `mpi`.
fn step<'a>(image: &'a str, mpi: &'a str) -> Step<'a> {
    let launcher = if mpi.contains("openmpi") { "pmix" } else { "pmi2" };
    // Open MPI names shared memory by host name and local rank: the same on both nodes of one machine.
    Step { image, mpi, launcher, program: "mpi-hello", variable: ("OMPI_MCA_btl", "tcp,self"), options: &[] }
}

impl Step<'_> {
    #[track_caller]
    fn run(&self, lab: &Lab) -> Output {
        let srun = lab.srun(&["-N2", "-n4", "--ntasks-per-node=2"]).env(self.variable.0, self.variable.1);
        srun.arg(format!("--mpi={}", self.launcher))
            .arg(format!("--container-image={}", lab.system_image(self.image)))
            .arg(format!("--container-mpi={}", self.mpi))
            .args(self.options)
            .args([self.program, "libraries"])
            .run()
    }

    /// It runs, each rank on an MPI that calls itself `version`, from the host's directory `host`.
    #[track_caller]
    fn runs_on(&self, lab: &Lab, version: &str, host: &Path) {
        let output = self.run(lab).success().stdout_has("4 ranks, sum of ranks 6");
        let lines: Vec<String> = output.stdout.lines().map(normal).collect();
        let files = inodes(host);
        for rank in 0..4 {
            let node = if rank < 2 { "test1" } else { "test2" };
            let of = |what: &str| lines.iter().filter(move |l| l.starts_with(what)).collect::<Vec<_>>();
            assert_eq!(of(&format!("rank {rank} of 4 on {node} in ")).len(), 1, "rank {rank}\n{output}");
            let runs = of(&format!("rank {rank} runs "));
            assert!(
                runs.len() == 1 && runs[0].contains(version),
                "rank {rank} runs on {version}: {runs:?}\n{output}"
            );
            let mapped = of(&format!("rank {rank} maps "));
            let mpi: Vec<_> = mapped.iter().filter(|l| file_name(l).starts_with("libmpi")).collect();
            assert!(!mpi.is_empty(), "rank {rank} has an MPI\n{output}");
            for line in mpi {
                assert!(files.contains(&inode(line)), "{line} is of {}\n{output}", host.display());
            }
        }
    }

    /// It is refused, with these words.
    #[track_caller]
    fn refused(&self, lab: &Lab, words: &[&str]) {
        let output = words.iter().fold(self.run(lab).failure(), |output, word| output.stderr_has(word));
        assert!(!output.stdout.contains("rank 0"), "no rank has run\n{output}");
    }
}

/// A line with single spaces: MPICH aligns its version.
pub fn normal(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn file_name(line: &str) -> &str {
    let path = line.split(' ').nth(3).unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

pub fn inode(line: &str) -> u64 {
    line.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Inodes of a directory's files.
pub fn inodes(dir: &Path) -> BTreeSet<u64> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten();
    entries.filter_map(|e| Some(fs::metadata(e.path()).ok()?.ino())).collect()
}

/// Where a stack's MPI library is.
pub fn host(lab: &Lab, stack: &str) -> PathBuf {
    match stack.starts_with("debian") {
        true => format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into(),
        false => lab.stack_prefix(stack).expect("the stack can be installed").join("lib"),
    }
}

#[track_caller]
fn accepted(lab: &Lab, image: &str, stack: &str, version: &str) {
    lab.with_stacks(&[stack], || step(image, stack).runs_on(lab, version, &host(lab, stack)));
}

#[track_caller]
fn refused(lab: &Lab, image: &str, stack: &str, words: &[&str]) {
    lab.with_stacks(&[stack], || step(image, stack).refused(lab, words));
}

const INTEL: &str = "Intel(R) MPI Library 2021.18.1";
const MPICH_5: &str = "MPICH Version: 5.0.2";

fn mpich_5_runs_on_intel_mpi(lab: &Lab) {
    accepted(lab, "mpi-mpich-5.0.2", "intel", INTEL);
    lab.with_stacks(&["intel"], || {
        let step = Step { launcher: "pmix", ..step("mpi-mpich-5.0.2", "intel") };
        step.runs_on(lab, INTEL, &host(lab, "intel"));
    });
}

fn debian_mpich_runs_on_intel_mpi_under_its_own_name(lab: &Lab) {
    accepted(lab, "mpich", "intel", INTEL);
}

fn mpich_4_of_every_release_runs_on_mpich_5(lab: &Lab) {
    // By RUNPATH, by RPATH, by the image's LD_LIBRARY_PATH, and below /opt.
    for image in ["mpi-mpich-4.0.3", "mpi-mpich-4.1.3", "mpi-mpich-4.2.3", "mpi-mpich-4.3.2"] {
        accepted(lab, image, "mpich5", MPICH_5);
    }
}

fn a_function_that_the_host_lacks_is_named(lab: &Lab) {
    let words = ["uses MPI_Comm_attach_buffer of MPICH ABI (MPI 5.0)", "'mpich3' (MPICH 3.4.3)", "lacks it"];
    refused(lab, "mpi-mpich-new", "mpich3", &words);
    accepted(lab, "mpi-mpich-new", "intel", INTEL);
    // Without that function the old host serves.
    accepted(lab, "mpi-mpich-5.0.2", "mpich3", "MPICH Version: 3.4.3");
}

fn open_mpi_4_runs_on_5_and_back(lab: &Lab) {
    accepted(lab, "mpi-openmpi-4.1.8", "openmpi5", "Open MPI v5.0.11");
    accepted(lab, "mpi-openmpi-5.0.11", "openmpi4", "Open MPI v4.1.8");
    accepted(lab, "mpi-openmpi-5.0.11", "debian-openmpi", "Open MPI v4.1.4");
}

fn debian_open_mpi_with_mpi4py_runs_on_open_mpi_5(lab: &Lab) {
    accepted(lab, "openmpi", "openmpi5", "Open MPI v5.0.11");
    lab.with_stacks(&["openmpi5"], || {
        let step = Step { program: "mpi-hello.py", ..step("openmpi", "openmpi5") };
        step.runs_on(lab, "Open MPI v5.0.11", &host(lab, "openmpi5"));
    });
}

fn mpich_on_open_mpi_is_refused_and_libfabric_offered(lab: &Lab) {
    let words =
        ["uses MPICH ABI (MPI 5.0)", "one cannot stand for the other", "--container-mpi=fabric keeps"];
    refused(lab, "mpi-mpich-5.0.2", "openmpi5", &words);
    refused(lab, "mpi-openmpi-5.0.11", "mpich5", &["uses Open MPI 5", "--container-mpi=fabric keeps"]);
    // Debian's MPICH is built on UCX: there is no libfabric to replace.
    refused(
        lab,
        "mpich",
        "openmpi5",
        &["one cannot stand for the other", "or --container-mpi=image runs the image's"],
    );
}

fn the_standard_abi_runs_on_mpich_and_intel_mpi(lab: &Lab) {
    accepted(lab, "mpi-abi", "mpich5", MPICH_5);
    accepted(lab, "mpi-abi", "intel", INTEL);
    refused(lab, "mpi-abi", "mpich3", &["uses MPI 5 standard ABI", "has MPICH ABI"]);
}

fn the_standard_abi_under_its_wrong_name_runs_too(lab: &Lab) {
    accepted(lab, "mpi-abi-so0", "mpich5", MPICH_5);
    accepted(lab, "mpi-abi-so0", "intel", INTEL);
}

fn mpi4py_of_a_virtual_environment_runs_on_the_host(lab: &Lab) {
    accepted(lab, "mpi-mpi4py", "intel", INTEL);
    lab.with_stacks(&["mpich5"], || {
        // Slurm's pmi2 and MPICH's UCX addresses: docs/mpi.md, Known limits.
        let step = Step { variable: ("MPIR_CVAR_CH4_NETMOD", "ofi"), ..step("mpi-mpi4py", "mpich5") };
        step.runs_on(lab, MPICH_5, &host(lab, "mpich5"));
    });
}

fn fortran_runs_where_the_host_has_it(lab: &Lab) {
    accepted(lab, "mpi-fortran-mpich", "intel", INTEL);
    accepted(lab, "mpi-fortran-mpich", "debian-mpich", "MPICH Version: 4.0.2");
    accepted(lab, "mpi-fortran-openmpi", "debian-openmpi", "Open MPI v4.1.4");
}

fn fortran_is_refused_where_the_host_has_none(lab: &Lab) {
    refused(
        lab,
        "mpi-fortran-mpich",
        "mpich5",
        &["libmpichfort.so.12", "(Fortran bindings)", "no such library"],
    );
    refused(lab, "mpi-fortran-openmpi", "openmpi5", &["libmpi_mpifh.so.40", "no such library"]);
}

fn a_conda_environment_runs_on_the_host(lab: &Lab) {
    accepted(lab, "mpi-conda", "intel", INTEL);
    accepted(lab, "mpi-conda", "mpich5", MPICH_5);
}

fn static_mpi_and_musl_are_refused(lab: &Lab) {
    refused(lab, "mpi-static", "intel", &["/usr/bin/mpi-hello has its MPI linked in statically"]);
    refused(lab, "mpi-musl", "intel", &["is built on musl", "'intel' (Intel MPI 2021.18.1) need glibc"]);
}

fn a_newer_glibc_is_refused_or_taken_whole(lab: &Lab) {
    let words =
        ["has glibc 2.31; libmpich.so.12 of host stack 'debian-mpich'", "needs GLIBC_2.34", "mpi.glibc"];
    refused(lab, "mpi-glibc-2.31", "debian-mpich", &words);
    lab.with_site("mpi.glibc = \"auto\"\n", || {
        accepted(lab, "mpi-glibc-2.31", "debian-mpich", "MPICH Version: 4.0.2");
    });
}

fn the_wrong_launcher_is_refused_before_ranks_are_alone(lab: &Lab) {
    lab.with_stacks(&["mpich5", "openmpi5"], || {
        let launched = |launcher, image, mpi, words: &[&str]| {
            Step { launcher, ..step(image, mpi) }.refused(lab, words);
        };
        let alone = ["4 tasks of MPICH 5.0.2 would each be rank 0 of 1", "run it with 'srun --mpi=pmi2'"];
        launched("none", "mpi-mpich-5.0.2", "mpich5", &alone);
        let other = ["--mpi=pmix: MPICH 5.0.2 does not understand it", "'srun --mpi=pmi2'"];
        launched("pmix", "mpi-mpich-5.0.2", "mpich5", &other);
        let other = ["--mpi=pmi2: Open MPI 5.0.11 does not understand it", "'srun --mpi=pmix'"];
        launched("pmi2", "mpi-openmpi-4.1.8", "openmpi5", &other);
    });
}

fn libfabric_alone_leaves_the_images_mpi(lab: &Lab) {
    lab.with_stacks(&["intel"], || {
        let output =
            step("mpi-mpich-4.2.3", "fabric").run(lab).success().stdout_has("4 ranks, sum of ranks 6");
        let lines: Vec<String> = output.stdout.lines().map(normal).collect();
        let files = inodes(&host(lab, "intel"));
        for rank in 0..4 {
            let version = format!("rank {rank} runs MPICH Version: 4.2.3");
            assert!(lines.contains(&version), "{version}\n{output}");
            let maps = |start: &str| {
                let of_rank = lines.iter().filter(|l| l.starts_with(&format!("rank {rank} maps ")));
                of_rank.filter(|l| file_name(l).starts_with(start)).map(|l| inode(l)).collect::<Vec<_>>()
            };
            assert!(maps("libmpi").iter().all(|i| !files.contains(i)), "the image's MPI\n{output}");
            let fabric = maps("libfabric");
            assert!(
                !fabric.is_empty() && fabric.iter().all(|i| files.contains(i)),
                "the host's libfabric\n{output}"
            );
        }
        // MPICH 5's is newer than Intel's.
        let words = ["libfabric.so.1 has FABRIC_1.9, which the older libfabric of host stack 'intel'"];
        step("mpi-mpich-5.0.2", "fabric").refused(lab, &words);
    });
}

fn auto_takes_what_fits_and_image_takes_nothing(lab: &Lab) {
    lab.with_stacks(&["intel", "mpich5", "openmpi5"], || {
        // The first in the order of names that fits.
        step("mpi-mpich-4.2.3", "auto").runs_on(lab, INTEL, &host(lab, "intel"));
        let open = Step { launcher: "pmix", ..step("mpi-openmpi-4.1.8", "host") };
        open.runs_on(lab, "Open MPI v5.0.11", &host(lab, "openmpi5"));
        let own = step("mpi-mpich-4.2.3", "image").run(lab).success();
        assert_eq!(own.stdout.lines().filter(|l| l.ends_with("4.2.3")).count(), 4, "{own}");
        // What nothing fits runs as it is, and says so.
        let kept = step("mpi-static", "auto").run(lab).success();
        let _ = kept.stdout_has("4 ranks, sum of ranks 6").stderr_has("linked in statically");
    });
}

fn steps_of_a_batch_job_run_on_the_host(lab: &Lab) {
    lab.with_stacks(&["mpich5"], || {
        let image = lab.system_image("mpi-mpich-4.2.3");
        let script = format!(
            "#!/bin/bash\n#SBATCH -N2\n#SBATCH -n4\n#SBATCH --container-image={image}\n\
             #SBATCH --container-mpi=mpich5\nsrun --mpi=pmi2 mpi-hello libraries\n"
        );
        let end = lab.sbatch(&[], &script).wait(std::time::Duration::from_secs(60)).completed();
        let _ = end.output_has("4 ranks, sum of ranks 6").output_has("5.0.2");
    });
}

fn a_swap_is_its_steps_alone_in_a_root_that_can_be_changed(lab: &Lab) {
    lab.with_stacks(&["intel"], || {
        for options in [["--container-writable"], ["--container-name=x"]] {
            let step = Step { options: &options, ..step("mpi-mpich-5.0.2", "intel") };
            step.runs_on(lab, INTEL, &host(lab, "intel"));
        }
        let image = lab.system_image("mpi-mpich-5.0.2");
        let steps = ["intel", "image", "intel"].map(|mpi| {
            format!("srun -N1 -n2 --mpi=pmi2 --container-image={image} --container-name=x --container-mpi={mpi} mpi-hello")
        });
        let script = format!("#!/bin/bash\n{}\n", steps.join("\n"));
        let end = lab.sbatch(&["-N1", "-n2"], &script).wait(std::time::Duration::from_secs(120)).completed();
        assert_eq!(end.output.matches("2 ranks, sum of ranks 1").count(), 3, "{end:#?}");
    });
}
