//! What is run: a stack of the host, an image with another MPI of its family, and a program that measures.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use grus_core::stack::Stack;
use grus_tests::images::mpi::BENCH_PROGRAM;
use grus_tests::{Cluster, ImageStore};

/// The file of message lengths for IMB, in the working directory.
pub const LENGTHS: &str = "lengths";

/// One stack and its image.
#[derive(Debug)]
pub struct Subject {
    /// In the report.
    pub name: &'static str,
    /// The host's stack; see `grus-lab stacks`.
    pub stack: &'static str,
    /// The image's recipe.
    pub image: &'static str,
    launcher: &'static str,
    /// For IMB-MPI1; our own loops take none.
    arguments: &'static [&'static str],
    /// Both nodes are one machine: what makes ranks of two nodes talk over the network.
    network: &'static [(&'static str, &'static str)],
    /// Wherever it runs.
    always: &'static [(&'static str, &'static str)],
}

/// All of them.
pub const SUBJECTS: &[Subject] = &[
    Subject {
        name: "intel",
        stack: "intel",
        image: "mpi-bench-intel",
        launcher: "--mpi=pmi2",
        // Messages of a sample, and megabytes of all.
        arguments: &["-msglen", LENGTHS, "-iter", "5000,400", "PingPong", "Allreduce"],
        network: &[
            ("I_MPI_FABRICS", "ofi"),
            ("FI_PROVIDER", "tcp"),
            ("MPIR_CVAR_NOLOCAL", "1"),
            ("MPIR_CVAR_CH4_NETMOD", "ofi"),
        ],
        always: &[],
    },
    Subject {
        name: "mpich",
        stack: "mpich5",
        image: "mpi-bench-mpich",
        launcher: "--mpi=pmi2",
        arguments: &[],
        network: &[("MPIR_CVAR_NOLOCAL", "1"), ("MPIR_CVAR_CH4_NETMOD", "ofi"), ("FI_PROVIDER", "tcp")],
        always: &[],
    },
    Subject {
        name: "openmpi",
        stack: "openmpi5",
        image: "mpi-bench-openmpi",
        launcher: "--mpi=pmix",
        arguments: &[],
        network: &[("OMPI_MCA_btl", "tcp,self")],
        always: &[("OMPI_MCA_pml", "ob1"), ("PMIX_MCA_psec", "native")],
    },
];

/// How a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// On the host.
    Native,
    /// In the container, on the host's MPI.
    Swapped,
    /// In the container, on its own MPI.
    Unswapped,
}

impl Way {
    /// In the order of a round.
    pub const ALL: [Way; 3] = [Way::Native, Way::Swapped, Way::Unswapped];

    /// In the report.
    pub fn label(self) -> &'static str {
        match self {
            Way::Native => "native",
            Way::Swapped => "swapped",
            Way::Unswapped => "unswapped",
        }
    }
}

/// What a subject needs on the machine.
#[derive(Debug)]
pub struct Prepared {
    /// Reference of the image.
    pub image: String,
    /// The same program on the host.
    program: PathBuf,
    /// Variables that the host's stack needs.
    host: BTreeMap<String, String>,
}

/// Microseconds and megabytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// One way, 8 bytes.
    pub latency: f64,
    /// 4 MiB.
    pub bandwidth: f64,
    /// 8 bytes.
    pub allreduce: f64,
}

impl Subject {
    /// Imports the image, installs the stack and the program.
    pub fn prepare(&self, cluster: &Cluster) -> Result<Prepared> {
        let image = cluster.system_image(self.image)?;
        let tree = cluster.dir().join("opt").join(self.image);
        ImageStore::default().mpi_tree(self.image, &tree)?;
        let profile = std::fs::read_to_string(cluster.stack_profile(self.stack)?)?;
        let stack = Stack::parse(self.stack, &profile).map_err(|e| anyhow::anyhow!("{e}"))?;
        let mut host = stack.environment.default;
        host.extend(stack.environment.set);
        let library = cluster.stack_prefix(self.stack)?.join("lib");
        host.insert("LD_LIBRARY_PATH".into(), library.display().to_string());
        Ok(Prepared { image, program: tree.join(BENCH_PROGRAM), host })
    }

    /// Runs two ranks once.
    pub fn run(
        &self,
        cluster: &Cluster,
        job: &str,
        prepared: &Prepared,
        way: Way,
        nodes: usize,
    ) -> Result<Figures> {
        let srun = cluster.user("srun").arg(format!("--jobid={job}")).arg(self.launcher);
        let mut srun = srun.arg(format!("-N{nodes}")).args(["-n2", "--overlap"]);
        for (name, value) in self.always.iter().chain(self.network.iter().filter(|_| nodes > 1)) {
            srun = srun.env(name, value);
        }
        srun = match way {
            Way::Native => {
                let srun = prepared.host.iter().fold(srun, |srun, (name, value)| srun.env(name, value));
                srun.arg(&prepared.program)
            }
            _ => {
                let mpi = if way == Way::Swapped { self.stack } else { "image" };
                let srun = srun.arg(format!("--container-image={}", prepared.image));
                srun.arg(format!("--container-mpi={mpi}")).arg(format!("/{BENCH_PROGRAM}"))
            }
        };
        let output = srun.args(self.arguments).run();
        ensure!(output.status.success(), "{output}");
        figures(&output.stdout).with_context(|| format!("no figures in: {output}"))
    }
}

/// The figures in the output of mpi-loops or IMB-MPI1.
fn figures(output: &str) -> Option<Figures> {
    let words = || output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = |name: &str| {
        words().find_map(|w| match w[..] {
            [key, value] if key == name => value.parse::<f64>().ok(),
            _ => None,
        })
    };
    if let Some(latency) = ours("latency") {
        return Some(Figures { latency, bandwidth: ours("bandwidth")?, allreduce: ours("allreduce")? });
    }
    // PingPong: bytes, repetitions, t[usec], Mbytes/sec. Allreduce: bytes, repetitions, t_min, t_max, t_avg.
    let numbers = words().map(|w| w.iter().map_while(|n| n.parse::<f64>().ok()).collect::<Vec<_>>());
    let rows: Vec<Vec<f64>> = numbers.filter(|row| row.len() >= 4).collect();
    let row = |bytes: f64, columns: usize| rows.iter().find(|r| r[0] == bytes && r.len() == columns);
    Some(Figures { latency: row(8.0, 4)?[2], bandwidth: row(4_194_304.0, 4)?[3], allreduce: row(8.0, 5)?[4] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_understood() {
        let loops = "runs MPICH Version: 5.0.2\nlatency 1.5\nbandwidth 2000.0\nallreduce 3.25\n";
        let imb = "#bytes #repetitions      t[usec]   Mbytes/sec\n            8         5000         1.5         5.33\n\
                   4194304           50      2097.15      2000.0\n\
                   #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]\n\
                   8         5000         3.00         3.50         3.25\n";
        for text in [loops, imb] {
            assert_eq!(
                figures(text),
                Some(Figures { latency: 1.5, bandwidth: 2000.0, allreduce: 3.25 }),
                "{text}"
            );
        }
        assert_eq!(figures("latency 1.5\n"), None);
    }
}
