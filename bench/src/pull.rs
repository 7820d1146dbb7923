//! `pull`: from a registry's image to one that can run. Grus against what its users would use instead, and against
//! the floor that the stages of such a pull set; all from a registry on loopback, in turns.

mod figure;
mod floor;
mod measured;
mod options;
mod report;
mod tools;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use grus_tests::{ImageStore, Registry};
use serde_json::json;

use crate::figures::print_load;
use floor::Source;
use measured::{Interrupt, Runner};
use options::Options;
use report::Measured;
use tools::{Pushed, Tool};

pub use options::USAGE;

/// Runs the bench and prints its figures.
pub fn run(words: &[&str]) -> Result<()> {
    let options = Options::parse(words)?;
    let peers = peers(&options)?;
    let layouts: Vec<PathBuf> =
        options.images.iter().map(|name| layout(&options, name)).collect::<Result<_>>()?;
    print_load("before");
    let bench = Bench::start(&options, &peers, Interrupt::catch()?)?;
    let mut results = Vec::new();
    for (name, layout) in options.images.iter().zip(&layouts) {
        let measured = bench.image(name, layout, options.rounds, &peers)?;
        println!("{measured}");
        results.push(measured);
    }
    print_load("after");
    if let Some(file) = &options.figure {
        let svg = report::figure(&results, options.rounds);
        fs::write(file, svg).with_context(|| file.display().to_string())?;
        println!("drawn: {}", file.display());
    }
    drop(bench);
    let images: serde_json::Map<_, _> =
        results.iter().map(|measured| (measured.name.clone(), measured.json())).collect();
    println!("{}", json!({"bench": "pull", "images": images}));
    Ok(())
}

/// The peers that can run. One that was asked for by name must.
fn peers(options: &Options) -> Result<Vec<Tool>> {
    let mut able = Vec::new();
    for peer in &options.peers {
        let missing = peer.missing().join(", ");
        ensure!(missing.is_empty() || !options.named, "{}: not installed: {missing}", peer.name());
        match &*missing {
            "" => able.push(*peer),
            _ => println!("skipped: {}: not installed: {missing} (ci/bench --install-peers)", peer.name()),
        }
    }
    Ok(able)
}

fn layout(options: &Options, name: &str) -> Result<PathBuf> {
    match &options.layouts {
        Some(dir) => {
            let layout = dir.join(name);
            ensure!(layout.join("index.json").exists(), "{} is no OCI layout", layout.display());
            Ok(layout)
        }
        None => ImageStore::default().layout(name),
    }
}

/// Registries and a directory for the runs; both go when this is dropped. Fields are dropped in this order.
struct Bench {
    plain: Registry,
    /// Charliecloud has no way to a registry without TLS.
    tls: Option<Registry>,
    runner: Runner,
    dir: tempfile::TempDir,
}

impl Bench {
    fn start(options: &Options, peers: &[Tool], interrupt: Interrupt) -> Result<Self> {
        // The registry is a user of its own, who must be able to enter.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let dir = tempfile::Builder::new()
            .prefix("grus-bench-")
            .permissions(open)
            .tempdir_in(&options.dir)
            .with_context(|| options.dir.display().to_string())?;
        let home = dir.path().join("home");
        fs::create_dir(&home)?;
        let plain = Registry::builder(dir.path(), "plain").start()?;
        let tls = peers.contains(&Tool::Charliecloud);
        let tls = tls.then(|| Registry::builder(dir.path(), "tls").tls().start()).transpose()?;
        let mut runner = Runner::new(&home, interrupt, options.limit);
        if let Some(ca) = tls.as_ref().and_then(Registry::ca) {
            // What python3-requests reads.
            runner.set("REQUESTS_CA_BUNDLE", ca);
        }
        Ok(Self { plain, tls, runner, dir })
    }

    /// Measures one image.
    fn image(&self, name: &str, layout: &Path, rounds: usize, peers: &[Tool]) -> Result<Measured> {
        let repository = format!("bench/{name}");
        let image = Pushed {
            plain: self.plain.push(layout, &repository)?,
            tls: self.tls.as_ref().map(|tls| tls.push(layout, &repository)).transpose()?,
        };
        let host = self.plain.host();
        let source = Source { host: &host, repository: &repository, layout };
        let mut measured = Measured::new(name, floor::size(layout)?);
        self.blobs_only()?;
        for round in 1..=rounds {
            for tool in [&[Tool::Grus], peers].concat() {
                if !measured.failed(tool) {
                    self.one(tool, &image, &source, &mut measured)
                        .with_context(|| format!("{name}, round {round}, {}", tool.name()))?;
                }
            }
            eprintln!("{name}: round {round} of {rounds} done");
        }
        Ok(measured)
    }

    /// One run of one tool; with Grus the floor, from the same image.
    fn one(&self, tool: Tool, image: &Pushed, source: &Source<'_>, measured: &mut Measured) -> Result<()> {
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(self.dir.path())?;
        // What was written before is on the disk: nobody waits for another's pages.
        rustix::fs::sync();
        match tool.run(&self.runner, image, dir.path()) {
            Ok(run) => {
                measured.add(tool, &run)?;
                if let (Tool::Grus, Some(file)) = (tool, &run.file) {
                    measured.floors.push(floor::measure(source, file)?);
                }
            }
            // A peer that fails has no figure, and the reason is told once; Grus may not.
            Err(error) => {
                self.runner.check()?;
                ensure!(tool != Tool::Grus, "{error:#}");
                measured.fail(tool, &error);
            }
        }
        dir.close().context("the run's directory")
    }

    /// Drops the page cache and reads the registries' blobs once, so that every run finds these and nothing else.
    fn blobs_only(&self) -> Result<()> {
        rustix::fs::sync();
        // Documentation/admin-guide/sysctl/vm.rst: 1 frees the page cache.
        fs::OpenOptions::new()
            .write(true)
            .open("/proc/sys/vm/drop_caches")
            .and_then(|mut file| file.write_all(b"1"))
            .context("drop_caches")?;
        for registry in [Some(&self.plain), self.tls.as_ref()].into_iter().flatten() {
            read_all(&registry.storage())?;
        }
        Ok(())
    }
}

/// Reads all files below `dir`.
fn read_all(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            read_all(&entry.path())?;
        } else {
            io::copy(&mut fs::File::open(entry.path())?, &mut io::sink())?;
        }
    }
    Ok(())
}
