//! The audit trail: one record per launch, per refusal and per server lost on a node, in the systemd journal:
//! `journalctl -t grus _UID=0`. docs/security.md, 'Audit', names every field.
//!
//! Written only by slurmstepd itself, which stays in the host's mount namespace. A node without a journal goes
//! without the record; the user's message does not depend on it. No value of an environment variable is recorded.

use std::fmt::Write;

use grus_core::refusal::controls_shown;
use grus_enter::{account, Container, Failure};
use slurm_spank::SpankHandle;
use tracing_subscriber::layer::SubscriberExt;

use crate::slurm_constants::{SLURM_BATCH_SCRIPT, SLURM_INTERACTIVE_STEP};

/// Whose record it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Job id.
    pub job: u32,
    /// The step's number, or its name where Slurm has one.
    pub step: String,
    /// The node's name in Slurm.
    pub node: String,
    /// The job's user.
    pub uid: u32,
    /// The user's login name, once it is known.
    pub user: Option<String>,
    /// The image as it was asked for, or the container's name where no image was.
    pub reference: Option<String>,
}

impl Subject {
    /// The step that slurmstepd runs.
    pub fn of(spank: &SpankHandle, node: &str) -> Self {
        Self {
            job: spank.job_id().unwrap_or_default(),
            step: spank.job_stepid().map(step_name).unwrap_or_default(),
            node: node.into(),
            uid: spank.job_uid().unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// As squeue(1) shows it.
fn step_name(step: u32) -> String {
    match step {
        SLURM_BATCH_SCRIPT => "batch".into(),
        SLURM_INTERACTIVE_STEP => "interactive".into(),
        step => step.to_string(),
    }
}

/// A container was started.
pub fn launched(subject: &Subject, container: &Container) {
    let Subject { job, step, node, uid, user, reference } = subject;
    let (plan, meta) = (&container.plan, container.meta.as_ref());
    let (image, how) = (controls_shown(plan.image.as_str()), plan.how);
    let reference = reference.as_deref().map(controls_shown);
    let took: std::time::Duration = container.timings.0.iter().map(|(_, took)| *took).sum();
    let mounts = lines(plan.mounts.iter());
    let phases =
        lines(container.timings.0.iter().map(|(phase, took)| format!("{phase:?}={}", took.as_micros())));
    record(|| {
        tracing::info!(
            event = "launch",
            job,
            step,
            node,
            uid,
            user = user.as_deref(),
            reference = reference.as_deref(),
            %image,
            digest = meta.map(|meta| meta.digest.to_string()),
            %how,
            cache = container.cache.as_deref().map(controls_shown),
            stack = plan.stack.as_deref().map(controls_shown),
            mpi = lines(container.mpi_in_use().iter().map(|mpi| &mpi.label)),
            mounts,
            writable = plan.writable,
            remap_root = plan.remap_root,
            namespaces = plan.namespaces.names().join(","),
            warnings = lines(plan.warnings.iter()),
            phases_us = phases,
            took_us = took.as_micros() as u64,
            "job {job} step {step}: container of {image}"
        );
    });
}

/// Why there is no container, or none any more.
#[derive(Debug)]
pub enum Lost<'a> {
    /// It was refused or failed.
    Refused(&'a Failure),
    /// It was refused before or after it was built.
    Told(&'a str),
    /// A server of SquashFS files has ended.
    Server(&'a str),
}

/// A container was refused or failed, or a step lost a part of it.
pub fn failed(subject: &Subject, lost: &Lost<'_>) {
    let Subject { job, step, node, uid, reference, .. } = subject;
    // Where all is well, the launch has looked the name up; here nobody waits for it.
    let user = subject.user.clone().or_else(|| account::name(*uid));
    let (event, what, hint) = match lost {
        Lost::Refused(failure) => ("refusal", failure.what(), failure.hint()),
        Lost::Told(what) => ("refusal", (*what).to_owned(), None),
        Lost::Server(what) => ("server-lost", (*what).to_owned(), None),
    };
    let (what, hint) = (controls_shown(&what), hint.as_deref().map(controls_shown));
    let reference = reference.as_deref().map(controls_shown);
    let (phase, errno) = match lost {
        Lost::Refused(Failure::Failed(failed)) => (Some(format!("{:?}", failed.phase)), failed.errno),
        _ => (None, None),
    };
    record(|| {
        tracing::error!(
            event,
            job,
            step,
            node,
            uid,
            user = user.as_deref(),
            reference = reference.as_deref(),
            phase,
            errno,
            refusal = what,
            hint,
            "job {job} step {step}: {what}"
        );
    });
}

/// One a line; None if there is none, so that the field is left out. Whatever a name, a path or an image's words hold,
/// none adds a line.
fn lines<T: std::fmt::Display>(of: impl Iterator<Item = T>) -> Option<String> {
    let mut text = String::new();
    for line in of {
        let _ = writeln!(text, "{}", controls_shown(&line.to_string()));
    }
    (!text.is_empty()).then(|| text.trim_end().to_owned())
}

/// The subscriber lives for one record: slurmstepd and other plugins keep their own ways of logging.
fn record(event: impl FnOnce()) {
    let Ok(layer) = tracing_journald::layer() else { return };
    let layer = layer.with_syslog_identifier("grus".into()).with_field_prefix(Some("GRUS".into()));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_the_names_that_slurm_shows() {
        assert_eq!(step_name(SLURM_BATCH_SCRIPT), "batch");
        assert_eq!(step_name(SLURM_INTERACTIVE_STEP), "interactive");
        assert_eq!(step_name(7), "7");
    }

    #[test]
    fn a_list_without_entries_is_no_field() {
        assert_eq!(lines([""; 0].iter()), None);
        assert_eq!(lines(["a", "b"].iter()).as_deref(), Some("a\nb"));
        assert_eq!(lines(["a\nb", "\x1b"].iter()).as_deref(), Some("a\\x0ab\n\\x1b"));
    }
}
