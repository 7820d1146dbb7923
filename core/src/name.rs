//! Names of containers that outlive a step (`--container-name`).

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::refusal::{nearest, printable, Refusal};

/// Which container a step takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Name {
    /// One that the job keeps under this name.
    Kept {
        /// 1 to 64 letters, digits, `_`, `-` and `.`; it does not begin with `.` or `-`.
        name: String,
        /// Whether it may or must exist.
        mode: NameMode,
    },
    /// The one of a step that runs on the same node.
    OfStep {
        /// Its job.
        job: u32,
        /// Its number.
        step: u32,
    },
}

/// What is expected of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameMode {
    /// Taken if it exists, made otherwise.
    Auto,
    /// It must be new.
    Create,
    /// It must exist.
    Exec,
}

const MODES: &[(&str, NameMode)] = &[
    ("auto", NameMode::Auto),
    ("create", NameMode::Create),
    ("exec", NameMode::Exec),
    // Pyxis: do not join it while it runs. Each step here has a namespace of its own, so nothing is joined.
    ("no_exec", NameMode::Auto),
];

impl Name {
    /// Parses `NAME[:MODE]` or `JOBID.STEPID`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |why: String| {
            Refusal::user(format!("--container-name={}: {why}", printable(text)))
                .hint("write NAME, NAME:create, NAME:exec, or JOBID.STEPID for a step that runs on the node")
        };
        let (name, mode) = match text.split_once(':') {
            Some((name, mode)) => (name, Some(mode)),
            None => (text, None),
        };
        if let (Some((job, step)), None) = (step_id(name), mode) {
            return Ok(Name::OfStep { job, step });
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) || name.starts_with(['.', '-']) {
            return Err(refuse("a name has 1 to 64 letters, digits, '_', '-' and '.'".into()));
        }
        let mode = match mode {
            None => NameMode::Auto,
            Some(mode) => {
                MODES.iter().find(|(word, _)| *word == mode).map(|(_, mode)| *mode).ok_or_else(|| {
                    let near = nearest(mode, MODES.iter().map(|(word, _)| *word));
                    let meant = near.map_or(String::new(), |word| format!("; did you mean '{word}'?"));
                    refuse(format!("'{}' is not auto, create, exec or no_exec{meant}", printable(mode)))
                })?
            }
        };
        Ok(Name::Kept { name: name.into(), mode })
    }
}

/// `123.4`.
fn step_id(text: &str) -> Option<(u32, u32)> {
    let (job, step) = text.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (digits(job) && digits(step)).then(|| Some((job.parse().ok()?, step.parse().ok()?)))?
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Kept { name, mode: NameMode::Auto } => f.write_str(name),
            Name::Kept { name, mode: NameMode::Create } => write!(f, "{name}:create"),
            Name::Kept { name, mode: NameMode::Exec } => write!(f, "{name}:exec"),
            Name::OfStep { job, step } => write!(f, "{job}.{step}"),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = Refusal;

    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_modes_and_steps() {
        for (text, shown) in [
            ("a", "a"),
            ("my-env_1.2:auto", "my-env_1.2"),
            ("a:create", "a:create"),
            ("a:exec", "a:exec"),
            ("a:no_exec", "a"),
            ("17.0", "17.0"),
            ("17.x", "17.x"),
        ] {
            assert_eq!(Name::parse(text).expect(text).to_string(), shown);
        }
        assert_eq!(Name::parse("17.3"), Ok(Name::OfStep { job: 17, step: 3 }));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_way_out() {
        for bad in [
            "",
            ":create",
            "a/b",
            "../x",
            ".hidden",
            "-x",
            "a b",
            "a:creat",
            "a:exec:x",
            "ä",
            &"x".repeat(65),
        ] {
            assert!(Name::parse(bad).expect_err(bad).hint.is_some());
        }
        assert!(Name::parse("a:creat").expect_err("misspelt").what.ends_with("did you mean 'create'?"));
    }
}
