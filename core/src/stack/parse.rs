//! Reading a profile, with every mistake named.

use std::collections::BTreeSet;
use toml::{Table, Value};

use super::{Role, Stack, STACK_FORMAT};
use crate::refusal::{nearest, printable, Refusal};
use crate::swap::provider_family;

/// Largest profile read, in bytes.
pub const MAX_STACK: usize = 8 << 20;
/// Most libraries of one stack.
const MAX_LIBRARIES: usize = 1000;

/// Words that `--container-mpi` gives another meaning.
const RESERVED: &[&str] = &["auto", "host", "image", "fabric"];

const TOP: &[&str] =
    &["format", "description", "example", "machine", "mpi", "devices", "path", "environment", "library"];
const MPI: &[&str] = &["family", "version", "pmi"];
const PATH: &[&str] = &["path", "replace", "optional", "with"];
const ENVIRONMENT: &[&str] = &["set", "default", "prepend"];
const LIBRARY: &[&str] = &[
    "path",
    "role",
    "machine",
    "kind",
    "interpreter",
    "soname",
    "needed",
    "rpath",
    "runpath",
    "no_default_dirs",
    "provides",
    "requires",
    "exports",
    "imports",
    "weak",
    "data",
];

impl Stack {
    /// Reads the profile `NAME.toml`. A mistake is a refusal that names the file, the place and the way out.
    pub fn parse(name: &str, text: &str) -> Result<Stack, Refusal> {
        let bad = |why: String| {
            Refusal::site(format!("the host profile {}.toml is wrong: {}", printable(name), printable(&why)))
                .hint("mend it, or write it anew with 'grus host scan'")
        };
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || name.starts_with(['.', '-']) || !name.bytes().all(word) {
            return Err(bad("its name must be lower-case letters, digits, '-', '_' and '.'".into()));
        }
        if RESERVED.contains(&name) {
            return Err(bad(format!("--container-mpi={name} means something else; choose another name")));
        }
        if text.len() > MAX_STACK {
            return Err(bad(format!("it is larger than {MAX_STACK} bytes")));
        }
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(0, |s| text[..s.start].matches('\n').count() + 1);
            bad(format!("line {line}: {}", e.message()))
        })?;
        match table.get("format").and_then(Value::as_integer) {
            Some(format) if format == i64::from(STACK_FORMAT) => {}
            Some(format) if format > i64::from(STACK_FORMAT) => {
                return Err(bad(format!("it has format {format}, newer than this Grus knows")));
            }
            _ => return Err(bad(format!("it must say 'format = {STACK_FORMAT}'"))),
        }
        check_names(&table).map_err(bad)?;
        let mut stack: Stack = read(table).map_err(bad)?;
        stack.name = name.to_owned();
        for library in &mut stack.library {
            library.object.machine.clone_from(&stack.machine);
        }
        stack.check().map_err(bad)?;
        Ok(stack)
    }

    /// What the types cannot say.
    pub(super) fn check(&self) -> Result<(), String> {
        if crate::ldcache::flags(&self.machine).is_none() {
            return Err(format!("machine '{}' is not known; 'uname -m' tells it", self.machine));
        }
        if self.library.is_empty() || self.library.len() > MAX_LIBRARIES {
            return Err(format!("it must list between 1 and {MAX_LIBRARIES} libraries"));
        }
        let mut seen = BTreeSet::new();
        for library in &self.library {
            if library.soname().contains('/') || library.soname().is_empty() {
                return Err(format!("{}: the SONAME '{}' is no file name", library.path, library.soname()));
            }
            if library.role != Role::Plugin && !seen.insert(library.soname()) {
                return Err(format!("two libraries are called {}", library.soname()));
            }
        }
        for mpi in &self.mpi {
            let provides = |l: &&super::Library| provider_family(l.soname(), &l.object) == Some(mpi.family);
            if self.library.iter().filter(provides).count() != 1 {
                return Err(format!(
                    "[[mpi]] {}: it needs exactly one library of role \"mpi\" that exports the {} (MPI_Init, \
                     MPI_Comm_rank, PMPI_Init)",
                    mpi.version,
                    mpi.family.label()
                ));
            }
            if mpi.pmi.is_empty() {
                return Err(format!("[[mpi]] {}: pmi must name a launch method", mpi.version));
            }
        }
        if let Some(device) = self.devices.iter().find(|d| !d.as_str().starts_with("/dev/")) {
            return Err(format!("the device {device} is not below /dev"));
        }
        let e = &self.environment;
        e.set.iter().chain(&e.default).chain(&e.prepend).try_for_each(|(n, v)| variable(n, v))
    }
}

/// Reads each part by itself, so that a mistake can be told with the part it is in.
fn read(mut table: Table) -> Result<Stack, String> {
    let mut stack: Stack = {
        let mut rest = table.clone();
        for part in ["mpi", "path", "library", "environment"] {
            rest.remove(part);
        }
        rest.try_into().map_err(|e: toml::de::Error| e.message().to_owned())?
    };
    if let Some(value) = table.remove("environment") {
        stack.environment = value.try_into().map_err(|e| told("[environment]".into(), &e))?;
    }
    stack.mpi = rows(&mut table, "mpi", "family")?;
    stack.path = rows(&mut table, "path", "path")?;
    stack.library = rows(&mut table, "library", "path")?;
    Ok(stack)
}

fn rows<T: serde::de::DeserializeOwned>(table: &mut Table, part: &str, key: &str) -> Result<Vec<T>, String> {
    let Some(Value::Array(rows)) = table.remove(part) else { return Ok(vec![]) };
    let row = |(i, value): (usize, Value)| {
        let label = value.get(key).and_then(Value::as_str).map_or(format!("number {}", i + 1), str::to_owned);
        value.try_into().map_err(|e| told(format!("[[{part}]] {label}"), &e))
    };
    rows.into_iter().enumerate().map(row).collect()
}

fn told(place: String, e: &toml::de::Error) -> String {
    format!("{place}: {}", e.message())
}

fn variable(name: &str, value: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || !name.bytes().all(word) || value.contains('\0') {
        return Err(format!("'{name}' is no name of a variable"));
    }
    if name.starts_with("LD_") || name.starts_with("SLURM_") {
        return Err(format!("the variable {name} is not a profile's to set"));
    }
    Ok(())
}

/// Refuses keys that are not in the tables above, with the nearest known one named.
fn check_names(table: &Table) -> Result<(), String> {
    names(table, TOP, "")?;
    for (part, known) in [("mpi", MPI), ("path", PATH), ("library", LIBRARY)] {
        match table.get(part) {
            None => {}
            Some(Value::Array(rows)) => {
                for row in rows {
                    let row = row.as_table().ok_or(format!("write {part} as [[{part}]]"))?;
                    names(row, known, part)?;
                }
            }
            Some(_) => return Err(format!("write {part} as [[{part}]]")),
        }
    }
    match table.get("environment") {
        None => Ok(()),
        Some(Value::Table(inner)) => names(inner, ENVIRONMENT, "environment"),
        Some(_) => Err("write environment as [environment.set], [environment.default], …".into()),
    }
}

fn names(table: &Table, known: &[&str], place: &str) -> Result<(), String> {
    let Some(unknown) = table.keys().find(|k| !known.contains(&k.as_str())) else { return Ok(()) };
    let meant =
        nearest(unknown, known.iter().copied()).map_or(String::new(), |k| format!("; did you mean '{k}'?"));
    let place = if place.is_empty() { String::new() } else { format!(" in {place}") };
    Err(format!("unknown key '{unknown}'{place}{meant}"))
}
