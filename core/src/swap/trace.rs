//! What the image's own loader says on a node, compared with what was proved: the last proof before ranks start.
//!
//! ld.so(8): with LD_TRACE_LOADED_OBJECTS it lists what it loads and runs nothing; with LD_WARN and LD_BIND_NOW
//! it names every symbol that has no definition (what ldd(1) calls `-r`).

use super::Check;
use crate::elf::is_mpi;
use crate::refusal::printable;

/// Variables that make the loader list instead of run.
pub const ENVIRONMENT: [(&str, &str); 3] =
    [("LD_TRACE_LOADED_OBJECTS", "1"), ("LD_WARN", "1"), ("LD_BIND_NOW", "1")];

/// Compares the loader's `output`, standard output and error together, with what `check` expects. The error is
/// the first difference, as the end of a sentence about the object.
///
/// Only the host's libraries and MPI's symbols count: what an image lacks otherwise it lacked before, and a
/// plugin of Python leaves Python's own symbols open.
pub fn judge(check: &Check, output: &str) -> Result<(), String> {
    let loaded: Vec<(&str, &str)> = output.lines().filter_map(loaded).collect();
    let host = |path: &str| check.expect.values().any(|at| same(at, path));
    for (name, at) in &check.expect {
        match loaded.iter().find(|(n, _)| n == name) {
            None => return Err(format!("the loader does not load {name}{}", said(output))),
            Some((_, "not found")) => return Err(format!("the loader does not find {name}")),
            Some((_, found)) if !same(at, found) => {
                return Err(format!("the loader takes {name} from {}, not from {at}", printable(found)))
            }
            Some(_) => {}
        }
    }
    for line in output.lines() {
        if let Some((symbol, by)) = undefined(line) {
            if is_mpi(symbol) || host(by) {
                return Err(format!("{} needs {}, which nothing defines", printable(by), printable(symbol)));
            }
        }
        if let Some((node, by)) = missing_version(line) {
            if host(by) || same(check.object.as_str(), by) {
                return Err(format!("{} needs {}, which is not there", printable(by), printable(node)));
            }
        }
    }
    Ok(())
}

/// `\tlibx.so.1 => /lib/libx.so.1 (0x7f…)`: name and path; `not found` for a path where there is none.
fn loaded(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix('\t')?.split_once(" => ")?;
    let path = rest.rsplit_once(" (0x").map_or(rest, |(path, _)| path);
    Some((name, path.trim()))
}

/// `undefined symbol: NAME\t(PATH)`, or with the object first where the loader gave up.
fn undefined(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once("undefined symbol: ")?;
    let symbol = after.split([',', '\t', ' ']).next()?;
    let by = match after.rsplit_once('(') {
        Some((_, by)) => by.trim_end_matches(')'),
        // `PROGRAM: symbol lookup error: PATH: undefined symbol: NAME`
        None => before.trim_end().trim_end_matches(':').rsplit(": ").next()?.trim(),
    };
    Some((symbol, by))
}

/// `A: B: version `NODE' not found (required by PATH)`.
fn missing_version(line: &str) -> Option<(&str, &str)> {
    let (node, rest) = line.split_once("version `")?.1.split_once("' not found")?;
    Some((node, rest.split_once("required by ")?.1.trim_end_matches(')')))
}

/// Whether two paths are the same when `.` and `..` are taken as text, which is how the loader prints $ORIGIN.
fn same(a: &str, b: &str) -> bool {
    fn plain(path: &str) -> Vec<&str> {
        let mut out = vec![];
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    out.pop();
                }
                name => out.push(name),
            }
        }
        out
    }
    plain(a) == plain(b)
}

/// The loader's last words, where it ended without a list.
fn said(output: &str) -> String {
    let last = output.lines().rev().find(|l| !l.trim().is_empty() && !l.starts_with('\t'));
    last.map_or(String::new(), |line| format!(": {}", printable(line.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::AbsPath;

    fn check() -> Check {
        let path = |p: &str| AbsPath::parse(p).expect("static");
        let expect = [
            ("libmpi.so.12", "/opt/app/lib/libmpi.so.12"),
            ("libfabric.so.1", "/run/grus/lib/libfabric.so.1"),
        ];
        Check {
            loader: path("/lib64/ld-linux-x86-64.so.2"),
            object: path("/opt/app/bin/app"),
            expect: expect.map(|(n, p)| (n.to_owned(), p.to_owned())).into(),
        }
    }

    const GOOD: &str = "\tlinux-vdso.so.1 (0x00007ffd)\n\
        \tlibmpi.so.12 => /opt/app/bin/../lib/libmpi.so.12 (0x00007f00)\n\
        \tlibfabric.so.1 => /run/grus/lib/libfabric.so.1 (0x00007f01)\n\
        \tlibold.so.3 => not found\n\
        \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n\
        undefined symbol: PyErr_Format\t(/opt/app/bin/app)\n";

    #[test]
    fn what_was_proved_passes_whatever_else_the_image_lacks() {
        assert_eq!(judge(&check(), GOOD), Ok(()));
    }

    #[test]
    fn each_difference_is_named() {
        let elsewhere = GOOD.replace("/run/grus/lib/libfabric.so.1", "/usr/lib/libfabric.so.1");
        let lost = GOOD.replace("/run/grus/lib/libfabric.so.1 (0x00007f01)", "not found");
        for (output, why) in [
            (&*elsewhere, "the loader takes libfabric.so.1 from /usr/lib/libfabric.so.1, not from /run/grus/lib/libfabric.so.1"),
            (&*lost, "the loader does not find libfabric.so.1"),
            ("", "the loader does not load libfabric.so.1"),
            ("Segmentation fault\n", "the loader does not load libfabric.so.1: Segmentation fault"),
            (&format!("{GOOD}undefined symbol: MPI_Comm_attach_buffer\t(./app)\n"), "./app needs MPI_Comm_attach_buffer, which nothing defines"),
            (&format!("{GOOD}undefined symbol: ucp_init, version X\t(/opt/app/lib/libmpi.so.12)\n"), "/opt/app/lib/libmpi.so.12 needs ucp_init, which nothing defines"),
            (&format!("{GOOD}/x: symbol lookup error: /run/grus/lib/libfabric.so.1: undefined symbol: ibv_x\n"), "/run/grus/lib/libfabric.so.1 needs ibv_x, which nothing defines"),
            (&format!("{GOOD}/app: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /run/grus/lib/libfabric.so.1)\n"), "/run/grus/lib/libfabric.so.1 needs GLIBC_2.38, which is not there"),
        ] {
            assert_eq!(judge(&check(), output), Err(why.to_owned()), "{output}");
        }
    }

    #[test]
    fn a_hostile_loader_cannot_smuggle_control_characters() {
        let why = judge(&check(), "\tlibfabric.so.1 => /x\u{1b}[31m (0x1)\n").expect_err("elsewhere");
        assert!(!why.contains('\u{1b}'), "{why}");
    }
}
