//! What was measured of one image: the table, the JSON line's part, the figure.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::Result;
use serde_json::{json, Value};

use super::figure::{self, Panel};
use super::floor::Floor;
use super::measured::Used;
use super::tools::{Run, Tool};
use crate::figures::{rounded, Samples};

const MB: f64 = 1e6;

/// All runs of one image.
#[derive(Debug)]
pub struct Measured {
    /// The image's name.
    pub name: String,
    /// Bytes of its layers in the registry.
    size: u64,
    runs: BTreeMap<Tool, Vec<(Used, Option<u64>)>>,
    /// Why a tool has no figures.
    failures: BTreeMap<Tool, String>,
    /// One of each round.
    pub floors: Vec<Floor>,
}

impl Measured {
    /// Nothing yet.
    pub fn new(name: &str, size: u64) -> Self {
        let (runs, failures) = Default::default();
        Self { name: name.into(), size, runs, failures, floors: Vec::new() }
    }

    /// Notes a run while its file is still there.
    pub fn add(&mut self, tool: Tool, run: &Run) -> Result<()> {
        let size =
            run.file.as_ref().map(|file| Ok::<_, std::io::Error>(fs::metadata(file)?.len())).transpose()?;
        self.runs.entry(tool).or_default().push((run.used, size));
        Ok(())
    }

    /// Notes that a tool cannot do this image. One that failed once has no figure, however often it succeeded.
    pub fn fail(&mut self, tool: Tool, error: &anyhow::Error) {
        self.runs.remove(&tool);
        self.failures.entry(tool).or_insert_with(|| format!("{error:#}"));
    }

    /// Whether the tool failed already.
    pub fn failed(&self, tool: Tool) -> bool {
        self.failures.contains_key(&tool)
    }

    fn median(&self, tool: Tool, value: impl Fn(&Used) -> f64) -> Option<f64> {
        let runs = self.runs.get(&tool)?;
        Some(Samples(runs.iter().map(|(used, _)| value(used)).collect()).median())
    }

    fn wall(&self, tool: Tool) -> Option<f64> {
        self.median(tool, |used| used.wall)
    }

    fn result(&self, tool: Tool) -> Option<f64> {
        self.runs.get(&tool)?.last()?.1.map(|size| size as f64)
    }

    fn floor(&self, stage: impl Fn(&Floor) -> f64) -> f64 {
        Samples(self.floors.iter().map(stage).collect()).median()
    }

    /// The image's part of the JSON line.
    pub fn json(&self) -> Value {
        let own = |value: fn(&Used) -> f64| self.median(Tool::Grus, value);
        let over = |peer| Some(rounded(self.wall(peer)? / self.wall(Tool::Grus)?, 2));
        // The worst, not the median: it is a bound.
        let peaks = self.runs.get(&Tool::Grus).map(|runs| runs.iter().map(|(used, _)| used.anonymous).max());
        let cpu = own(|used| used.cpu).map(|cpu| rounded(cpu / self.floor(Floor::total), 3));
        let written = own(|used| used.written as f64).zip(self.result(Tool::Grus));
        json!({
            "cpu_over_floor": cpu,
            "wall_podman_over_grus": over(Tool::Podman),
            "wall_umoci_chain_over_grus": over(Tool::Umoci),
            "wall_charliecloud_over_grus": over(Tool::Charliecloud),
            "peak_rss_mb": peaks.flatten().map(|bytes| rounded(bytes as f64 / MB, 1)),
            "written_over_result": written.map(|(written, result)| rounded(written / result, 3)),
        })
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {:.0} MB of layers; medians, peaks are the highest",
            self.name,
            self.size as f64 / MB
        )?;
        writeln!(
            f,
            "  {:28} {:>7} {:>7} {:>8} {:>9} {:>8} {:>10} {:>9}  n",
            "", "wall s", "over", "CPU s", "anon MB", "max MB", "written MB", "result MB"
        )?;
        let own = self.wall(Tool::Grus).unwrap_or_default();
        for (tool, runs) in &self.runs {
            let median = |value: fn(&Used) -> f64| self.median(*tool, value).unwrap_or_default();
            let most =
                |value: fn(&Used) -> u64| runs.iter().map(|(used, _)| value(used)).max().unwrap_or(0) as f64;
            let wall = median(|used| used.wall);
            let result = self.result(*tool).map_or("-".to_owned(), |bytes| format!("{:.1}", bytes / MB));
            writeln!(
                f,
                "  {:28} {wall:7.2} {:6.1}x {:8.2} {:9.1} {:8.1} {:10.1} {result:>9}  {}",
                tool.name(),
                wall / own,
                median(|used| used.cpu),
                most(|used| used.anonymous) / MB,
                most(|used| used.resident) / MB,
                median(|used| used.written as f64) / MB,
                runs.len(),
            )?;
        }
        for (tool, why) in &self.failures {
            writeln!(f, "  {:28} failed: {}", tool.name(), why.replace('\n', "\n    "))?;
        }
        let floor = |stage: fn(&Floor) -> f64| self.floor(stage);
        write!(
            f,
            "  floor, CPU s: {:.2} = receive {:.2} + sha256 {:.2} + gunzip {:.2} + zstd-1 {:.2} of {:.0} MB",
            floor(Floor::total),
            floor(|floor| floor.receive),
            floor(|floor| floor.sha256),
            floor(|floor| floor.gunzip),
            floor(|floor| floor.zstd),
            floor(|floor| floor.data as f64) / MB,
        )
    }
}

/// The wall times of all images as SVG.
pub fn figure(results: &[Measured], rounds: usize) -> String {
    let panels: Vec<Panel> = results
        .iter()
        .map(|measured| {
            let bar = |tool: &Tool| Some((tool.name().to_owned(), measured.wall(*tool)?));
            let bars = measured.runs.keys().filter_map(bar).collect();
            Panel { title: format!("{} ({:.0} MB)", measured.name, measured.size as f64 / MB), bars }
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let note = format!(
        "Wall time, median of {rounds}, {cores} cores, registry on the same machine. All but podman end with one \
         SquashFS file."
    );
    figure::draw("Time to pull an image: Grus and its peers", &note, &panels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(wall: f64, file: Option<std::path::PathBuf>) -> Run {
        Run { used: Used { wall, cpu: wall, anonymous: 50_000_000, written: 1100, ..Used::default() }, file }
    }

    #[test]
    fn ratios_and_what_is_absent() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(1000).expect("longer");
        let mut measured = Measured::new("slim", 1);
        for wall in [1.0, 2.0, 9.0] {
            measured.add(Tool::Grus, &run(wall, Some(file.path().into()))).expect("there");
            measured.add(Tool::Podman, &run(4.0 * wall, None)).expect("there");
        }
        measured.add(Tool::Umoci, &run(1.0, None)).expect("there");
        measured.fail(Tool::Umoci, &anyhow::anyhow!("no space"));
        measured.floors.push(Floor { gunzip: 0.5, zstd: 1.0, ..Floor::default() });
        let line = measured.json();
        assert_eq!(line["wall_podman_over_grus"], 4.0);
        assert_eq!(line["cpu_over_floor"], 1.333);
        assert_eq!(line["written_over_result"], 1.1);
        assert_eq!(line["peak_rss_mb"], 50.0);
        assert!(line["wall_umoci_chain_over_grus"].is_null() && measured.failed(Tool::Umoci));
        assert!(line["wall_charliecloud_over_grus"].is_null());
        assert!(measured.to_string().contains("failed: no space"));
    }
}
