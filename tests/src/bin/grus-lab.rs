//! Brings a lab up for people: a Slurm of two nodes and an open registry, until `down`. `ci/demo` stands on it.

use std::process::{Command, ExitCode};

use anyhow::{bail, Context, Result};
use grus_tests::images::all_names;
use grus_tests::{Cluster, ImageStore, Registry};

const USAGE: &str = "\
usage: grus-lab [--name NAME] COMMAND
  up [--nodes N] [--cpus N] [--plugstack FILE]  bring up Slurm and a registry (again: change nothing)
  down                      take everything away
  install DIR               install the plugin and grus that were built into DIR (target/release)
  env                       print what a shell needs to use it: eval \"$(grus-lab env)\"
  run [--root] -- CMD...    run a command in it, as its ordinary user or as root
  stacks NAME...            install MPI stacks of the host and make them the site's: intel, mpich5, mpich3, openmpi5,
                            openmpi4, debian-mpich, debian-openmpi
  images NAME... | all      make images (all: those of the tests) and print where their OCI layouts are
  push NAME REPOSITORY      make an image, push it to the lab's registry and print its reference
  status                    nodes and jobs";

/// The lab's name, unless given: its nodes are n1, n2 and its user grus-demo.
const NAME: &str = "demo";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("grus-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<ExitCode> {
    let (name, args) = match args {
        [flag, name, rest @ ..] if flag == "--name" => (name.as_str(), rest),
        _ => (NAME, args),
    };
    let Some((command, rest)) = args.split_first() else { bail!(USAGE) };
    match (command.as_str(), rest) {
        ("up", options) => up(name, options)?,
        ("down", []) => down(name)?,
        ("install", [dir]) => Cluster::open(name)?.install_grus(dir.as_ref())?,
        ("env", []) => env(&Cluster::open(name)?)?,
        ("run", rest) => return run(&Cluster::open(name)?, rest),
        ("images", [all]) if all == "all" => images(&all_names().collect::<Vec<_>>())?,
        ("images", names) => images(names)?,
        ("stacks", names) => {
            Cluster::open(name)?.use_stacks(&names.iter().map(String::as_str).collect::<Vec<_>>())?
        }
        ("push", [image, repository]) => {
            let layout = ImageStore::default().layout(image)?;
            println!("{}", registry(&Cluster::open(name)?)?.push(&layout, repository)?);
        }
        ("status", []) => {
            let lab = Cluster::open(name)?;
            print!("{}{}", lab.root("sinfo").arg("-Nl").run().stdout, lab.root("squeue").run().stdout);
        }
        _ => bail!(USAGE),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, options: &[String]) -> Result<()> {
    let mut builder = Cluster::builder(name).persistent();
    if name == NAME {
        builder = builder.node_prefix("n");
    }
    for option in options.chunks(2) {
        let [flag, value] = option else { bail!("{} needs a value\n{USAGE}", option[0]) };
        builder = match flag.as_str() {
            "--nodes" => builder.nodes(value.parse()?),
            "--cpus" => builder.cpus(value.parse()?),
            "--plugstack" => builder.plugstack(&std::fs::read_to_string(value).context(value.clone())?),
            _ => bail!("unknown option {flag}\n{USAGE}"),
        };
    }
    let lab = builder.up()?;
    let registry = registry(&lab)?;
    eprintln!("lab {name} is up: {} nodes, user {}", lab.nodes(), lab.account().name);
    eprintln!("  state      {}", lab.dir().display());
    eprintln!("  slurm.conf {}", lab.slurm_conf().display());
    eprintln!("  registry   {}", registry.host());
    Ok(())
}

fn images(names: &[impl AsRef<str>]) -> Result<()> {
    for name in names {
        println!("{}", ImageStore::default().layout(name.as_ref())?.display());
    }
    Ok(())
}

/// The lab's registry: started if it does not run, and left running.
fn registry(lab: &Cluster) -> Result<Registry> {
    Registry::builder(lab.dir(), "registry").persistent().start()
}

fn down(name: &str) -> Result<()> {
    match Cluster::open(name) {
        Ok(lab) => lab.down(),
        // Nothing to take down is what was asked for.
        Err(_) => Ok(()),
    }
}

fn env(lab: &Cluster) -> Result<()> {
    println!("export SLURM_CONF={}", lab.slurm_conf().display());
    println!("export GRUS_LAB_USER={}", lab.account().name);
    println!("export GRUS_LAB_REGISTRY={}", registry(lab)?.host());
    Ok(())
}

fn run(lab: &Cluster, args: &[String]) -> Result<ExitCode> {
    let as_root = args.first().is_some_and(|a| a == "--root");
    let args = &args[usize::from(as_root)..];
    let args = if args.first().is_some_and(|a| a == "--") { &args[1..] } else { args };
    if args.is_empty() {
        bail!(USAGE);
    }
    // The caller's terminal: this is for people. The user starts at home, as after a login.
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", lab.dir().join("bin").display());
    let mut command = Command::new(if as_root { "env" } else { "setpriv" });
    if as_root {
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    } else {
        let account = lab.account();
        command
            .env_clear()
            .env("HOME", &account.home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name);
        command.env("PATH", path).env("SHELL", "/bin/bash").current_dir(&account.home);
        command.env("TERM", std::env::var_os("TERM").unwrap_or_else(|| "dumb".into()));
        command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid));
        command.args(["--init-groups", "--inh-caps=-all", "--"]);
    }
    command.env("SLURM_CONF", lab.slurm_conf()).env("GRUS_CONFIG", lab.site_file());
    let status = command.args(args).status()?;
    Ok(ExitCode::from(status.code().unwrap_or(1) as u8))
}
