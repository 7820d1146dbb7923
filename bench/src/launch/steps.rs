//! Whole steps by real Slurm, in one allocation, the variants in turns: without the plugin, with it but without an
//! option, with an image by the kernel and by squashfuse_ll; and with Pyxis where that and Enroot are installed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{ensure, Result};
use grus_tests::installation::REQUIRED;
use grus_tests::Cluster;

use crate::figures::Samples;

/// How often each variant runs.
const ROUNDS: usize = 40;

/// Milliseconds of `srun /bin/true`.
#[derive(Debug, Default)]
pub struct Steps {
    /// No plugin.
    pub bare: Samples,
    /// The plugin, no container asked for.
    pub idle: Samples,
    /// An image of root's.
    pub kernel: Samples,
    /// An image of the user's.
    pub fuse: Samples,
    /// Pyxis with the same image.
    pub pyxis: Option<Samples>,
}

/// Measures all, in turns.
pub fn measure(cluster: &Cluster, kernel: &Path, users: &Path) -> Result<Steps> {
    let salloc =
        cluster.user("salloc").args(["--no-shell", "--nodes=1", "--quiet", "--job-name=bench"]).run();
    ensure!(salloc.status.success(), "{salloc}");
    let jobs = cluster.user("squeue").args(["--noheader", "--name=bench", "--format=%i"]).run();
    let job = jobs.stdout.trim().to_owned();
    let measured = rounds(cluster, &job, kernel, users);
    let _ = cluster.root("scancel").arg(&job).run();
    measured
}

fn rounds(cluster: &Cluster, job: &str, kernel: &Path, users: &Path) -> Result<Steps> {
    let with = |image: &Path| format!("--container-image={}", image.display());
    let pyxis = pyxis();
    let mut steps = Steps { pyxis: pyxis.as_ref().map(|_| Samples::default()), ..Steps::default() };
    for round in 0..ROUNDS + 1 {
        cluster.set_plugstack("")?;
        let bare = step(cluster, job, &[])?;
        cluster.write_plugstack(REQUIRED)?;
        let idle = step(cluster, job, &[])?;
        let by_kernel = step(cluster, job, &[&with(kernel)])?;
        let by_fuse = step(cluster, job, &[&with(users)])?;
        let by_pyxis = match &pyxis {
            Some(plugin) => {
                cluster.set_plugstack(&format!("required {}\n", plugin.display()))?;
                Some(step(cluster, job, &[&with(kernel)])?)
            }
            None => None,
        };
        // The first round fills caches.
        if round > 0 {
            steps.bare.0.push(bare);
            steps.idle.0.push(idle);
            steps.kernel.0.push(by_kernel);
            steps.fuse.0.push(by_fuse);
            if let (Some(samples), Some(took)) = (&mut steps.pyxis, by_pyxis) {
                samples.0.push(took);
            }
        }
    }
    cluster.write_plugstack(REQUIRED)?;
    Ok(steps)
}

/// The milliseconds of one step.
fn step(cluster: &Cluster, job: &str, options: &[&str]) -> Result<f64> {
    let srun = cluster
        .user("srun")
        .arg(format!("--jobid={job}"))
        .args(["-N1", "-n1"])
        .args(options)
        .arg("/bin/true");
    let start = Instant::now();
    let output = srun.run();
    let took = start.elapsed().as_secs_f64() * 1e3;
    ensure!(output.status.success(), "{output}");
    Ok(took)
}

/// Pyxis's plugin, if it and Enroot are installed.
fn pyxis() -> Option<PathBuf> {
    let places = [
        "/usr/lib/slurm/spank_pyxis.so",
        "/usr/lib/x86_64-linux-gnu/slurm/spank_pyxis.so",
        "/usr/lib/x86_64-linux-gnu/slurm-wlm/spank_pyxis.so",
        "/usr/lib64/slurm/spank_pyxis.so",
        "/usr/local/lib/slurm/spank_pyxis.so",
    ];
    let enroot = std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join("enroot").exists());
    places.into_iter().map(PathBuf::from).find(|plugin| enroot && plugin.exists())
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  without the plugin     {}", self.bare)?;
        let lines = [
            ("plugin, no option     ", &self.idle),
            ("image, kernel         ", &self.kernel),
            ("image, fuse           ", &self.fuse),
        ];
        for (name, samples) in
            lines.into_iter().chain(self.pyxis.as_ref().map(|p| ("pyxis                 ", p)))
        {
            writeln!(f, "  {name} {samples}   over bare {:+.2}", samples.minus(&self.bare).median())?;
        }
        Ok(())
    }
}
