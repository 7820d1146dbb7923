//! `grus images`: what a repository holds.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::printable;
use grus_core::signature::Signed;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::repository::{Listing, Row};

const EXAMPLES: &str = "\
Examples:
  grus images
  grus images ubuntu                  the tags of one image
  grus images --system                what the site offers to everyone
  grus images -q | xargs grus rmi     remove everything";

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

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let repository = context.repository()?;
        let mut listing = repository.list()?;
        for damage in &listing.damage {
            output::warn(damage);
        }
        if let Some(name) = &self.name {
            let wanted = Reference::parse(name)?;
            // Without a tag all tags are meant: `latest` is only what parsing adds.
            let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
            listing.rows.retain(|row| row.reference.as_ref().is_some_and(|r| matches(r, &wanted, tagged)));
        }
        if self.json {
            let path = |row: &Row| repository.layout().image(&row.digest).display().to_string();
            let shown: Vec<Shown> = listing.rows.iter().map(|row| shown(row, path(row))).collect();
            return output::json(&shown);
        }
        if self.quiet {
            let digests: BTreeSet<String> =
                listing.rows.iter().map(|row| format!("{}\n", row.digest)).collect();
            return output::print(&digests.into_iter().collect::<String>());
        }
        output::print(&self.table(&listing))
    }

    fn table(&self, listing: &Listing) -> String {
        let here = Platform::here();
        let foreign = listing.rows.iter().any(|row| !here.runs(&row.platform));
        let mut rows = vec![["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
        if foreign {
            rows[0].push("PLATFORM".into());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        for row in &listing.rows {
            let digest = if self.digests { row.digest.to_string() } else { row.digest.short().to_owned() };
            let created = row.meta.as_ref().and_then(|m| m.created.as_deref());
            let created = created.map(|at| output::ago(at, now).unwrap_or_else(|| printable(at)));
            let size = row.meta.as_ref().map_or("missing".into(), |m| output::bytes(m.size));
            let tag = row.reference.as_ref().and_then(|r| r.tag.clone());
            let mut cells = vec![
                row.reference.as_ref().map_or("<none>".into(), Reference::familiar_name),
                tag.unwrap_or_else(|| "<none>".into()),
                digest,
                created.unwrap_or_else(|| "-".into()),
                size,
            ];
            if foreign {
                cells.push(row.platform.to_string());
            }
            rows.push(cells);
        }
        output::table(&rows)
    }
}

fn matches(reference: &Reference, wanted: &Reference, tagged: bool) -> bool {
    reference.name() == wanted.name() && (!tagged || reference.tag == wanted.tag)
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
