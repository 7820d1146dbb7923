//! Owns what becomes of one entry of a layer: its record, its content in the store or skipped, and the limits that
//! it is charged against.

use super::{Pass, Taken};
use crate::error::LimitKind;
use crate::fault::Fault;
use crate::layer::LayerReader;
use crate::merge::path::{self, Marker};
use crate::merge::record::{Body, Meta, Record, NO_XATTRS};
use crate::merge::shadow::Shadow;
use crate::store::Stored;
use crate::tar::{Entry, Kind};

/// Markers have no inode.
const NO_META: Meta = Meta { mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: NO_XATTRS };

impl<'a> Pass<'_, 'a> {
    /// Records an entry, and stores its data unless they seem hidden.
    pub(super) fn take(
        &mut self,
        layer: usize,
        mut entry: Entry,
        tar: &mut LayerReader<'a>,
        path: &mut Vec<u8>,
        shadow: &Shadow,
    ) -> Taken {
        let limits = &self.options.limits;
        self.entries += 1;
        if self.entries > limits.entries {
            return Err(LimitKind::Entries(limits.entries).into());
        }
        path::plain(&entry.path, limits, path)?;
        let marker = path::marker(path, entry.kind)?;
        let body = match marker {
            Marker::Bookkeeping => return Ok(None),
            Marker::Whiteout => Body::Whiteout,
            Marker::Opaque => Body::Opaque,
            Marker::None => self.body(layer, &mut entry, tar, path, shadow)?,
        };
        let meta = if marker == Marker::None { self.meta(&mut entry)? } else { NO_META };
        self.charge((path.len() + size_of::<Record>()) as u64)?;
        let record = &mut self.records[layer];
        let path = record.keep(path);
        record.entries.push(Record { path, meta, body });
        Ok(body.data())
    }

    fn body(
        &mut self,
        layer: usize,
        entry: &mut Entry,
        tar: &mut LayerReader<'a>,
        path: &[u8],
        shadow: &Shadow,
    ) -> Result<Body, Fault> {
        let limits = &self.options.limits;
        let (major, minor) = entry.device;
        // new_encode_dev() of the kernel.
        let device = (minor & 0xff) | major << 8 | (minor & !0xff) << 12;
        Ok(match entry.kind {
            Kind::Dir => Body::Dir,
            Kind::Char => Body::Char(device),
            Kind::Block => Body::Block(device),
            Kind::Fifo => Body::Fifo,
            Kind::File => Body::File(self.content(layer, entry.size, tar, shadow.hides(path))?),
            Kind::Symlink => {
                path::link(&entry.link, limits)?;
                self.charge(entry.link.len() as u64)?;
                Body::Symlink(self.records[layer].keep(&entry.link))
            }
            Kind::HardLink => {
                let mut target = Vec::new();
                path::plain(&entry.link, limits, &mut target)?;
                self.charge(target.len() as u64)?;
                Body::HardLink(self.records[layer].keep(&target))
            }
        })
    }

    /// Stores a file's content or skips it; the number of its data.
    fn content(
        &mut self,
        layer: usize,
        size: u64,
        tar: &mut LayerReader<'a>,
        hidden: bool,
    ) -> Result<u32, Fault> {
        let limits = &self.options.limits;
        self.total_size = self.total_size.saturating_add(size);
        if self.total_size > limits.total_size {
            return Err(LimitKind::TotalSize(limits.total_size).into());
        }
        let number = self.data.len() as u32;
        if hidden && size > 0 {
            self.summary.hidden_bytes += size;
            self.skipped.insert(number, (layer, self.records[layer].entries.len() as u32));
            self.data.push(Stored::nowhere(size));
        } else {
            // A hole costs nothing in the stream, but four bytes a block in memory.
            self.charge(size / u64::from(self.options.block_size) * 4)?;
            let stored = self.store.file(size, tar, &|| !self.observer.cancelled())?;
            self.data.push(stored);
        }
        Ok(number)
    }

    fn meta(&mut self, entry: &mut Entry) -> Result<Meta, Fault> {
        let limit = self.options.limits.xattr_value.min(65536);
        let mut bytes = 0;
        for (name, value) in &entry.xattrs {
            if value.len() > limit {
                return Err(LimitKind::XattrValue(limit).into());
            }
            bytes += name.len() + value.len();
        }
        self.charge(bytes as u64)?;
        self.xattrs.dropped_acls += entry.text_acls;
        let mtime = entry.mtime.min(self.options.clamp_mtime.unwrap_or(u32::MAX));
        self.newest = self.newest.max(mtime);
        let xattrs = self.xattrs.number(std::mem::take(&mut entry.xattrs));
        // A symlink has no mode of its own on Linux (symlink(7)); archives state all sorts.
        let mode = if entry.kind == Kind::Symlink { 0o777 } else { entry.mode };
        Ok(Meta { mode, uid: entry.uid, gid: entry.gid, mtime, xattrs })
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Fault> {
        self.metadata_size += bytes;
        let limit = self.options.limits.metadata_size.min(u64::from(u32::MAX));
        if self.metadata_size > limit {
            return Err(LimitKind::MetadataSize(limit).into());
        }
        Ok(())
    }
}
