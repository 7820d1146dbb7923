//! Owns an archive's entry as bytes of the index, exactly as the tar reader gave it.

use std::io::{self, Read, Write};

use super::damaged;
use crate::tar::{Entry, Kind};

const KINDS: [Kind; 7] =
    [Kind::File, Kind::HardLink, Kind::Symlink, Kind::Char, Kind::Block, Kind::Dir, Kind::Fifo];

/// Most attributes of one entry; each takes at least ten bytes of a PAX header.
const MAX_XATTRS: u64 = 1 << 20;

pub(super) fn write(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let kind = KINDS.iter().position(|kind| *kind == entry.kind).unwrap_or(0);
    let mut bytes = vec![kind as u8];
    bytes.extend(entry.mode.to_le_bytes());
    for word in [entry.uid, entry.gid, entry.mtime, entry.device.0, entry.device.1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(entry.size.to_le_bytes());
    bytes.extend(entry.text_acls.to_le_bytes());
    bytes.extend((entry.xattrs.len() as u64).to_le_bytes());
    out.write_all(&bytes)?;
    write_bytes(out, &entry.path)?;
    write_bytes(out, &entry.link)?;
    for (name, value) in &entry.xattrs {
        write_bytes(out, name)?;
        write_bytes(out, value)?;
    }
    Ok(())
}

/// The next entry, None at the end. No text in it is longer than `max`.
pub(super) fn read(from: &mut impl Read, max: u64) -> io::Result<Option<Entry>> {
    let mut kind = [0];
    loop {
        match from.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let kind = *KINDS.get(usize::from(kind[0])).ok_or_else(|| damaged("unknown kind of entry"))?;
    let mut mode = [0; 2];
    from.read_exact(&mut mode)?;
    let (uid, gid, mtime) = (read_u32(from)?, read_u32(from)?, read_u32(from)?);
    let device = (read_u32(from)?, read_u32(from)?);
    let (size, text_acls, count) = (read_u64(from)?, read_u64(from)?, read_u64(from)?);
    let mode = u16::from_le_bytes(mode);
    // What the tar reader promises of its entries.
    if count > MAX_XATTRS || mode > 0o7777 || device.0 >= 1 << 12 || device.1 >= 1 << 20 {
        return Err(damaged("an entry is out of range"));
    }
    let mut entry = Entry {
        path: read_bytes(from, max)?,
        link: read_bytes(from, max)?,
        kind,
        mode,
        uid,
        gid,
        mtime,
        device,
        size,
        xattrs: Vec::new(),
        text_acls,
    };
    for _ in 0..count {
        entry.xattrs.push((read_bytes(from, max)?, read_bytes(from, max)?));
    }
    Ok(Some(entry))
}

fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(bytes)
}

fn read_bytes(from: &mut impl Read, max: u64) -> io::Result<Vec<u8>> {
    let len = u64::from(read_u32(from)?);
    if len > max {
        return Err(damaged("text too long"));
    }
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

pub(super) fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
