//! `grus save-container`: what the plugin runs, as the user, for `--container-save`. It is not for people, so it is hidden.

use std::path::Path;
use std::time::Instant;

use grus_core::refusal::printable;
use grus_core::saving::Order;

use crate::failure::Failure;
use crate::output;
use crate::save::save;

/// Where the container's tree is: the descriptor itself, whatever the path.
const TREE: &str = "/proc/self/fd/0/.";

/// Most files that are named in a warning.
const NAMED: usize = 5;

/// Arguments of `grus save-container`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to save, and where, as the plugin writes it
    order: String,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let start = Instant::now();
        let order = Order::decode(&self.order)?;
        let saved = save(&order, Path::new(TREE))?;
        let count = saved.left_out.len();
        if count > 0 {
            let named =
                saved.left_out.iter().take(NAMED).map(|path| printable(&format!("/{}", path.display())));
            let more = if count > NAMED { " and more" } else { "" };
            output::warn(&format!(
                "{count} files are not in {}, for you may not read them: {}{more}",
                printable(order.file.as_str()),
                named.collect::<Vec<_>>().join(", ")
            ));
        }
        output::print(&format!(
            "saved {} ({}, {}, {:.1} s)\n",
            printable(order.file.as_str()),
            output::bytes(saved.meta.size),
            saved.meta.digest,
            start.elapsed().as_secs_f64()
        ))
    }
}
