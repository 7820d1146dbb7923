//! Tasks that go through the image's ENTRYPOINT: `docker run`'s way, ENTRYPOINT first and the command as its arguments.
//!
//! From 23.11 on Slurm takes words to put before a task's command. Before, a task that has come to its last hook does
//! what is left for Slurm to do, and becomes the ENTRYPOINT itself. What Slurm would still have done is then left out:
//! TaskProlog, and waiting for a debugger.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use grus_core::refusal::printable;
use grus_core::Refusal;
use slurm_spank::SpankHandle;

use crate::abi;

/// What Slurm takes limits out of; not for tasks to see.
const LIMIT: &str = "SLURM_RLIMIT_";

/// In a task, in the container, as the last thing: starts `entrypoint` with the task's command, or lets Slurm do it.
pub fn start(entrypoint: &[String], spank: &SpankHandle) -> Result<(), Refusal> {
    let Some(name) = entrypoint.first() else { return Ok(()) };
    let variables = spank.job_env_os().map_err(unreadable)?;
    let path = variables.iter().find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
    let program = find(name, OsStr::from_bytes(path.unwrap_or_default()))
        .ok_or_else(|| refused(name, "is no program in the container"))?;
    let words: Vec<CString> = strings(entrypoint.iter().map(String::as_bytes));
    match abi::prepend(&words) {
        Some(Ok(())) => Ok(()),
        Some(Err(code)) => {
            Err(refused(name, &format!("cannot be put before the command (SPANK error {code})")))
        }
        None => Err(become_it(&program, words, &variables, spank)?),
    }
}

/// Returns only why not.
fn become_it(
    program: &Path,
    mut words: Vec<CString>,
    variables: &[&OsStr],
    spank: &SpankHandle,
) -> Result<Refusal, Refusal> {
    let command = spank.job_argv_os().map_err(unreadable)?;
    let all = strings(variables.iter().map(|variable| variable.as_bytes()));
    let mut command = strings(command.iter().map(|word| word.as_bytes()));
    if command.get(1).is_some_and(|text| is_multi_prog(text)) {
        let rank = spank.task_global_id().map_err(unreadable)?;
        command = abi::command_of(rank, &command, &all)
            .ok_or_else(|| Refusal::site("it cannot be told which command of --multi-prog this task has"))?;
    }
    for (name, resource, passed_on) in abi::limits() {
        let value = variables.iter().find_map(|variable| limit(variable, &name));
        if let Some((soft, _)) = value.filter(|(_, asked)| passed_on || *asked) {
            abi::set_limit(resource, soft);
        }
    }
    let mut environment = all;
    environment.extend(temporary_directory(variables, spank));
    environment.retain(|variable| !variable.as_bytes().starts_with(LIMIT.as_bytes()));
    words.extend(command);
    let path = CString::new(program.as_os_str().as_bytes()).unwrap_or_default();
    let error = abi::execute(&path, &words, &environment);
    Ok(refused(&program.to_string_lossy(), &format!("cannot be run: {error}")))
}

/// As Slurm does for the first task of a node: a TMPDIR that is not there is made, and the default is told.
fn temporary_directory(variables: &[&OsStr], spank: &SpankHandle) -> Option<CString> {
    if spank.task_id().ok() != Some(0) {
        return None;
    }
    match variables.iter().find_map(|variable| variable.as_bytes().strip_prefix(b"TMPDIR=")) {
        Some(path) => {
            let path = Path::new(OsStr::from_bytes(path));
            // Where it cannot be made, whatever needs it says so.
            let _ = std::fs::DirBuilder::new().mode(0o700).create(path);
            None
        }
        None => Some(c"TMPDIR=/tmp".to_owned()),
    }
}

fn refused(name: &str, why: &str) -> Refusal {
    Refusal::image(format!("the image's ENTRYPOINT '{}' {why}", printable(name)))
        .hint("leave --container-entrypoint out, or pass --no-container-entrypoint")
}

fn unreadable(error: slurm_spank::SpankError) -> Refusal {
    Refusal::site(format!("slurmstepd does not tell the task's command: {error}"))
}

/// No string of another process's memory has a NUL within.
fn strings<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Vec<CString> {
    texts.filter_map(|text| CString::new(text).ok()).collect()
}

/// A path as it is, a name in the directories of `path`.
fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    let runs = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(runs);
    }
    std::env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(runs)
}

/// The value of a limit's variable, and whether the user asked for it to be passed on (`srun --propagate`, a `U`).
fn limit(variable: &OsStr, name: &str) -> Option<(u64, bool)> {
    let value = variable.to_str()?.strip_prefix(LIMIT)?.strip_prefix(name)?.strip_prefix('=')?;
    let asked = value.strip_prefix('U');
    Some((asked.unwrap_or(value).parse().ok()?, asked.is_some()))
}

/// Whether a command's second word is the text of a file for `--multi-prog`, which is what srun sends then: lines of
/// ranks and a program. Nothing else tells it here.
fn is_multi_prog(text: &CStr) -> bool {
    let text = text.to_string_lossy().replace("\\\n", " ");
    let is_ranks = |word: &str| {
        let digits = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-' | '[' | ']');
        word == "*" || (word.chars().all(digits) && word.contains(|c: char| c.is_ascii_digit()))
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_program = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(is_ranks) && words.next().is_some()
    };
    text.contains('\n') && lines.clone().next().is_some() && lines.all(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_point_is_found_as_commands_are() {
        assert_eq!(find("sh", OsStr::new("/nowhere:.:/bin")), Some("/bin/sh".into()));
        assert_eq!(find("/bin/sh", OsStr::new("")), Some("/bin/sh".into()));
        for missing in ["no-such-program", "/etc/passwd", "/etc", "/no/such/file"] {
            assert_eq!(find(missing, OsStr::new("/bin")), None, "{missing}");
        }
    }

    #[test]
    fn limits_are_read_as_slurm_writes_them() {
        assert_eq!(limit(OsStr::new("SLURM_RLIMIT_NOFILE=517"), "NOFILE"), Some((517, false)));
        assert_eq!(
            limit(OsStr::new("SLURM_RLIMIT_CORE=U18446744073709551615"), "CORE"),
            Some((u64::MAX, true))
        );
        for other in ["SLURM_RLIMIT_NOFILES=1", "SLURM_RLIMIT_NOFILE=x", "NOFILE=1"] {
            assert_eq!(limit(OsStr::new(other), "NOFILE"), None, "{other}");
        }
    }

    #[test]
    fn files_of_multi_prog_are_told_from_arguments() {
        for text in [c"0 a\n1-2,5 b %t\n", c"# c\n\n* a\n", c"[0-1] a \\\n b\n"] {
            assert!(is_multi_prog(text), "{text:?}");
        }
        for text in [c"0 a", c"-c", c"echo 1\necho 2\n", c"0 a\necho\n", c"\n", c"1\n2\n", c"- x\n"] {
            assert!(!is_multi_prog(text), "{text:?}");
        }
    }
}
