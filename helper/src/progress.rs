//! Owns what the user sees while an image is fetched and converted: on a terminal a line for each layer under way
//! and a total with rate and time left, elsewhere a plain line for each layer done. All of it goes to standard
//! error; results go to standard output.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use grus_squash::{LayerSource, Observer};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::{tcgetattr, LocalModes};

use crate::image::Layer;
use crate::interrupt;
use crate::output;
use crate::registry::{self, RegistryError};

// Every line fits into a terminal of 60 columns: one that wraps could not be taken back.
const TOTAL: &str =
    "  {prefix:12!} {wide_bar} {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>11} {eta:>4} left";
const TOTAL_UNSIZED: &str = "  {prefix:12!} {spinner} {decimal_bytes:>9} {decimal_bytes_per_sec:>11}";
const LAYER: &str = "  {prefix:12!} {wide_bar} {decimal_bytes:>9}/{decimal_total_bytes:9}";
const LAYER_UNSIZED: &str = "  {prefix:12!} {spinner} {decimal_bytes:>9}";

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
    /// What each of them is called.
    noun: &'static str,
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
    Terminal { all: MultiProgress, total: ProgressBar, stopped: Arc<AtomicBool> },
    Plain(Mutex<u64>),
    Silent,
}

impl Progress {
    /// For layers of these names (digests) and sizes in bytes (0: unknown), bottom first. `title` says what is
    /// being done to what.
    pub fn new(style: Style, title: &str, layers: impl IntoIterator<Item = (String, u64)>) -> Self {
        Self::of("layer", style, title, layers)
    }

    /// For one file that is fetched.
    pub fn of_file(style: Style, title: &str, name: String, size: u64) -> Self {
        Self::of("file", style, title, [(name, size)])
    }

    fn of(
        noun: &'static str,
        style: Style,
        title: &str,
        layers: impl IntoIterator<Item = (String, u64)>,
    ) -> Self {
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
        if style == Style::Full {
            let size = match layers.iter().map(|l| l.size).sum() {
                0 => String::new(),
                size => format!(", {}", output::bytes(size)),
            };
            let plural = if layers.len() == 1 { "" } else { "s" };
            output::note(&format!("{title}: {} {noun}{plural}{size}", layers.len()));
        }
        let lines = match style {
            Style::Silent => Lines::Silent,
            Style::Full if io::stderr().is_terminal() => terminal(&layers),
            Style::Full => Lines::Plain(Mutex::new(0)),
        };
        Self { lines, layers, noun }
    }

    /// The first `n` bytes of a layer are here already.
    pub fn held(&self, layer: usize, n: u64) {
        self.read(layer, n);
        if self.layers.get(layer).is_some_and(|known| known.size == n) {
            self.done(layer);
        }
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
        if let Lines::Terminal { all, total, stopped } = &self.lines {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            let bar = known.bar.get_or_init(|| layer_bar(all, total, known));
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
            Lines::Terminal { all, .. } => {
                if let Some(bar) = known.bar.get() {
                    bar.finish_and_clear();
                    all.remove(bar);
                }
            }
            Lines::Plain(done) => {
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                *done += 1;
                let bytes = output::bytes(known.seen.load(Ordering::Relaxed));
                let (noun, count) = (self.noun, self.layers.len());
                output::note(&format!("{noun} {done} of {count}: {} ({bytes})", known.name));
            }
        }
    }
}

fn terminal(layers: &[Known]) -> Lines {
    let all = MultiProgress::new();
    let stopped = Arc::new(AtomicBool::new(false));
    let (screen, stop) = (all.clone(), stopped.clone());
    interrupt::set_screen(Box::new(move |by_key| {
        stop.store(true, Ordering::SeqCst);
        // Whoever draws at this moment is done by then. Nothing to be done about a terminal that is gone.
        std::thread::sleep(Duration::from_millis(20));
        if by_key && echoes_keys() {
            // The last line is full, so the terminal's `^C` is on the next one: back from there.
            let _ = io::stderr().lock().write_all(b"\r\x1b[2K\x1b[A");
        }
        let _ = screen.clear();
    }));
    let size = layers.iter().map(|l| l.size).sum::<u64>();
    let known = layers.iter().all(|l| l.size > 0);
    let total = all.add(bar(known.then_some(size), TOTAL, TOTAL_UNSIZED, "total".into()));
    Lines::Terminal { all, total, stopped }
}

/// Whether the terminal shows control characters that are typed, as `^C` (termios(3), ECHOCTL).
fn echoes_keys() -> bool {
    let shown = LocalModes::ECHO | LocalModes::ECHOCTL;
    tcgetattr(io::stderr()).is_ok_and(|modes| modes.local_modes.contains(shown))
}

/// A layer's line, above the total.
fn layer_bar(all: &MultiProgress, total: &ProgressBar, known: &Known) -> ProgressBar {
    let size = (known.size > 0).then_some(known.size);
    all.insert_before(total, bar(size, LAYER, LAYER_UNSIZED, short(&known.name)))
}

/// A line that draws nothing until it has its place among the others.
fn bar(size: Option<u64>, sized: &str, unsized_: &str, prefix: String) -> ProgressBar {
    let template = if size.is_some() { sized } else { unsized_ };
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden());
    // The templates are constants, tried by a test; the default style would do otherwise.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> ")).with_prefix(prefix)
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

impl Observer for Progress {
    fn layer_reused(&self, layer: usize) {
        self.held(layer, self.layers.get(layer).map_or(0, |known| known.size));
    }
}

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
        assert!(matches!(terminal(&layers), Lines::Terminal { .. }));
    }
}
