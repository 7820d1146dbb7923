//! Whether `srun --mpi=` speaks to the MPI in use. If not, each of N ranks believes to be alone: the job runs
//! N times and says nothing (the commonest trouble of MPI in containers).

use super::{InUse, Mode};
use crate::refusal::{printable, Refusal};
use crate::stack::Pmi;

/// How a step is launched.
#[derive(Clone, Copy, Debug)]
pub struct Launcher<'a> {
    /// SLURM_MPI_TYPE; Slurm leaves it unset for `--mpi=none`.
    pub mpi_type: Option<&'a str>,
    /// Tasks of the step.
    pub tasks: u32,
    /// What was asked of `--container-mpi`.
    pub mode: &'a Mode,
}

/// Worth telling, but no reason to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LauncherNote(pub String);

/// Checks a step against the MPIs in use.
///
/// Without PMI it is an error only where the user asked for MPI (`--container-mpi` other than auto): an image
/// with MPI runs programs without it, too. A PMI that no MPI of the image understands is always an error.
pub fn check_launcher(launcher: &Launcher, in_use: &[InUse]) -> Result<Option<LauncherNote>, Refusal> {
    let Some(first) = in_use.first().filter(|_| launcher.tasks > 1) else { return Ok(None) };
    let remedy = || format!("run it with 'srun --mpi={}'", first.pmi.first().map_or("pmix", |p| p.word()));
    let word = launcher.mpi_type.unwrap_or("none");
    let Some(pmi) = speaks(word) else {
        let what = format!(
            "--mpi={}: {} tasks of {} would each be rank 0 of 1",
            printable(word),
            launcher.tasks,
            first.label
        );
        return match launcher.mode {
            Mode::Auto => Ok(Some(LauncherNote(format!("{what}, if they use MPI; {}", remedy())))),
            _ => Err(Refusal::user(what).hint(remedy())),
        };
    };
    if in_use.iter().any(|mpi| mpi.pmi.contains(&pmi)) {
        return Ok(None);
    }
    let what = format!("--mpi={}: {} does not understand it", printable(word), first.label);
    Err(Refusal::user(what).hint(format!("{}; for a program without MPI, with '--mpi=none'", remedy())))
}

/// The method behind Slurm's word; versions of the PMIx plugin are all PMIx.
fn speaks(word: &str) -> Option<Pmi> {
    match word {
        "pmi2" | "pmi1" => Some(Pmi::Pmi2),
        "cray_shasta" => Some(Pmi::CrayShasta),
        w if w.starts_with("pmix") => Some(Pmi::Pmix),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        word: Option<&str>,
        tasks: u32,
        mode: &Mode,
        pmi: &[Pmi],
    ) -> Result<Option<LauncherNote>, Refusal> {
        let mpi = InUse { label: "Open MPI 5".into(), pmi: pmi.to_vec() };
        check_launcher(&Launcher { mpi_type: word, tasks, mode }, &[mpi])
    }

    #[test]
    fn the_right_launcher_passes() {
        for (word, pmi) in [("pmix", Pmi::Pmix), ("pmix_v4", Pmi::Pmix), ("pmi2", Pmi::Pmi2)] {
            assert_eq!(check(Some(word), 8, &Mode::Host, &[pmi]), Ok(None), "{word}");
        }
        assert_eq!(check(Some("cray_shasta"), 8, &Mode::Auto, &[Pmi::Pmi2, Pmi::CrayShasta]), Ok(None));
        assert_eq!(check(None, 1, &Mode::Host, &[Pmi::Pmix]), Ok(None), "one task is no trap");
        let none = Launcher { mpi_type: None, tasks: 8, mode: &Mode::Host };
        assert_eq!(check_launcher(&none, &[]), Ok(None), "no MPI, no matter");
    }

    #[test]
    fn singletons_are_refused_where_mpi_was_asked_for_and_told_elsewhere() {
        let refusal = check(None, 8, &Mode::Host, &[Pmi::Pmix]).expect_err("a trap");
        assert_eq!(refusal.what, "--mpi=none: 8 tasks of Open MPI 5 would each be rank 0 of 1");
        assert_eq!(refusal.hint.as_deref(), Some("run it with 'srun --mpi=pmix'"));
        let note = check(Some("none"), 8, &Mode::Auto, &[Pmi::Pmi2]).expect("a note").expect("a note");
        assert!(note.0.ends_with("if they use MPI; run it with 'srun --mpi=pmi2'"), "{}", note.0);
    }

    #[test]
    fn a_pmi_that_nobody_understands_is_refused() {
        let refusal = check(Some("pmi2"), 4, &Mode::Auto, &[Pmi::Pmix]).expect_err("the other trap");
        assert_eq!(refusal.what, "--mpi=pmi2: Open MPI 5 does not understand it");
        assert!(refusal.hint.expect("a hint").starts_with("run it with 'srun --mpi=pmix'"));
    }
}
