//! `grus config`: what is in force, and who said so.

use grus_core::options::variables;
use grus_core::refusal::{nearest, printable, Refusal};
use grus_core::site::{InForce, Site};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  grus config                       every key, its value, and where that is from
  grus config --changed             only what some file sets
  grus config mounts                the keys of a section
  grus config repository.user       the value alone, for scripts
  grus config module                the site's modules
  grus config --json | jq '.repository'

What each key means is in grus.toml(5). Steps read the site file on their own
nodes: there, 'srun grus config' tells.";

/// Arguments of `grus config`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A key, to have its value, or a section
    #[arg(value_name = "SECTION[.KEY]")]
    key: Option<String>,
    /// Show only keys that are not at their default
    #[arg(long)]
    changed: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A key of `--json`.
#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    value: &'a toml::Value,
    from: &'a [String],
}

/// An option that the caller's environment gives.
#[derive(Serialize)]
struct FromEnvironment {
    option: String,
    value: String,
    variable: String,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    site_file: String,
    repository: Option<String>,
    repository_from: &'a str,
    keys: Vec<Shown<'a>>,
    options: Vec<FromEnvironment>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let all = Site::in_force(&context.site_files()?)?;
        let wanted = self.wanted(&all)?;
        if let ([one], Some(key)) = (&wanted[..], &self.key) {
            if &one.key == key && !self.json {
                // A string as it is, without quotes: for $(...).
                let text = one.value.as_str().map_or_else(|| one.text(), str::to_owned);
                return output::print(&format!("{}\n", printable(&text)));
            }
        }
        let options = from_environment(context);
        let repository = context.repository().ok().map(|r| r.root().display().to_string());
        let from = context.repository_origin().unwrap_or("repository.user");
        if self.json {
            return output::json(&Report {
                site_file: context.site_file().display().to_string(),
                repository,
                repository_from: from,
                keys: wanted
                    .iter()
                    .map(|one| Shown { key: &one.key, value: &one.value, from: &one.from })
                    .collect(),
                options,
            });
        }
        let mut rows = vec![["KEY", "VALUE", "FROM"].map(str::to_owned).to_vec()];
        for one in &wanted {
            let origin = if one.from.is_empty() { "default".into() } else { one.from.join(", ") };
            rows.push(vec![printable(&one.key), printable(&one.text()), printable(&origin)]);
        }
        if self.key.is_none() {
            if let Some(repository) = repository.filter(|_| from != "repository.user") {
                rows.push(vec!["(repository)".into(), printable(&repository), from.into()]);
            }
            for given in options {
                rows.push(vec![format!("--{}", given.option), printable(&given.value), given.variable]);
            }
        }
        output::print(&output::table(&rows))
    }

    fn wanted<'a>(&self, all: &'a [InForce]) -> Result<Vec<&'a InForce>, Refusal> {
        let section = |one: &InForce, key: &str| one.key.split('.').next() == Some(key);
        let named = |one: &&InForce| match &self.key {
            Some(key) => one.key == *key || section(one, key),
            None => true,
        };
        let found: Vec<&InForce> = all.iter().filter(named).collect();
        if let (true, Some(key)) = (found.is_empty(), &self.key) {
            let names = all.iter().flat_map(|one| [Some(&*one.key), one.key.split('.').next()]).flatten();
            let near = nearest(key, names).map_or(String::new(), |near| format!("did you mean {near}? "));
            return Err(Refusal::user(format!("there is no key {}", printable(key)))
                .hint(format!("{near}'grus config' lists them all")));
        }
        Ok(found.into_iter().filter(|one| !self.changed || !one.from.is_empty()).collect())
    }
}

/// Options of srun that variables give here; one that is malformed is told by srun.
fn from_environment(context: &Context) -> Vec<FromEnvironment> {
    let given = |name: &str| context.environment.get(name).cloned();
    let given = variables::given(given).unwrap_or_else(|refusal| {
        output::warn(&refusal.what);
        vec![]
    });
    let shown = |one: variables::Given| FromEnvironment {
        option: one.spec.name.to_owned(),
        value: one.value,
        variable: one.variable,
    };
    given.into_iter().map(shown).collect()
}
