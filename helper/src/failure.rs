//! Owns what ends a command early: one sentence, one way out and one exit code for each kind.
//! Everything below returns a [`Failure`]; only [`crate::cli`] prints it. Text that others wrote has passed
//! through [`printable`] before it gets here.

use std::fmt;
use std::io;
use std::path::Path;

use grus_core::refusal::{printable, Cause, Refusal};
use grus_squash::LimitKind;

use crate::registry::RegistryError;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The request, the site or the image is at fault.
    Refusal(Refusal),
    /// The registry or the network.
    Registry(RegistryError),
    /// The operating system: a disk, a permission.
    System {
        /// What failed, on what, and the system's reason.
        what: String,
        /// The way out.
        hint: Option<String>,
    },
    /// The reader of our standard output went away. Nothing is printed.
    Pipe,
    /// The user stopped it.
    Cancelled,
    /// A program was to be run, and the exit code belongs to how that ended, not to the cause.
    Run {
        /// The exit code.
        code: u8,
        /// The cause.
        failure: Box<Failure>,
    },
}

impl Failure {
    /// `what` failed on `path` for the reason `error`.
    pub fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let at = printable(&path.display().to_string());
        let hint = match error.kind() {
            io::ErrorKind::StorageFull => Some(format!(
                "free space on that file system, remove images with 'grus rmi', or use another place with \
                 --repository; nothing was left at {}",
                parent(path)
            )),
            io::ErrorKind::QuotaExceeded => Some(format!(
                "your quota is used up (see quota(1) or lfs-quota(1)): remove images with 'grus rmi' or 'grus prune', \
                 or use another place with --repository; nothing was left at {}",
                parent(path)
            )),
            io::ErrorKind::PermissionDenied => {
                Some("check the permissions of this path and of those above".into())
            }
            io::ErrorKind::ReadOnlyFilesystem => Some("use another place with --repository".into()),
            _ => None,
        };
        Self::System { what: format!("cannot {what} {at}: {}", reason(error)), hint }
    }

    /// Reading `name` failed: the disk, the network, or bytes that are not what a digest says.
    pub fn read(name: &str, error: &io::Error) -> Self {
        if let Some(limit) = error.get_ref().and_then(|inner| inner.downcast_ref::<LimitKind>()) {
            return Refusal::image(format!("{name} {limit}"))
                .hint("it was made to fill a disk, or its tool is to compress it less")
                .into();
        }
        match RegistryError::from_io(error) {
            Some(error) => error.clone().into(),
            None if error.kind() == io::ErrorKind::InvalidData => {
                Refusal::image(format!("{name} is damaged: {}", reason(error)))
                    .hint("make or copy it again")
                    .into()
            }
            None => Self::System { what: format!("cannot read {name}: {}", reason(error)), hint: None },
        }
    }

    /// The exit code, as grus(1) lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refusal(refusal) => match refusal.cause {
                Cause::User => 2,
                Cause::Site => 78,
                Cause::Image => 65,
            },
            Self::Registry(error) => error.exit_code(),
            Self::System { .. } => 1,
            Self::Pipe => 141,
            Self::Cancelled => 130,
            Self::Run { failure, .. } if matches!(**failure, Self::Cancelled) => 130,
            Self::Run { code, .. } => *code,
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refusal(refusal) => refusal.hint.as_deref(),
            Self::Registry(error) => error.way_out(),
            Self::System { hint, .. } => hint.as_deref(),
            Self::Pipe | Self::Cancelled => None,
            Self::Run { failure, .. } => failure.hint(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refusal(refusal) => refusal.fmt(f),
            Self::Registry(error) => error.fmt(f),
            Self::System { what, .. } => f.write_str(what),
            Self::Pipe => f.write_str("standard output was closed"),
            Self::Cancelled => f.write_str("interrupted"),
            Self::Run { failure, .. } => failure.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<grus_enter::Failure> for Failure {
    fn from(failure: grus_enter::Failure) -> Self {
        match failure {
            grus_enter::Failure::Refused(refusal) => Self::Refusal(refusal),
            failed => Self::System { what: failed.what(), hint: failed.hint() },
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        match error.exit_code() {
            130 => Self::Cancelled,
            _ => Self::Registry(error),
        }
    }
}

/// The system's reason without Rust's `(os error N)`.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    printable(text.split(" (os error ").next().unwrap_or(&text))
}

fn parent(path: &Path) -> String {
    printable(&path.parent().unwrap_or(path).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_quota_name_the_way_out_and_no_number() {
        for (errno, words, hint) in [
            (28, "No space left on device", "free space"),
            (122, "Disk quota exceeded", "your quota is used up"),
        ] {
            let e = Failure::io("write", Path::new("/r/tmp/x"), &io::Error::from_raw_os_error(errno));
            assert_eq!(e.to_string(), format!("cannot write /r/tmp/x: {words}"));
            let said = e.hint().expect("a hint");
            assert!(
                said.contains(hint) && said.contains("grus rmi") && said.contains("nothing was left"),
                "{said}"
            );
            assert_eq!(e.exit_code(), 1);
        }
    }
}
