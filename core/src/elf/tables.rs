//! The tables a dynamic section points to: strings, symbols, version definitions and needs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::read::{Layout, Malformed, Map, ReadAt};
use super::relevant::offered;
use super::symbols::{Symbols, MAX_NAMES};
use super::{is_mpi, relevant, Object, Sizes};

/// Largest string table, in bytes: libtorch's is about 40 MiB.
const MAX_STRINGS: u64 = 128 << 20;
/// Most symbols of one table.
const MAX_SYMBOLS: u64 = 2 << 20;
/// Most version records of one kind.
const MAX_VERSIONS: usize = 4096;
/// Most libraries needed, and directories of one search path.
const MAX_LIST: usize = 1024;
/// Longest name, in bytes.
const MAX_STRING: usize = 4096;
/// Longest search path, in bytes: of programs of Spack's it has a directory for each library.
const MAX_SEARCH: usize = 256 << 10;
/// Symbols read at once.
const CHUNK: u64 = 1 << 15;
/// Links of a hash chain read at once: most chains are shorter.
const CHAIN: usize = 64;

const DT_NEEDED: u64 = 1;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;
const DT_VERNEED: u64 = 0x6fff_fffe;
const DT_VERNEEDNUM: u64 = 0x6fff_ffff;
const DF_1_NODEFLIB: u64 = 0x800;
const DF_1_PIE: u64 = 0x0800_0000;
const VER_FLG_BASE: u16 = 1;
const VER_FLG_WEAK: u16 = 2;
const SHT_SYMTAB: u32 = 2;

/// The entries of a dynamic section.
#[derive(Debug)]
pub(super) struct Dynamic(pub Vec<(u64, u64)>);

impl Dynamic {
    fn get(&self, tag: u64) -> Option<u64> {
        self.0.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v)
    }

    /// A position-independent program says so, with current linkers.
    pub fn pie(&self) -> bool {
        self.get(DT_FLAGS_1).is_some_and(|f| f & DF_1_PIE != 0)
    }
}

/// The tables of one file.
pub(super) struct Tables<'a> {
    file: &'a dyn ReadAt,
    layout: Layout,
    map: &'a Map,
    dynamic: &'a Dynamic,
    strings: Cow<'a, [u8]>,
}

impl<'a> Tables<'a> {
    pub fn new(
        file: &'a dyn ReadAt,
        layout: Layout,
        map: &'a Map,
        dynamic: &'a Dynamic,
    ) -> Result<Self, Malformed> {
        let strings = match (dynamic.get(DT_STRTAB), dynamic.get(DT_STRSZ)) {
            (Some(at), Some(size)) if size <= MAX_STRINGS => map
                .offset(at)
                .and_then(|at| file.read_at(at, size as usize))
                .ok_or(Malformed("the string table is not in the file"))?,
            (None, None) => Cow::Borrowed(&[][..]),
            _ => return Err(Malformed("no string table, or one too large")),
        };
        Ok(Self { file, layout, map, dynamic, strings })
    }

    /// Puts what they say into `object`, with or without symbols.
    pub fn fill(&self, object: &mut Object, symbols: bool) -> Result<(), Malformed> {
        for (tag, value) in &self.dynamic.0 {
            match *tag {
                DT_NEEDED if object.needed.len() < MAX_LIST => object.needed.push(self.string(*value)?),
                DT_NEEDED => return Err(Malformed("too many libraries needed")),
                DT_SONAME => object.soname = Some(self.string(*value)?).filter(|s| !s.is_empty()),
                DT_RPATH => object.rpath = directories(&self.search_path(*value)?),
                DT_RUNPATH => object.runpath = directories(&self.search_path(*value)?),
                DT_FLAGS_1 => object.no_default_dirs = value & DF_1_NODEFLIB != 0,
                _ => {}
            }
        }
        object.provides = self.definitions()?;
        object.requires = self.needs()?;
        match symbols {
            true => self.symbols(object),
            false => Ok(()),
        }
    }

    /// The bytes of a string, without its NUL.
    fn raw(&self, at: u64, most: usize) -> Result<&[u8], Malformed> {
        let tail = usize::try_from(at).ok().and_then(|at| self.strings.get(at..));
        let tail = tail.ok_or(Malformed("a string lies outside its table"))?;
        let tail = &tail[..tail.len().min(most + 1)];
        tail.iter().position(|b| *b == 0).map(|end| &tail[..end]).ok_or(Malformed("a string has no end"))
    }

    fn string(&self, at: u64) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(self.raw(at, MAX_STRING)?).into_owned())
    }

    fn search_path(&self, at: u64) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(self.raw(at, MAX_SEARCH)?).into_owned())
    }

    fn at(&self, tag: u64) -> Result<Option<u64>, Malformed> {
        let Some(address) = self.dynamic.get(tag) else { return Ok(None) };
        self.map.offset(address).map(Some).ok_or(Malformed("a table is not in the file"))
    }

    /// One record of a linked table.
    fn record(&self, at: u64, len: usize) -> Result<Cow<'a, [u8]>, Malformed> {
        self.file.read_at(at, len).ok_or(Malformed("a version table is cut off"))
    }

    fn count(&self, tag: u64) -> Result<usize, Malformed> {
        let count = self.dynamic.get(tag).unwrap_or(0);
        usize::try_from(count).ok().filter(|n| *n <= MAX_VERSIONS).ok_or(Malformed("too many versions"))
    }

    /// Elf_Verdef: version, flags, ndx, cnt (16 bits each), hash, aux, next (32 bits each).
    fn definitions(&self) -> Result<Vec<String>, Malformed> {
        let mut out = vec![];
        let Some(mut at) = self.at(DT_VERDEF)? else { return Ok(out) };
        for _ in 0..self.count(DT_VERDEFNUM)? {
            let def = self.record(at, 20)?;
            let aux = self.record(at.saturating_add(u64::from(self.layout.u32(&def, 12))), 8)?;
            if self.layout.u16(&def, 2) & VER_FLG_BASE == 0 {
                out.push(self.string(u64::from(self.layout.u32(&aux, 0)))?);
            }
            match self.layout.u32(&def, 16) {
                0 => break,
                next => at = at.saturating_add(u64::from(next)),
            }
        }
        Ok(out)
    }

    /// Elf_Verneed: version, cnt (16), file, aux, next (32); Elf_Vernaux: hash (32), flags, other (16), name,
    /// next (32).
    fn needs(&self) -> Result<BTreeMap<String, Vec<String>>, Malformed> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let Some(mut at) = self.at(DT_VERNEED)? else { return Ok(out) };
        let mut left = MAX_VERSIONS;
        for _ in 0..self.count(DT_VERNEEDNUM)? {
            let need = self.record(at, 16)?;
            let library = self.string(u64::from(self.layout.u32(&need, 4)))?;
            let mut aux_at = at.saturating_add(u64::from(self.layout.u32(&need, 8)));
            for _ in 0..self.layout.u16(&need, 2) {
                left = left.checked_sub(1).ok_or(Malformed("too many versions"))?;
                let aux = self.record(aux_at, 16)?;
                if self.layout.u16(&aux, 4) & VER_FLG_WEAK == 0 {
                    let node = self.string(u64::from(self.layout.u32(&aux, 8)))?;
                    out.entry(library.clone()).or_default().push(node);
                }
                match self.layout.u32(&aux, 12) {
                    0 => break,
                    next => aux_at = aux_at.saturating_add(u64::from(next)),
                }
            }
            match self.layout.u32(&need, 12) {
                0 => break,
                next => at = at.saturating_add(u64::from(next)),
            }
        }
        Ok(out)
    }

    /// How many dynamic symbols there are. No entry says it; the hash tables imply it.
    fn symbol_count(&self) -> Result<u64, Malformed> {
        let count = if let Some(at) = self.at(DT_HASH)? {
            // nbucket, nchain; there is one chain entry for each symbol.
            u64::from(self.layout.u32(&self.record(at, 8)?, 4))
        } else if let Some(at) = self.at(DT_GNU_HASH)? {
            self.gnu_hash_count(at)?
        } else {
            0
        };
        if count > MAX_SYMBOLS {
            return Err(Malformed("too many symbols"));
        }
        Ok(count)
    }

    /// The last symbol of a GNU hash table: the highest bucket, then along its chain to the end mark.
    /// A library that defines nothing has no bucket in use; its symbols start (and end) at `symoffset`.
    fn gnu_hash_count(&self, at: u64) -> Result<u64, Malformed> {
        let head = self.record(at, 16)?;
        let buckets = u64::from(self.layout.u32(&head, 0));
        let first = u64::from(self.layout.u32(&head, 4));
        let bloom = u64::from(self.layout.u32(&head, 8)) * if self.layout.wide { 8 } else { 4 };
        if buckets > MAX_SYMBOLS || bloom > MAX_STRINGS {
            return Err(Malformed("too many symbols"));
        }
        let table = at.saturating_add(16 + bloom);
        let heads = self.record(table, buckets as usize * 4)?;
        let highest = heads.chunks_exact(4).map(|b| u64::from(self.layout.u32(b, 0))).max().unwrap_or(0);
        if highest < first {
            return Ok(first);
        }
        let chains = table.saturating_add(buckets * 4);
        let mut index = highest;
        while index <= MAX_SYMBOLS {
            let at = chains.saturating_add((index - first) * 4);
            // Some at once; at the file's end there may be fewer.
            let some = self.file.read_at(at, CHAIN * 4);
            let links = some.map_or_else(|| self.record(at, 4), Ok)?;
            let ends = |link: &[u8]| self.layout.u32(link, 0) & 1 == 1;
            match links.chunks_exact(4).position(ends) {
                Some(end) => return Ok(index + end as u64 + 1),
                None => index += links.len() as u64 / 4,
            }
        }
        Err(Malformed("a hash chain has no end"))
    }

    fn symbols(&self, object: &mut Object) -> Result<(), Malformed> {
        let Some(at) = self.at(DT_SYMTAB)? else { return Ok(()) };
        let mut sorted = Sorted::default();
        walk(self.file, self.layout, at, self.symbol_count()?, |symbol| {
            // Names of C++ templates have no limit; what is relevant is short.
            let Ok(name) = self.raw(symbol.name, MAX_STRING) else { return Ok(()) };
            let Ok(name) = std::str::from_utf8(name) else { return Ok(()) };
            if relevant(name) {
                sorted.take(name, &symbol)?;
            }
            Ok(())
        })?;
        object.exports = Symbols::new(sorted.exports);
        object.imports = Symbols::new(sorted.imports);
        object.weak = Symbols::new(sorted.weak);
        object.data = sorted.data;
        Ok(())
    }
}

#[derive(Default)]
struct Sorted {
    exports: Vec<String>,
    imports: Vec<String>,
    weak: Vec<String>,
    data: Sizes,
}

impl Sorted {
    fn take(&mut self, name: &str, symbol: &Symbol) -> Result<(), Malformed> {
        const GLOBAL: u8 = 1;
        const WEAK: u8 = 2;
        const UNIQUE: u8 = 10;
        if self.exports.len() + self.imports.len() + self.weak.len() >= MAX_NAMES {
            return Err(Malformed("too many MPI symbols"));
        }
        match (symbol.section == 0, symbol.binding) {
            (true, WEAK) => self.weak.push(name.to_owned()),
            (true, GLOBAL) => self.imports.push(name.to_owned()),
            // Hidden and internal symbols (visibility 1 and 2) are nobody else's.
            (false, GLOBAL | WEAK | UNIQUE)
                if (symbol.visibility == 0 || symbol.visibility == 3) && offered(name, symbol.object) =>
            {
                self.exports.push(name.to_owned());
                if symbol.object && is_mpi(name) && !name.starts_with("_Z") {
                    self.data.insert(name.to_owned(), symbol.size);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// One symbol table entry.
struct Symbol {
    name: u64,
    section: u16,
    binding: u8,
    object: bool,
    visibility: u8,
    size: u64,
}

/// Calls `each` for `count` symbols at `at`.
fn walk(
    file: &dyn ReadAt,
    layout: Layout,
    at: u64,
    count: u64,
    mut each: impl FnMut(Symbol) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let width = if layout.wide { 24 } else { 16 };
    let mut done = 0;
    while done < count {
        let now = CHUNK.min(count - done);
        let chunk = file
            .read_at(at.saturating_add(done * width), (now * width) as usize)
            .ok_or(Malformed("the symbol table is cut off"))?;
        for s in chunk.chunks_exact(width as usize) {
            let (info, other, section, size) = match layout.wide {
                true => (s[4], s[5], layout.u16(s, 6), layout.u64(s, 16)),
                false => (s[12], s[13], layout.u16(s, 14), u64::from(layout.u32(s, 8))),
            };
            each(Symbol {
                name: u64::from(layout.u32(s, 0)),
                section,
                binding: info >> 4,
                object: info & 15 == 1,
                visibility: other & 3,
                size,
            })?;
        }
        done += now;
    }
    Ok(())
}

/// Splits a search path. An empty element means the working directory; it is dropped as no image means it.
fn directories(path: &str) -> Vec<String> {
    path.split(':').filter(|d| !d.is_empty()).take(MAX_LIST).map(str::to_owned).collect()
}

/// Whether a program's full symbol table, if it has one, defines `wanted`: the sign of a static library.
/// A table that cannot be read proves nothing and counts as none.
pub(super) fn symtab_defines(file: &dyn ReadAt, layout: Layout, header: &[u8], wanted: &str) -> bool {
    let (at, size, count) = if layout.wide {
        (layout.u64(header, 40), layout.u16(header, 58), layout.u16(header, 60))
    } else {
        (u64::from(layout.u32(header, 32)), layout.u16(header, 46), layout.u16(header, 48))
    };
    let (size, count) = (usize::from(size), usize::from(count).min(4096));
    if at == 0 || size != if layout.wide { 64 } else { 40 } {
        return false;
    }
    let section = |n: usize| file.read_at(at.saturating_add((n * size) as u64), size);
    let place = |s: &[u8]| match layout.wide {
        true => (layout.u64(s, 24), layout.u64(s, 32), layout.u32(s, 40)),
        false => (u64::from(layout.u32(s, 16)), u64::from(layout.u32(s, 20)), layout.u32(s, 24)),
    };
    let table = (0..count).filter_map(section).find(|s| layout.u32(s, 4) == SHT_SYMTAB);
    let Some((symbols, bytes, link)) = table.map(|s| place(&s)) else { return false };
    let Some((names, length, _)) = section(link as usize).map(|s| place(&s)) else { return false };
    if length > MAX_STRINGS || link as usize >= count {
        return false;
    }
    let Some(names) = file.read_at(names, length as usize) else { return false };
    let total = bytes / if layout.wide { 24 } else { 16 };
    let mut found = false;
    let read = walk(file, layout, symbols, total.min(MAX_SYMBOLS), |symbol| {
        let name = usize::try_from(symbol.name).ok().and_then(|at| names.get(at..));
        let whole = |n: &[u8]| n.starts_with(wanted.as_bytes()) && n.get(wanted.len()) == Some(&0);
        found |= symbol.section != 0 && name.is_some_and(whole);
        Ok(())
    });
    read.is_ok() && found
}
