//! `grus ps`: running steps in containers, and containers of `grus run`.

use grus_enter::rootless::running;
use serde::Serialize;

use super::formatted;
use crate::failure::Failure;
use crate::output;
use crate::steps::{here, of_run, of_slurm, Here, Step};
use crate::template::Format;

const EXAMPLES: &str = "\
Examples:
  grus ps                                 your containers on this node
  grus ps --all                           and your steps elsewhere
  srun --overlap --jobid=17 grus ps       on the nodes of job 17
  grus ps -q | head -1                    for grus exec

A container of 'grus run' is called run.PID, by its first process.
Which image a step runs in, only its own nodes know: elsewhere the image is
shown as '?'. A step on the host is shown with --all, and without an image.
Fields: ID Image Nodes Time Name Processes.";

/// Arguments of `grus ps`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Show also steps on other nodes, and steps that are in no container
    #[arg(long, short)]
    all: bool,
    /// Print JOBID.STEPID or run.PID only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print each step by a template with fields such as {{.Image}}; 'table TEMPLATE' or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["json", "quiet"])]
    format: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One step. The image is empty for one on the host, and '?' where it is not known.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    #[serde(rename = "ID")]
    id: String,
    image: String,
    nodes: String,
    time: String,
    name: String,
    processes: usize,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let shape = formatted::item(&Item::default());
        let format = self.format.as_deref().map_or(Ok(Format::Usual), |text| Format::parse(text, &shape))?;
        let running = running(nix::unistd::Uid::effective().as_raw());
        // Where Slurm does not answer, containers without it are shown all the same.
        let (steps, fault) = match of_slurm() {
            Ok(steps) => (steps.unwrap_or_default(), None),
            Err(failure) => (vec![], Some(failure)),
        };
        if let (Some(failure), true) = (fault, running.is_empty()) {
            return Err(failure);
        }
        let here = here(&running);
        let own = of_run(&running).into_iter().map(|(step, here)| item(Some(&here), step));
        let items: Vec<Item> =
            steps.into_iter().map(|step| item(here.get(&step.id), step)).chain(own).collect();
        let elsewhere = items.iter().filter(|item| item.image == "?").count();
        let shown = |item: &Item| self.all || !["", "?"].contains(&item.image.as_str());
        let items: Vec<Item> = items.into_iter().filter(shown).collect();
        if self.json {
            return output::json(&items.iter().map(formatted::item).collect::<Vec<_>>());
        }
        if self.quiet {
            return output::print(&items.iter().map(|item| format!("{}\n", item.id)).collect::<String>());
        }
        let values: Vec<_> = items.iter().map(formatted::item).collect();
        formatted::print(&format, &values, || table(items))?;
        if elsewhere > 0 && !self.all && matches!(format, Format::Usual) {
            output::note(&format!("{elsewhere} of your steps run on other nodes; --all shows them"));
        }
        Ok(())
    }
}

fn item(here: Option<&Here>, step: Step) -> Item {
    let image = match here {
        Some(here) => here.image.clone().unwrap_or_default(),
        None => "?".into(),
    };
    let processes = here.map_or(0, |here| here.processes);
    Item { id: step.id, image, nodes: step.nodes, time: step.time, name: step.name, processes }
}

fn table(items: Vec<Item>) -> String {
    let mut rows = vec![["STEP", "IMAGE", "NODES", "TIME", "NAME"].map(str::to_owned).to_vec()];
    rows.extend(items.into_iter().map(|i| {
        let image = if i.image.is_empty() { "-".into() } else { i.image };
        vec![i.id, image, i.nodes, i.time, i.name]
    }));
    output::table(&rows)
}
