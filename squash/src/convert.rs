//! Owns the pass: layers top first through the store, replay, a second pass where the guess at hidden
//! files was wrong, tables. Correctness and speed are apart: what is skipped while streaming is only a
//! guess, the replay decides.

mod take;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::num::NonZero;
use std::thread::available_parallelism;

use crate::compress::Compressor;
use crate::error::Error;
use crate::fault::{printable, Fault};
use crate::image::{self, Image};
use crate::keep::{self, KeptLayer, Reuse, SectionBuilder};
use crate::layer::LayerReader;
use crate::merge::path::{self, Marker};
use crate::merge::record::LayerRecord;
use crate::merge::replay::replay;
use crate::merge::shadow::Shadow;
use crate::merge::tree::{NodeBody, Tree};
use crate::merge::xattrs::XattrSets;
use crate::options::{Observer, Options, Summary};
use crate::source::LayerSource;
use crate::store::{Store, Stored};
use crate::tar::{Entry, Kind};

/// More threads than this would wait for the one decoder.
const MAX_DEFAULT_WORKERS: usize = 16;
/// From this many workers on, decompression has a thread of its own; with fewer it would only add copying.
const READ_AHEAD_WORKERS: usize = 4;

/// Converts `layers` (bottom first) to a SquashFS file in `out`, which must be empty and open for
/// reading and writing. The caller syncs and publishes the file; after an error it must discard it.
///
/// The same layers and options give the same bytes, whatever the timing, cores or workers.
///
/// Memory: `2 * workers + 64` slots of two blocks (17 MiB with 2 workers), a compressor's state for each
/// worker, one decompressor (up to 128 MiB for a zstd layer made with such a window, else below 1 MiB,
/// with 4 workers and more 2 MiB of read-ahead), and about 370 bytes for each entry of the layers, names
/// included: 25 MB for 70 000 entries. [`crate::Limits`] bounds the latter.
pub fn convert<L: LayerSource>(
    layers: &[L],
    out: &File,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Summary, Error> {
    convert_reusing(layers, &Reuse::default(), out, options, observer)
}

/// Like [`convert`], with the same bytes as its result, but takes layers from where `reuse` says they are
/// kept, if everything needed is there, and leaves an index for later conversions. A kept layer that turns
/// out to be damaged gives [`Error::Kept`]; the caller may then try again without it.
pub fn convert_reusing<L: LayerSource>(
    layers: &[L],
    reuse: &Reuse<'_>,
    out: &File,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Summary, Error> {
    if !options.block_size.is_power_of_two() || !(4096..=1 << 20).contains(&options.block_size) {
        let size = options.block_size;
        return Err(Error::Options(format!(
            "SquashFS has no blocks of {size} bytes\nhint: use a power of two from 4096 to 1048576"
        )));
    }
    Compressor::new(options.compression)?; // a bad level is told before anything is written
    let cores = available_parallelism().map_or(1, NonZero::get);
    let workers = if options.workers > 0 { options.workers } else { cores.min(MAX_DEFAULT_WORKERS) };
    let start = image::begin(out, options.compression)?;
    if let Some(index) = reuse.index {
        keep::begin(index, options.compression, options.block_size).map_err(Error::Write)?;
    }
    std::thread::scope(|scope| {
        let (compression, block_size) = (options.compression, options.block_size);
        let store = Store::start(scope, out, reuse.index, start, compression, block_size, workers)?;
        let layers = layers.iter().map(|layer| layer as &dyn LayerSource).collect();
        let mut pass = Pass::new(layers, reuse, store, options, observer, workers >= READ_AHEAD_WORKERS);
        match pass.read_all().and_then(|()| pass.second_passes()) {
            Ok(time) => pass.finish(out, time),
            Err(Stop::Named(error)) => Err(error),
            Err(Stop::Pipeline) => Err(pass.store.failure()),
        }
    })
}

/// Why a pass ends early.
enum Stop {
    Named(Error),
    /// The store has the reason.
    Pipeline,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Named(error)
    }
}

/// Data that were not stored because they seemed hidden: layer and place in its record.
type Skipped = HashMap<u32, (usize, u32)>;

struct Pass<'scope, 'a> {
    layers: Vec<&'a dyn LayerSource>,
    reuse: &'a Reuse<'a>,
    store: Store<'scope>,
    options: &'a Options,
    observer: &'a dyn Observer,
    ahead: bool,
    /// By layer.
    records: Vec<LayerRecord>,
    /// By number of the data.
    data: Vec<Stored>,
    skipped: Skipped,
    xattrs: XattrSets,
    newest: u32,
    entries: u64,
    total_size: u64,
    metadata_size: u64,
    summary: Summary,
}

impl<'scope, 'a> Pass<'scope, 'a> {
    fn new(
        layers: Vec<&'a dyn LayerSource>,
        reuse: &'a Reuse<'a>,
        store: Store<'scope>,
        options: &'a Options,
        observer: &'a dyn Observer,
        ahead: bool,
    ) -> Self {
        let records = layers.iter().map(|_| LayerRecord::default()).collect();
        Pass {
            layers,
            reuse,
            store,
            options,
            observer,
            ahead,
            records,
            data: Vec::new(),
            skipped: Skipped::new(),
            xattrs: XattrSets::default(),
            newest: 0,
            entries: 0,
            total_size: 0,
            metadata_size: 0,
            summary: Summary::default(),
        }
    }

    /// Every layer once, top first.
    fn read_all(&mut self) -> Result<(), Stop> {
        let mut shadow = Shadow::new(self.options.limits.entries);
        for layer in (0..self.layers.len()).rev() {
            let kept = self.kept(layer, &|_, path| !shadow.hides(path));
            self.read(layer, false, kept, |pass, entry, tar, path| {
                pass.take(layer, entry, tar, path, &shadow)
            })?;
            if layer > 0 {
                shadow.add(&self.records[layer]);
            }
            self.records[layer].names.shrink_to_fit();
            self.records[layer].entries.shrink_to_fit();
        }
        Ok(())
    }

    /// Where the layer is kept with all content that `needed` asks for.
    fn kept(&self, layer: usize, needed: &dyn Fn(u32, &[u8]) -> bool) -> Option<&'a KeptLayer> {
        let kept = self.reuse.kept.get(layer)?;
        kept.iter().find(|kept| kept.covers(&self.options.limits, needed))
    }

    /// Reads a layer to its very end and gives each entry to `take`, which leaves the entry's name in its
    /// last argument for messages, and returns the number of the entry's data.
    fn read(
        &mut self,
        layer: usize,
        again: bool,
        kept: Option<&KeptLayer>,
        mut take: impl FnMut(&mut Self, Entry, &mut LayerReader<'a>, &mut Vec<u8>) -> Taken,
    ) -> Result<(), Stop> {
        self.observer.layer_started(layer, again);
        let source = self.layers[layer];
        let mut reader = LayerReader::open(source, kept, &self.options.limits, self.ahead)?;
        if kept.is_some() {
            self.summary.reused += 1;
            self.observer.layer_reused(layer);
        }
        let mut path = Vec::new();
        let result = self.entries(layer, &mut reader, &mut path, &mut take);
        self.summary.unpacked += if kept.is_none() { reader.unpacked() } else { 0 };
        match result.and_then(|section| self.store.end_layer(section)) {
            Ok(()) => {
                self.observer.layer_finished(layer);
                Ok(())
            }
            Err(Fault::Closed) => Err(Stop::Pipeline),
            Err(fault) => Err(fault.name(&source.name(), &path, reader.source_failed()).into()),
        }
    }

    fn entries(
        &mut self,
        layer: usize,
        reader: &mut LayerReader<'a>,
        path: &mut Vec<u8>,
        take: &mut impl FnMut(&mut Self, Entry, &mut LayerReader<'a>, &mut Vec<u8>) -> Taken,
    ) -> Result<Option<keep::Section>, Fault> {
        let id = self.reuse.index.and_then(|_| self.reuse.ids.get(layer));
        let mut section = id.map(|id| SectionBuilder::new(*id)).transpose()?;
        let mut files = 0;
        while let Some(entry) = reader.next()? {
            if self.observer.cancelled() {
                return Err(Fault::Cancelled);
            }
            files += u64::from(entry.kind == Kind::File);
            path.clone_from(&entry.path);
            let content = (entry.kind == Kind::File && entry.size > 0).then_some(entry.size);
            if let Some(section) = &mut section {
                section.entry(&entry)?;
            }
            let data = take(self, entry, reader, path)?;
            if let (Some(section), Some(size)) = (&mut section, content) {
                section.content(size, data.map(|data| self.data[data as usize]));
            }
            self.observer.progress(layer, reader.unpacked(), files);
        }
        Ok(section.map(SectionBuilder::finish).transpose()?)
    }

    fn time(&self) -> u32 {
        self.options.default_time.unwrap_or(self.newest)
    }

    /// Stores what was skipped but is part of the image after all, such as a file whose name an upper
    /// layer deletes while another name of it lives on. Top first again, for the same bytes every time.
    fn second_passes(&mut self) -> Result<u32, Stop> {
        let mut wanted: BTreeMap<usize, HashMap<u32, u32>> = BTreeMap::new();
        let tree = self.tree(&self.records)?;
        tree.reachable(|node| {
            if let NodeBody::File(data) = node.body {
                if let Some(&(layer, place)) = self.skipped.get(&data) {
                    wanted.entry(layer).or_default().insert(place, data);
                }
            }
        });
        drop(tree);
        for (layer, wanted) in wanted.into_iter().rev() {
            self.summary.second_passes += 1;
            let mut place = 0u32;
            let mut found = 0;
            let kept = self.kept(layer, &|place, _| wanted.contains_key(&place));
            self.read(layer, true, kept, |pass, entry, tar, path| {
                path::plain(&entry.path, &pass.options.limits, path)?;
                if path::marker(path, entry.kind)? == Marker::Bookkeeping {
                    return Ok(None);
                }
                if let Some(&data) = wanted.get(&place) {
                    let record = &pass.records[layer];
                    let same_name = record.name(record.entries[place as usize].path) == path.as_slice();
                    if same_name && entry.kind == Kind::File && entry.size == pass.data[data as usize].size {
                        pass.summary.hidden_bytes -= entry.size;
                        pass.data[data as usize] =
                            pass.store.file(entry.size, tar, &|| !pass.observer.cancelled())?;
                        pass.skipped.remove(&data);
                        found += 1;
                    }
                }
                // A place beyond the record: the layer has changed, and what was wanted is not found.
                let record = pass.records[layer].entries.get(place as usize);
                place += 1;
                Ok(record.and_then(|record| record.body.data()))
            })?;
            if found != wanted.len() {
                return Err(Error::Changed { layer: self.layers[layer].name() }.into());
            }
        }
        Ok(self.time())
    }

    fn tree<'r>(&self, records: &'r [LayerRecord]) -> Result<Tree<'r>, Error> {
        let mut tree = Tree::new(self.time(), &self.options.limits);
        for (source, record) in self.layers.iter().zip(records) {
            replay(&mut tree, record).map_err(|misfit| Error::Merge {
                layer: source.name(),
                path: printable(misfit.path),
                what: misfit.what,
            })?;
        }
        Ok(tree)
    }

    fn finish(mut self, out: &File, time: u32) -> Result<Summary, Error> {
        let records = std::mem::take(&mut self.records);
        let tree = self.tree(&records)?;
        let (layout, duplicate_bytes) = self.store.finish()?;
        let image = Image {
            tree: &tree,
            xattrs: &self.xattrs,
            data: &self.data,
            layout: &layout,
            compression: self.options.compression,
            block_size: self.options.block_size,
            time,
        };
        let written = image.write(out)?;
        let mut summary = self.summary;
        tree.reachable(|node| {
            if let NodeBody::File(data) = node.body {
                summary.files += 1;
                summary.file_bytes += self.data[data as usize].size;
            }
        });
        summary.size = written.size;
        summary.inodes = written.inodes;
        summary.dead_bytes = self.total_size - summary.hidden_bytes - summary.file_bytes;
        summary.duplicate_bytes = duplicate_bytes;
        summary.dropped_acls = self.xattrs.dropped_acls;
        summary.dropped_xattrs = self.xattrs.dropped;
        Ok(summary)
    }
}

/// The number of the data of an entry that has some.
type Taken = Result<Option<u32>, Fault>;
