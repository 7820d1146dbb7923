//! The host's MPI in the container: the ruling at submission (docs/adr/0009), and on the node the check that
//! `srun --mpi=` speaks to the MPI in use.

use std::ffi::OsStr;
use std::path::Path;

use grus_core::plan::{fullest_wish, wish};
use grus_core::request::Request;
use grus_core::site::Site;
use grus_core::swap::{check_launcher, Launcher, Mode, ModuleRuling, Ruling, Wish};
use grus_core::Refusal;
use grus_enter::rulings::{profiles, read, Basis};
use grus_enter::site::Profiles;
use grus_enter::Container;
use slurm_spank::SpankHandle;

use crate::image;
use crate::program::Program;
use crate::say;

/// Slurm's word for how a step's tasks are launched; not set for `--mpi=none` (srun(1)).
const MPI_TYPE: &str = "SLURM_MPI_TYPE";

/// What was asked for, or the site's choice.
pub fn mode<'a>(request: &'a Request, site: &'a Site) -> &'a Mode {
    request.mpi.as_ref().unwrap_or(&site.mpi.default)
}

/// Rules on the libraries of the image that a request resolved to. What the user should know of it is told here, once for
/// the job, and not by the nodes; but they tell it where a module comes that nobody can know of here.
pub fn rule(request: &mut Request, site: &Site, stacks: &Path, grus: &Program) -> Result<(), Refusal> {
    let known = wish(request, site, None)?;
    let fullest = fullest_wish(request, site)?;
    let ruling = rule_on(&known, request, site, stacks, grus)?.map(|mut ruling| {
        ruling.swap.warnings.drain(..).for_each(|warning| say::note(&warning));
        Box::new(ruling)
    });
    if let Some(first) = fullest.first.clone().filter(|_| fullest != known) {
        let of_module = rule_on(&fullest, request, site, stacks, grus)?;
        request.module_ruling = of_module.map(|ruling| Box::new(ModuleRuling { first, ruling }));
    }
    request.ruling = ruling;
    Ok(())
}

/// `None`: there is nothing to rule on, or the nodes decide.
fn rule_on(
    wish: &Wish,
    request: &Request,
    site: &Site,
    stacks: &Path,
    grus: &Program,
) -> Result<Option<Ruling>, Refusal> {
    let (Some(image), Some(resolved)) = (&request.image, &request.resolved) else { return Ok(None) };
    let profiles = profiles(wish, || Profiles::load(stacks))?;
    let basis = Basis {
        image: &resolved.path,
        digest: resolved.digest.as_ref(),
        wish,
        glibc: site.mpi.glibc,
        profiles: &profiles,
    };
    if !basis.matters() {
        return Ok(None);
    }
    let repositories = image::repositories(site)?;
    let kept = repositories.first().and_then(|own| basis.place(own)).and_then(|place| read(&place));
    match kept {
        Some(ruling) => Ok(Some(ruling)),
        None => match grus.rule(&resolved.path, &image.shown(), wish) {
            Ok(answer) => Result::from(answer).map(Some).map_err(|why| wish.told(why)),
            Err(refusal) if wish.mode == Mode::Auto => {
                say::note(&format!("{refusal}; the nodes look themselves"));
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        },
    }
}

/// On a node, with the container built: whether the step is launched so that its MPI can work. What the user
/// should know is told by the step's first node.
pub fn check(container: &Container, mode: &Mode, spank: &SpankHandle) -> Result<(), Refusal> {
    let environment = spank.job_env_os().unwrap_or_default();
    let launcher = Launcher {
        mpi_type: environment.iter().find_map(|variable| value(variable, MPI_TYPE)),
        tasks: spank.job_total_task_count().unwrap_or(1),
        mode,
    };
    let note = check_launcher(&launcher, container.mpi_in_use())?;
    if spank.job_nodeid().unwrap_or_default() == 0 {
        let decided = container.ruling.iter().flat_map(|ruling| &ruling.swap.warnings);
        let warnings = decided.chain(&container.plan.warnings).cloned();
        warnings.chain(note.map(|note| note.0)).for_each(|text| say::warning(&text));
    }
    Ok(())
}

fn value<'v>(variable: &'v OsStr, name: &str) -> Option<&'v str> {
    variable.to_str()?.strip_prefix(name)?.strip_prefix('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_by_their_whole_name() {
        assert_eq!(value("SLURM_MPI_TYPE=pmix_v4".as_ref(), MPI_TYPE), Some("pmix_v4"));
        assert_eq!(value("SLURM_MPI_TYPES=x".as_ref(), MPI_TYPE), None);
        assert_eq!(value("SLURM_MPI_TYPE".as_ref(), MPI_TYPE), None);
    }
}
