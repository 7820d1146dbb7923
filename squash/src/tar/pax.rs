//! Owns PAX extended headers (POSIX.1 pax, "pax Extended Header") with the vendors' keys that images
//! carry: SCHILY.xattr, LIBARCHIVE.xattr, GNU.sparse. Unknown keys are ignored, as POSIX asks.

use std::collections::BTreeMap;

use crate::error::{LimitKind, TarFault};
use crate::fault::Fault;

/// Values that override the header's. One for the archive (`g`), one for each entry (`x`).
#[derive(Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<i64>,
    pub(super) dev_major: Option<i64>,
    pub(super) dev_minor: Option<i64>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// ACLs in star's text form, which nothing here can store.
    pub(super) text_acls: u64,
    pub(super) sparse: SparseKeys,
}

/// GNU's three ways to write a sparse file in PAX.
#[derive(Clone, Default)]
pub(super) struct SparseKeys {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Formats 0.0 and 0.1: offset, length, offset, length and so on.
    pub(super) map: Vec<u64>,
}

impl Pax {
    /// Takes the records of one header over what is already known.
    pub(super) fn apply(&mut self, mut data: &[u8], max_segments: usize) -> Result<(), Fault> {
        // A new map replaces an older one (0.0 repeats its keys within one header).
        let mut fresh_map = true;
        while let Some(&first) = data.first() {
            if first == 0 {
                break; // some writers pad with NULs inside the stated size
            }
            let (key, value, rest) = record(data).ok_or(TarFault::Pax)?;
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.map") && fresh_map {
                self.sparse.map.clear();
                fresh_map = false;
            }
            self.set(key, value, max_segments)?;
            data = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8], max_segments: usize) -> Result<(), Fault> {
        match key {
            b"path" => self.path = text(value),
            b"linkpath" => self.link = text(value),
            b"size" => self.size = decimal(value, "size")?,
            b"uid" => self.uid = signed(value, "uid")?,
            b"gid" => self.gid = signed(value, "gid")?,
            b"mtime" => self.mtime = signed(value, "mtime")?,
            b"SCHILY.devmajor" => self.dev_major = signed(value, "devmajor")?,
            b"SCHILY.devminor" => self.dev_minor = signed(value, "devminor")?,
            b"SCHILY.acl.access" | b"SCHILY.acl.default" | b"SCHILY.acl.ace" => self.text_acls += 1,
            b"GNU.sparse.major" => self.sparse.major = decimal(value, "GNU.sparse.major")?,
            b"GNU.sparse.minor" => self.sparse.minor = decimal(value, "GNU.sparse.minor")?,
            b"GNU.sparse.name" => self.sparse.name = text(value),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = decimal(value, "GNU.sparse.size")?;
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let even = self.sparse.map.len().is_multiple_of(2);
                if even != (key == b"GNU.sparse.offset") {
                    return Err(TarFault::Sparse.into());
                }
                let number = decimal(value, "GNU.sparse")?.ok_or(TarFault::Sparse)?;
                self.sparse.map.push(number);
            }
            b"GNU.sparse.map" => {
                for part in value.split(|&b| b == b',').filter(|part| !part.is_empty()) {
                    self.sparse.map.push(decimal(part, "GNU.sparse.map")?.ok_or(TarFault::Sparse)?);
                }
            }
            _ => self.set_xattr(key, value)?,
        }
        if self.sparse.map.len() / 2 > max_segments {
            return Err(LimitKind::SparseSegments(max_segments).into());
        }
        Ok(())
    }

    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarFault> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.insert(name.to_vec(), value.to_vec());
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            // libarchive writes both forms; the plain one is kept where both are there.
            let name = percent_decoded(name).ok_or(TarFault::Pax)?;
            let value = base64_decoded(value).ok_or(TarFault::Pax)?;
            self.xattrs.entry(name).or_insert(value);
        }
        Ok(())
    }
}

/// Splits `LENGTH KEY=VALUE\n` off the front; LENGTH counts the whole record.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&b| b == b' ')?;
    let length = usize::try_from(plain_decimal(&data[..space])?).ok()?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    let body = &data[space + 1..length - 1];
    let equals = body.iter().position(|&b| b == b'=')?;
    if equals == 0 {
        return None;
    }
    Some((&body[..equals], &body[equals + 1..], &data[length..]))
}

/// An empty value takes an earlier one back (POSIX).
fn text(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

fn plain_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub(super) fn decimal(value: &[u8], field: &'static str) -> Result<Option<u64>, TarFault> {
    if value.is_empty() {
        return Ok(None);
    }
    plain_decimal(value).map(Some).ok_or(TarFault::Number(field))
}

/// A whole number, perhaps negative; a fraction (times have one) is cut off.
fn signed(value: &[u8], field: &'static str) -> Result<Option<i64>, TarFault> {
    if value.is_empty() {
        return Ok(None);
    }
    let fault = TarFault::Number(field);
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |&b| b == b'.');
    let whole =
        parts.next().and_then(plain_decimal).and_then(|n| i64::try_from(n).ok()).ok_or(fault.clone())?;
    if !parts.next().unwrap_or(b"").iter().all(u8::is_ascii_digit) {
        return Err(fault);
    }
    Ok(Some(if negative { -whole } else { whole }))
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&b) = rest.next() {
        if b == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            out.push((high * 16 + low) as u8);
        } else {
            out.push(b);
        }
    }
    Some(out)
}

/// Base 64 with or without the padding (libarchive leaves it out).
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().position(|&b| b == b'=').unwrap_or(text.len());
    let mut out = Vec::with_capacity(end * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for &b in &text[..end] {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\n' | b'\r' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_split_by_their_length_only() {
        let (key, value, rest) = record(b"16 key=va=l\nue!\nnext").expect("a record");
        assert_eq!((key, value, rest), (&b"key"[..], &b"va=l\nue!"[..], &b"next"[..]));
        for bad in [&b"5 a=b\n"[..], b"99 a=b\n", b"x a=b\n", b"6 =bb\n", b"6 abcd\n", b"1"] {
            assert!(record(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn times_lose_their_fraction_and_keep_their_sign() {
        assert_eq!(signed(b"12.75", "t"), Ok(Some(12)));
        assert_eq!(signed(b"-3.2", "t"), Ok(Some(-3)));
        assert_eq!(signed(b"", "t"), Ok(None));
        assert!(signed(b"1.x", "t").is_err());
        assert!(signed(b"--1", "t").is_err());
    }

    #[test]
    fn libarchive_names_and_values() {
        assert_eq!(percent_decoded(b"user.a%3Db"), Some(b"user.a=b".to_vec()));
        assert_eq!(percent_decoded(b"%4"), None);
        assert_eq!(base64_decoded(b"aGVsbG8"), Some(b"hello".to_vec()));
        assert_eq!(base64_decoded(b"aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64_decoded(b"?"), None);
    }
}
