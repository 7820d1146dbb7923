//! The end of `grus run`: this process becomes the program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use grus_core::refusal::{printable, Refusal};

use super::{Started, FAILED};
use crate::failure::{reason, Failure};

/// Exit status where a program is there but cannot be run, and where it is not there (docker-run(1), POSIX sh).
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

impl Started {
    /// Returns only why not.
    pub(super) fn become_program(self) -> Failure {
        if let Err(failure) = self.change_directory() {
            return Failure::Run { code: FAILED, failure: Box::new(failure) };
        }
        let edits = &self.inside.plan.environment;
        let mut words = self.words.iter();
        let name = words.next().map(OsString::as_os_str).unwrap_or_default();
        let path = edits.set.get("PATH").map(|path| OsString::from(path.as_str())).or(env::var_os("PATH"));
        let Some(program) = find(name, &path.unwrap_or_default()) else {
            return refused(NOT_FOUND, name, "there is no such program in the container");
        };
        if let Some(tree) = &self.tree {
            tree.keep_open();
        }
        let mut command = Command::new(&program);
        command.arg0(name).args(words).envs(&edits.set);
        edits.unset.iter().for_each(|variable| {
            command.env_remove(variable);
        });
        let error = command.exec();
        match error.kind() {
            // The file was found: what is missing is what the file names to be run by.
            io::ErrorKind::NotFound => {
                refused(NOT_FOUND, name, "its interpreter or loader is not in the container")
            }
            _ => refused(CANNOT_RUN, name, &reason(&error)),
        }
    }

    fn change_directory(&self) -> Result<(), Failure> {
        let Some(dir) = &self.inside.plan.workdir else {
            // Where it is not in the container, the program starts at the root.
            return env::set_current_dir(self.cwd.as_path()).or_else(|_| env::set_current_dir("/")).map_err(
                |e| Failure::System { what: format!("cannot start in /: {}", reason(&e)), hint: None },
            );
        };
        env::set_current_dir(dir.as_path()).map_err(|e| {
            Refusal::user(format!("cannot start in {dir}: {}", reason(&e)))
                .hint("choose another directory of the container with --workdir")
                .into()
        })
    }
}

fn refused(code: u8, name: &OsStr, why: &str) -> Failure {
    let what = format!("cannot run '{}': {why}", printable(&name.to_string_lossy()));
    let hint = match code {
        NOT_FOUND => "check its name and PATH; an image's ENTRYPOINT is replaced with --entrypoint",
        _ => "check its permissions, and that it is made for this machine",
    };
    Failure::Run { code, failure: Box::new(Refusal::user(what).hint(hint).into()) }
}

/// A path as it is, a name in the directories of `path`: the first that can be run, else the first that is a file.
fn find(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|file| fs::symlink_metadata(file).is_ok());
    }
    let files: Vec<PathBuf> = env::split_paths(path)
        .filter(|dir| dir.is_absolute() && !name.is_empty())
        .map(|dir| dir.join(name))
        .filter(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file()))
        .collect();
    let runs = |file: &Path| fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
    files.iter().find(|file| runs(file)).or(files.first()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let find = |name: &str, path: &str| find(name.as_ref(), path.as_ref());
        assert_eq!(find("sh", "/nowhere:.:/bin"), Some("/bin/sh".into()));
        assert_eq!(find("/bin/sh", ""), Some("/bin/sh".into()));
        assert_eq!(
            find("passwd", "/etc:/nowhere"),
            Some("/etc/passwd".into()),
            "it is there, and cannot be run"
        );
        for missing in ["no-such-program", "/no/such/file", "", "etc"] {
            assert_eq!(find(missing, "/bin:/"), None, "{missing}");
        }
    }
}
