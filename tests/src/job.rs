//! Batch jobs: submit, wait for the end, and what Slurm then says of them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::account::checked;
use crate::cluster::Cluster;
use crate::command::Output;
use crate::daemon::wait_until;

/// A submitted batch job.
#[derive(Debug)]
#[must_use = "a job nobody waits for runs into the next test"]
pub struct Job<'a> {
    cluster: &'a Cluster,
    /// Slurm's job id.
    pub id: u32,
    /// What sbatch itself printed on standard error.
    pub submit_stderr: String,
    output: PathBuf,
}

/// How a batch job ended.
#[derive(Debug, Clone)]
#[must_use = "an end nobody looks at proves nothing"]
pub struct JobEnd {
    /// Slurm's word, such as `COMPLETED` or `FAILED`.
    pub state: String,
    /// Exit code and signal, as Slurm prints them: `1:0`.
    pub exit_code: String,
    /// How often Slurm started it again.
    pub restarts: u32,
    /// The batch output file: both streams of the script.
    pub output: String,
    /// What sbatch itself printed on standard error.
    pub submit_stderr: String,
}

impl Cluster {
    /// Submits `script` as the ordinary user, with these options for sbatch. Panics if sbatch refuses.
    #[track_caller]
    pub fn sbatch(&self, options: &[&str], script: &str) -> Job<'_> {
        let output = self.work_dir().join("batch-%j.out");
        let sbatch = self.user("sbatch").arg("--parsable").arg(format!("--output={}", output.display()));
        self.submitted(&sbatch.args(options).stdin(script).run().success())
    }

    /// The job that an `sbatch --parsable --output=batch-%j.out` in the work directory made.
    #[track_caller]
    pub fn submitted(&self, sbatch: &Output) -> Job<'_> {
        let id: u32 = sbatch.trimmed().parse().expect("sbatch --parsable prints the job id");
        let output = self.work_dir().join(format!("batch-{id}.out"));
        Job { cluster: self, id, submit_stderr: sbatch.stderr.clone(), output }
    }
}

impl Job<'_> {
    /// Waits for the job's end, at most `limit`; panics after that.
    #[track_caller]
    pub fn wait(self, limit: Duration) -> JobEnd {
        let mut record = String::new();
        let ended = wait_until(limit, || {
            record = self.record().unwrap_or_default();
            let state = field(&record, "JobState").unwrap_or_default();
            // A job that failed its node is requeued and pends again: that is no end, and the limit tells.
            !matches!(state, "" | "PENDING" | "CONFIGURING" | "RUNNING" | "COMPLETING" | "SUSPENDED")
        });
        if !ended {
            let _ = self.cluster.root("scancel").arg(self.id.to_string()).run();
            panic!("job {} did not end within {limit:?}\n{record}\n{}", self.id, self.read_output());
        }
        JobEnd {
            state: field(&record, "JobState").unwrap_or_default().into(),
            exit_code: field(&record, "ExitCode").unwrap_or_default().into(),
            restarts: field(&record, "Restarts").and_then(|n| n.parse().ok()).unwrap_or_default(),
            output: self.read_output(),
            submit_stderr: self.submit_stderr,
        }
    }

    /// Slurm's record of the job, one line.
    pub fn record(&self) -> Result<String> {
        let show = ["show", "job", "--oneliner", &self.id.to_string()];
        checked(self.cluster.root("scontrol").args(show)).context("scontrol show job")
    }

    /// What the script has written so far.
    pub fn read_output(&self) -> String {
        fs::read(&self.output).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

impl JobEnd {
    /// The job must have completed.
    #[track_caller]
    pub fn completed(self) -> Self {
        assert_eq!(self.state, "COMPLETED", "{self:#?}");
        self
    }

    /// The job must have failed once, with this exit code, and not been started again.
    #[track_caller]
    pub fn failed(self, exit_code: &str) -> Self {
        assert_eq!((self.state.as_str(), self.restarts), ("FAILED", 0), "{self:#?}");
        assert_eq!(self.exit_code, exit_code, "{self:#?}");
        self
    }

    /// The batch output must contain `wanted`.
    #[track_caller]
    pub fn output_has(self, wanted: &str) -> Self {
        assert!(self.output.contains(wanted), "wanted in the output: {wanted:?}\n{self:#?}");
        self
    }

    /// The batch output must not contain `unwanted`.
    #[track_caller]
    pub fn output_lacks(self, unwanted: &str) -> Self {
        assert!(!self.output.contains(unwanted), "not wanted in the output: {unwanted:?}\n{self:#?}");
        self
    }
}

/// The value of `name=` in a one-line record of scontrol's.
fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
