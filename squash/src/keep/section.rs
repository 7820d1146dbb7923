//! Owns the writing of one layer's record: entries are taken while the layer is read, places are known once
//! the writer has everything before the layer's end in the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zstd::stream::write::Encoder;

use super::place::{self, Place, Tail};
use super::{entry, Head, LayerId, HEAD, MAX_RECORD};
use crate::store::{Layout, Stored, NO_EXTENT, NO_FRAGMENT};
use crate::tar::Entry;

/// Fast, and small enough: under one per cent of the image.
const LEVEL: i32 = 1;

/// A layer being read.
pub(crate) struct SectionBuilder {
    id: LayerId,
    entries: Encoder<'static, Vec<u8>>,
    data: Vec<Option<Stored>>,
}

/// A layer that was read to its end.
pub(crate) struct Section {
    id: LayerId,
    entries: Vec<u8>,
    /// Of each file with content, in the layer's order; None if it was not kept.
    data: Vec<Option<Stored>>,
}

impl SectionBuilder {
    pub(crate) fn new(id: LayerId) -> io::Result<SectionBuilder> {
        Ok(SectionBuilder { id, entries: Encoder::new(Vec::new(), LEVEL)?, data: Vec::new() })
    }

    /// The next entry, as the archive has it.
    pub(crate) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        entry::write(&mut self.entries, entry)
    }

    /// What became of the last entry's content, which has `size` bytes.
    pub(crate) fn content(&mut self, size: u64, stored: Option<Stored>) {
        let is_there = |stored: &Stored| {
            stored.size == size && (stored.extent, stored.fragment) != (NO_EXTENT, NO_FRAGMENT)
        };
        self.data.push(stored.filter(is_there));
    }

    pub(crate) fn finish(self) -> io::Result<Section> {
        Ok(Section { id: self.id, entries: self.entries.finish()?, data: self.data })
    }
}

/// Appends the record of a layer whose content is all in the file; where the next one goes. One beyond
/// the format's ceilings is left out.
pub(crate) fn write(index: &File, at: u64, section: &Section, layout: &Layout) -> io::Result<u64> {
    let mut places = Encoder::new(Vec::new(), LEVEL)?;
    for stored in &section.data {
        place::write(&mut places, stored.map(|stored| place_of(&stored, layout)).as_ref())?;
    }
    let places = places.finish()?;
    let (Ok(entries_len), Ok(places_len)) =
        (u32::try_from(section.entries.len()), u32::try_from(places.len()))
    else {
        return Ok(at);
    };
    let mut head = Head {
        entries: entries_len,
        places: places_len,
        missing: section.data.iter().filter(|stored| stored.is_none()).count() as u32,
        id: section.id,
        hash: [0; 16],
    };
    if head.len() > MAX_RECORD {
        return Ok(at);
    }
    head.hash = head.sum(&section.entries, &places);
    let mut record = head.to_bytes();
    record.reserve(section.entries.len() + places.len());
    record.extend_from_slice(&section.entries);
    record.extend(places);
    index.write_all_at(&record, at)?;
    debug_assert_eq!(record.len() as u64, HEAD + head.len());
    Ok(at + record.len() as u64)
}

fn place_of(stored: &Stored, layout: &Layout) -> Place {
    let tail = (stored.fragment != NO_FRAGMENT).then(|| {
        let (start, word) = layout.fragments[stored.fragment as usize];
        Tail { start, word, offset: stored.offset }
    });
    if stored.extent == NO_EXTENT {
        return Place { hash: stored.hash, tail, ..Place::default() };
    }
    let extent = layout.files[stored.extent as usize];
    Place {
        hash: layout.keys[stored.extent as usize],
        start: extent.start,
        words: layout.blocks(&extent).to_vec(),
        tail,
    }
}
