//! `spank_grus.so`: Grus inside srun, sbatch, salloc, slurmd and slurmstepd.
//!
//! It owns the meeting with Slurm: which hook does what ([`hooks`]), options and images at submission
//! ([`submit`]), the container's life in slurmstepd ([`step`]). It decides nothing about containers (that is
//! `grus_core`) and mounts nothing (that is `grus_enter`). A job that asked for a container gets that
//! container or a failed task: never the bare host, never a drained node (ADR 3).

pub mod abi;
mod cgroup;
pub mod entrypoint;
mod epilog;
pub mod hooks;
mod image;
mod job;
mod journal;
mod mpi;
mod node;
mod program;
mod save;
mod say;
mod settings;
mod stamp;
pub mod step;
pub mod submit;
mod typed;

/// Numbers of Slurm's headers, by build.rs. The headers' release is for tests only.
#[cfg_attr(not(test), allow(dead_code))]
mod slurm_constants {
    include!(concat!(env!("OUT_DIR"), "/slurm_constants.rs"));

    #[cfg(test)]
    mod tests {
        /// The checked-in constants are those of the headers; only the headers' release may be another.
        #[test]
        fn the_checked_in_constants_are_those_of_the_headers() {
            if env!("GRUS_SLURM_HEADERS") == "lack" {
                println!("skipped: this build found no Slurm headers or no libclang to read them with");
                return;
            }
            let sorted = |text: &'static str| {
                let mut lines: Vec<&str> =
                    text.lines().filter(|line| !line.contains("SLURM_VERSION_NUMBER")).collect();
                lines.sort_unstable();
                lines
            };
            let built = sorted(include_str!(concat!(env!("OUT_DIR"), "/slurm_constants.rs")));
            assert_eq!(built, sorted(include_str!("slurm_constants.rs")));
            assert_eq!(built.len(), 3);
        }
    }
}
