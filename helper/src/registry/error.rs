//! Owns the ways a registry can fail us, each worded for the user. It refuses to print what a registry
//! wrote without [`printable`], and to print any secret: URLs lose their query before they get here.

use grus_core::refusal::printable;
use std::fmt;
use std::io;

/// What kind of failure it is; fixes the exit code of `grus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The registry wants other credentials than it was given.
    Auth,
    /// No such repository, tag or blob, as far as this user may see.
    NotFound,
    /// The registry or the network does not answer, or not in time; trying again later may help.
    Unavailable,
    /// What arrived is not what its digest or size says.
    Corrupt,
    /// What was asked for cannot be done: not an image, another platform, an unsafe redirect.
    Refused,
    /// A file of this machine's set-up (certificates, registries.conf, auth.json) is wrong.
    Site,
    /// What was typed is wrong.
    Usage,
    /// The user stopped it.
    Cancelled,
}

/// A failure, ready to be shown. Display is the sentence; the way out is in [`RegistryError::hint`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct RegistryError {
    /// What kind of failure.
    pub kind: Kind,
    /// What failed, on what. One line, safe to print.
    pub what: String,
    /// The way out, where there is a better one than [`RegistryError::way_out`] knows.
    pub hint: Option<String>,
}

impl RegistryError {
    /// A failure of `kind`. Text that is not our own passes through [`printable`] here.
    pub fn new(kind: Kind, what: impl AsRef<str>) -> Self {
        Self { kind, what: printable(what.as_ref()), hint: None }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl AsRef<str>) -> Self {
        self.hint = Some(printable(hint.as_ref()));
        self
    }

    /// Adds to the way out it has.
    #[must_use]
    pub fn also(self, more: &str) -> Self {
        let both = self.hint.as_ref().map(|hint| format!("{hint}; {more}"));
        self.hint(both.as_deref().unwrap_or(more))
    }

    /// The way out that is told: its own, or the one that is right for all of its kind.
    pub fn way_out(&self) -> Option<&str> {
        let usual = match self.kind {
            Kind::Corrupt => {
                "a server or a proxy on the way gives wrong bytes; try again, or tell its operator"
            }
            Kind::Refused => "try another source, or tell the registry's operator",
            Kind::Unavailable => "try again later",
            Kind::Site => "check the set-up of this machine, or ask its administrator",
            Kind::Auth => "check the account; 'grus login' stores one",
            Kind::NotFound | Kind::Usage => "check how it is written",
            Kind::Cancelled => return None,
        };
        Some(self.hint.as_deref().unwrap_or(usual))
    }

    /// Exit code of `grus`, by sysexits(3) where it has a word for it.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Auth => 77,        // EX_NOPERM
            Kind::NotFound => 66,    // EX_NOINPUT
            Kind::Unavailable => 69, // EX_UNAVAILABLE
            Kind::Corrupt => 65,     // EX_DATAERR
            Kind::Refused => 65,     // EX_DATAERR
            Kind::Site => 78,        // EX_CONFIG
            Kind::Usage => 2,
            Kind::Cancelled => 130, // as a shell reports SIGINT
        }
    }

    /// The registry's own error inside an error of a layer's reader, if that is what failed.
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Debug for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)?;
        self.hint.as_ref().map_or(Ok(()), |h| write!(f, " (hint: {h})"))
    }
}

impl From<RegistryError> for io::Error {
    fn from(error: RegistryError) -> Self {
        io::Error::other(error)
    }
}
