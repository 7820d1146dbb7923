//! `grus inspect`: all that is known of an image, in the shape that Docker prints.

use grus_core::image::ImageConfig;
use grus_core::reference::Reference;
use grus_core::signature::Signed;
use serde::Serialize;

use super::formatted;
use super::name::{every, Found};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::template::Format;

const EXAMPLES: &str = "\
Examples:
  grus inspect ubuntu:24.04
  grus inspect ubuntu:24.04 | jq -r '.[0].Config.Env[]'
  grus inspect --format '{{range .Config.Env}}{{println .}}{{end}}' ubuntu:24.04
  grus inspect -f '{{.Path}}' app:1           the SquashFS file

The members are Docker's. Grus adds Path (the file), UnpackedSize and Repository
(its directory); what Docker knows and Grus does not is not there.";

/// Arguments of `grus inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names or digests
    #[arg(value_name = "REF|DIGEST", required = true)]
    names: Vec<String>,
    /// Print each image by a template with fields such as {{.Config.Env}}, or 'json'
    #[arg(long, short, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Print JSON, as without this option
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// One image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    created: Option<String>,
    architecture: String,
    variant: String,
    os: String,
    size: u64,
    unpacked_size: u64,
    config: Config,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    path: String,
    repository: String,
    signatures: Vec<Signed>,
}

/// The configuration, by Docker's names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    user: String,
    env: Vec<String>,
    cmd: Vec<String>,
    entrypoint: Vec<String>,
    working_dir: String,
    labels: std::collections::BTreeMap<String, String>,
    stop_signal: String,
}

/// The layers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(rename = "Type")]
    kind: &'static str,
    layers: Vec<String>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut all: Vec<Shown> = vec![];
        for name in &self.names {
            all.extend(every(context, name)?.into_iter().map(shown));
        }
        let Some(format) = &self.format else { return output::json(&all) };
        let values: Vec<_> = all.iter().map(formatted::item).collect();
        let shape = values.first().cloned().unwrap_or_default();
        match Format::parse(format, &shape)? {
            Format::Usual => output::json(&all),
            format => formatted::print(&format, &values, String::new),
        }
    }
}

fn shown(found: Found) -> Shown {
    let Found { meta, tags, signatures, path, repository } = found;
    let digest = meta.digest.to_string();
    let names: std::collections::BTreeSet<String> = tags.iter().map(Reference::name).collect();
    Shown {
        id: digest.clone(),
        repo_tags: tags.iter().filter(|tag| tag.digest.is_none()).map(Reference::familiar).collect(),
        repo_digests: names.into_iter().map(|name| format!("{name}@{digest}")).collect(),
        created: meta.created,
        architecture: meta.platform.architecture,
        variant: meta.platform.variant.unwrap_or_default(),
        os: meta.platform.os,
        size: meta.size,
        unpacked_size: meta.unpacked_size,
        config: config(meta.config),
        root_fs: RootFs { kind: "layers", layers: meta.layers.iter().map(ToString::to_string).collect() },
        path: path.display().to_string(),
        repository: repository.display().to_string(),
        signatures,
    }
}

fn config(config: ImageConfig) -> Config {
    Config {
        user: config.user,
        env: config.env,
        cmd: config.cmd,
        entrypoint: config.entrypoint,
        working_dir: config.working_dir,
        labels: config.labels,
        stop_signal: config.stop_signal.unwrap_or_default(),
    }
}
