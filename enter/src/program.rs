//! Programs of the node that the site names: run only if root alone can have written them.

use std::ffi::CString;

use grus_core::path::AbsPath;
use grus_core::Refusal;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::call::{open, shown, stat, During};
use crate::failure::{reason, Failure, Phase};
use crate::trust::{is_regular, path_of, why_not_roots};

/// A program, and what is to be said where it cannot be run.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    /// Its path, as the site has it.
    pub path: &'a AbsPath,
    /// The site's key for it.
    pub key: &'static str,
    /// The package that it comes in.
    pub package: &'static str,
    /// What it is wanted for.
    pub phase: Phase,
}

impl Named<'_> {
    /// Its path without links, if root alone can have written it.
    pub fn trusted(&self) -> Result<CString, Failure> {
        let path = self.path.as_path();
        let fd = match open(path, OFlags::PATH) {
            Ok(fd) => fd,
            Err(b) if matches!(b.errno, Errno::NOENT | Errno::NOTDIR) => {
                let hint = format!(
                    "ask the administrator to install the package '{}', or to set {} in grus.toml",
                    self.package, self.key
                );
                return Err(self.refuse("is not installed on this node", hint));
            }
            Err(b) => {
                let hint = format!("see {}", self.key);
                return Err(self.refuse(&format!("cannot be used: {}", reason(b.errno)), hint));
            }
        };
        let status = stat(&fd, path).during(self.phase)?;
        if !is_regular(&status) || status.st_mode & 0o111 == 0 {
            let hint = format!("the administrator must mend {} in grus.toml", self.key);
            return Err(self.refuse("is not a program", hint));
        }
        if let Some(why) = why_not_roots(&fd, path).during(self.phase)? {
            let hint = "it and every directory above it must be writable by root only";
            return Err(self.refuse(&format!("is not trusted: {why}"), hint.into()));
        }
        let path = path_of(&fd).during(self.phase)?;
        Ok(cstr(&path.to_string_lossy()))
    }

    fn refuse(&self, why: &str, hint: String) -> Failure {
        let path = shown(self.path.as_path());
        Refusal::site(format!("{}: {path} {why}", self.phase)).hint(hint).into()
    }
}

/// A text without a NUL.
pub(crate) fn cstr(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
