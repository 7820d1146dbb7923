//! A decision in words and as JSON: `grus explain`.

use serde_json::{json, Value};
use std::fmt::{self, Display};

use super::{Decision, Extent, Swap, Verdict};
use crate::refusal::printable;

impl Decision {
    /// For programs.
    pub fn to_json(&self) -> Value {
        let outcome = match &self.result {
            Ok(swap) => json!({ "swap": swap }),
            Err(refusal) => json!({ "refused": refusal.what, "hint": refusal.hint }),
        };
        json!({
            "found": self.found,
            "in_use": self.in_use,
            "trials": self.trials,
            "outcome": outcome,
        })
    }
}

/// For people: the image, each stack that was tried, and what comes of it.
impl Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.found.is_empty() {
            writeln!(f, "The image has no shared MPI and no users of one.")?;
        }
        for found in &self.found {
            writeln!(f, "The image has {}, used by {} files.", found.label, found.users.len())?;
            found.providers.iter().try_for_each(|p| writeln!(f, "  library  {p}"))?;
            found.users.iter().take(8).try_for_each(|u| writeln!(f, "  user     {u}"))?;
            if found.users.len() > 8 {
                writeln!(f, "  and {} more", found.users.len() - 8)?;
            }
        }
        for trial in &self.trials {
            let what = if trial.extent == Extent::Fabric { "libfabric alone" } else { "MPI" };
            writeln!(f, "\nHost stack '{}', {what}:", trial.stack)?;
            for reason in &trial.reasons {
                writeln!(f, "  {:8} {}: {}", reason.verdict, reason.about, reason.why)?;
            }
            match &trial.refused {
                Some(why) => writeln!(f, "  does not fit: {}", printable(why))?,
                None => writeln!(f, "  fits")?,
            }
        }
        writeln!(f)?;
        match &self.result {
            Ok(swap) => write!(f, "{swap}"),
            Err(refusal) => {
                writeln!(f, "Refused: {refusal}")?;
                refusal.hint.as_ref().map_or(Ok(()), |hint| writeln!(f, "hint: {hint}"))
            }
        }
    }
}

/// What is done, a line each; the same words as in a launch plan.
impl Display for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.extent {
            Extent::Nothing => writeln!(f, "Nothing of the host's MPI is used.")?,
            Extent::Fabric => {
                writeln!(f, "The image's MPI runs on the libfabric of host stack '{}'.", self.stack)?
            }
            Extent::Mpi => writeln!(f, "The MPI of host stack '{}' is used.", self.stack)?,
        }
        for (file, target) in &self.over {
            writeln!(f, "link      {file} -> {target}")?;
        }
        for (name, target) in &self.links {
            writeln!(f, "link      {}/{name} -> {target}", super::LIBRARY_DIR)?;
        }
        for extra in &self.extras {
            let optional = if extra.optional { " (if there)" } else { "" };
            writeln!(f, "bind      {} on {}{optional}", extra.source, extra.destination)?;
        }
        for device in &self.devices {
            writeln!(f, "device    {device}")?;
        }
        if !self.cached.is_empty() {
            writeln!(f, "text      /etc/ld.so.cache")?;
        }
        let library_path = self.library_path.iter().map(|d| ("LD_LIBRARY_PATH".to_owned(), d.to_string()));
        for (name, value) in self.prepend.clone().into_iter().chain(library_path) {
            writeln!(f, "prepend   {name}={}", printable(&value))?;
        }
        for (name, value) in &self.set {
            writeln!(f, "setenv    {name}={}", printable(value))?;
        }
        for (name, value) in &self.default {
            writeln!(f, "default   {name}={}", printable(value))?;
        }
        if let Some(check) = &self.check {
            writeln!(f, "verify    {}", check.object)?;
            check.expect.iter().try_for_each(|(name, path)| writeln!(f, "          {name} is {path}"))?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning   {}", printable(warning))?;
        }
        Ok(())
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Replace => "replace",
            Verdict::Add => "add",
            Verdict::Keep => "keep",
            Verdict::Conflict => "conflict",
            Verdict::Note => "note",
        })
    }
}
