//! The submit side: srun, sbatch and salloc. Options become one request with a pinned image, which travels as
//! one variable. What is wrong ends the submission here, before anything is allocated.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;

use grus_core::options::{variables, Spec};
use grus_core::path::AbsPath;
use grus_core::request::{Components, Image, Request, VARIABLE};
use grus_core::site::Site;
use grus_core::Refusal;
use slurm_spank::SpankHandle;

use crate::program::Program;
use crate::{abi, image, mpi, say, settings, typed};

/// The request's name among the job-control variables; Slurm keeps those for the steps of the job.
const JOB_COPY: &str = "GRUS_REQUEST";

/// The same, as it appears in the environment of the job's scripts and shells.
const JOB_COPY_IN_ENVIRONMENT: &str = "SLURM_SPANK_GRUS_REQUEST";

/// Where Slurm leaves the value of its own `--container`.
const SLURMS_OWN: &str = "SLURM_CONTAINER";

/// What a submitting program starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A step: srun, perhaps inside a job whose request it inherits.
    Step,
    /// A job whose steps inherit: sbatch and salloc.
    Job,
}

/// A submitting program: what its components have asked for so far.
#[derive(Debug, Default)]
pub struct Submit {
    components: Components,
    /// What variables of the environment ask for, once they are read.
    variables: Option<Box<Request>>,
}

impl Submit {
    /// After the options of one component are known. Does not return if something is wrong.
    pub fn options_known(&mut self, role: Role, spank: &SpankHandle) {
        if let Err(refusal) = self.publish(role, spank) {
            refuse(&refusal);
        }
    }

    fn publish(&mut self, role: Role, spank: &SpankHandle) -> Result<(), Refusal> {
        let typed = abi::typed();
        let variables = match &self.variables {
            Some(read) => read.as_ref().clone(),
            None => self.variables.insert(Box::new(variables(role)?)).as_ref().clone(),
        };
        let inherited = match role {
            Role::Step => inherited(spank)?,
            Role::Job => None,
        };
        forget(role, &typed, spank);
        let silent = typed.is_empty() && variables == Request::default() && inherited.is_none();
        let request = match silent {
            true => refuse_slurms_own_option().map(|()| Request::default())?,
            false => prepare(role, &typed, variables, inherited, spank)?,
        };
        self.components.push(request);
        if !self.components.alike() {
            let line = env::args_os().map(|word| word.to_string_lossy().into_owned());
            refuse_to_differ(role, line)?;
        }
        let text = self.components.encode()?;
        if text.is_empty() {
            return Ok(());
        }
        // Slurm reads its process environment for the job's from here on. srun may have threads by now
        // (26.05), all of them Slurm's own, none of which sets variables this early.
        env::set_var(VARIABLE, &text);
        match role {
            Role::Step => Ok(()),
            Role::Job => spank.job_control_setenv(JOB_COPY, &text, true).map_err(|error| {
                Refusal::site(format!("the container options cannot be sent with the job: {error}"))
            }),
        }
    }
}

/// What the environment asks for. A job takes the variables in, so that its steps do not meet them again: there they
/// would override what the job's command line had overridden. A script may set them anew.
fn variables(role: Role) -> Result<Request, Refusal> {
    let read = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let request = Request::from_variables(read, &directory()?)?;
    if role == Role::Job {
        variables::all().iter().for_each(|name| env::remove_var(name));
    }
    Ok(request)
}

/// Components that differ: the steps of a job cannot know which of its components they run in when they are
/// submitted, and a step's components have the numbers of the job's only where they are not chosen.
fn refuse_to_differ(role: Role, mut line: impl Iterator<Item = String>) -> Result<(), Refusal> {
    let different = "the components of a heterogeneous job ask for different containers";
    match role {
        Role::Job => Err(Refusal::user(different)
            .hint("give all the same container options here, and others to the components of each srun")),
        Role::Step if line.any(|word| word.starts_with("--het") || word.starts_with("--pack")) => {
            Err(Refusal::user(format!("{different}, and --het-group is in use"))
                .hint("leave --het-group out, or start one srun for each"))
        }
        Role::Step => Ok(()),
    }
}

/// The request with its image found; `Request::default` if no container is wanted.
fn prepare(
    role: Role,
    typed: &[(&'static Spec, String)],
    variables: Request,
    inherited: Option<Request>,
    spank: &SpankHandle,
) -> Result<Request, Refusal> {
    let line = typed::request(typed.iter().map(|(spec, value)| (*spec, value.as_str())), &directory()?)?;
    let (joins, pointless) = (line.joins(), line.pointless());
    let mut request = line.over(variables).over(inherited.unwrap_or_default());
    request.check()?;
    // Variables may be set once and for all, for whichever jobs have an image.
    if !pointless.is_empty() && (joins || !request.pointless().is_empty()) {
        let why = if joins {
            "a running step's container is joined as it is, so"
        } else {
            "without --container-image"
        };
        say::note(&format!("{why} these have no effect: --{}", pointless.join(", --")));
    }
    if request.image.is_none() {
        refuse_slurms_own_option()?;
    }
    if !request.wants_container() {
        return Ok(Request::default());
    }
    let arguments = spank.plugin_argv().map_err(|error| Refusal::site(error.to_string()))?;
    let site = settings::site(&arguments)?;
    let grus = Program::new(&site, settings::config(&arguments)?);
    if request.joins() {
        return Ok(request);
    }
    if request.resolved.is_none() {
        request.resolved = image::resolve(&request, &site, &grus)?;
    }
    if request.ruling.is_none() && request.module_ruling.is_none() {
        mpi::rule(&mut request, &site, &settings::stacks(&arguments)?, &grus)?;
    }
    if role == Role::Job && stays_on_host(&request, &site) {
        say::note(&format!(
            "the batch script runs on the host, each srun in it in {} (--container-batch: the script too)",
            request.image.as_ref().map_or_else(|| "its container".into(), Image::shown)
        ));
    }
    Ok(request)
}

/// `--container=IMAGE` is Slurm's own option: without an oci.conf it does nothing, and the job would run on the
/// host and succeed. Slurm has put its value into the environment by now.
fn refuse_slurms_own_option() -> Result<(), Refusal> {
    if env::var_os(SLURMS_OWN).is_none_or(|image| image.is_empty()) {
        return Ok(());
    }
    match abi::configuration("oci.conf") {
        Some(path) if path.exists() => Ok(()),
        _ => Err(Refusal::user("--container is Slurm's own option, and this site has not set it up")
            .hint("for a container of Grus write --container-image=...")),
    }
}

/// Whether there is a batch script and it runs outside of the container.
fn stays_on_host(request: &Request, site: &Site) -> bool {
    // As it was called: in a container (--container-slurm) the executable is the loader.
    let program = PathBuf::from(env::args_os().next().unwrap_or_default());
    program.file_name() == Some(OsStr::new("sbatch")) && !request.batch.unwrap_or(site.batch.container)
}

/// The directory that relative paths start from.
fn directory() -> Result<AbsPath, Refusal> {
    let unknown = |why: String| Refusal::user(format!("the current directory is of no use: {why}"));
    let directory = env::current_dir().map_err(|error| unknown(error.to_string()))?;
    let text = directory.to_str().ok_or_else(|| unknown("its path is not UTF-8".into()))?;
    AbsPath::parse(text)
}

/// What the job asked for, in an srun inside it.
fn inherited(spank: &SpankHandle) -> Result<Option<Request>, Refusal> {
    let of_job = spank.job_control_getenv(JOB_COPY).ok().flatten();
    let text = of_job.or_else(|| env::var(JOB_COPY_IN_ENVIRONMENT).ok());
    text.filter(|text| !text.is_empty()).map(|text| Request::decode(&text)).transpose()
}

/// Removes what was left by another job in whose environment we run, and Slurm's own copies of our options:
/// a step would take those for options typed at it.
fn forget(role: Role, typed: &[(&'static Spec, String)], spank: &SpankHandle) {
    env::remove_var(VARIABLE);
    if role == Role::Step {
        return;
    }
    env::remove_var(JOB_COPY_IN_ENVIRONMENT);
    // It may well not be there.
    let _ = spank.job_control_unsetenv(JOB_COPY);
    for (spec, _) in typed {
        let copy = option_variable(spec.name);
        env::remove_var(&copy);
        let _ = spank.job_control_unsetenv(copy);
    }
}

/// Slurm's variable for one of our options (src/common/plugstack.c, `_opt_env_name`).
fn option_variable(name: &str) -> String {
    format!("_SLURM_SPANK_OPTION_grus_{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

/// Ends the submission. Not by a return value: Slurm ignores it where plugstack.conf says `optional`, and the
/// job would run on the host.
pub fn refuse(refusal: &Refusal) -> ! {
    say::failure(None, &refusal.what, refusal.hint.as_deref());
    // As srun itself does with its own errors (srun(1), SLURM_EXIT_ERROR).
    let status = env::var("SLURM_EXIT_ERROR").ok().and_then(|text| text.parse::<u8>().ok());
    abi::exit_now(status.filter(|status| *status != 0).unwrap_or(1).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_a_step_may_differ_where_their_numbers_are_known() {
        let line =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>().into_iter();
        assert!(refuse_to_differ(Role::Step, line(&["srun", "-n1", "a", ":", "b"])).is_ok());
        for chosen in ["--het-group=1", "--het-g", "--pack-group=0"] {
            let refusal = refuse_to_differ(Role::Step, line(&["srun", chosen, "a"])).expect_err("chosen");
            assert!(refusal.what.contains("--het-group"), "{refusal}");
        }
        assert!(refuse_to_differ(Role::Job, line(&["sbatch"])).is_err());
    }

    #[test]
    fn option_variables_are_named_as_slurm_names_them() {
        assert_eq!(option_variable("container-image"), "_SLURM_SPANK_OPTION_grus_container_image");
    }
}
