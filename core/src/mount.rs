//! The mount grammar: Docker's `type=bind,source=…,destination=…[,readonly]` and the short
//! `SRC[:DST[:ro]]`.
//!
//! The long form is one CSV record as in Docker: a field with a comma in it is put in double quotes
//! (RFC 4180). The short form cannot express a `:` in a path; the long form can.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::path::AbsPath;
use crate::refusal::{nearest, printable, Refusal};

/// Most mounts one request may hold.
pub const MAX_MOUNTS: usize = 256;

/// A bind mount a user or a site asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What is bound, on the host.
    pub source: AbsPath,
    /// Where it appears.
    pub destination: AbsPath,
    /// Whether writing through it is denied.
    #[serde(default)]
    pub readonly: bool,
}

const KEYS: &[&str] = &["type", "source", "src", "destination", "dst", "target", "readonly", "ro", "rw"];

impl Mount {
    /// Parses one mount. A relative source is taken from `cwd`, the submitting directory.
    pub fn parse(text: &str, cwd: &AbsPath) -> Result<Self, Refusal> {
        let first = text.split([',', ':']).next().unwrap_or("").trim_matches('"');
        let long = match first.split_once('=') {
            Some((key, _)) => !key.contains('/') && !key.starts_with('.'),
            None => KEYS.contains(&first) && text.contains(','),
        };
        match long {
            true => parse_long(text, cwd),
            false => parse_short(text, cwd),
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.readonly { "ro" } else { "rw" };
        write!(f, "{} on {} ({access})", self.source, self.destination)
    }
}

fn refuse(text: &str, why: impl fmt::Display) -> Refusal {
    Refusal::user(format!("mount '{}': {why}", printable(text)))
        .hint("write it as type=bind,source=/host/dir,destination=/dir[,readonly] or /host/dir[:/dir[:ro]]")
}

fn parse_long(text: &str, cwd: &AbsPath) -> Result<Mount, Refusal> {
    let (mut source, mut destination, mut access) = (None, None, None);
    let once = |slot: &mut Option<String>, key: &str, value: String| match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(refuse(text, format_args!("'{key}' is given twice"))),
    };
    for field in csv(text).map_err(|why| refuse(text, why))? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (field, None),
        };
        match (key.as_str(), value) {
            ("type", Some(kind)) if kind == "bind" => {}
            ("type", Some(kind)) => {
                return Err(refuse(text, format_args!("type '{}' is not supported", printable(&kind))))
            }
            ("source" | "src", Some(path)) => once(&mut source, "source", path)?,
            ("destination" | "dst" | "target", Some(path)) => once(&mut destination, "destination", path)?,
            ("readonly" | "ro", value) => {
                let on =
                    truth(value.as_deref()).ok_or_else(|| refuse(text, "'readonly' is true or false"))?;
                once(&mut access, "readonly", if on { "ro" } else { "rw" }.into())?;
            }
            ("rw", None) => once(&mut access, "readonly", "rw".into())?,
            (key, Some(_)) | (key, None) if KEYS.contains(&key) => {
                return Err(refuse(text, format_args!("'{key}' is not written that way")))
            }
            (key, _) => return Err(unknown_key(text, key)),
        }
    }
    let source = source.ok_or_else(|| refuse(text, "it has no source"))?;
    let destination = destination.ok_or_else(|| refuse(text, "it has no destination"))?;
    finish(text, &source, Some(&destination), access.as_deref() == Some("ro"), cwd)
}

fn parse_short(text: &str, cwd: &AbsPath) -> Result<Mount, Refusal> {
    let parts: Vec<&str> = text.split(':').collect();
    let readonly = match parts.get(2) {
        None | Some(&"rw") => false,
        Some(&"ro") => true,
        Some(other) => {
            return Err(refuse(text, format_args!("'{}' is neither ro nor rw", printable(other))));
        }
    };
    match parts.as_slice() {
        [source] => finish(text, source, None, readonly, cwd),
        [source, destination] | [source, destination, _] => {
            finish(text, source, Some(destination), readonly, cwd)
        }
        _ => Err(refuse(text, "it has more than two ':'")),
    }
}

/// Without a destination the source's own path is meant.
fn finish(
    text: &str,
    source: &str,
    destination: Option<&str>,
    readonly: bool,
    cwd: &AbsPath,
) -> Result<Mount, Refusal> {
    if source.is_empty() {
        return Err(refuse(text, "its source is empty"));
    }
    let in_mount = |e: Refusal| refuse(text, e.what);
    let source = match source.starts_with('/') {
        true => AbsPath::parse(source),
        false => AbsPath::parse(&format!("{cwd}/{source}")),
    }
    .map_err(in_mount)?;
    let destination =
        destination.map_or(Ok(source.clone()), |path| AbsPath::parse(path).map_err(in_mount))?;
    if destination == AbsPath::root() {
        return Err(refuse(text, "nothing can be mounted on '/'"));
    }
    Ok(Mount { source, destination, readonly })
}

fn truth(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("" | "1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(_) => None,
    }
}

fn unknown_key(text: &str, key: &str) -> Refusal {
    let meant =
        nearest(key, KEYS.iter().copied()).map_or(String::new(), |k| format!("; did you mean '{k}'?"));
    refuse(text, format_args!("'{}' is not known{meant}", printable(key)))
}

/// One CSV record (RFC 4180): fields split at commas, a quoted field may hold commas and doubled quotes.
fn csv(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = vec![];
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => match rest.split_once(',') {
                Some((field, after)) => (field.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
        };
        if field.is_empty() {
            return Err("it has an empty field");
        }
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// The rest of a quoted field, and what follows its comma.
fn unquote(quoted: &str) -> Result<(String, Option<&str>), &'static str> {
    let mut field = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, c)| *c == '"').is_some() => field.push('"'),
            '"' => {
                let after = &quoted[at + 1..];
                return match after.strip_prefix(',') {
                    Some(rest) => Ok((field, Some(rest))),
                    None if after.is_empty() => Ok((field, None)),
                    None => Err("a closing quote is followed by neither ',' nor the end"),
                };
            }
            c => field.push(c),
        }
    }
    Err("a quote is not closed")
}

#[cfg(test)]
#[path = "mount_tests.rs"]
mod tests;
