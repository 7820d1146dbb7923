//! What lists have in common: `--format`, `--json`, `-q`, and the table that is shown otherwise.

use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::output;
use crate::template::Format;

/// Prints items in a format; `usual` makes the command's own table.
pub fn print(format: &Format, items: &[Value], usual: impl FnOnce() -> String) -> Result<(), Failure> {
    let mut text = String::new();
    match format {
        Format::Usual => text = usual(),
        Format::Json => items.iter().for_each(|item| text += &format!("{item}\n")),
        Format::Each(template) => {
            for item in items {
                let filled = template.fill(item)?;
                text += &filled;
                // As Docker does: a template that ends its own lines gets no more of them.
                text += if filled.ends_with('\n') { "" } else { "\n" };
            }
        }
        Format::Table(template) => {
            let mut rows = vec![cells(&template.headings())];
            for item in items {
                rows.push(cells(&template.fill(item)?));
            }
            text = output::table(&rows);
        }
    }
    output::print(&text)
}

fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

/// An item as templates see it.
pub fn item(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}
