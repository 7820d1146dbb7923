//! Medians and ratios with their spreads.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use grus_tests::Cluster;
use serde_json::{json, Value};

use super::subject::{Figures, Prepared, Subject, Way};
use crate::figures::{rounded, Samples};

/// The samples of one subject.
pub struct Measured {
    /// What was run.
    pub subject: &'static Subject,
    /// Where it is.
    pub prepared: Prepared,
    figures: BTreeMap<(usize, Way), Vec<Figures>>,
}

/// What is measured: its name, and where it is in the figures.
const KINDS: [(&str, fn(&Figures) -> f64); 3] =
    [("latency_us", |f| f.latency), ("bandwidth_mb_s", |f| f.bandwidth), ("allreduce_us", |f| f.allreduce)];

impl Measured {
    /// Nothing yet.
    pub fn new(subject: &'static Subject, prepared: Prepared) -> Self {
        Self { subject, prepared, figures: BTreeMap::new() }
    }

    /// Adds a run.
    pub fn add(&mut self, way: Way, nodes: usize, figures: Figures) {
        self.figures.entry((nodes, way)).or_default().push(figures);
    }

    fn samples(&self, nodes: usize, way: Way, of: fn(&Figures) -> f64) -> Samples {
        let figures = self.figures.get(&(nodes, way));
        Samples(figures.into_iter().flatten().map(of).collect())
    }

    /// Of runs of the same round: this way over the native one.
    fn over_native(&self, nodes: usize, way: Way, of: fn(&Figures) -> f64) -> Samples {
        let (ours, native) = (self.samples(nodes, way, of), self.samples(nodes, Way::Native, of));
        Samples(ours.0.iter().zip(&native.0).map(|(a, b)| a / b).collect())
    }

    /// The kept facts of the image.
    pub fn facts(&self, cluster: &Cluster) -> Result<Vec<u8>> {
        let file = cluster.system_file(self.subject.image)?.with_extension("elf.json");
        std::fs::read(&file).with_context(|| file.display().to_string())
    }

    /// Medians and spreads.
    pub fn json(&self) -> Value {
        let spread = |s: &Samples, digits| {
            json!({
                "median": rounded(s.median(), digits),
                "p10": rounded(s.quantile(0.1), digits),
                "p90": rounded(s.quantile(0.9), digits),
            })
        };
        let kind = |nodes, (name, of): (&str, fn(&Figures) -> f64)| {
            let mut ways: serde_json::Map<String, Value> = Way::ALL
                .iter()
                .map(|way| (way.label().to_owned(), spread(&self.samples(nodes, *way, of), 3)))
                .collect();
            for way in [Way::Swapped, Way::Unswapped] {
                let ratio = spread(&self.over_native(nodes, way, of), 4);
                ways.insert(format!("{}_over_native", way.label()), ratio);
            }
            (name.to_owned(), Value::Object(ways))
        };
        let on = |nodes| Value::Object(KINDS.iter().map(|k| kind(nodes, *k)).collect());
        json!({"one_node": on(1), "two_nodes": on(2)})
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for nodes in [1, 2] {
            writeln!(f, "{}, two ranks on {nodes} node(s)", self.subject.name)?;
            for (name, of) in KINDS {
                for way in Way::ALL {
                    let label = way.label();
                    write!(f, "  {name:15} {label:10} {}", self.samples(nodes, way, of))?;
                    let ratio = self.over_native(nodes, way, of);
                    match way {
                        Way::Native => writeln!(f)?,
                        _ => writeln!(
                            f,
                            "   over native {:.3} ({:.3} to {:.3})",
                            ratio.median(),
                            ratio.quantile(0.1),
                            ratio.quantile(0.9)
                        )?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// Latency and bandwidth of swapped over native: the medians over all stacks, numbers of nodes and rounds.
pub fn overall(measured: &[Measured]) -> (f64, f64) {
    let all = |of: fn(&Figures) -> f64| {
        let each = measured.iter().flat_map(|m| [1, 2].map(|nodes| m.over_native(nodes, Way::Swapped, of)));
        rounded(Samples(each.flat_map(|s| s.0).collect()).median(), 4)
    };
    (all(KINDS[0].1), all(KINDS[1].1))
}
