//! `grus host scan`: profiles of this host's MPI stacks, and which of its devices are described.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use grus_core::refusal::{printable, Refusal};
use grus_core::stack::Stack;

use crate::context::Context;
use crate::failure::{reason, Failure};
use crate::host::{devices, discover, families, profile, Scanned, Seed};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  grus host scan                                      # every MPI that is found
  grus host scan /opt/intel/oneapi/mpi/2021.18 --name intel
  grus host scan /opt/openmpi-5.0 --output -          # look first

Devices and the files that describe them (CDI) are listed on standard error.
The profiles are read where images are explained. They are text: edit them, and
check them with 'grus explain IMAGE --stack FILE'. Files are only read; nothing
of the host is run.";

const HOST_EXAMPLES: &str = "\
Examples:
  grus host scan                                      # every MPI that is found
  grus host scan --help";

/// Arguments of `grus host`.
#[derive(Debug, clap::Args)]
#[command(after_help = HOST_EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write profiles of the host's MPI stacks
    Scan(Scan),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Scan {
    /// Directories of MPI stacks; without any, the loader's cache and the usual places are searched
    #[arg(value_name = "PREFIX")]
    prefixes: Vec<PathBuf>,
    /// Name of the stack, as users will write it; needs a single stack
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write to this directory, or to standard output with '-' [default: /etc/grus/stacks]
    #[arg(long, value_name = "DIR|-")]
    output: Option<PathBuf>,
    /// Write over profiles that are there, with the changes made to them
    #[arg(long)]
    replace: bool,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Scan(scan) => scan.run(context),
        }
    }
}

impl Scan {
    fn run(self, context: &Context) -> Result<(), Failure> {
        devices(&context.site.cdi.dirs()).iter().for_each(|line| output::note(line));
        let scanned = self.scan()?;
        if self.output.as_deref() == Some(Path::new("-")) {
            let texts: Vec<String> = scanned.iter().map(Scanned::text).collect();
            return output::print(&texts.join("\n"));
        }
        let dir = self.output.clone().unwrap_or_else(|| context.stacks_dir());
        for one in &scanned {
            let to = dir.join(format!("{}.toml", one.stack.name));
            if !self.replace && to.exists() {
                return Err(Refusal::user(format!(
                    "{} is there already",
                    printable(&to.display().to_string())
                ))
                .hint("--replace writes it anew, --name chooses another name, --output - only shows it")
                .into());
            }
        }
        for one in &scanned {
            let to = dir.join(format!("{}.toml", one.stack.name));
            write(&to, &one.text())?;
            let what = families(&one.stack);
            let count = one.stack.library.len();
            output::print(&format!(
                "{}: {}, {what}, {count} libraries\n",
                to.display(),
                one.stack.description
            ))?;
            one.notes.iter().for_each(|note| output::note(&format!("  note: {}", printable(note))));
        }
        Ok(())
    }

    /// The stacks, each with a name of its own and read back once.
    fn scan(&self) -> Result<Vec<Scanned>, Failure> {
        let mut prefixes = vec![];
        for prefix in &self.prefixes {
            let listed = fs::read_dir(prefix).map_err(|e| {
                let shown = printable(&prefix.display().to_string());
                Refusal::user(format!("cannot scan {shown}: {}", reason(&e)))
                    .hint("name the directory of an MPI stack")
            });
            drop(listed?);
            prefixes.push(std::path::absolute(prefix).map_err(|e| Failure::io("use", prefix, &e))?);
        }
        let seeds = discover(&prefixes);
        self.one_for_a_name(&seeds)?;
        let mut scanned = vec![];
        let mut names = BTreeSet::new();
        for seed in &seeds {
            let mut one = profile(seed)?;
            one.stack.name = match &self.name {
                Some(name) => name.clone(),
                None => unused(&one.stack, &names),
            };
            names.insert(one.stack.name.clone());
            Stack::parse(&one.stack.name, &one.text())?;
            scanned.push(one);
        }
        Ok(scanned)
    }

    fn one_for_a_name(&self, seeds: &[Seed]) -> Result<(), Failure> {
        if seeds.is_empty() {
            let place = match self.prefixes.as_slice() {
                [] => "in the loader's cache and the usual places".to_owned(),
                some => {
                    some.iter().map(|p| printable(&p.display().to_string())).collect::<Vec<_>>().join(", ")
                }
            };
            return Err(Refusal::user(format!("no MPI library was found in {place}"))
                .hint("name the directory that has its lib/ with libmpi.so, such as /opt/openmpi-5.0")
                .into());
        }
        if self.name.is_some() && seeds.len() > 1 {
            let all: Vec<String> = seeds
                .iter()
                .filter_map(|s| s.main().map(|(_, path, _)| printable(&path.display().to_string())))
                .collect();
            return Err(Refusal::user(format!(
                "--name is for one stack; there are {}: {}",
                all.len(),
                all.join(", ")
            ))
            .hint("leave --name out, or name the directory of one of them")
            .into());
        }
        Ok(())
    }
}

/// The maker's word; with the version where the word is taken; with a number where that is taken, too.
fn unused(stack: &Stack, taken: &BTreeSet<String>) -> String {
    let version = stack.mpi.first().and_then(|m| m.version.rsplit(' ').next()).unwrap_or_default();
    let versioned = format!("{}-{}", stack.name, version.to_lowercase());
    let numbered = (2..).map(|n| format!("{versioned}.{n}"));
    let names = [stack.name.clone(), versioned.clone()].into_iter().chain(numbered);
    names.into_iter().find(|n| !taken.contains(n)).unwrap_or_default()
}

/// Writes a profile whole or not at all, for everyone to read.
fn write(to: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: &std::io::Error| Failure::System {
        what: format!("cannot write {}: {}", printable(&to.display().to_string()), reason(e)),
        hint: Some(match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "run it as root, or use --output DIR or --output -".into()
            }
            _ => "use another directory with --output DIR, or --output - to see the profile".into(),
        }),
    };
    let dir = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    let part = to.with_extension("toml.part");
    crate::interrupt::temporary().insert(part.clone());
    let done = fs::write(&part, text)
        .and_then(|()| fs::set_permissions(&part, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&part, to));
    crate::interrupt::remove(&part);
    done.map_err(|e| failed(&e))
}
