//! The profiles of the host's MPI stacks: whether they can be read and are trusted, and still tell the truth.

use std::path::Path;

use grus_core::stack::Stack;
use grus_core::swap::Mode;
use grus_enter::site::Profiles;

use super::{Check, Patient};

/// Most missing files that are named.
const NAMED: usize = 3;

pub fn checks(patient: &Patient) -> Vec<Check> {
    let dir = patient.context.stacks_dir();
    let again = "grus host scan --replace (as root; it writes over changes), and 'man grus-host-scan'";
    // As the plugin reads them.
    let stacks = match Profiles::load(&dir).and_then(|profiles| profiles.parse()) {
        Ok(stacks) => stacks,
        Err(refusal) => {
            let check = Check::refused("mpi.profiles", &refusal)
                .means("containers with MPI are refused, or run with the image's own MPI");
            return vec![check];
        }
    };
    let mut all = vec![];
    if stacks.is_empty() {
        let found = format!("no host stacks in {}: images run with their own MPI", dir.display());
        all.push(Check::ok("mpi.profiles", found));
    } else {
        let names: Vec<&str> = stacks.iter().map(|stack| stack.name.as_str()).collect();
        all.push(Check::ok("mpi.profiles", format!("host stacks: {}", names.join(", "))));
        all.push(present(&stacks, again));
    }
    if let Mode::Stack(name) = &patient.context.site.mpi.default {
        if !stacks.iter().any(|stack| stack.name == *name) {
            let found = format!("mpi.default is '{name}', and there is no such stack");
            let check = Check::fails("mpi.default", found).means("containers with MPI are refused");
            all.push(check.mend(format!("{again}, or set mpi.default in grus.toml")));
        }
    }
    for (module, of) in &patient.context.site.module {
        let Some(name) = of.stack().filter(|name| !stacks.iter().any(|stack| stack.name == *name)) else {
            continue;
        };
        let found = format!("module.{}.libraries is '{name}', and there is no such stack", module.as_str());
        let check = Check::fails("module.libraries", found).means("containers do not get the module");
        all.push(check.mend("grus host scan --fabric (as root), or set libraries to one of the stacks"));
    }
    all
}

fn present(stacks: &[Stack], again: &str) -> Check {
    let mut missing = vec![];
    for stack in stacks {
        let libraries = stack.library.iter().map(|library| &library.path);
        let extras = stack.path.iter().filter(|extra| !extra.optional).map(|extra| &extra.path);
        let gone = libraries.chain(extras).filter(|path| !Path::new(path.as_str()).exists());
        missing.extend(gone.map(|path| format!("{path} of {}", stack.name)));
    }
    match missing.len() {
        0 => Check::ok("mpi.files", "every file that the profiles name is here"),
        n => {
            let named = missing.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if n > NAMED { format!(" and {} more", n - NAMED) } else { String::new() };
            Check::fails("mpi.files", format!("missing: {named}{more}"))
                .means("containers that get this MPI of the host fail on this machine")
                .mend(format!("install or mount the MPI here; or {again}"))
        }
    }
}
