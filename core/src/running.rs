//! What a step's daemon holds open beside its container, for other steps of the same user that join it
//! (`--container-name=JOBID.STEPID`).

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::environment::{Asked, Edits};
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::server::Server;

/// The name of the memory file that holds it (memfd_create(2)).
pub const MEMORY_FILE: &str = "grus-container";

/// Most bytes of it.
pub const MAX_TEXT: usize = 4 << 20;

/// A running step's container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// Whose it is.
    pub uid: u32,
    /// The node it is on: several may be on one machine.
    pub node: Option<String>,
    /// The image's file.
    pub image: AbsPath,
    /// Inode of its mount namespace (namespaces(7)).
    pub mounts: u64,
    /// Inodes of its other namespaces, by their names in /proc/PID/ns: `net`, `ipc`, `uts`, `user`.
    #[serde(default)]
    pub others: BTreeMap<String, u64>,
    /// What serves SquashFS files to it, and which.
    #[serde(default)]
    pub servers: Vec<(String, Server)>,
    /// Variables that its tasks were given.
    pub set: BTreeMap<String, String>,
    /// Variables that were taken from them.
    pub unset: BTreeSet<String>,
    /// Where its tasks started, if not in the job's working directory.
    pub workdir: Option<AbsPath>,
}

impl Running {
    /// As text.
    pub fn to_json(&self) -> String {
        // Numbers, texts and paths; nothing in it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Changes to the environment `job` of a task that joins: what the step's own tasks were given, and over it what
    /// this one asks for.
    pub fn edits(&self, asked: &Asked, job: &BTreeMap<String, String>) -> Edits {
        let mut edits = Edits { set: self.set.clone(), unset: self.unset.clone() };
        edits.ask(asked, job);
        edits
    }
}

/// The refusal of a step that has no container here. Other users' steps are not told from missing ones.
pub fn not_there(job: u32, step: u32) -> Refusal {
    Refusal::user(format!("no step {job}.{step} of yours runs in a container on this node")).hint(
        "'squeue --steps --me' lists your steps and their nodes; a step without a container cannot be joined",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Running {
        Running {
            uid: 1000,
            node: Some("n1".into()),
            image: AbsPath::root(),
            mounts: 4026532170,
            others: [("net".to_owned(), 6)].into(),
            servers: vec![("the image".to_owned(), Server { pid: 7, started: 1 << 40, connection: 49 })],
            set: BTreeMap::from([("A".into(), "1".into())]),
            unset: BTreeSet::from(["B".into()]),
            workdir: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let running = running();
        assert_eq!(Running::parse(running.to_json().as_bytes()), Some(running));
        assert_eq!(Running::parse(b"{}"), None);
    }

    #[test]
    fn who_joins_has_the_last_word_on_variables() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let running = Running {
            set: map(&[("PATH", "/image"), ("A", "image")]),
            unset: ["LD_PRELOAD".to_owned(), "PYTHONPATH".to_owned()].into(),
            ..running()
        };
        let job = map(&[("PATH", "/host"), ("PYTHONPATH", "/mine")]);
        let asked = [("A", Some("mine")), ("PYTHONPATH", None), ("GONE", None)];
        let asked = asked.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).into();
        let edits = running.edits(&asked, &job);
        assert_eq!(edits.set, map(&[("PATH", "/image"), ("A", "mine"), ("PYTHONPATH", "/mine")]));
        assert_eq!(edits.unset, ["LD_PRELOAD".to_owned()].into());
    }
}
