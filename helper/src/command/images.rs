//! `grus images`: what a repository holds.

use std::collections::BTreeSet;

use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::printable;
use grus_core::signature::Signed;
use serde::Serialize;

use super::filter::Filter;
use super::formatted;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::repository::{Listing, Row};
use crate::template::Format;

const EXAMPLES: &str = "\
Examples:
  grus images
  grus images ubuntu                  the tags of one image
  grus images --system                what the site offers to everyone
  grus images --filter 'reference=nvcr.io/*/*' --filter dangling=false
  grus images --format '{{.Repository}}:{{.Tag}}  {{.Size}}'
  grus images -q | xargs -r grus rmi --force    remove everything

Filters: reference=PATTERN (with * and ?), server=NAME, dangling=true|false,
label=NAME[=VALUE], platform=OS/ARCH, before=IMAGE, since=IMAGE.
Fields: Repository Tag Reference Digest ID CreatedSince CreatedAt Size Bytes
UnpackedSize Server Platform Path. --format json prints one image a line.";

/// Arguments of `grus images`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Show only images of this name, of any tag unless one is given
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Show whole digests
    #[arg(long)]
    digests: bool,
    /// Show only images that fit (repeatable)
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print each image by a template with fields such as {{.Tag}}; 'table TEMPLATE', 'table' or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["json", "quiet"])]
    format: Option<String>,
    /// Print digests only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// One image of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Shown<'a> {
    reference: Option<String>,
    repository: Option<String>,
    tag: Option<&'a str>,
    digest: String,
    platform: String,
    created: Option<&'a str>,
    size: Option<u64>,
    unpacked_size: Option<u64>,
    path: String,
    #[serde(skip_serializing_if = "<[Signed]>::is_empty")]
    signatures: &'a [Signed],
}

/// One image of `--format`, by the names that Docker's users know.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    repository: String,
    tag: String,
    reference: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    created_since: String,
    created_at: String,
    size: String,
    bytes: u64,
    unpacked_size: String,
    server: String,
    platform: String,
    path: String,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let shape = formatted::item(&Item::default());
        let format = self.format.as_deref().map_or(Ok(Format::Usual), |text| Format::parse(text, &shape))?;
        let filter = Filter::parse(&self.filter)?;
        let repository = context.repository()?;
        let mut listing = repository.list()?;
        for damage in &listing.damage {
            output::warn(damage);
        }
        filter.apply(&mut listing, &repository.root().display().to_string())?;
        if let Some(name) = &self.name {
            let wanted = Reference::parse(name)?;
            // Without a tag all tags are meant: `latest` is only what parsing adds.
            let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
            listing.rows.retain(|row| row.reference.as_ref().is_some_and(|r| matches(r, &wanted, tagged)));
        }
        let path = |row: &Row| repository.layout().image(&row.digest).display().to_string();
        if self.json {
            let shown: Vec<Shown> = listing.rows.iter().map(|row| shown(row, path(row))).collect();
            return output::json(&shown);
        }
        if self.quiet {
            let digests: BTreeSet<String> =
                listing.rows.iter().map(|row| format!("{}\n", row.digest)).collect();
            return output::print(&digests.into_iter().collect::<String>());
        }
        let items: Vec<_> =
            listing.rows.iter().map(|row| formatted::item(&item(row, path(row), output::now()))).collect();
        formatted::print(&format, &items, || self.table(&listing))
    }

    fn table(&self, listing: &Listing) -> String {
        let here = Platform::here();
        let foreign = listing.rows.iter().any(|row| !here.runs(&row.platform));
        let mut rows =
            vec![["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE", "SERVER"].map(str::to_owned).to_vec()];
        if foreign {
            rows[0].push("PLATFORM".into());
        }
        for row in &listing.rows {
            let item = item(row, String::new(), output::now());
            let digest = if self.digests { item.digest } else { item.id };
            let created = if item.created_since.is_empty() { "-".into() } else { item.created_since };
            let mut cells = vec![item.repository, item.tag, digest, created, item.size, item.server];
            if foreign {
                cells.push(item.platform);
            }
            rows.push(cells);
        }
        output::table(&rows)
    }
}

fn matches(reference: &Reference, wanted: &Reference, tagged: bool) -> bool {
    reference.name() == wanted.name() && (!tagged || reference.tag == wanted.tag)
}

fn item(row: &Row, path: String, now: u64) -> Item {
    let none = || "<none>".to_owned();
    let created = row.meta.as_ref().and_then(|m| m.created.as_deref());
    Item {
        repository: row.reference.as_ref().map_or_else(none, Reference::familiar_name),
        tag: row.reference.as_ref().and_then(|r| r.tag.clone()).unwrap_or_else(none),
        reference: row.reference.as_ref().map_or_else(String::new, Reference::familiar),
        digest: row.digest.to_string(),
        id: row.digest.short().to_owned(),
        created_since: created
            .map(|at| output::ago(at, now).unwrap_or_else(|| printable(at)))
            .unwrap_or_default(),
        created_at: created.map(printable).unwrap_or_default(),
        size: row.meta.as_ref().map_or("missing".into(), |m| output::bytes(m.size)),
        bytes: row.meta.as_ref().map_or(0, |m| m.size),
        unpacked_size: row.meta.as_ref().map_or(String::new(), |m| output::bytes(m.unpacked_size)),
        server: row.reference.as_ref().map_or("-".into(), |r| r.registry.clone()),
        platform: row.platform.to_string(),
        path,
    }
}

fn shown(row: &Row, path: String) -> Shown<'_> {
    Shown {
        reference: row.reference.as_ref().map(Reference::to_string),
        repository: row.reference.as_ref().map(Reference::name),
        tag: row.reference.as_ref().and_then(|r| r.tag.as_deref()),
        digest: row.digest.to_string(),
        platform: row.platform.to_string(),
        created: row.meta.as_ref().and_then(|m| m.created.as_deref()),
        size: row.meta.as_ref().map(|m| m.size),
        unpacked_size: row.meta.as_ref().map(|m| m.unpacked_size),
        path,
        signatures: &row.signatures,
    }
}
