//! Owns the superblock and where the tables are: the checks that the kernel makes when it mounts (fs/squashfs/super.c,
//! id.c, export.c, fragment.c, xattr_id.c, squashfs_fs.h), and those that it leaves out. It reads no table.

use std::ops::Range;

use super::bytes::{read_u64, u16_at, u32_at, u64_at, Bytes};
use super::invalid::{Checked, Rule};
use super::unpack::{Method, METHODS};
use crate::limits::Limits;

const SUPERBLOCK: u64 = 96;
const MAGIC: u32 = 0x7371_7368;
/// In place of a table that is not there.
pub(super) const NONE: u64 = u64::MAX;
/// Unpacked bytes of a metadata block.
pub(super) const BLOCK: usize = 8192;
/// Flags (SQUASHFS_* in squashfs_fs.h and in mksquashfs); 4 is of format 3.
const EXPORTABLE: u16 = 0x80;
const OPTIONS: u16 = 0x400;
const KNOWN_FLAGS: u16 = 0xfff & !4;
/// Most that may follow the image: mksquashfs pads to 4 KiB, others to the largest block size.
const PADDING: u64 = 1 << 20;
/// The kernel's SQUASHFS_DEVBLK_SIZE.
const DEVICE_BLOCK: u64 = 1024;

/// An indexed table: metadata blocks, and after them the list of their places.
#[derive(Clone, Debug)]
pub(super) struct Indexed {
    /// Its blocks.
    pub(super) blocks: Range<u64>,
    /// Where their places are listed.
    pub(super) index: u64,
}

/// The attributes' tables.
#[derive(Debug)]
pub(super) struct Xattrs {
    pub(super) pairs: Range<u64>,
    pub(super) list: Indexed,
    pub(super) count: u32,
}

/// What the superblock says, checked.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) method: Method,
    /// The compression's name.
    pub(super) compression: &'static str,
    /// Largest dictionary of xz, and window of zstd.
    pub(super) dictionary: u32,
    pub(super) block_size: u32,
    pub(super) inodes: u32,
    pub(super) fragments: u32,
    pub(super) id_count: u16,
    pub(super) root: u64,
    pub(super) used: u64,
    /// Bytes of the file.
    pub(super) length: u64,
    pub(super) data: Range<u64>,
    pub(super) inode: Range<u64>,
    pub(super) directory: Range<u64>,
    pub(super) fragment: Option<Indexed>,
    pub(super) export: Option<Indexed>,
    pub(super) id: Indexed,
    pub(super) xattr: Option<Xattrs>,
}

/// Reads and checks the superblock and the places of all tables.
pub(super) fn layout<B: Bytes + ?Sized>(image: &B, limits: &Limits) -> Checked<Layout> {
    let length = image.length()?;
    if length < SUPERBLOCK {
        return Err(Rule::Short.at(0, format!("{length} bytes")));
    }
    let mut head = [0; SUPERBLOCK as usize];
    image.read_at(&mut head, 0)?;
    let method = simple_fields(&head, length, limits)?;
    let Some(method) = method else {
        return Err(Rule::Unsupported.at(20, METHODS[usize::from(u16_at(&head, 20)) - 1].0));
    };
    let (data, dictionary) = options(image, &head, method)?;
    let used = u64_at(&head, 40);
    let [id, xattr, inode, directory, fragment, export] =
        [48, 56, 64, 72, 80, 88].map(|at| u64_at(&head, at));
    let (inodes, fragments, id_count) = (u32_at(&head, 4), u32_at(&head, 16), u16_at(&head, 26));

    // From the end of the image to its beginning, as the kernel does: each index ends where the next table begins.
    let xattr = if xattr == NONE { None } else { Some(xattrs(image, xattr, used)?) };
    let next = xattr.as_ref().map_or(used, |xattr| xattr.pairs.start);
    let id = indexed(image, (48, id), u64::from(id_count) * 4, next)?;
    let mut next = id.blocks.start;
    let exportable = u16_at(&head, 24) & EXPORTABLE != 0;
    if exportable != (export != NONE) {
        return Err(Rule::Export.at(88, format!("the flag is {exportable}, the place {export:#x}")));
    }
    let export = exportable.then(|| indexed(image, (88, export), u64::from(inodes) * 8, next)).transpose()?;
    next = export.as_ref().map_or(next, |export| export.blocks.start);
    let fragment = match fragments {
        // mksquashfs writes the place where the table would be, others none.
        0 if fragment == NONE || fragment == next => None,
        0 => return Err(Rule::IndexLength.at(80, format!("no fragments, whose table is at {fragment}"))),
        some => Some(indexed(image, (80, fragment), u64::from(some) * 16, next)?),
    };
    next = fragment.as_ref().map_or(next, |fragment| fragment.blocks.start);
    if !(data <= inode && inode < directory && directory <= next) {
        let order =
            format!("data at {data}, inodes at {inode}, directories at {directory}, others at {next}");
        return Err(Rule::TableOrder.at(64, order));
    }
    Ok(Layout {
        method,
        compression: METHODS[usize::from(u16_at(&head, 20)) - 1].0,
        dictionary,
        block_size: u32_at(&head, 12),
        inodes,
        fragments,
        id_count,
        root: u64_at(&head, 32),
        used,
        length,
        data: data..inode,
        inode: inode..directory,
        directory: directory..next,
        fragment,
        export,
        id,
        xattr,
    })
}

/// The fields that stand for themselves. None for a compression that is known and cannot be read.
fn simple_fields(head: &[u8], length: u64, limits: &Limits) -> Checked<Option<Method>> {
    if u32_at(head, 0) != MAGIC {
        return Err(Rule::Magic.at(0, ""));
    }
    let version = (u16_at(head, 28), u16_at(head, 30));
    if version != (4, 0) {
        return Err(Rule::Version.at(28, format!("{}.{}", version.0, version.1)));
    }
    let compressor = u16_at(head, 20);
    let method = usize::from(compressor).checked_sub(1).and_then(|at| METHODS.get(at));
    let Some((_, method)) = method else { return Err(Rule::Compressor.at(20, compressor.to_string())) };
    let block_size = u32_at(head, 12);
    if !block_size.is_power_of_two() || !(4096..=1 << 20).contains(&block_size) {
        return Err(Rule::BlockSize.at(12, block_size.to_string()));
    }
    let log = u16_at(head, 22);
    if u32::from(log) != block_size.trailing_zeros() {
        return Err(Rule::BlockLog.at(22, format!("{block_size} and {log}")));
    }
    let flags = u16_at(head, 24);
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Rule::Flags.at(24, format!("{flags:#x}")));
    }
    match u32_at(head, 4) {
        0 => return Err(Rule::InodeCount.at(4, "")),
        many if u64::from(many) > limits.entries => {
            return Err(Rule::LimitEntries.at(4, format!("{many}, at most {}", limits.entries)))
        }
        _ => {}
    }
    if u16_at(head, 26) == 0 {
        return Err(Rule::IdCount.at(26, ""));
    }
    if (u64_at(head, 32) & 0xffff) as usize >= BLOCK || u64_at(head, 32) >> 48 != 0 {
        return Err(Rule::RootPlace.at(32, format!("{:#x}", u64_at(head, 32))));
    }
    let used = u64_at(head, 40);
    if used > length || used < SUPERBLOCK {
        return Err(Rule::Truncated.at(40, format!("{length} of {used} bytes are there")));
    }
    // The kernel reads in such units (fs/squashfs/squashfs_fs.h), and a loop device ends with its file's last sector.
    if used > length / DEVICE_BLOCK * DEVICE_BLOCK {
        return Err(Rule::Sector.at(40, format!("{length} bytes, of which {used} are the image's")));
    }
    Ok(*method)
}

/// Checks the options of the compression; where data may begin, and the largest dictionary.
fn options<B: Bytes + ?Sized>(image: &B, head: &[u8], method: Method) -> Checked<(u64, u32)> {
    let dictionary = u32_at(head, 12).max(BLOCK as u32);
    if u16_at(head, 24) & OPTIONS == 0 {
        // Only lz4's are needed (fs/squashfs/lz4_wrapper.c).
        return match method {
            Method::Lz4 => Err(Rule::Options.at(24, "lz4 has none")),
            _ => Ok((SUPERBLOCK, dictionary)),
        };
    }
    let size = if method == Method::Zstd { 4 } else { 8 };
    let end = SUPERBLOCK + 2 + size as u64;
    if end > u64_at(head, 40) {
        return Err(Rule::Options.at(SUPERBLOCK, "the image ends within them"));
    }
    let mut options = vec![0; 2 + size];
    image.read_at(&mut options, SUPERBLOCK)?;
    if u16_at(&options, 0) != 0x8000 | size as u16 {
        let detail = format!("{:#x} for a length of {size}", u16_at(&options, 0));
        return Err(Rule::Options.at(SUPERBLOCK, detail));
    }
    let (first, options) = (u32_at(&options, 2), &options[2..]);
    let good = match method {
        // Level, window, strategies.
        Method::Gzip => {
            (1..=9).contains(&first) && (8..=15).contains(&u16_at(options, 4)) && u16_at(options, 6) <= 0x1f
        }
        Method::Zstd => (1..=22).contains(&first),
        // Version, flags.
        Method::Lz4 => first == 1 && u32_at(options, 4) <= 1,
        // Dictionary: 2^n or 2^n + 2^(n + 1); filters.
        Method::Xz => {
            let low = first & first.wrapping_neg();
            let shape = first == low || u64::from(first) == 3 * u64::from(low);
            first != 0 && shape && first <= 1 << 20 && u32_at(options, 4) <= 0x3f
        }
    };
    match good {
        true if method == Method::Xz => Ok((end, first.max(BLOCK as u32))),
        true => Ok((end, dictionary)),
        false => Err(Rule::Options.at(SUPERBLOCK + 2, format!("{options:?}"))),
    }
}

/// An indexed table whose index is at `index` and must end at `next`. `field` is the superblock's.
fn indexed<B: Bytes + ?Sized>(
    image: &B,
    (field, index): (u64, u64),
    length: u64,
    next: u64,
) -> Checked<Indexed> {
    let blocks = length.div_ceil(BLOCK as u64);
    let end = index.checked_add(blocks * 8);
    if end != Some(next) {
        let detail = format!("{blocks} places from {index} on, the next table at {next}");
        return Err(Rule::IndexLength.at(field, detail));
    }
    let start = read_u64(image, index)?;
    if start >= index {
        return Err(Rule::TableOrder.at(index, format!("a block at {start} of a table at {index}")));
    }
    Ok(Indexed { blocks: start..index, index })
}

/// The attributes' tables: pairs, list of sets, a header, the list's index, which ends the image.
fn xattrs<B: Bytes + ?Sized>(image: &B, header: u64, used: u64) -> Checked<Xattrs> {
    let index = header.checked_add(16).filter(|index| *index < used);
    let Some(index) = index else { return Err(Rule::TableOrder.at(56, format!("{header} of {used}"))) };
    let mut fields = [0; 16];
    image.read_at(&mut fields, header)?;
    let (pairs, count, unused) = (u64_at(&fields, 0), u32_at(&fields, 8), u32_at(&fields, 12));
    if count == 0 || unused != 0 {
        return Err(Rule::XattrHeader.at(header + 8, format!("{count} sets, {unused} unused")));
    }
    let mut list = indexed(image, (56, index), u64::from(count) * 16, used)?;
    list.blocks.end = header;
    if !(pairs < list.blocks.start && list.blocks.start < header) {
        let detail = format!("pairs at {pairs}, sets at {}, header at {header}", list.blocks.start);
        return Err(Rule::TableOrder.at(header, detail));
    }
    Ok(Xattrs { pairs: pairs..list.blocks.start, list, count })
}

/// Checks what follows the image: padding, and no more of it than anyone writes.
pub(super) fn trailing<B: Bytes + ?Sized>(image: &B, layout: &Layout) -> Checked {
    let rest = layout.length - layout.used;
    if rest > PADDING {
        return Err(Rule::TrailingLength.at(layout.used, format!("{rest} bytes, at most {PADDING}")));
    }
    let mut padding = vec![0; rest as usize];
    image.read_at(&mut padding, layout.used)?;
    match padding.iter().position(|byte| *byte != 0) {
        Some(at) => Err(Rule::TrailingBytes.at(layout.used + at as u64, "")),
        None => Ok(()),
    }
}
