//! Owns how a tree's entries are written as tar: ustar, with a PAX header for what it has no room for.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use super::acl;

/// One entry to write.
pub(super) struct Header {
    path: Vec<u8>,
    pub(super) kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    pub(super) link: Vec<u8>,
    pub(super) device: Option<(u32, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Header {
    /// A regular file, until told otherwise. The empty path is the root.
    pub(super) fn new(path: &[u8], meta: &Metadata) -> Header {
        Header {
            path: if path.is_empty() { b"./".to_vec() } else { path.to_vec() },
            kind: b'0',
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: meta.mtime(),
            link: Vec::new(),
            device: None,
            xattrs: Vec::new(),
        }
    }

    /// SquashFS keeps no access control lists. With one, the mode shows the list's mask in place of the group's rights.
    pub(super) fn mind_access_list(&mut self) {
        let list = self.xattrs.iter().find(|(name, _)| name == b"system.posix_acl_access");
        if let Some(group) = list.and_then(|(_, list)| acl::group(list)) {
            self.mode = self.mode & !0o070 | group << 3;
        }
    }

    /// Headers of an entry without data.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_sized(0, &[])
    }

    /// Headers of a regular file of `size` bytes. `holes_between`: its data segments, last first, if it
    /// is sparse; the map (GNU sparse format 1.0) then ends the headers.
    pub(super) fn encode_file(&self, size: u64, holes_between: Option<&[(u64, u64)]>) -> Vec<u8> {
        let Some(segments) = holes_between else { return self.encode_sized(size, &[]) };
        let mut map = format!("{}\n", segments.len());
        for (start, length) in segments.iter().rev() {
            map.push_str(&format!("{start}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let stored = map.len() as u64 + segments.iter().map(|segment| segment.1).sum::<u64>();
        let records: [(&[u8], Vec<u8>); 4] = [
            (b"GNU.sparse.major", b"1".to_vec()),
            (b"GNU.sparse.minor", b"0".to_vec()),
            (b"GNU.sparse.name", self.path.clone()),
            (b"GNU.sparse.realsize", size.to_string().into_bytes()),
        ];
        let mut out = self.encode_sized(stored, &records);
        out.extend(map);
        out
    }

    fn encode_sized(&self, size: u64, more: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
        let mut records = Vec::new();
        let mut block = [0u8; 512];
        fill(&mut block[..100], &self.path, b"path", &mut records);
        fill(&mut block[157..257], &self.link, b"linkpath", &mut records);
        octal(&mut block[100..108], i64::from(self.mode), b"", &mut records);
        octal(&mut block[108..116], i64::from(self.uid), b"uid", &mut records);
        octal(&mut block[116..124], i64::from(self.gid), b"gid", &mut records);
        octal(&mut block[124..136], size as i64, b"size", &mut records);
        octal(&mut block[136..148], self.mtime, b"mtime", &mut records);
        let (major, minor) = self.device.unwrap_or_default();
        octal(&mut block[329..337], i64::from(major), b"SCHILY.devmajor", &mut records);
        octal(&mut block[337..345], i64::from(minor), b"SCHILY.devminor", &mut records);
        for (name, value) in &self.xattrs {
            xattr(name, value, &mut records);
        }
        for (key, value) in more {
            record(key, value, &mut records);
        }
        block[156] = self.kind;
        let mut out = Vec::with_capacity(1024);
        if !records.is_empty() {
            let mut pax = [0u8; 512];
            pax[..3].copy_from_slice(b"pax");
            octal(&mut pax[124..136], records.len() as i64, b"", &mut Vec::new());
            pax[156] = b'x';
            out.extend(seal(pax));
            records.resize(records.len().next_multiple_of(512), 0);
            out.extend(records);
        }
        out.extend(seal(block));
        out
    }
}

/// A name in its field, or in a record if it is too long.
fn fill(field: &mut [u8], value: &[u8], key: &[u8], records: &mut Vec<u8>) {
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
    if n < value.len() {
        record(key, value, records);
    }
}

/// A number in its field, or in a record if it does not fit.
fn octal(field: &mut [u8], value: i64, key: &[u8], records: &mut Vec<u8>) {
    let digits = field.len() - 1;
    let fits = u64::try_from(value).is_ok_and(|value| value < 1 << (3 * digits));
    if !fits {
        record(key, value.to_string().as_bytes(), records);
    }
    let text = format!("{:0digits$o}", if fits { value } else { 0 });
    field[..digits].copy_from_slice(text.as_bytes());
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits.
fn record(key: &[u8], value: &[u8], records: &mut Vec<u8>) {
    let body = key.len() + value.len() + 3;
    let mut length = body;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// An attribute, in star's form; in libarchive's where a `=` in the name would end the key early.
fn xattr(name: &[u8], value: &[u8], records: &mut Vec<u8>) {
    if !name.contains(&b'=') {
        return record(&[b"SCHILY.xattr.", name].concat(), value, records);
    }
    let mut key = b"LIBARCHIVE.xattr.".to_vec();
    for &b in name {
        match b {
            b'=' | b'%' => key.extend(format!("%{b:02X}").bytes()),
            _ => key.push(b),
        }
    }
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut base64 = Vec::new();
    for chunk in value.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0, |bits, (i, &b)| bits | u32::from(b) << (16 - 8 * i));
        let digit = |i: usize| DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
        base64.extend((0..=chunk.len()).map(digit));
    }
    record(&key, &base64, records);
}

/// Magic and checksum.
fn seal(mut block: [u8; 512]) -> [u8; 512] {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
