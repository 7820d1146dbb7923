//! Reading one ELF file: header, program headers, the dynamic section and what it points to. Section headers
//! are used only to look for an MPI library inside a program; stripped files are read as well as any.

use std::borrow::Cow;
use std::fmt;

use super::tables::{Dynamic, Tables};
use super::{machine_name, Kind, Object};

/// Most program headers looked at.
const MAX_SEGMENTS: usize = 512;
/// Most entries of a dynamic section.
const MAX_DYNAMIC: usize = 4096;
/// Longest interpreter path, in bytes.
const MAX_INTERPRETER: usize = 4096;

/// Random access to a file's bytes. An implementation compares with the file's size before it allocates:
/// lengths come from the file itself.
pub trait ReadAt {
    /// Exactly `len` bytes at `offset`; `None` if the file does not have them or cannot be read.
    fn read_at(&self, offset: u64, len: usize) -> Option<Cow<'_, [u8]>>;
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, len: usize) -> Option<Cow<'_, [u8]>> {
        let from = usize::try_from(offset).ok()?;
        self.get(from..from.checked_add(len)?).map(Cow::Borrowed)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, len: usize) -> Option<Cow<'_, [u8]>> {
        self.as_slice().read_at(offset, len)
    }
}

/// Why an ELF file cannot be understood. No loader would take it either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed ELF file: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Class and byte order of a file; reads its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// 64-bit.
    pub wide: bool,
    /// Least significant byte first.
    pub little: bool,
}

impl Layout {
    pub fn u16(self, b: &[u8], at: usize) -> u16 {
        let a: [u8; 2] = bytes(b, at);
        if self.little {
            u16::from_le_bytes(a)
        } else {
            u16::from_be_bytes(a)
        }
    }

    pub fn u32(self, b: &[u8], at: usize) -> u32 {
        let a: [u8; 4] = bytes(b, at);
        if self.little {
            u32::from_le_bytes(a)
        } else {
            u32::from_be_bytes(a)
        }
    }

    pub fn u64(self, b: &[u8], at: usize) -> u64 {
        let a: [u8; 8] = bytes(b, at);
        if self.little {
            u64::from_le_bytes(a)
        } else {
            u64::from_be_bytes(a)
        }
    }

    /// An address-sized word.
    pub fn word(self, b: &[u8], at: usize) -> u64 {
        if self.wide {
            self.u64(b, at)
        } else {
            u64::from(self.u32(b, at))
        }
    }
}

/// `N` bytes of `b` at `at`, zeros where it ends earlier: a reader of tables checks lengths before.
fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = at.checked_add(N).and_then(|end| b.get(at..end)) {
        out.copy_from_slice(from);
    }
    out
}

/// One program header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// Where addresses are in the file.
#[derive(Debug)]
pub(super) struct Map(Vec<Segment>);

impl Map {
    /// File offset of a virtual address, by the PT_LOAD that holds it.
    pub fn offset(&self, address: u64) -> Option<u64> {
        let load = self
            .0
            .iter()
            .find(|s| s.kind == PT_LOAD && address >= s.address && address - s.address < s.size)?;
        load.offset.checked_add(address - load.address)
    }
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

/// The facts of one file; without `symbols` those that tell what it needs.
pub(super) fn object(file: &dyn ReadAt, symbols: bool) -> Result<Option<Object>, Malformed> {
    let Some(ident) = file.read_at(0, 16) else { return Ok(None) };
    let (wide, little) = match ident.as_ref() {
        [0x7f, b'E', b'L', b'F', class @ (1 | 2), data @ (1 | 2), 1, ..] => (*class == 2, *data == 1),
        [0x7f, b'E', b'L', b'F', ..] => return Err(Malformed("unknown class, byte order or version")),
        _ => return Ok(None),
    };
    let layout = Layout { wide, little };
    let header = file.read_at(0, if wide { 64 } else { 52 }).ok_or(Malformed("the header is cut off"))?;
    let kind = layout.u16(&header, 16);
    if kind != ET_EXEC && kind != ET_DYN {
        return Ok(None);
    }
    let segments = segments(file, layout, &header)?;
    let mut object =
        Object { machine: machine_name(layout.u16(&header, 18), wide, little), ..Object::default() };
    object.interpreter = interpreter(file, &segments)?;
    let dynamic = segments.iter().find(|s| s.kind == PT_DYNAMIC).copied();
    let map = Map(segments);
    let mut pie = false;
    if let Some(segment) = dynamic {
        let entries = dynamic_entries(file, layout, segment)?;
        pie = entries.pie();
        let tables = Tables::new(file, layout, &map, &entries)?;
        tables.fill(&mut object, symbols)?;
    }
    // A shared object may carry an interpreter (libc.so.6 does), but then it has a SONAME.
    let runs = pie || (object.interpreter.is_some() && object.soname.is_none());
    if kind == ET_EXEC || runs || dynamic.is_none() {
        object.kind = Kind::Program;
        let inside = object.exports.contains("MPI_Init");
        object.static_mpi =
            symbols && (inside || super::tables::symtab_defines(file, layout, &header, "MPI_Init"));
    }
    Ok(Some(object))
}

fn segments(file: &dyn ReadAt, layout: Layout, header: &[u8]) -> Result<Vec<Segment>, Malformed> {
    let (at, size, count) = if layout.wide {
        (layout.u64(header, 32), layout.u16(header, 54), layout.u16(header, 56))
    } else {
        (u64::from(layout.u32(header, 28)), layout.u16(header, 42), layout.u16(header, 44))
    };
    let (size, count) = (usize::from(size), usize::from(count));
    if count > MAX_SEGMENTS || size != if layout.wide { 56 } else { 32 } {
        return if count == 0 { Ok(vec![]) } else { Err(Malformed("wrong program header table")) };
    }
    let table = file.read_at(at, size * count).ok_or(Malformed("the program headers are cut off"))?;
    let segment = |p: &[u8]| match layout.wide {
        true => Segment {
            kind: layout.u32(p, 0),
            offset: layout.u64(p, 8),
            address: layout.u64(p, 16),
            size: layout.u64(p, 32),
        },
        false => Segment {
            kind: layout.u32(p, 0),
            offset: u64::from(layout.u32(p, 4)),
            address: u64::from(layout.u32(p, 8)),
            size: u64::from(layout.u32(p, 16)),
        },
    };
    Ok(table.chunks_exact(size).map(segment).collect())
}

fn interpreter(file: &dyn ReadAt, segments: &[Segment]) -> Result<Option<String>, Malformed> {
    let Some(segment) = segments.iter().find(|s| s.kind == PT_INTERP) else { return Ok(None) };
    let size = usize::try_from(segment.size).unwrap_or(usize::MAX);
    if size > MAX_INTERPRETER {
        return Err(Malformed("the interpreter's path is too long"));
    }
    let text = file.read_at(segment.offset, size).ok_or(Malformed("the interpreter is cut off"))?;
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

fn dynamic_entries(file: &dyn ReadAt, layout: Layout, segment: Segment) -> Result<Dynamic, Malformed> {
    let width = if layout.wide { 16 } else { 8 };
    let room = usize::try_from(segment.size).unwrap_or(usize::MAX) / width;
    let table = file
        .read_at(segment.offset, room.min(MAX_DYNAMIC) * width)
        .ok_or(Malformed("the dynamic section is cut off"))?;
    let pairs = table.chunks_exact(width).map(|e| (layout.word(e, 0), layout.word(e, width / 2)));
    Ok(Dynamic(pairs.take_while(|(tag, _)| *tag != 0).collect()))
}
