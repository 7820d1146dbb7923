//! Owns layers as the registry has them, kept in `layers/sha256/<hex>` so that a pull goes on where another one
//! ended, or finds a sibling image's layers. Bytes here are never trusted: the registry client checks whoever
//! reads them against the digest, together with what it fetches.
//!
//! Keeping costs as many bytes as the image itself. So by default it is done only where fetching again would
//! cost more: a pull that turns out to be fast forgets them, and one that succeeds needs them no longer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use grus_core::digest::Digest;
use grus_squash::LayerSource;

use super::Repository;
use crate::failure::Failure;
use crate::image::Layer;
use crate::interrupt;
use crate::section::Section;

/// A pull that will take less than this is not worth being resumed.
const SHORT: Duration = Duration::from_secs(30);

/// The part of all bytes that is kept before the speed is judged, in percent.
const TRIAL: u64 = 4;

/// Layers of a pull that was never taken up again are swept after this.
const STALE: Duration = Duration::from_secs(7 * 86400);

/// Which layers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Keep {
    /// Those of a slow pull until it has succeeded
    Auto,
    /// All, for other images that share them
    Always,
    /// None
    Never,
}

/// The beginning of a layer that is here: its length, and its bytes.
pub type Start = Option<(u64, Arc<dyn LayerSource>)>;

/// The kept layers of one image on its way.
pub struct Kept {
    dir: PathBuf,
    layers: Vec<(Digest, u64)>,
    state: Arc<State>,
}

struct State {
    mode: Keep,
    /// Bytes to be fetched in all.
    total: u64,
    start: Instant,
    written: AtomicU64,
    stopped: AtomicBool,
}

impl Repository {
    /// The kept layers of an image with these layers (digest and size).
    pub fn kept(&self, mode: Keep, layers: &[(Digest, u64)]) -> Kept {
        let dir = self.layers();
        let have = |(digest, _): &(Digest, u64)| fs::metadata(dir.join(digest.hex())).map_or(0, |m| m.len());
        let total = layers.iter().map(|layer| layer.1.saturating_sub(have(layer))).sum();
        let state = State {
            mode,
            total,
            start: Instant::now(),
            written: AtomicU64::new(0),
            stopped: AtomicBool::new(mode == Keep::Never),
        };
        Kept { dir, layers: layers.to_vec(), state: Arc::new(state) }
    }

    /// Removes kept layers: all of them, or those that nobody took up for long.
    pub fn sweep_layers(&self, all: bool) {
        for entry in fs::read_dir(self.layers()).into_iter().flatten().flatten() {
            let modified = entry.metadata().and_then(|m| m.modified());
            let old =
                modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > STALE));
            if all || old {
                // Left for the next time if it fails.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn layers(&self) -> PathBuf {
        self.root().join("layers/sha256")
    }
}

impl Kept {
    /// The beginning of each layer that is here: its length, and its bytes. The files are opened now, so that
    /// another command's cleaning up does not disturb.
    pub fn held(&self) -> Vec<Start> {
        let open = |(digest, size): &(Digest, u64)| -> Start {
            let path = self.dir.join(digest.hex());
            let file = File::open(&path).ok()?;
            let len = file.metadata().ok().filter(|m| m.is_file() && m.len() > 0)?.len();
            if len > *size {
                // Not what it says; a new one takes its place.
                let _ = fs::remove_file(&path);
                return None;
            }
            Some((len, Arc::new(Beginning { file, len, name: digest.to_string() })))
        };
        self.layers.iter().map(open).collect()
    }

    /// Runs `make` with what is held, once more without it where it may be what is damaged (a power cut), and
    /// removes what has served or is wrong.
    pub fn used<T>(&self, make: impl Fn(Vec<Start>) -> Result<T, Failure>) -> Result<T, Failure> {
        let held = self.held();
        let some = held.iter().any(Option::is_some);
        let made = match make(held) {
            Err(failure) if some && failure.exit_code() == 65 => {
                self.forget();
                make(vec![])
            }
            made => made,
        };
        match &made {
            Ok(_) => self.succeeded(),
            // What is wrong stays wrong.
            Err(failure) if failure.exit_code() == 65 => self.forget(),
            Err(_) => {}
        }
        made
    }

    /// The layers, kept while they are read.
    pub fn keeping(&self, layers: Vec<Layer>) -> Vec<Layer> {
        if self.state.mode == Keep::Never || fs::create_dir_all(&self.dir).is_err() {
            return layers;
        }
        let keep = |layer: Layer| {
            let path = self.dir.join(layer.digest.hex());
            let source = Arc::new(Keeping { source: layer.source, path, state: self.state.clone() });
            Layer { source, ..layer }
        };
        layers.into_iter().map(keep).collect()
    }

    /// The image is in place: its layers have served, unless they are kept for others.
    fn succeeded(&self) {
        if self.state.mode != Keep::Always {
            self.forget();
        }
    }

    /// Removes the image's layers.
    fn forget(&self) {
        for (digest, _) in &self.layers {
            // One that cannot be removed is swept by age.
            let _ = fs::remove_file(self.dir.join(digest.hex()));
        }
    }
}

impl State {
    /// Counts `n` bytes about to be kept; false from the moment it is clear that keeping does not pay.
    fn goes_on(&self, n: u64) -> bool {
        if self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        let written = self.written.fetch_add(n, Ordering::Relaxed) + n;
        if self.mode == Keep::Auto && written > self.total * TRIAL / 100 {
            let expected = self.start.elapsed().as_secs_f64() * self.total as f64 / written as f64;
            if expected < SHORT.as_secs_f64() {
                self.stopped.store(true, Ordering::Relaxed);
                return false;
            }
        }
        true
    }
}

/// A layer's beginning in a file.
struct Beginning {
    file: File,
    len: u64,
    name: String,
}

impl LayerSource for Beginning {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Section::new(self.file.try_clone()?, 0, Some(self.len))))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// A layer that is written to its file while it is read.
struct Keeping {
    source: Arc<dyn LayerSource>,
    path: PathBuf,
    state: Arc<State>,
}

impl LayerSource for Keeping {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let reader = self.source.open()?;
        let file = open(&self.path).ok();
        let from = file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        let path = self.path.clone();
        interrupt::temporary()
            .insert_unless(path.clone(), |path| fs::metadata(path).is_ok_and(|m| m.len() > 0));
        Ok(Box::new(Copying { reader, file, from, at: 0, path, state: self.state.clone() }))
    }

    fn name(&self) -> String {
        self.source.name()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)
}

struct Copying {
    reader: Box<dyn Read + Send>,
    file: Option<File>,
    /// What the file had when it was opened; only what comes after is written.
    from: u64,
    at: u64,
    path: PathBuf,
    state: Arc<State>,
}

impl Drop for Copying {
    fn drop(&mut self) {
        interrupt::temporary().remove(&self.path);
    }
}

impl Read for Copying {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        let begin = self.at;
        self.at += n as u64;
        if let Some(file) = self.file.as_ref().filter(|_| self.at > self.from) {
            let skip = usize::try_from(self.from.saturating_sub(begin)).unwrap_or(n).min(n);
            let new = &buffer[skip..n];
            // Two pulls of one layer write the same bytes to the same places. A full disk ends the keeping, not
            // the pull, and gives its bytes back.
            let goes_on = self.state.goes_on(new.len() as u64);
            if !goes_on || file.write_all_at(new, begin + skip as u64).is_err() {
                let _ = fs::remove_file(&self.path);
                self.file = None;
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl LayerSource for Bytes {
        fn open(&self) -> io::Result<Box<dyn Read + Send>> {
            Ok(Box::new(io::Cursor::new(self.0.clone())))
        }
        fn name(&self) -> String {
            "bytes".into()
        }
    }

    fn layer(bytes: &[u8]) -> Layer {
        let digest = crate::digest::digest_of(bytes);
        Layer { digest, size: bytes.len() as u64, source: Arc::new(Bytes(bytes.to_vec())) }
    }

    fn read(kept: &Kept, layer: Layer, n: u64) {
        let layers = kept.keeping(vec![layer]);
        let mut out = vec![];
        layers[0].source.open().expect("open").take(n).read_to_end(&mut out).expect("read");
    }

    #[test]
    fn what_was_read_is_held_and_completed() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::new(dir.path(), false);
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let of = [(crate::digest::digest_of(&bytes), bytes.len() as u64)];
        read(&repository.kept(Keep::Always, &of), layer(&bytes), 70_000);
        let kept = repository.kept(Keep::Always, &of);
        let (len, source) = kept.held().remove(0).expect("a beginning");
        assert_eq!(len, 70_000);
        read(&kept, layer(&bytes), u64::MAX);
        let mut held = vec![];
        source.open().expect("open").read_to_end(&mut held).expect("read");
        assert!(held == bytes[..70_000], "what was held when it was asked for");
        assert_eq!(fs::read(kept.dir.join(of[0].0.hex())).expect("file"), bytes);
        kept.succeeded();
        assert!(kept.held()[0].is_some(), "kept for others");
        repository.sweep_layers(true);
        assert!(kept.held()[0].is_none());
    }

    #[test]
    fn a_fast_pull_keeps_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::new(dir.path(), false);
        let bytes = vec![7; 1 << 20];
        let of = [(crate::digest::digest_of(&bytes), bytes.len() as u64)];
        for mode in [Keep::Auto, Keep::Never] {
            let kept = repository.kept(mode, &of);
            read(&kept, layer(&bytes), u64::MAX);
            assert!(kept.held()[0].is_none(), "{mode:?}");
        }
    }
}
