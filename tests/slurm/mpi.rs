//! MPI across two nodes inside the container: ranks really talk (a ring and a sum), by PMI2 and by PMIx.

use crate::lab::Lab;

crate::tests![
    mpich_by_pmi2,
    mpich_by_pmi2_over_the_network,
    open_mpi_by_pmix,
    open_mpi_through_shared_memory_on_one_node,
    mpi4py_by_pmix,
    mpi_works_from_a_users_own_image,
    mpi_works_in_a_batch_job,
];

#[track_caller]
fn four_ranks_talk(lab: &Lab, options: &[&str], program: &str) {
    // The two nodes are one machine with one /dev/shm, where Open MPI names a node's segments by host name and
    // local rank: those of test1 and test2 would be the same. So its ranks talk over TCP, on a node too.
    let srun = lab.srun(&["-N2", "-n4", "--ntasks-per-node=2"]).env("OMPI_MCA_btl", "tcp,self");
    let run = srun.args(options).arg(program).run().success();
    let ranks: Vec<String> = [(0, "test1"), (1, "test1"), (2, "test2"), (3, "test2")]
        .iter()
        .map(|(rank, node)| format!("rank {rank} of 4 on {node} in Debian GNU/Linux 12 (bookworm)"))
        .collect();
    let mut wanted: Vec<&str> = ranks.iter().map(String::as_str).collect();
    wanted.insert(0, "4 ranks, sum of ranks 6");
    assert_eq!(run.sorted_lines(), wanted, "{run}");
}

fn mpich_by_pmi2(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("mpich"));
    four_ranks_talk(lab, &["--mpi=pmi2", &image], "mpi-hello");
}

fn mpich_by_pmi2_over_the_network(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("mpich"));
    // Both "nodes" are one machine: without this MPICH would talk through shared memory alone.
    four_ranks_talk(lab, &["--mpi=pmi2", "--export=ALL,MPIR_CVAR_NOLOCAL=1", &image], "mpi-hello");
}

fn open_mpi_by_pmix(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("openmpi"));
    four_ranks_talk(lab, &["--mpi=pmix", &image], "mpi-hello");
}

fn open_mpi_through_shared_memory_on_one_node(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("openmpi"));
    let node = format!("-w{}", lab.node(1));
    let srun = lab.srun(&["-N1", "-n4", &node, "--mpi=pmix", &image]).env("OMPI_MCA_btl", "vader,self");
    let run = srun.arg("mpi-hello").run().success();
    let _ = run.stdout_has("4 ranks, sum of ranks 6").stdout_has("rank 3 of 4 on test1 in Debian");
}

fn mpi4py_by_pmix(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("openmpi"));
    four_ranks_talk(lab, &["--mpi=pmix", &image], "mpi-hello.py");
}

fn mpi_works_from_a_users_own_image(lab: &Lab) {
    let image = lab.pushed_image("mpich");
    let _ = lab.grus(&["pull", &image]).run().success();
    four_ranks_talk(lab, &["--mpi=pmi2", &format!("--container-image={image}")], "mpi-hello");
}

fn mpi_works_in_a_batch_job(lab: &Lab) {
    let image = lab.system_image("openmpi");
    let script = format!(
        "#!/bin/bash\n#SBATCH -N2\n#SBATCH -n4\n#SBATCH --container-image={image}\nOMPI_MCA_btl=tcp,self srun --mpi=pmix mpi-hello\n"
    );
    let end = lab.sbatch(&[], &script).wait(std::time::Duration::from_secs(60)).completed();
    let _ =
        end.output_has("4 ranks, sum of ranks 6").output_has("rank 3 of 4 on test2 in Debian GNU/Linux 12");
}
