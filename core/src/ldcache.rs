//! glibc's `/etc/ld.so.cache`: reading, and writing natively, so that no ldconfig of an image is ever run.
//!
//! Owns the format `glibc-ld.so.cache1.1` (glibc 2.2 and later read it alone), also behind the older
//! `ld.so-1.7.0` table, with the extension that lists `glibc-hwcaps` directories (2.33). Entries are in the
//! order that the loader's binary search expects: `_dl_cache_libcmp`, descending (glibc, elf/dl-cache.c).
//! Refuses files larger than any real one; a hostile file yields an error, never a panic.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Largest cache file read, in bytes.
pub const MAX_CACHE: usize = 16 << 20;
/// Most entries.
const MAX_ENTRIES: usize = 1 << 16;
/// Longest string, in bytes.
const MAX_STRING: usize = 4096;

const MAGIC_NEW: &[u8] = b"glibc-ld.so.cache1.1";
const MAGIC_OLD: &[u8] = b"ld.so-1.7.0";
/// Magic, count, string length, flags, extension offset, three unused words.
const HEADER: usize = 48;
/// Flags, key, value, osversion (32 bits each), hwcap (64).
const ENTRY: usize = 24;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const TAG_GENERATOR: u32 = 0;
const TAG_HWCAPS: u32 = 1;
/// Marks a hwcap word that names a `glibc-hwcaps` directory: its index below, an ISA level at bit 32.
const HWCAP_EXTENSION: u64 = 1 << 62;
const ISA_LEVEL_MASK: u64 = 0x3ff;
const GENERATOR: &[u8] = b"grus";

/// One library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// SONAME (or file name) it is looked up by.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// Kind and architecture; see [`flags`].
    pub flags: i32,
    /// Oldest kernel it runs on, as glibc codes it; 0: any.
    #[serde(default, skip_serializing_if = "zero")]
    pub osversion: u32,
    /// The `glibc-hwcaps` subdirectory it is in, such as `x86-64-v3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hwcaps: Option<String>,
    /// Legacy hwcap bits, or the ISA level (at bit 32) of an entry with `hwcaps`.
    #[serde(default, skip_serializing_if = "zero64")]
    pub hwcap: u64,
}

fn zero(n: &u32) -> bool {
    *n == 0
}

fn zero64(n: &u64) -> bool {
    *n == 0
}

/// A cache: entries in the loader's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// Why a file is no cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed ld.so.cache: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// The flags of a glibc library (FLAG_ELF_LIBC6 and the ABI's own; glibc, sysdeps/generic/ldconfig.h).
pub fn flags(machine: &str) -> Option<i32> {
    Some(match machine {
        "x86_64" => 0x0303,
        "x32" => 0x0803,
        "i386" => 0x0003,
        "aarch64" => 0x0a03,
        "arm" => 0x0903,
        "ppc64le" | "ppc64" => 0x0503,
        "s390x" => 0x0403,
        "riscv64" => 0x1003,
        "loongarch64" => 0x1203,
        _ => return None,
    })
}

/// Reads a cache of this machine's byte order. Entries whose name or path is not UTF-8 are left out.
pub fn parse(file: &[u8]) -> Result<Cache, Malformed> {
    if file.len() > MAX_CACHE {
        return Err(Malformed("it is too large"));
    }
    if file.starts_with(MAGIC_NEW) {
        return parse_new(file, 0);
    }
    if !file.starts_with(MAGIC_OLD) {
        return Err(Malformed("unknown format"));
    }
    let count = word(file, 12)? as usize;
    let end = count.checked_mul(12).and_then(|n| n.checked_add(16)).ok_or(Malformed("it is cut off"))?;
    // The new table is aligned as its 64-bit words are: to 8 bytes, on some machines to 4.
    for align in [8, 4] {
        let base = end.next_multiple_of(align);
        if file.get(base..).is_some_and(|f| f.starts_with(MAGIC_NEW)) {
            return parse_new(file, base);
        }
    }
    if end > file.len() || count > MAX_ENTRIES {
        return Err(Malformed("it is cut off"));
    }
    let mut entries = Vec::with_capacity(count);
    for at in (0..count).map(|i| 16 + i * 12) {
        let (name, path) = (string(file, end, word(file, at + 4)?)?, string(file, end, word(file, at + 8)?)?);
        if let (Some(name), Some(path)) = (name, path) {
            let flags = word(file, at)? as i32;
            entries.push(Entry { name, path, flags, osversion: 0, hwcaps: None, hwcap: 0 });
        }
    }
    Ok(Cache { entries })
}

fn parse_new(file: &[u8], base: usize) -> Result<Cache, Malformed> {
    let count = word(file, base + 20)? as usize;
    // Byte 28: 0 is unset (before 2.33), 2 little endian, 3 big endian.
    let order = file.get(base + 28).copied().unwrap_or(0);
    if order > 3 || order == if cfg!(target_endian = "little") { 3 } else { 2 } {
        return Err(Malformed("another byte order"));
    }
    if count > MAX_ENTRIES || file.len() - base < HEADER + count * ENTRY {
        return Err(Malformed("it is cut off"));
    }
    let hwcaps = hwcaps(file, word(file, base + 32)? as usize)?;
    let mut entries = Vec::with_capacity(count);
    for at in (0..count).map(|i| base + HEADER + i * ENTRY) {
        let hwcap = u64::from(word(file, at + 16)?) | u64::from(word(file, at + 20)?) << 32;
        let hwcap = if cfg!(target_endian = "big") { hwcap.rotate_left(32) } else { hwcap };
        let named = hwcap & !(ISA_LEVEL_MASK << 32) & !0xffff_ffff == HWCAP_EXTENSION;
        let directory = match named {
            // The loader skips an entry whose directory is not listed; so do we.
            true => match hwcaps.get((hwcap & 0xffff_ffff) as usize) {
                Some(Some(name)) => Some(name.clone()),
                _ => continue,
            },
            false => None,
        };
        let name = string(file, base, word(file, at + 4)?)?;
        let path = string(file, base, word(file, at + 8)?)?;
        let (Some(name), Some(path)) = (name, path) else { continue };
        entries.push(Entry {
            flags: word(file, at)? as i32,
            name,
            path,
            osversion: word(file, at + 12)?,
            hwcap: if named { hwcap & ISA_LEVEL_MASK << 32 } else { hwcap },
            hwcaps: directory,
        });
    }
    Ok(Cache { entries })
}

/// The names of the `glibc-hwcaps` directories. Offsets are from the start of the file.
fn hwcaps(file: &[u8], at: usize) -> Result<Vec<Option<String>>, Malformed> {
    // Before 2.33 the word was unused, so anything that is no extension counts as none.
    if at == 0 || word(file, at) != Ok(EXTENSION_MAGIC) {
        return Ok(vec![]);
    }
    let count = word(file, at.saturating_add(4))?.min(64) as usize;
    for section in (0..count).map(|i| at + 8 + i * 16) {
        if word(file, section)? == TAG_HWCAPS {
            let (from, size) = (word(file, section + 8)? as usize, word(file, section + 12)? as usize);
            let names =
                (0..size.min(4096) / 4).map(|i| string(file, 0, word(file, from.saturating_add(i * 4))?));
            return names.collect();
        }
    }
    Ok(vec![])
}

fn word(file: &[u8], at: usize) -> Result<u32, Malformed> {
    let bytes = at.checked_add(4).and_then(|end| file.get(at..end)).ok_or(Malformed("it is cut off"))?;
    Ok(u32::from_ne_bytes(bytes.try_into().unwrap_or_default()))
}

/// None: it is not UTF-8. No library that Grus knows is called so, and what was made of it would be another name.
fn string(file: &[u8], base: usize, at: u32) -> Result<Option<String>, Malformed> {
    let tail = base.checked_add(at as usize).and_then(|at| file.get(at..));
    let tail = tail.ok_or(Malformed("a name lies outside the file"))?;
    let end = tail.iter().take(MAX_STRING).position(|b| *b == 0).ok_or(Malformed("a name has no end"))?;
    Ok(str::from_utf8(&tail[..end]).ok().map(str::to_owned))
}

impl Cache {
    /// Adds libraries, each in place of every entry of its name and flags.
    pub fn replace(&mut self, new: Vec<Entry>) {
        let ours: BTreeSet<(&str, i32)> = new.iter().map(|e| (e.name.as_str(), e.flags)).collect();
        self.entries.retain(|e| !ours.contains(&(e.name.as_str(), e.flags)));
        self.entries.extend(new);
    }

    /// Paths of a library in the order that the loader prefers them, `flags` matching. Named hwcaps come first.
    pub fn lookup<'a>(&'a self, name: &'a str, flags: i32) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |e| e.flags == flags && e.name == name)
    }

    /// The file, sorted, in the format of glibc 2.33 and later, which older ones read too.
    pub fn write(&self) -> Vec<u8> {
        let mut sorted: Vec<&Entry> = self.entries.iter().collect();
        sorted.sort_by(|a, b| order(a, b));
        let names: BTreeSet<&str> = sorted.iter().filter_map(|e| e.hwcaps.as_deref()).collect();
        let index: BTreeMap<&str, u64> = names.iter().copied().zip(0..).collect();

        let mut strings = Strings { base: HEADER + sorted.len() * ENTRY, ..Strings::default() };
        let mut body = Vec::with_capacity(sorted.len() * ENTRY);
        for entry in &sorted {
            let named = entry.hwcaps.as_deref().and_then(|n| index.get(n));
            let hwcap =
                named.map_or(entry.hwcap, |i| HWCAP_EXTENSION | entry.hwcap & ISA_LEVEL_MASK << 32 | i);
            body.extend(entry.flags.to_ne_bytes());
            body.extend(strings.add(&entry.name).to_ne_bytes());
            body.extend(strings.add(&entry.path).to_ne_bytes());
            body.extend(entry.osversion.to_ne_bytes());
            body.extend(hwcap.to_ne_bytes());
        }
        let listed: Vec<u32> = names.iter().map(|n| strings.add(n)).collect();
        let extension = (strings.base + strings.text.len()).next_multiple_of(4);

        let mut out = MAGIC_NEW.to_vec();
        out.extend((sorted.len() as u32).to_ne_bytes());
        out.extend((strings.text.len() as u32).to_ne_bytes());
        out.extend([if cfg!(target_endian = "little") { 2 } else { 3 }, 0, 0, 0]);
        out.extend((extension as u32).to_ne_bytes());
        out.extend([0; 12]);
        out.extend(body);
        out.extend(strings.text);
        out.resize(extension, 0);
        write_extension(&mut out, &listed);
        out
    }
}

/// The directory of extensions and what it points to.
fn write_extension(out: &mut Vec<u8>, hwcaps: &[u32]) {
    let sections = if hwcaps.is_empty() { 1 } else { 2 };
    let names = out.len() + 8 + sections * 16;
    let generator = names + hwcaps.len() * 4;
    let mut word = |n: usize| out.extend((n as u32).to_ne_bytes());
    word(EXTENSION_MAGIC as usize);
    word(sections);
    [TAG_GENERATOR as usize, 0, generator, GENERATOR.len()].into_iter().for_each(&mut word);
    if !hwcaps.is_empty() {
        [TAG_HWCAPS as usize, 0, names, hwcaps.len() * 4].into_iter().for_each(&mut word);
    }
    hwcaps.iter().for_each(|n| word(*n as usize));
    out.extend(GENERATOR);
}

/// The string table: each string once.
#[derive(Default)]
struct Strings<'a> {
    base: usize,
    text: Vec<u8>,
    seen: BTreeMap<&'a str, u32>,
}

impl<'a> Strings<'a> {
    fn add(&mut self, text: &'a str) -> u32 {
        if let Some(at) = self.seen.get(text) {
            return *at;
        }
        let at = (self.base + self.text.len()) as u32;
        self.text.extend(text.bytes().filter(|b| *b != 0));
        self.text.push(0);
        self.seen.insert(text, at);
        at
    }
}

/// ldconfig's order (`compare` in elf/cache.c): names descending, then flags descending, then named hwcaps
/// before others, then the more specific hwcap, then the newer system.
fn order(a: &Entry, b: &Entry) -> Ordering {
    libcmp(b.name.as_bytes(), a.name.as_bytes())
        .then_with(|| b.flags.cmp(&a.flags))
        .then_with(|| match (&a.hwcaps, &b.hwcaps) {
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (a, b) => a.cmp(b),
        })
        .then_with(|| b.hwcap.count_ones().cmp(&a.hwcap.count_ones()))
        .then_with(|| b.hwcap.cmp(&a.hwcap))
        .then_with(|| b.osversion.cmp(&a.osversion))
}

/// `_dl_cache_libcmp`: bytes, but runs of digits as numbers.
fn libcmp(a: &[u8], b: &[u8]) -> Ordering {
    let (mut i, mut j) = (0, 0);
    // Past the end is NUL, as in C.
    let at = |s: &[u8], i: usize| s.get(i).copied().unwrap_or(0);
    while at(a, i) != 0 {
        let (x, y) = (at(a, i), at(b, j));
        match (x.is_ascii_digit(), y.is_ascii_digit()) {
            (true, true) => match number(a, &mut i).cmp(&number(b, &mut j)) {
                Ordering::Equal => {}
                other => return other,
            },
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            // char is signed where x86 runs; names beyond ASCII do not occur elsewhere either.
            _ if x != y => return (x as i8).cmp(&(y as i8)),
            _ => {
                i += 1;
                j += 1;
            }
        }
    }
    0.cmp(&(at(b, j) as i8))
}

/// A run of digits, with C's int arithmetic.
fn number(text: &[u8], at: &mut usize) -> i32 {
    let mut value = 0_i32;
    while let Some(digit) = text.get(*at).filter(|d| d.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        *at += 1;
    }
    value
}

#[cfg(test)]
#[path = "ldcache_tests.rs"]
mod tests;
