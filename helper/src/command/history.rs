//! `grus history`: how an image was made.

use grus_core::image::{ImageMeta, Step};
use serde::Serialize;

use super::formatted;
use super::name::one;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::template::Format;

const EXAMPLES: &str = "\
Examples:
  grus history ubuntu:24.04
  grus history --no-trunc --format '{{.CreatedBy}}' app:1
  grus history --json app:1 | jq '.[].size'

The last step is shown first. Sizes are those of the layers in the registry or
archive; in the image, layers are one SquashFS file. Fields: ID Created
CreatedSince CreatedBy Size Bytes Comment.";

/// Longest command that is shown in the table, in characters.
const SHOWN: usize = 45;

/// Arguments of `grus history`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, by name or digest
    #[arg(value_name = "REF|DIGEST")]
    image: String,
    /// Show commands and digests in full
    #[arg(long)]
    no_trunc: bool,
    /// Print each step by a template with fields such as {{.CreatedBy}}; 'table TEMPLATE' or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["json", "quiet"])]
    format: Option<String>,
    /// Print the layers' digests only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One step, by Docker's names.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    #[serde(rename = "ID")]
    id: String,
    created: String,
    created_since: String,
    created_by: String,
    size: String,
    bytes: u64,
    comment: String,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let shape = formatted::item(&Item::default());
        let format = self.format.as_deref().map_or(Ok(Format::Usual), |text| Format::parse(text, &shape))?;
        let meta = one(context, &self.image)?.meta;
        let mut steps = steps(&meta);
        steps.reverse();
        if self.json {
            return output::json(&steps);
        }
        if self.quiet {
            let digests = steps.iter().filter_map(|step| step.layer.as_ref());
            return output::print(&digests.map(|digest| format!("{digest}\n")).collect::<String>());
        }
        let items: Vec<Item> = steps.iter().map(|step| self.item(step)).collect();
        let values: Vec<_> = items.iter().map(formatted::item).collect();
        formatted::print(&format, &values, || table(items, output::width().filter(|_| !self.no_trunc)))
    }

    fn item(&self, step: &Step) -> Item {
        let created = step.created.clone().unwrap_or_default();
        let digest = |digest: &grus_core::digest::Digest| match self.no_trunc {
            true => digest.to_string(),
            false => digest.short().to_owned(),
        };
        // Tabs and line breaks of a RUN with many lines: one line here, as Docker shows it.
        let mut command: String = step.created_by.split_whitespace().collect::<Vec<_>>().join(" ");
        if !self.no_trunc {
            command = shortened(command, SHOWN);
        }
        Item {
            id: step.layer.as_ref().map_or("<none>".into(), digest),
            created_since: output::ago(&created, output::now()).unwrap_or_else(|| "-".into()),
            created,
            created_by: grus_core::refusal::controls_shown(&command),
            size: match (&step.layer, step.size) {
                (Some(_), 0) => "-".into(),
                (_, size) => output::bytes(size),
            },
            bytes: step.size,
            comment: grus_core::refusal::printable(&step.comment),
        }
    }
}

/// What is known: where nobody said how the image was made, its layers alone.
fn steps(meta: &ImageMeta) -> Vec<Step> {
    match meta.history.is_empty() {
        false => meta.history.clone(),
        true => meta.layers.iter().map(|l| Step { layer: Some(l.clone()), ..Step::default() }).collect(),
    }
}

fn shortened(text: String, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text,
    }
}

/// On a terminal of this width the commands give way.
fn table(mut items: Vec<Item>, width: Option<usize>) -> String {
    const FEWEST: usize = 16;
    if let Some(width) = width {
        let widest = |cell: fn(&Item) -> &str, title: usize| {
            items.iter().map(|item| cell(item).chars().count()).max().unwrap_or(0).max(title) + 2
        };
        let others = [widest(|i| &i.id, 5), widest(|i| &i.created_since, 7), widest(|i| &i.size, 4)];
        let rest = others.iter().sum::<usize>() + widest(|i| &i.comment, 7);
        let most = width.saturating_sub(rest).max(FEWEST);
        for item in &mut items {
            item.created_by = shortened(std::mem::take(&mut item.created_by), most);
        }
    }
    let mut rows = vec![["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
    rows.extend(items.into_iter().map(|i| vec![i.id, i.created_since, i.created_by, i.size, i.comment]));
    output::table(&rows)
}
