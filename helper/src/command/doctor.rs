//! `grus doctor`: will containers run here, and if not, what mends it.

use std::time::Duration;

use serde::Serialize;

use crate::context::{Common, Context};
use crate::doctor::{examine, Check, Online, Patient, State};
use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  grus doctor                      as yourself, on a login node
  srun -N1 grus doctor             on a compute node
  sudo grus doctor                 root can try more: loop devices, file systems
  grus doctor --registry nvcr.io   whether that registry answers from here
  grus doctor --json | jq '.checks[] | select(.state != \"ok\")'

Nothing is changed. What is not well is told with what follows from it and with
what mends it.

Exit status: 0 if nothing fails (warnings may be there), 1 otherwise.";

/// Arguments of `grus doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Ask this registry whether it answers, and fail if it does not (repeatable)
    #[arg(long, value_name = "SERVER[:PORT]", conflicts_with = "offline")]
    registry: Vec<String>,
    /// Ask no registry
    #[arg(long)]
    offline: bool,
    /// Wait so long for each program and registry that is asked, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Show only what is not well
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    host: &'a str,
    user: u32,
    ok: bool,
    checks: &'a [Check],
}

impl Args {
    pub(super) fn run(self, common: Common) -> Result<(), Failure> {
        let online = match (self.offline, self.registry.is_empty()) {
            (true, _) => Online::No,
            (false, true) => Online::Usual,
            (false, false) => Online::These(
                self.registry.iter().map(|name| super::account::server(name)).collect::<Result<_, _>>()?,
            ),
        };
        let (context, fault) = Context::or_defaults(common);
        let site_file = context.site_file().to_owned();
        let patient = Patient { context: &context, site_fault: fault.as_ref(), site_file };
        let checks = examine(&patient, &online, Duration::from_secs(self.timeout));
        let count = |state| checks.iter().filter(|check| check.state == state).count();
        let (fails, warnings) = (count(State::Fails), count(State::Warning));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        if self.json {
            let user = nix::unistd::Uid::effective().as_raw();
            let version = env!("CARGO_PKG_VERSION");
            output::json(&Report { version, host, user, ok: fails == 0, checks: &checks })?;
        } else {
            let shown = |check: &&Check| !self.quiet || check.state != State::Ok;
            let lines: String = checks.iter().filter(shown).map(lines).collect();
            let node = std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| host.to_owned());
            let node = grus_core::refusal::printable(&node);
            let total = format!("{node}: {} checks, {warnings} warnings, {fails} failures\n", checks.len());
            output::print(&(lines + &total))?;
        }
        match fails {
            0 => Ok(()),
            1 => Err(ill("1 check fails".into())),
            n => Err(ill(format!("{n} checks fail"))),
        }
    }
}

fn ill(what: String) -> Failure {
    let hint = Some("the lines with 'mend' say what to do; the administrator has to, for most".into());
    Failure::System { what, hint }
}

/// A check in lines: what was found, what follows, what mends it.
fn lines(check: &Check) -> String {
    let word = match check.state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Fails => "FAILS",
    };
    let mut text = format!("{word:8}{:20}{}\n", check.name, check.found);
    text.extend(check.means.iter().map(|said| format!("{:8}{:>18}  {said}\n", "", "means")));
    let mut text = output::folded(&text, 28);
    // A command stays in one line, to be copied.
    text.extend(check.mend.iter().map(|said| format!("{:8}{:>18}  {said}\n", "", "mend")));
    text
}
