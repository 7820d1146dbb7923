//! Owns the choice of what a layer is read from: its source's tar stream, or an earlier image that has it.
//! Both give the same entries and contents, so nothing behind can tell them apart.

use std::io::BufRead;
use std::sync::Arc;

use crate::decode::{self, Counters};
use crate::error::Error;
use crate::fault::Fault;
use crate::keep::{KeptLayer, KeptReader};
use crate::limits::Limits;
use crate::source::LayerSource;
use crate::tar::{Content, Entry, TarReader};

type Tar<'a> = TarReader<'a, Box<dyn BufRead + Send>>;

/// A layer being read.
pub(crate) enum LayerReader<'a> {
    Stream(Box<Tar<'a>>, Arc<Counters>),
    Kept(Box<KeptReader<'a>>),
}

impl<'a> LayerReader<'a> {
    /// Opens the layer in an earlier image, where one is given, else its source.
    pub(crate) fn open(
        source: &dyn LayerSource,
        kept: Option<&KeptLayer>,
        limits: &'a Limits,
        ahead: bool,
    ) -> Result<LayerReader<'a>, Error> {
        if let Some(kept) = kept {
            let reader = KeptReader::open(kept, limits)
                .map_err(|e| Error::Kept { layer: source.name(), source: e })?;
            return Ok(LayerReader::Kept(Box::new(reader)));
        }
        let (stream, counters) = decode::open(source, limits, ahead)?;
        Ok(LayerReader::Stream(Box::new(TarReader::new(stream, limits)), counters))
    }

    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        match self {
            LayerReader::Stream(tar, _) => tar.next(),
            LayerReader::Kept(kept) => kept.next(),
        }
    }

    /// Bytes unpacked so far.
    pub(crate) fn unpacked(&self) -> u64 {
        match self {
            LayerReader::Stream(_, counters) => counters.unpacked(),
            LayerReader::Kept(kept) => kept.unpacked(),
        }
    }

    /// Whether the source failed, not what decodes it.
    pub(crate) fn source_failed(&self) -> bool {
        match self {
            LayerReader::Stream(_, counters) => counters.source_failed(),
            LayerReader::Kept(_) => false,
        }
    }
}

impl Content for LayerReader<'_> {
    fn hole_ahead(&mut self) -> u64 {
        match self {
            LayerReader::Stream(tar, _) => tar.hole_ahead(),
            LayerReader::Kept(kept) => kept.hole_ahead(),
        }
    }

    fn skip_hole(&mut self, bytes: u64) {
        match self {
            LayerReader::Stream(tar, _) => tar.skip_hole(bytes),
            LayerReader::Kept(kept) => kept.skip_hole(bytes),
        }
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), Fault> {
        match self {
            LayerReader::Stream(tar, _) => tar.fill(buf),
            LayerReader::Kept(kept) => kept.fill(buf),
        }
    }
}
