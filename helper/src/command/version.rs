//! `grus version`.

use grus_core::platform::Platform;

use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  grus version
  grus version --json | jq -r .version";

/// Arguments of `grus version`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (version, platform) = (env!("CARGO_PKG_VERSION"), Platform::here());
        match self.json {
            true => output::json(&serde_json::json!({"version": version, "platform": platform})),
            false => output::print(&format!("grus {version} ({platform})\n")),
        }
    }
}
