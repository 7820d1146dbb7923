//! What is written beside a container that outlives its step, and who may take it (`--container-name=NAME`).
//!
//! The step that makes the container writes it, root alone reads it.

use serde::{Deserialize, Serialize};

use crate::image::ImageMeta;
use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};
use crate::request::Resolved;
use crate::server::Server;

/// A kept container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Whose it is.
    pub uid: u32,
    /// How often the job had been started again when it was made.
    pub restart: u32,
    /// The step that made it.
    pub step: u32,
    /// The image as that step's submission found it.
    pub asked: Resolved,
    /// The image's file on this node.
    pub image: AbsPath,
    /// Its metadata, which may be gone from beside the file by now.
    pub meta: Option<ImageMeta>,
    /// The process that serves the image, where one does.
    pub server: Option<Server>,
}

/// Who wants to take a kept container.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// The user.
    pub uid: u32,
    /// The name asked for.
    pub name: &'a str,
    /// The image asked for, if one is, as submission found it.
    pub asked: Option<&'a Resolved>,
    /// How that image is called.
    pub shown: &'a str,
}

impl Kept {
    /// As text.
    pub fn to_json(&self) -> String {
        // Numbers, texts and paths; nothing in it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Whether it is of an earlier run of the job, of which nothing may be left (requeue).
    pub fn is_stale(&self, restart: u32) -> bool {
        restart > self.restart
    }

    /// Whether it may be taken.
    pub fn admit(&self, who: &Taker) -> Result<(), Refusal> {
        let name = printable(who.name);
        if self.uid != who.uid {
            return Err(Refusal::user(format!("container '{name}' of this job belongs to another user"))
                .hint("choose another name"));
        }
        match who.asked {
            Some(asked) if !same(asked, &self.asked) => Err(Refusal::user(format!(
                "container '{name}' was made of {}, and now {} is asked for",
                self.shown(),
                printable(who.shown)
            ))
            .hint("choose another name, or leave --container-image out to take the container as it is")),
            _ => Ok(()),
        }
    }

    /// How its image is called.
    pub fn shown(&self) -> String {
        match self.meta.as_ref().and_then(|meta| meta.reference.as_ref()) {
            Some(reference) => reference.familiar(),
            None => printable(self.asked.path.as_str()),
        }
    }
}

/// The same bytes where both are pinned, else the same file.
fn same(a: &Resolved, b: &Resolved) -> bool {
    match (&a.digest, &b.digest) {
        (Some(a), Some(b)) => a == b,
        _ => a.path == b.path,
    }
}

/// The refusal of a name that is not there: nothing is made of no image, and `exec` makes nothing.
pub fn missing(name: &str, must_exist: bool) -> Refusal {
    let what = format!("this job has no container '{}' on this node", printable(name));
    Refusal::user(what).hint(match must_exist {
        true => "a step on this node must make it first; without ':exec' it is made of --container-image",
        false => {
            "pass --container-image, of which it is made, or run a step that makes it on this node first"
        }
    })
}

/// The refusal of a name that is taken.
pub fn taken(name: &str, by: &Kept) -> Refusal {
    let name = printable(name);
    Refusal::user(format!("container '{name}' exists, made by step {} of {}", by.step, by.shown()))
        .hint(format!("leave ':create' out to take it: --container-name={name}; or choose another name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn resolved(path: &str, digest: Option<u8>) -> Resolved {
        let digest = digest.map(|byte| Digest::from_bytes(&[byte; 32]));
        Resolved { path: AbsPath::parse(path).expect("static"), digest }
    }

    fn kept(asked: Resolved) -> Kept {
        let image = asked.path.clone();
        Kept { uid: 1000, restart: 1, step: 3, asked, image, meta: None, server: None }
    }

    #[test]
    fn what_is_written_is_read() {
        let server = Some(Server { pid: 7, started: 1 << 40, connection: 49 });
        let kept = Kept { server, ..kept(resolved("/a", Some(1))) };
        assert_eq!(Kept::parse(kept.to_json().as_bytes()), Some(kept));
        for bad in ["", "{}", "null", "{\"uid\":0}"] {
            assert_eq!(Kept::parse(bad.as_bytes()), None);
        }
    }

    #[test]
    fn only_the_user_may_take_it_and_only_as_what_it_is() {
        let kept = kept(resolved("/a", Some(1)));
        let ask = |uid, asked: Option<Resolved>| {
            kept.admit(&Taker { uid, name: "x", asked: asked.as_ref(), shown: "other:1" })
        };
        assert_eq!(ask(1000, None), Ok(()));
        assert_eq!(ask(1000, Some(resolved("/moved", Some(1)))), Ok(()));
        assert_eq!(ask(1000, Some(resolved("/a", None))), Ok(()));
        let other = ask(1000, Some(resolved("/a", Some(2)))).expect_err("another image");
        assert_eq!(other.what, "container 'x' was made of /a, and now other:1 is asked for");
        assert!(other.hint.is_some());
        assert!(ask(1001, None).is_err());
    }

    #[test]
    fn an_earlier_run_of_the_job_has_left_nothing() {
        let kept = kept(resolved("/a", None));
        assert!(kept.is_stale(2) && !kept.is_stale(1));
        // A step whose environment was emptied does not know the count.
        assert!(!kept.is_stale(0));
    }
}
