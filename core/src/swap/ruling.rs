//! A decision as it is kept beside a user's images and sent to the nodes (docs/adr/0009): so that a launch costs
//! no decision. It is hostile text to whoever reads it: its paths check themselves, and what it names is opened
//! as the user, so it can do nothing that `--mount` could not.

use serde::{Deserialize, Serialize};

use super::{decide, Brought, Extent, InUse, Question, Swap};
use crate::digest::Digest;
use crate::plan::{Rootfs, Seen};
use crate::refusal::{printable, Refusal};

/// Version of the format; another one is no ruling.
const FORMAT: u32 = 1;

/// Largest ruling that is read, in bytes. It must fit beside everything else in a request.
pub const MAX_RULING: usize = 64 << 10;

/// Most binds and links together.
const MAX_PLACED: usize = 2000;

/// What was decided, and by which profiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ruling {
    format: u32,
    /// Of the host's profiles; a node with others decides for itself. `None`: it holds whatever the profiles are.
    pub profiles: Option<Digest>,
    /// The MPIs that ranks will run on.
    pub in_use: Vec<InUse>,
    /// What is done.
    pub swap: Swap,
}

/// What was decided for nodes on which a module comes by itself that submission could not know of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRuling {
    /// The module, and the stack it brings.
    pub first: Brought,
    /// The ruling there.
    pub ruling: Ruling,
}

impl Ruling {
    /// Decides. `profiles` is the digest of the question's stacks.
    pub fn decide(question: &Question, profiles: Digest) -> Result<Self, Refusal> {
        let decision = decide(question);
        let swap = decision.result?;
        // Without an MPI in the image nothing of the host is wanted, unless somebody asks for it.
        let whatever = decision.found.is_empty() && swap == Swap::default();
        Ok(Self { format: FORMAT, profiles: (!whatever).then_some(profiles), in_use: decision.in_use, swap })
    }

    /// Nothing of the host, for an image of which nothing is known; `warning` says why.
    pub fn unknown(profiles: Digest, warning: String) -> Self {
        let swap = Swap { warnings: vec![warning], ..Swap::default() };
        Self { format: FORMAT, profiles: Some(profiles), in_use: vec![], swap }
    }

    /// Looks at the image where the swap goes, so that nodes need not. What cannot be seen or is too much for a ruling
    /// is left to them.
    pub fn look(&mut self, rootfs: &dyn Rootfs) {
        if self.swap.extent != Extent::Nothing {
            self.swap.seen = Seen::of(&self.swap, rootfs).unwrap_or_default();
        }
        if self.swap.seen.check().is_err() || self.to_json().len() > MAX_RULING {
            self.swap.seen = Seen::default();
        }
    }

    /// Whether it was decided by these profiles, or by none.
    pub fn holds(&self, profiles: &Digest) -> bool {
        self.profiles.as_ref().is_none_or(|p| p == profiles)
    }

    /// Reads what was kept or sent.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let bad = |why: String| Refusal::user(format!("this is no ruling on libraries: {}", printable(&why)));
        if text.len() > MAX_RULING {
            return Err(bad(format!("it is longer than {MAX_RULING} bytes")));
        }
        let ruling: Self = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        ruling.check().map_err(bad)?;
        Ok(ruling)
    }

    /// What serde does not check.
    pub fn check(&self) -> Result<(), String> {
        let swap = &self.swap;
        if self.format != FORMAT {
            return Err(format!("it has format {}", self.format));
        }
        let placed = swap.over.len() + swap.links.len() + swap.extras.len();
        if placed > MAX_PLACED || swap.cached.len() > MAX_PLACED || swap.needs.len() > MAX_PLACED {
            return Err(format!("it places more than {MAX_PLACED} files"));
        }
        let plain = |name: &String| {
            !name.is_empty() && name.len() < 256 && !name.contains(['/', '\0']) && name != "." && name != ".."
        };
        match swap.links.keys().chain(&swap.cached).find(|n| !plain(n)) {
            Some(name) => Err(format!("'{name}' is no file name")),
            None => swap.seen.check(),
        }
    }

    /// The text that is kept and sent.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the `grus` program answers to who asks for a ruling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The ruling.
    Ruling(Box<Ruling>),
    /// What was asked for cannot be had.
    Refused {
        /// The refusal's sentence.
        what: String,
        /// The way out.
        hint: Option<String>,
    },
}

impl Answer {
    /// Reads an answer; `None` if it is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let answer: Self = serde_json::from_slice(text).ok().filter(|_| text.len() <= 2 * MAX_RULING)?;
        match &answer {
            Answer::Ruling(ruling) => ruling.check().is_ok().then_some(answer),
            Answer::Refused { .. } => Some(answer),
        }
    }

    /// The text of an answer.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<Result<Ruling, Refusal>> for Answer {
    fn from(result: Result<Ruling, Refusal>) -> Self {
        match result {
            Ok(ruling) => Answer::Ruling(Box::new(ruling)),
            Err(Refusal { what, hint, .. }) => Answer::Refused { what, hint },
        }
    }
}

impl From<Answer> for Result<Ruling, Refusal> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Ruling(ruling) => Ok(*ruling),
            Answer::Refused { what, hint } => {
                let refusal = Refusal::user(printable(&what));
                Err(match hint {
                    Some(hint) => refusal.hint(printable(&hint)),
                    None => refusal,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::AbsPath;

    fn ruling() -> Ruling {
        let mut ruling = Ruling::unknown(Digest::from_bytes(&[1; 32]), "why".into());
        ruling.swap.links.insert("liba.so".into(), AbsPath::parse("/opt/liba.so").expect("static"));
        ruling
    }

    #[test]
    fn a_ruling_is_read_as_it_was_written() {
        let ruling = ruling();
        assert_eq!(Ruling::parse(ruling.to_json().as_bytes()).expect("own text"), ruling);
        assert!(ruling.holds(&Digest::from_bytes(&[1; 32])) && !ruling.holds(&Digest::from_bytes(&[2; 32])));
        assert!(Ruling { profiles: None, ..ruling }.holds(&Digest::from_bytes(&[2; 32])));
    }

    #[test]
    fn hostile_rulings_are_refused() {
        let good = ruling().to_json();
        let crowd: Vec<String> = (0..3000).map(|n| format!("\"lib{n}.so\"")).collect();
        for bad in [
            String::new(),
            good.replace("\"format\":1", "\"format\":2"),
            good.replace("liba.so\":", "../liba.so\":"),
            good.replace("liba.so\":", "..\":"),
            good.replace("liba.so\":", "\":"),
            good.replace("\"/opt/liba.so\"", "\"opt/liba.so\""),
            good.replace("\"cached\":[]", &format!("\"cached\":[{}]", crowd.join(","))),
            format!("{good}{}", " ".repeat(MAX_RULING)),
        ] {
            assert_ne!(bad, good);
            let refusal = Ruling::parse(bad.as_bytes()).expect_err(&bad[..bad.len().min(300)]);
            assert!(!refusal.what.contains('\n'), "{refusal}");
        }
    }
}
