//! `grus exec`: a command in the container of a running step, or of `grus run`.
//!
//! Only slurmstepd, as root, can join another step's namespaces. So this becomes the srun that does it: a new step of
//! the same job, beside the running one. A container of `grus run` the user can join without anybody's help.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use grus_core::csv;
use grus_core::environment::is_name;
use grus_core::refusal::{nearest, printable, Refusal};

use crate::doctor::ask;
use crate::failure::{reason, Failure};
use crate::output;
use crate::steps::{here, of_caller, Step};

const EXAMPLES: &str = "\
Examples:
  grus exec -it 17.0 bash                 a shell in step 0 of job 17
  grus exec 17.0 nvidia-smi
  grus exec 17 ps aux                     the job's one running step
  grus exec --node n2 17.0 cat /tmp/log   on another of its nodes
  grus exec --dry-run 17.0 bash           show the srun command instead
  grus exec -it run.4711 bash             a shell in a container of 'grus run'

For a step this runs 'srun --overlap --jobid=17 --container-name=17.0': the
command is a step of the same job, within its resources, as you. 'grus ps' lists
what can be joined.";

/// How long Slurm is waited for, for the names of nodes.
const LIMIT: Duration = Duration::from_secs(10);

/// Arguments of `grus exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Keep standard input open; it always is, so this is for fingers that know Docker
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
    /// Set a variable for the command (repeatable)
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Start in this directory of the container
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// Run on this node of the step [default: this node if the step is here, else its first]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Print the srun command and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The step, a job with a single running step (ARRAY_TASK in a job array), or a container of 'grus run'
    #[arg(value_name = "JOBID[.STEPID]|run.PID")]
    step: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(pid) = self.step.strip_prefix("run.").and_then(|pid| pid.parse().ok()) {
            return self.beside(pid);
        }
        let step = find(&self.step, of_caller()?)?;
        let node = self.node(&step)?;
        let job = step.id.split('.').next().unwrap_or_default();
        let mut words = vec![
            "srun".to_owned(),
            "--overlap".into(),
            format!("--jobid={job}"),
            format!("--nodelist={node}"),
            "--nodes=1".into(),
            "--ntasks=1".into(),
            format!("--container-name={}", step.id),
        ];
        words.extend(self.tty.then(|| "--pty".into()));
        words.extend(self.workdir.iter().map(|dir| format!("--container-workdir={dir}")));
        // Over what the container sets, and not for srun itself. Names that the option does not take go through srun.
        let variables = self.variables()?;
        let (named, others): (BTreeMap<&str, &str>, BTreeMap<&str, &str>) =
            variables.into_iter().partition(|(name, _)| is_name(name));
        let fields: Vec<String> =
            named.iter().map(|(name, value)| csv::field(&format!("{name}={value}"))).collect();
        words.extend((!fields.is_empty()).then(|| format!("--container-env={}", fields.join(","))));
        words.extend(self.command.iter().cloned());
        if self.dry_run {
            let set = others.iter().map(|(name, value)| quoted(&format!("{name}={value}")));
            let shown: Vec<String> = set.chain(words.iter().map(|word| quoted(word))).collect();
            return output::print(&format!("{}\n", shown.join(" ")));
        }
        let error = Command::new(&words[0]).args(&words[1..]).envs(others).exec();
        Err(Failure::System {
            what: format!("cannot run srun: {}", reason(&error)),
            hint: Some("this needs Slurm's commands; add their directory to PATH".into()),
        })
    }

    /// In a container of `grus run`.
    fn beside(self, pid: u32) -> Result<(), Failure> {
        if self.node.is_some() || self.dry_run {
            return Err(Refusal::user("--node and --dry-run are for steps: this container is here")
                .hint("leave them out")
                .into());
        }
        if self.tty && !io::stdin().is_terminal() {
            return Err(Refusal::user("--tty: standard input is no terminal").hint("leave -t out").into());
        }
        let variables = self.variables()?.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let words = self.command.iter().map(OsString::from).collect();
        Err(super::run::beside(pid, words, variables, self.workdir.as_deref())?)
    }

    /// The last one of a name holds.
    fn variables(&self) -> Result<BTreeMap<&str, &str>, Refusal> {
        let refusal = |pair: &str| {
            Refusal::user(format!("--env {} is no NAME=VALUE", printable(pair)))
                .hint("write --env NAME=VALUE")
        };
        let parsed = self.env.iter().map(|text| {
            text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| refusal(text))
        });
        parsed.collect()
    }

    fn node(&self, step: &Step) -> Result<String, Failure> {
        let names = match ask(Path::new("scontrol"), &["show", "hostnames", &step.nodes], "", LIMIT) {
            Ok(said) if said.ok => said.out.lines().map(str::to_owned).collect(),
            _ => vec![step.nodes.clone()],
        };
        let own = here(&[]).get(&step.id).map(|here| here.node.clone());
        match &self.node {
            None => Ok(own.filter(|own| names.contains(own)).unwrap_or_else(|| names[0].clone())),
            Some(node) if names.contains(node) => Ok(node.clone()),
            Some(node) => {
                let what = format!("step {} is not on node {}", step.id, printable(node));
                Err(Refusal::user(what).hint(format!("its nodes are {}", names.join(", "))).into())
            }
        }
    }
}

/// The step that is meant, among the caller's own.
fn find(text: &str, steps: Vec<Step>) -> Result<Step, Failure> {
    let shown = printable(text);
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (job, step) = text.split_once('.').unwrap_or((text, "0"));
    // A task of a job array: ARRAY_TASK.
    if !job.split('_').all(number) || job.split('_').count() > 2 || !number(step) {
        return Err(Refusal::user(format!("'{shown}' is no step"))
            .hint("write JOBID.STEPID, such as 17.0; 'grus ps --all' lists yours")
            .into());
    }
    let whole = text.contains('.');
    let is_meant = |id: &str| match whole {
        true => id == text,
        false => id.split('.').next() == Some(text),
    };
    let fits = |step: &&Step| is_meant(&step.id) || is_meant(&step.array);
    let found: Vec<&Step> = steps.iter().filter(fits).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => {
            let near = nearest(text, steps.iter().map(|step| step.id.as_str()));
            let near = near.map_or(String::new(), |near| format!("did you mean {near}? "));
            let what = match whole {
                true => format!("no step {shown} of yours is running"),
                false => format!("no step of a job {shown} of yours is running"),
            };
            Err(Refusal::user(what).hint(format!("{near}'grus ps --all' lists your steps")).into())
        }
        _ => {
            let ids: Vec<&str> = found.iter().map(|step| step.id.as_str()).collect();
            Err(Refusal::user(format!("job {shown} has several running steps: {}", ids.join(", ")))
                .hint("name one of them")
                .into())
        }
    }
}

/// A word as a shell needs it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(ids: &[&str]) -> Vec<Step> {
        let step = |id: &&str| Step {
            id: (*id).to_owned(),
            array: if *id == "127.0" { "123_4.0".into() } else { String::new() },
            name: "app".into(),
            time: "0:01".into(),
            nodes: "n1".into(),
        };
        ids.iter().map(step).collect()
    }

    #[test]
    fn a_step_is_named_in_full_or_by_its_job() {
        assert_eq!(find("17.1", steps(&["17.0", "17.1"])).expect("there").id, "17.1");
        assert_eq!(find("18", steps(&["17.0", "18.2"])).expect("one").id, "18.2");
        for text in ["127", "127.0", "123_4", "123_4.0"] {
            assert_eq!(find(text, steps(&["17.0", "127.0"])).expect("one").id, "127.0");
        }
        for (text, what) in [
            ("17", "several running steps: 17.0, 17.1"),
            ("17.2", "no step 17.2"),
            ("19", "no step of a job 19"),
            ("app", "'app' is no step"),
            ("17.", "'17.' is no step"),
            ("17_", "'17_' is no step"),
            ("123", "no step of a job 123"),
            ("1.2.3", "is no step"),
        ] {
            let failure = find(text, steps(&["17.0", "17.1"])).expect_err(text);
            assert!(failure.to_string().contains(what), "{failure}");
            assert!(failure.hint().is_some());
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a=b"), "a=b");
        assert_eq!(quoted("it's a"), "'it'\\''s a'");
    }
}
