//! Owns what the user sees while an image is fetched and converted: on a terminal a line for each layer under way
//! and a total with rate and time left, elsewhere a plain line for each layer done. All of it goes to standard
//! error; results go to standard output.

use std::io::{self, IsTerminal, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use grus_squash::{LayerSource, Observer};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::build::Layer;
use crate::output;
use crate::registry::{self, RegistryError};

const TOTAL: &str =
    "{prefix} {bar:20} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left, {msg}";
const TOTAL_UNSIZED: &str = "{prefix} {spinner} {decimal_bytes} {decimal_bytes_per_sec}, {msg}";
const LAYER: &str = "  {prefix} {bar:20} {decimal_bytes}/{decimal_total_bytes}";
const LAYER_UNSIZED: &str = "  {prefix} {spinner} {decimal_bytes}";

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Moving lines on a terminal, plain lines elsewhere.
    Full,
    /// Nothing.
    Silent,
}

/// The progress of one image.
pub struct Progress {
    lines: Lines,
    layers: Vec<Known>,
}

/// What is known of a layer.
struct Known {
    name: String,
    size: u64,
    seen: AtomicU64,
    done: AtomicBool,
    bar: OnceLock<ProgressBar>,
}

enum Lines {
    Terminal { all: MultiProgress, total: ProgressBar, done: AtomicU64 },
    Plain(Mutex<u64>),
    Silent,
}

impl Progress {
    /// For layers of these names (digests) and sizes in bytes (0: unknown), bottom first.
    pub fn new(style: Style, title: &str, layers: impl IntoIterator<Item = (String, u64)>) -> Self {
        let layers: Vec<Known> = layers
            .into_iter()
            .map(|(name, size)| Known {
                name,
                size,
                seen: AtomicU64::new(0),
                done: AtomicBool::new(false),
                bar: OnceLock::new(),
            })
            .collect();
        let lines = match style {
            Style::Silent => Lines::Silent,
            Style::Full if io::stderr().is_terminal() => terminal(title, &layers),
            Style::Full => Lines::Plain(Mutex::new(0)),
        };
        Self { lines, layers }
    }

    /// Takes the moving lines away.
    pub fn clear(&self) {
        if let Lines::Terminal { all, .. } = &self.lines {
            // Nothing to be done about a terminal that is gone.
            let _ = all.clear();
        }
    }

    fn read(&self, layer: usize, n: u64) {
        let Some(known) = self.layers.get(layer) else { return };
        if known.done.load(Ordering::Relaxed) {
            return;
        }
        let before = known.seen.fetch_add(n, Ordering::Relaxed);
        // A connection taken up again may bring bytes twice.
        let n = if known.size > 0 { n.min(known.size.saturating_sub(before)) } else { n };
        if let Lines::Terminal { all, total, .. } = &self.lines {
            let bar = known.bar.get_or_init(|| all.insert_before(total, layer_bar(known)));
            bar.inc(n);
            total.inc(n);
        }
    }

    fn done(&self, layer: usize) {
        let Some(known) = self.layers.get(layer) else { return };
        // A layer that is read again was done before.
        if known.done.swap(true, Ordering::Relaxed) {
            return;
        }
        match &self.lines {
            Lines::Silent => {}
            Lines::Terminal { all, total, done } => {
                if let Some(bar) = known.bar.get() {
                    bar.finish_and_clear();
                    all.remove(bar);
                }
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                total.set_message(format!("{done}/{} layers", self.layers.len()));
            }
            Lines::Plain(done) => {
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                *done += 1;
                let bytes = output::bytes(known.seen.load(Ordering::Relaxed));
                output::note(&format!("layer {} of {}: {} ({bytes})", done, self.layers.len(), known.name));
            }
        }
    }
}

fn terminal(title: &str, layers: &[Known]) -> Lines {
    let all = MultiProgress::new();
    let size = layers.iter().map(|l| l.size).sum::<u64>();
    let known = layers.iter().all(|l| l.size > 0);
    let total = all.add(bar(if known { Some(size) } else { None }, TOTAL, TOTAL_UNSIZED));
    total.set_prefix(title.to_owned());
    total.set_message(format!("0/{} layers", layers.len()));
    Lines::Terminal { all, total, done: AtomicU64::new(0) }
}

fn layer_bar(known: &Known) -> ProgressBar {
    let bar = bar((known.size > 0).then_some(known.size), LAYER, LAYER_UNSIZED);
    bar.set_prefix(short(&known.name));
    bar
}

fn bar(size: Option<u64>, sized: &str, unsized_: &str) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), sized),
        None => (ProgressBar::new_spinner(), unsized_),
    };
    // The templates are constants, tried by a test; the default style would do otherwise.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> "))
}

fn short(name: &str) -> String {
    name.strip_prefix("sha256:").map_or(name, |hex| &hex[..hex.len().min(12)]).to_owned()
}

impl registry::Progress for Progress {
    fn bytes(&self, layer: usize, n: u64) {
        self.read(layer, n);
    }

    fn restarted(&self, _layer: usize, _at: u64, why: &RegistryError) {
        self.note(&format!("{why}; trying again"));
    }

    fn finished(&self, layer: usize) {
        self.done(layer);
    }

    fn note(&self, text: &str) {
        match &self.lines {
            Lines::Silent => {}
            Lines::Terminal { all, .. } => all.suspend(|| output::note(text)),
            Lines::Plain(_) => output::note(text),
        }
    }
}

impl Observer for Progress {}

/// The layers, so that reading them moves `progress`.
pub fn watched(layers: Vec<Layer>, progress: &Arc<Progress>) -> Vec<Layer> {
    let watch = |(index, layer): (usize, Layer)| {
        let source = Arc::new(Watched { source: layer.source, index, progress: progress.clone() });
        Layer { source, ..layer }
    };
    layers.into_iter().enumerate().map(watch).collect()
}

struct Watched {
    source: Arc<dyn LayerSource>,
    index: usize,
    progress: Arc<Progress>,
}

impl LayerSource for Watched {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let reader = self.source.open()?;
        Ok(Box::new(Counting { reader, index: self.index, progress: self.progress.clone(), ended: false }))
    }

    fn name(&self) -> String {
        self.source.name()
    }
}

struct Counting {
    reader: Box<dyn Read + Send>,
    index: usize,
    progress: Arc<Progress>,
    ended: bool,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        match n {
            0 if !buffer.is_empty() && !self.ended => {
                self.ended = true;
                self.progress.done(self.index);
            }
            n => self.progress.read(self.index, n as u64),
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_sound() {
        let layers = [Known {
            name: "x".into(),
            size: 1,
            seen: AtomicU64::new(0),
            done: AtomicBool::new(false),
            bar: OnceLock::new(),
        }];
        for template in [TOTAL, TOTAL_UNSIZED, LAYER, LAYER_UNSIZED] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        assert!(matches!(terminal("t", &layers), Lines::Terminal { .. }));
    }
}
