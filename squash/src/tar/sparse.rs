//! Owns the maps of sparse files: where data lies in the file; the rest is holes.

use std::io::BufRead;

use super::header::{number, Header, BLOCK};
use crate::error::{LimitKind, TarFault};
use crate::fault::Fault;

/// Data segments of a sparse file, ascending, none empty.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseMap {
    segments: Vec<(u64, u64)>,
    next: usize,
}

impl SparseMap {
    /// Checks offset-length pairs against the file's size and the bytes the archive stores for it.
    pub(super) fn new(pairs: &[u64], size: u64, stored: u64) -> Result<SparseMap, TarFault> {
        let mut segments = Vec::with_capacity(pairs.len() / 2);
        let (mut end, mut total) = (0u64, 0u64);
        for pair in pairs.chunks(2) {
            let &[offset, length] = pair else { return Err(TarFault::Sparse) };
            let stop = offset.checked_add(length).ok_or(TarFault::Sparse)?;
            if offset < end || stop > size {
                return Err(TarFault::Sparse);
            }
            end = stop;
            total += length;
            if length > 0 {
                segments.push((offset, length));
            }
        }
        if total != stored {
            return Err(TarFault::Sparse);
        }
        Ok(SparseMap { segments, next: 0 })
    }

    /// Zero bytes from `position` to the next data or the end.
    pub(super) fn hole_ahead(&mut self, position: u64, size: u64) -> u64 {
        while let Some(&(offset, length)) = self.segments.get(self.next) {
            if position < offset + length {
                return offset.saturating_sub(position);
            }
            self.next += 1;
        }
        size - position
    }

    /// Data bytes from `position` to the next hole. Only after `hole_ahead` gave 0 there.
    pub(super) fn data_ahead(&self, position: u64) -> u64 {
        self.segments.get(self.next).map_or(0, |&(offset, length)| offset + length - position)
    }
}

/// Old GNU (`S`): four pairs in the header, 21 more in each block after it while a flag says so.
/// Returns the pairs and the real size.
pub(super) fn old_gnu<R: BufRead>(
    header: &Header,
    input: &mut R,
    max_segments: usize,
) -> Result<(Vec<u64>, u64), Fault> {
    let mut pairs = Vec::new();
    let real_size = number(&header.0[483..495]).and_then(|n| u64::try_from(n).ok());
    take_pairs(&header.0[386..482], &mut pairs)?;
    let mut more = header.0[482] != 0;
    while more {
        let mut block = [0; BLOCK];
        super::read_full(input, &mut block)?;
        take_pairs(&block[..504], &mut pairs)?;
        more = block[504] != 0;
        if pairs.len() / 2 > max_segments {
            return Err(LimitKind::SparseSegments(max_segments).into());
        }
    }
    Ok((pairs, real_size.ok_or(TarFault::Number("realsize"))?))
}

fn take_pairs(fields: &[u8], pairs: &mut Vec<u64>) -> Result<(), TarFault> {
    for field in fields.chunks_exact(24) {
        if field[12] == 0 {
            return Ok(()); // unused slots are NUL
        }
        for half in field.chunks_exact(12) {
            let value = number(half).and_then(|n| u64::try_from(n).ok());
            pairs.push(value.ok_or(TarFault::Number("sparse map"))?);
        }
    }
    Ok(())
}

/// PAX 1.0: the map stands before the data, as decimal lines, padded to a block. Takes what it reads off
/// `stored`.
pub(super) fn pax_1_0<R: BufRead>(
    input: &mut R,
    stored: &mut u64,
    max_segments: usize,
) -> Result<Vec<u64>, Fault> {
    let mut numbers = Vec::new();
    let mut wanted = None;
    let mut digits = Vec::new();
    loop {
        let mut block = [0; BLOCK];
        *stored = stored.checked_sub(BLOCK as u64).ok_or(TarFault::Sparse)?;
        super::read_full(input, &mut block)?;
        for &b in &block {
            if b != b'\n' {
                if digits.len() == 20 {
                    return Err(TarFault::Sparse.into());
                }
                digits.push(b);
                continue;
            }
            let value = super::pax::decimal(&digits, "sparse map")?.ok_or(TarFault::Sparse)?;
            digits.clear();
            match wanted {
                None if value > max_segments as u64 => {
                    return Err(LimitKind::SparseSegments(max_segments).into());
                }
                None => wanted = Some(value as usize * 2),
                Some(_) => numbers.push(value),
            }
            if wanted == Some(numbers.len()) {
                return Ok(numbers);
            }
        }
    }
}
