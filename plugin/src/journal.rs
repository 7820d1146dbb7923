//! One record per launch and per refusal on a node, in the systemd journal, for the site: `journalctl -t grus`.
//!
//! Written only by slurmstepd itself, which stays in the host's mount namespace. A node without a journal goes
//! without the record; the user's message does not depend on it.

use grus_enter::{Container, Failure};
use tracing_subscriber::layer::SubscriberExt;

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Job id.
    pub job: u32,
    /// Step id, as Slurm numbers it.
    pub step: u32,
    /// The node's name in Slurm.
    pub node: String,
    /// The job's user.
    pub uid: u32,
}

/// A container was started.
pub fn launched(subject: &Subject, container: &Container) {
    let Subject { job, step, node, uid } = subject;
    let took: std::time::Duration = container.timings.0.iter().map(|(_, took)| *took).sum();
    let (image, how) = (&container.plan.image, container.plan.how);
    let stack = container.plan.stack.as_deref().unwrap_or_default();
    record(|| {
        tracing::info!(
            job, step, node, uid, %image, %how, stack, took_us = took.as_micros() as u64,
            "job {job} step {step}: container of {image}"
        );
    });
}

/// A container was refused or failed.
pub fn failed(subject: &Subject, what: &str, failure: Option<&Failure>) {
    let Subject { job, step, node, uid } = subject;
    let (phase, errno) = match failure {
        Some(Failure::Failed(failed)) => (Some(format!("{:?}", failed.phase)), failed.errno),
        Some(Failure::Refused(_)) | None => (None, None),
    };
    let phase = phase.unwrap_or_else(|| "Refused".into());
    record(|| {
        tracing::error!(
            job,
            step,
            node,
            uid,
            phase,
            errno = errno.unwrap_or(0),
            "job {job} step {step}: {what}"
        );
    });
}

/// The subscriber lives for one record: slurmstepd and other plugins keep their own ways of logging.
fn record(event: impl FnOnce()) {
    let Ok(layer) = tracing_journald::layer() else { return };
    let layer = layer.with_syslog_identifier("grus".into()).with_field_prefix(Some("GRUS".into()));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
}
