//! The mount grammar: Docker's `type=bind,source=…,destination=…[,readonly]`, and the short form
//! `SRC[:DST[:FLAG+…]]` of Docker's `-v` and of Pyxis.
//!
//! The long form is one record of comma-separated values as in Docker: a field with a comma in it is put in double
//! quotes. The short form cannot express a `:` in a path; the long form can.

use std::fmt;

use super::{Huge, Mount, Size, Tmpfs, What};
use crate::csv;
use crate::path::AbsPath;
use crate::refusal::{nearest, printable, Refusal};

/// Keys of the long form; synonyms share a row of [`canonical`].
const KEYS: &[&str] = &[
    "type",
    "source",
    "src",
    "destination",
    "dst",
    "target",
    "readonly",
    "ro",
    "rw",
    "recursive",
    "noexec",
    "optional",
    "nofail",
    "size",
    "mode",
    "huge",
];

const TYPES: &[&str] = &["bind", "tmpfs", "squashfs", "scratch", "umount"];

/// Flags of the short form that say what holds anyway: always nosuid, never shared; rbind is the default.
const GRANTED: &[&str] = &["rw", "rbind", "nosuid", "nodev", "private", "rprivate", "slave", "rslave"];

/// One mount in either form.
pub(super) fn one(text: &str, cwd: &AbsPath) -> Result<Mount, Refusal> {
    let first = text.split([',', ':']).next().unwrap_or("").trim_matches('"');
    let long = match first.split_once('=') {
        Some((key, _)) => !key.contains('/') && !key.starts_with('.'),
        None => KEYS.contains(&first) && text.contains(','),
    };
    match long {
        true => Draft::long(text)?.finish(cwd),
        false => Draft::short(text)?.finish(cwd),
    }
}

/// Mounts in the short form with commas between.
pub(super) fn list(text: &str, cwd: &AbsPath) -> Result<Vec<Mount>, Refusal> {
    let refuse = |why| {
        Refusal::user(format!("--container-mounts={}: {why}", printable(text)))
            .hint("write it as SRC[:DST[:FLAG+...]],..., for example /data:/input:ro,/scratch")
    };
    let fields = csv::fields(text).map_err(refuse)?;
    fields.iter().map(|field| Draft::short(field)?.finish(cwd)).collect()
}

/// A mount as it is written.
struct Draft<'t> {
    text: &'t str,
    long: bool,
    kind: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    readonly: Option<bool>,
    recursive: Option<bool>,
    noexec: Option<bool>,
    optional: Option<bool>,
    size: Option<Size>,
    mode: Option<u32>,
    huge: Option<Huge>,
}

impl<'t> Draft<'t> {
    fn new(text: &'t str, long: bool) -> Self {
        Self {
            text,
            long,
            kind: None,
            source: None,
            destination: None,
            readonly: None,
            recursive: None,
            noexec: None,
            optional: None,
            size: None,
            mode: None,
            huge: None,
        }
    }

    fn long(text: &'t str) -> Result<Self, Refusal> {
        let mut draft = Self::new(text, true);
        for field in csv::fields(text).map_err(|why| draft.refuse(why))? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.as_str(), None),
            };
            draft.take(key, value)?;
        }
        Ok(draft)
    }

    fn short(text: &'t str) -> Result<Self, Refusal> {
        let mut draft = Self::new(text, false);
        let parts: Vec<&str> = text.split(':').collect();
        let (source, destination, flags) = match parts.as_slice() {
            [source] => (*source, None, ""),
            [source, destination] => (*source, Some(*destination), ""),
            [source, destination, flags] => (*source, Some(*destination), *flags),
            _ => return Err(draft.refuse("it has more than two ':'")),
        };
        match source {
            "tmpfs" => draft.kind = Some("tmpfs".into()),
            "umount" => draft.kind = Some("umount".into()),
            source => draft.source = Some(source.into()),
        }
        if draft.source.is_none() && destination.is_none() {
            return Err(draft
                .refuse(format_args!("'{source}' needs a destination; for a directory write ./{source}")));
        }
        draft.destination = destination.map(str::to_owned);
        for flag in flags.split('+').filter(|_| parts.len() == 3) {
            draft.flag(flag)?;
        }
        Ok(draft)
    }

    fn flag(&mut self, flag: &str) -> Result<(), Refusal> {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        match (name, value) {
            ("rw", None) => once(&mut self.readonly, false).map_err(|()| self.twice("readonly")),
            ("bind" | "norec", None) => {
                once(&mut self.recursive, false).map_err(|()| self.twice("recursive"))
            }
            ("squashfs" | "sqsh", None) => {
                once(&mut self.kind, "squashfs".into()).map_err(|()| self.twice("type"))
            }
            ("x-create", Some(_)) => Ok(()),
            (granted, None) if GRANTED.contains(&granted) => Ok(()),
            ("ro" | "noexec" | "optional" | "nofail", None) => self.take(name, None),
            ("size" | "mode" | "huge", Some(_)) => self.take(name, value),
            ("shared" | "rshared", None) => Err(self
                .refuse("mounts made in a container are never shared with the host")
                .hint("leave the flag out")),
            _ => Err(self.refuse(format_args!("'{}' is no flag of a mount", printable(flag)))),
        }
    }

    fn take(&mut self, key: &str, value: Option<&str>) -> Result<(), Refusal> {
        let taken = match (key, value) {
            ("type", Some(kind)) => {
                if !TYPES.contains(&kind) {
                    let known = TYPES.join(", ");
                    let why = format!("type '{}' is not one of {known}", printable(kind));
                    return Err(self.refuse(why));
                }
                once(&mut self.kind, kind.into()).map_err(|()| "type")
            }
            ("source" | "src", Some(path)) => once(&mut self.source, path.into()).map_err(|()| "source"),
            ("destination" | "dst" | "target", Some(path)) => {
                once(&mut self.destination, path.into()).map_err(|()| "destination")
            }
            ("readonly" | "ro", value) => {
                let on = self.truth("readonly", value)?;
                once(&mut self.readonly, on).map_err(|()| "readonly")
            }
            ("rw", None) => once(&mut self.readonly, false).map_err(|()| "readonly"),
            ("recursive", value) => {
                let on = self.truth(key, value)?;
                once(&mut self.recursive, on).map_err(|()| "recursive")
            }
            ("noexec", value) => {
                let on = self.truth(key, value)?;
                once(&mut self.noexec, on).map_err(|()| "noexec")
            }
            ("optional" | "nofail", value) => {
                let on = self.truth(key, value)?;
                once(&mut self.optional, on).map_err(|()| "optional")
            }
            ("size", Some(size)) => {
                let size = Size::parse(size).map_err(|e| self.refuse(e.what))?;
                once(&mut self.size, size).map_err(|()| "size")
            }
            ("mode", Some(mode)) => {
                let bits = octal(mode).ok_or_else(|| self.refuse("'mode' is octal, such as 1777"))?;
                once(&mut self.mode, bits).map_err(|()| "mode")
            }
            ("huge", Some(huge)) => {
                let huge = huge_pages(huge)
                    .ok_or_else(|| self.refuse("'huge' is never, always, within_size or advise"))?;
                once(&mut self.huge, huge).map_err(|()| "huge")
            }
            (key, _) if KEYS.contains(&key) => {
                return Err(self.refuse(format_args!("'{key}' is not written that way")))
            }
            (key, _) => return Err(self.unknown(key)),
        };
        taken.map_err(|key| self.twice(key))
    }

    fn truth(&self, key: &str, value: Option<&str>) -> Result<bool, Refusal> {
        match value {
            None | Some("" | "1" | "true") => Ok(true),
            Some("0" | "false") => Ok(false),
            Some(_) => Err(self.refuse(format_args!("'{key}' is true or false"))),
        }
    }

    /// Without a destination the source's own path is meant.
    fn finish(self, cwd: &AbsPath) -> Result<Mount, Refusal> {
        let kind = self.kind.as_deref().unwrap_or("bind");
        self.check_parts(kind)?;
        let in_mount = |e: Refusal| self.refuse(e.what);
        let source = match self.source.as_deref() {
            Some("") => return Err(self.refuse("its source is empty")),
            Some(path) if path.starts_with('/') => Some(AbsPath::parse(path).map_err(in_mount)?),
            Some(path) => Some(AbsPath::parse(&format!("{cwd}/{path}")).map_err(in_mount)?),
            None => None,
        };
        let destination = match (&self.destination, &source) {
            (Some(path), _) => AbsPath::parse(path).map_err(in_mount)?,
            (None, Some(source)) => source.clone(),
            (None, None) => return Err(self.refuse("it has no destination")),
        };
        if destination == AbsPath::root() {
            return Err(self.refuse("nothing can be mounted on '/'"));
        }
        let what = match (kind, source, self.size) {
            ("bind", Some(source), _) => What::Bind { source, recursive: self.recursive.unwrap_or(true) },
            ("squashfs", Some(source), _) => What::Squashfs { source },
            ("tmpfs", _, size) => {
                What::Tmpfs(Tmpfs { size, mode: self.mode.unwrap_or(0o700), huge: self.huge })
            }
            ("scratch", _, Some(size)) => What::Scratch { size },
            ("scratch", _, None) => {
                return Err(self.refuse("it has no size").hint("add size=SIZE, for example size=10g"))
            }
            ("umount", ..) => What::Nothing,
            _ => return Err(self.refuse("it has no source")),
        };
        Ok(Mount {
            what,
            destination,
            readonly: self.readonly.unwrap_or(false),
            noexec: self.noexec.unwrap_or(false),
            optional: self.optional.unwrap_or(false),
        })
    }

    /// A part that has no meaning for this type is an error, and so is one that is missing.
    fn check_parts(&self, kind: &str) -> Result<(), Refusal> {
        let parts = [
            (self.source.is_some(), "source", &["bind", "squashfs"][..]),
            (self.recursive.is_some(), "recursive", &["bind"]),
            (self.size.is_some(), "size", &["tmpfs", "scratch"]),
            (self.mode.is_some(), "mode", &["tmpfs"]),
            (self.huge.is_some(), "huge", &["tmpfs"]),
            (self.readonly.is_some(), "readonly", &["bind", "squashfs", "tmpfs"]),
            (self.noexec.is_some(), "noexec", &["bind", "squashfs", "tmpfs", "scratch"]),
            (self.optional.is_some(), "optional", &["bind", "squashfs", "umount"]),
        ];
        match parts.iter().find(|(given, _, kinds)| *given && !kinds.contains(&kind)) {
            Some((_, part, _)) => Err(self.refuse(format_args!("type {kind} takes no '{part}'"))),
            None if self.source.is_none() && ["bind", "squashfs"].contains(&kind) => {
                Err(self.refuse("it has no source"))
            }
            None if self.long && self.destination.is_none() => Err(self.refuse("it has no destination")),
            None => Ok(()),
        }
    }

    fn twice(&self, key: &str) -> Refusal {
        self.refuse(format_args!("'{key}' is given twice"))
    }

    fn unknown(&self, key: &str) -> Refusal {
        let meant =
            nearest(key, KEYS.iter().copied()).map_or(String::new(), |k| format!("; did you mean '{k}'?"));
        self.refuse(format_args!("'{}' is not known{meant}", printable(key)))
    }

    fn refuse(&self, why: impl fmt::Display) -> Refusal {
        Refusal::user(format!("mount '{}': {why}", printable(self.text))).hint(
            "write it as type=bind,source=/host/dir,destination=/dir[,readonly] or /host/dir[:/dir[:ro]]; see \
             --mount in spank_grus(8)",
        )
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), ()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(()),
    }
}

/// Permission bits, 0 to 0o7777.
fn octal(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    u32::from_str_radix(text, 8).ok().filter(|bits| plain && *bits <= 0o7777)
}

fn huge_pages(text: &str) -> Option<Huge> {
    match text {
        "never" => Some(Huge::Never),
        "always" => Some(Huge::Always),
        "within_size" => Some(Huge::WithinSize),
        "advise" => Some(Huge::Advise),
        _ => None,
    }
}
