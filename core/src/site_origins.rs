//! What is in force at a site, and which file said so: for `grus config`.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{defaults, merge, Site, KEYS};
use crate::refusal::Refusal;

impl Site {
    /// Every key, and every module as a whole, with its value of these files together, and where that is from: files, in order, that set it or added
    /// to it; none for a default. Refuses what [`Site::parse`] refuses.
    pub fn in_force(files: &[(String, String)]) -> Result<Vec<InForce>, Refusal> {
        Self::parse(files)?;
        let mut merged = defaults();
        let mut from: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, text) in files {
            // Read above.
            let table: Table = text.parse().unwrap_or_default();
            for key in keys(&table) {
                let Some(value) = value_of(&table, &key) else { continue };
                let from = from.entry(key).or_default();
                if !matches!(value, Value::Array(_) | Value::Table(_)) {
                    from.clear();
                }
                from.push(name.clone());
            }
            merge(&mut merged, table);
        }
        let of = |key: String| InForce {
            value: value_of(&merged, &key).cloned().unwrap_or(Value::Boolean(false)),
            from: from.remove(&key).unwrap_or_default(),
            key,
        };
        Ok(keys(&merged).into_iter().map(of).collect())
    }
}

/// Every key that there is, and `module.NAME` of each module of this file.
fn keys(table: &Table) -> Vec<String> {
    let modules =
        table.get("module").and_then(Value::as_table).into_iter().flat_map(|modules| modules.keys());
    let modules = modules.map(|name| format!("module.{name}"));
    KEYS.iter().map(|key| key.name.to_owned()).chain(modules).collect()
}

/// A key's value, and where it is from.
#[derive(Clone, Debug)]
pub struct InForce {
    /// `section.name`.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// The files; none for the default.
    pub from: Vec<String>,
}

impl InForce {
    /// The value as one line of TOML.
    pub fn text(&self) -> String {
        inline(&self.value)
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Table(table) if table.is_empty() => "{}".into(),
        Value::Table(table) => {
            let pairs: Vec<String> = table.iter().map(|(k, v)| format!("{k:?} = {}", inline(v))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The value of `section.name`.
fn value_of<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, name)) => table.get(section)?.as_table()?.get(name),
        None => table.get(key),
    }
}
