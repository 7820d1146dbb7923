//! `grus host scan`: profiles of this host's MPI stacks, and which of its devices are described.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use grus_core::refusal::{printable, Refusal};
use grus_core::stack::Stack;
use grus_enter::cdi;

use crate::context::Context;
use crate::failure::{reason, Failure};
use crate::host::{described, devices, discover, discover_fabric, families, profile, Scanned, Seed};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  grus host scan                                      # every MPI that is found
  grus host scan /opt/intel/oneapi/mpi/2021.18 --name intel
  grus host scan /opt/openmpi-5.0 --output -          # look first
  grus host scan --fabric --name cxi                  # libfabric, for a module

Devices and the files that describe them (CDI) are listed on standard error.
The profiles are read where images are explained. They are text: edit them, and
check them with 'grus explain IMAGE --stack FILE'. Files are only read; nothing
of the host is run, but nvidia-container-cli with --cdi.";

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
    /// Write profiles of the host's MPI stacks and fabrics
    Scan(Scan),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Scan {
    /// Directories of MPI stacks, or of libfabrics; without any, the loader's cache and the usual places are searched
    #[arg(value_name = "PREFIX")]
    prefixes: Vec<PathBuf>,
    /// Name of the stack, as users will write it; needs a single stack
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write to this directory, or to standard output with '-' [default: /etc/grus/stacks]
    #[arg(long, value_name = "DIR|-")]
    output: Option<PathBuf>,
    /// Libfabric and its providers alone, instead of MPIs: what modules of the site bring (libraries = "NAME")
    #[arg(long)]
    fabric: bool,
    /// Describe NVIDIA's GPUs by 'nvidia-container-cli list', where its toolkit is too old for 'nvidia-ctk cdi
    /// generate': written to the first of cdi.dirs [default: /etc/cdi]
    #[arg(long, conflicts_with_all = ["prefixes", "name", "fabric"])]
    cdi: bool,
    /// Write over profiles that are there, with the changes made to them
    #[arg(long)]
    replace: bool,
}

/// The file that `--cdi` writes.
const DESCRIBED: &str = "nvidia-container-cli.json";

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Scan(scan) => scan.run(context),
        }
    }
}

impl Scan {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if self.cdi {
            return self.describe(context);
        }
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

    /// The description of NVIDIA's GPUs, where there is none.
    fn describe(&self, context: &Context) -> Result<(), Failure> {
        let dirs = context.site.cdi.dirs();
        let own = dirs.first().map(|dir| dir.as_path().join(DESCRIBED));
        let to = self.output.as_ref().map(|dir| dir.join(DESCRIBED)).or(own).unwrap_or_default();
        let registry = cdi::load(&dirs);
        let nvidias = registry.files().find(|(_, spec)| spec.kind.to_string() == "nvidia.com/gpu");
        if let Some((path, _)) = nvidias.filter(|(path, _)| !self.replace || path.as_path() != to) {
            return Err(Refusal::user(format!("{path} describes NVIDIA's GPUs already"))
                .hint(
                    "two files for one device contradict each other; --replace writes only its own file anew",
                )
                .into());
        }
        let text = described()?;
        if self.output.as_deref() == Some(Path::new("-")) {
            return output::print(&text);
        }
        write(&to, &text)?;
        output::print(&format!("{}\n", to.display()))
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
        let seeds = if self.fabric { discover_fabric(&prefixes) } else { discover(&prefixes) };
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
            let (what, hint) = match self.fabric {
                true => (
                    "libfabric",
                    "name the directory that has its lib/ with libfabric.so.1, such as /opt/cray/libfabric/1.22.0",
                ),
                false => (
                    "MPI library",
                    "name the directory that has its lib/ with libmpi.so, such as /opt/openmpi-5.0; --fabric looks \
                     for a libfabric",
                ),
            };
            return Err(Refusal::user(format!("no {what} was found in {place}")).hint(hint).into());
        }
        if self.name.is_some() && seeds.len() > 1 {
            let all: Vec<String> = seeds
                .iter()
                .filter_map(|s| s.library().map(|(path, _)| printable(&path.display().to_string())))
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
    let versioned = [stack.name.as_str(), &version.to_lowercase()].join("-").trim_end_matches('-').to_owned();
    let numbered = (2..).map(|n| format!("{versioned}.{n}"));
    let names = [stack.name.clone(), versioned.clone()].into_iter().chain(numbered);
    names.into_iter().find(|n| !taken.contains(n)).unwrap_or_default()
}

/// Writes a file whole or not at all, for everyone to read.
fn write(to: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: &std::io::Error| Failure::System {
        what: format!("cannot write {}: {}", printable(&to.display().to_string()), reason(e)),
        hint: Some(match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "run it as root, or use --output DIR or --output -".into()
            }
            _ => "use another directory with --output DIR, or --output - to see it".into(),
        }),
    };
    let dir = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    let part = PathBuf::from(format!("{}.part", to.display()));
    crate::interrupt::temporary().insert(part.clone());
    let done = fs::write(&part, text)
        .and_then(|()| fs::set_permissions(&part, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&part, to));
    crate::interrupt::remove(&part);
    done.map_err(|e| failed(&e))
}
