//! Owns the 512-byte header: fields, numbers, checksum. Formats: v7, ustar, GNU, star.

use crate::error::TarFault;

/// Size of a header and of the blocks data is padded to.
pub(crate) const BLOCK: usize = 512;

/// One raw header block.
pub(super) struct Header(pub(super) [u8; BLOCK]);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Gnu,
    Star,
}

impl Header {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|&b| b == 0)
    }

    /// The sum of all bytes with the checksum's own taken as spaces; old tars summed signed bytes.
    pub(super) fn check(&self) -> Result<(), TarFault> {
        let stated = octal(&self.0[148..156]).ok_or(TarFault::Checksum)?;
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (i, &b) in self.0.iter().enumerate() {
            let b = if (148..156).contains(&i) { b' ' } else { b };
            unsigned += u64::from(b);
            signed += i64::from(b as i8);
        }
        if stated == unsigned || i64::try_from(stated) == Ok(signed) {
            Ok(())
        } else {
            Err(TarFault::Checksum)
        }
    }

    pub(super) fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, ..] if &self.0[508..] == b"tar\0" => Format::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
            _ => Format::V7,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Name with ustar's or star's prefix; GNU keeps other things there.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = match self.format() {
            Format::Ustar => until_nul(&self.0[345..500]),
            Format::Star => until_nul(&self.0[345..476]),
            Format::V7 | Format::Gnu => &[],
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u16, TarFault> {
        // Some tars put the file type above the permission bits.
        Ok((self.number(100..108, "mode")? & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Result<i64, TarFault> {
        self.number(108..116, "uid")
    }

    pub(super) fn gid(&self) -> Result<i64, TarFault> {
        self.number(116..124, "gid")
    }

    pub(super) fn size(&self) -> Result<u64, TarFault> {
        u64::try_from(self.number(124..136, "size")?).map_err(|_| TarFault::Number("size"))
    }

    pub(super) fn mtime(&self) -> Result<i64, TarFault> {
        self.number(136..148, "mtime")
    }

    pub(super) fn device(&self) -> Result<(i64, i64), TarFault> {
        if self.format() == Format::V7 {
            return Ok((0, 0));
        }
        Ok((self.number(329..337, "devmajor")?, self.number(337..345, "devminor")?))
    }

    pub(super) fn number(&self, range: std::ops::Range<usize>, field: &'static str) -> Result<i64, TarFault> {
        number(&self.0[range]).ok_or(TarFault::Number(field))
    }
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(&[])
}

/// Octal text, or GNU's base-256: first bit set, then a big-endian two's complement number.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field).and_then(|n| i64::try_from(n).ok());
    }
    let negative = first & 0x40 != 0;
    let mut value = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
    for &b in &field[1..] {
        value = value.checked_mul(256)? + i128::from(b);
    }
    i64::try_from(value).ok()
}

/// Octal digits between spaces and NULs; nothing at all counts as 0, as everywhere.
fn octal(field: &[u8]) -> Option<u64> {
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let Some(start) = field.iter().position(|b| !blank(b)) else { return Some(0) };
    let mut value = 0u64;
    for &b in &field[start..field[start..].iter().position(blank).map_or(field.len(), |n| start + n)] {
        if !(b'0'..=b'7').contains(&b) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(u64::from(b - b'0'))?;
    }
    Some(value)
}
