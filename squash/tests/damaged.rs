//! Images that break one rule each: a good image, and the field that is damaged in it. Every rule of the validator is
//! broken by at least one.

mod fixture;

use std::collections::BTreeSet;

use std::io::{self, Read};

use fixture::foreign::{plain, squashed, wide, Plain};
use grus_squash::{convert, validate_to, Compression, Depth, Invalid, LayerSource, Limits, Options, Rule};

type Damage = fn(&mut Plain);

/// Names in the base image: see `foreign::tree`.
const SUPERBLOCK: &[(Rule, Damage)] = &[
    (Rule::Short, |i| i.0.truncate(95)),
    (Rule::Short, |i| i.0.clear()),
    (Rule::Magic, |i| i.0[0] = b'H'),
    (Rule::Version, |i| i.put16(28, 3)),
    (Rule::Version, |i| i.put16(30, 1)),
    (Rule::Compressor, |i| i.put16(20, 0)),
    (Rule::Compressor, |i| i.put16(20, 7)),
    (Rule::Unsupported, |i| i.put16(20, 2)),
    (Rule::Unsupported, |i| i.put16(20, 3)),
    (Rule::BlockSize, |i| i.put32(12, 0)),
    (Rule::BlockSize, |i| i.put32(12, 4097)),
    (Rule::BlockSize, |i| i.put32(12, 2048)),
    (Rule::BlockSize, |i| i.put32(12, 2 << 20)),
    (Rule::BlockLog, |i| i.put16(22, 13)),
    (Rule::Flags, |i| i.put16(24, i.u16(24) | 4)),
    (Rule::Flags, |i| i.put16(24, i.u16(24) | 0x1000)),
    (Rule::InodeCount, |i| i.put32(4, 0)),
    (Rule::IdCount, |i| i.put16(26, 0)),
    (Rule::RootPlace, |i| i.put64(32, 8192)),
    (Rule::RootPlace, |i| i.put64(32, 1 << 48)),
    (Rule::RootPlace, |i| i.put64(32, i.u64(32) + 1)),
    (Rule::Truncated, |i| i.0.truncate(i.table(40) - 1)),
    (Rule::Truncated, |i| i.put64(40, u64::MAX)),
    (Rule::Truncated, |i| i.put64(40, 95)),
    (Rule::Sector, |i| i.0.truncate(i.table(40))),
    // Whole sectors, and half a block of the kernel's.
    (Rule::Sector, |i| {
        let used = i.table(40).next_multiple_of(1024) as u64 + 100;
        i.put64(40, used);
        i.0.resize(used as usize, 0);
        i.0.resize((used as usize).next_multiple_of(512), 0);
    }),
    (Rule::TrailingLength, |i| i.0.extend(vec![0; 2 << 20])),
    (Rule::TrailingBytes, |i| *i.0.last_mut().expect("padding") = 1),
    (Rule::Options, |i| i.put16(96, 8)),
    (Rule::Options, |i| i.put16(96, 0x8004)),
    (Rule::Options, |i| i.put32(98, 10)),
    (Rule::Options, |i| i.put16(102, 16)),
    (Rule::Options, |i| i.put16(104, 0x20)),
    // Lz4 without options; with wrong ones; xz with a dictionary of a size that the kernel has none of.
    (Rule::Options, |i| {
        i.put16(20, 5);
        i.put16(24, i.u16(24) & !0x400);
    }),
    (Rule::Options, |i| {
        i.put16(20, 5);
        i.put32(98, 2);
    }),
    (Rule::Options, |i| {
        i.put16(20, 4);
        i.put32(98, 8192 + 1);
    }),
];

const TABLES: &[(Rule, Damage)] = &[
    (Rule::TableOrder, |i| i.put64(64, i.u64(72))),
    (Rule::TableOrder, |i| i.put64(64, 90)),
    (Rule::TableOrder, |i| i.put64(72, i.u64(80))),
    (Rule::TableOrder, |i| i.put64(56, i.u64(40))),
    (Rule::TableOrder, |i| i.put64(i.table(56), i.u64(40))),
    (Rule::TableOrder, |i| i.put64(i.table(48), i.u64(48))),
    (Rule::IndexLength, |i| i.put64(48, i.u64(48) + 8)),
    (Rule::IndexLength, |i| i.put64(48, u64::MAX)),
    (Rule::IndexLength, |i| i.put64(80, i.u64(80) - 8)),
    (Rule::IndexLength, |i| i.put64(88, 96)),
    (Rule::IndexLength, |i| i.put64(56, i.u64(56) - 8)),
    (Rule::IndexLength, |i| i.put32(16, 0)),
    (Rule::Export, |i| i.put16(24, i.u16(24) & !0x80)),
    (Rule::Export, |i| i.put64(88, u64::MAX)),
    (Rule::XattrHeader, |i| i.put32(i.table(56) + 8, 0)),
    (Rule::XattrHeader, |i| i.put32(i.table(56) + 12, 1)),
    (Rule::MetadataSize, |i| i.put16(i.table(64), 0x8000)),
    (Rule::MetadataSize, |i| i.put16(i.table(64), 0)),
    (Rule::MetadataSize, |i| i.put16(i.table(64), 0x8000 | 8193)),
    (Rule::MetadataBounds, |i| i.put16(i.table(64), i.u16(i.table(64)) + 1)),
    (Rule::MetadataShort, |i| i.put16(i.table(64), i.u16(i.table(64)) - 1)),
    (Rule::MetadataUnpack, |i| i.put16(i.table(64), i.u16(i.table(64)) & 0x7fff)),
    (Rule::TableLength, |i| i.put16(26, i.u16(26) + 1)),
    (Rule::TableLength, |i| i.put16(26, i.u16(26) - 1)),
    (Rule::TableLength, |i| i.put32(16, i.u32(16) + 1)),
    (Rule::IdValue, |i| i.put32(first_block(i, 48) + 2, u32::MAX)),
    (Rule::FragmentWord, |i| i.put32(first_block(i, 80) + 2 + 8, 1 << 24)),
    (Rule::FragmentWord, |i| i.put32(first_block(i, 80) + 2 + 8, 1 << 25 | 9)),
    (Rule::FragmentWord, |i| i.put32(first_block(i, 80) + 2 + 8, 4097)),
    (Rule::FragmentWord, |i| i.put32(first_block(i, 80) + 2 + 12, 1)),
    (Rule::FragmentBounds, |i| i.put64(first_block(i, 80) + 2, 0)),
    (Rule::FragmentBounds, |i| i.put64(first_block(i, 80) + 2, i.u64(64) - 1)),
    (Rule::FragmentBounds, |i| i.put64(first_block(i, 80) + 2, u64::MAX)),
    (Rule::ExportEntry, |i| i.put64(first_block(i, 88) + 2, i.u64(first_block(i, 88) + 2) + 1)),
];

const INODES: &[(Rule, Damage)] = &[
    // The root is the last inode; an extended one is longer.
    (Rule::InodeCut, |i| i.put16(i.root(), 8)),
    (Rule::InodeType, |i| i.put16(i.inode("none"), 0)),
    (Rule::InodeType, |i| i.put16(i.inode("none"), 15)),
    (Rule::InodeMode, |i| i.put16(i.inode("none") + 2, 0o100_644)),
    (Rule::InodeOwner, |i| i.put16(i.inode("none") + 4, 99)),
    (Rule::InodeOwner, |i| i.put16(i.inode("none") + 6, i.u16(26))),
    (Rule::InodeNumber, |i| i.put32(i.inode("none") + 12, 0)),
    (Rule::InodeNumber, |i| i.put32(i.inode("none") + 12, i.u32(4) + 1)),
    (Rule::InodeTwice, |i| i.put32(i.inode("none") + 12, i.u32(i.inode("big") + 12))),
    (Rule::InodeTotal, |i| i.put32(4, i.u32(4) + 1)),
    (Rule::FileBlock, |i| i.put32(i.inode("big") + 32, 1 << 24 | 4097)),
    (Rule::FileBlock, |i| i.put32(i.inode("big") + 32, 1 << 24)),
    (Rule::FileBlock, |i| i.put32(i.inode("big") + 36, 1 << 25 | 4096)),
    (Rule::FileBounds, |i| i.put32(i.inode("big") + 16, 0)),
    (Rule::FileBounds, |i| i.put32(i.inode("big") + 16, i.u32(64))),
    (Rule::FileBounds, |i| i.put64(i.inode("sparse") + 16, u64::MAX - 9)),
    (Rule::FileFragment, |i| i.put32(i.inode("d/e/f") + 20, i.u32(16))),
    (Rule::FileTail, |i| i.put64(i.inode("x") + 24, 0)),
    (Rule::FileOffset, |i| i.put32(i.inode("d/e/f") + 24, 4096)),
    (Rule::FileOffset, |i| i.put32(i.inode("d/e/f") + 24, u32::MAX)),
    (Rule::FileSparse, |i| i.put64(i.inode("sparse") + 32, 1 << 40)),
    (Rule::DataSize, |i| i.put32(i.inode("big") + 32, 1 << 24 | 4095)),
    (Rule::LinkLength, |i| i.put32(i.inode("link") + 20, 0)),
    (Rule::LinkNul, |i| i.put(i.inode("link") + 24, 1, 0)),
    (Rule::LimitTarget, |i| i.put32(i.inode("link") + 20, 4096)),
    (Rule::XattrIndex, |i| i.put32(i.inode("x") + 52, 99)),
    (Rule::DirectorySize, |i| i.put16(i.inode("p") + 24, 2)),
    (Rule::DirectorySize, |i| i.put16(i.inode("p") + 24, 10)),
];

const LISTINGS: &[(Rule, Damage)] = &[
    (Rule::ListingPlace, |i| i.put16(i.inode("d/e") + 26, i.u16(i.inode("d/e") + 26) + 1)),
    // The root's listing is the last one.
    (Rule::ListingCut, |i| i.put16(i.root() + 24, i.u16(i.root() + 24) + 40)),
    (Rule::ListingRest, |i| i.put16(i.root() + 24, 3)),
    (Rule::HeaderCount, |i| i.put32(i.entry("a").0, 256)),
    (Rule::EntryCut, |i| i.put16(i.root() + 24, i.u16(i.root() + 24) - 1)),
    (Rule::EntryCut, |i| i.put32(i.entry("a").0, i.u32(i.entry("a").0) + 1)),
    (Rule::EntryName, |i| i.put(i.entry("big").1 + 9, 1, b'/'.into())),
    (Rule::EntryName, |i| i.put(i.entry("big").1 + 9, 1, 0)),
    (Rule::EntryName, |i| i.put(i.entry("a").1 + 8, 1, b'.'.into())),
    (Rule::EntryOrder, |i| i.put(i.entry("big").1 + 8, 1, b'z'.into())),
    (Rule::EntryTwice, |i| i.put(i.entry("b").1 + 8, 1, b'a'.into())),
    (Rule::LimitName, |i| i.put16(i.entry("a").1 + 6, 255)),
    (Rule::EntryNumber, |i| i.put16(i.entry("a").1 + 2, 0x7000)),
    (Rule::EntryPlace, |i| i.put16(i.entry("a").1, i.u16(i.entry("a").1) + 1)),
    (Rule::EntryType, |i| i.put16(i.entry("a").1 + 4, 3)),
    (Rule::DirectoryParent, |i| i.put32(i.inode("p") + 28, i.u32(i.inode("d") + 12))),
    (Rule::DirectoryTwice, |i| i.lead("q", i.inode("p"))),
    (Rule::RootType, |i| i.put64(32, (i.inode("none") - i.table(64) - 2) as u64)),
    (Rule::RootNamed, |i| i.lead("q", i.root())),
    (Rule::Unnamed, |i| {
        let mut files = ["none", "whole"];
        files.sort_by_key(|path| i.u32(i.inode(path) + 12));
        i.lead(files[0], i.inode(files[1]));
    }),
    (Rule::Links, |i| i.put32(i.inode("a") + 40, 3)),
    (Rule::Links, |i| i.put32(i.inode("link") + 16, 2)),
    (Rule::Links, |i| i.put32(i.inode("fifo") + 16, 0)),
    (Rule::DirectoryLinks, |i| i.put32(i.inode("d") + 20, 4)),
    (Rule::Cycle, |i| {
        let (d, e, g) = (i.inode("d"), i.inode("d/e"), i.inode("d/e/g"));
        i.lead("d/e/g", d);
        i.lead("d", g);
        i.put32(d + 28, i.u32(e + 12));
        i.put32(g + 28, i.u32(i.root() + 12));
    }),
];

const ATTRIBUTES: &[(Rule, Damage)] = &[
    (Rule::XattrPlace, |i| i.put64(xattr_set(i, 0), 8192)),
    (Rule::XattrPlace, |i| i.put64(xattr_set(i, 0), 1 << 16)),
    (Rule::XattrPlace, |i| i.put64(xattr_set(i, 0), u64::MAX)),
    (Rule::XattrCut, |i| i.put16(xattr(i, 1) + 2, 60_000)),
    (Rule::XattrCut, |i| i.put32(value(i, 1), 60_000)),
    (Rule::XattrEmpty, |i| i.put32(xattr_set(i, 0) + 8, 0)),
    (Rule::XattrPrefix, |i| i.put16(xattr(i, 0), 3)),
    (Rule::XattrPrefix, |i| i.put16(xattr(i, 0), 0x200)),
    (Rule::XattrName, |i| i.put(xattr(i, 0) + 4, 1, 0)),
    (Rule::XattrName, |i| i.put16(xattr(i, 0) + 2, 0)),
    (Rule::XattrTwice, |i| {
        let (first, second) = two_attributes(i);
        i.0[second + 5] = i.0[first + 5];
    }),
    (Rule::XattrValue, |i| {
        // The eight bytes of `user.one` as a place.
        let one = (0..2).map(|n| xattr(i, n)).find(|at| i.0[at + 4] == b'o').expect("user.one");
        i.put16(one, 0x100);
    }),
    (Rule::XattrSize, |i| i.put32(xattr_set(i, 0) + 12, i.u32(xattr_set(i, 0) + 12) + 1)),
    (Rule::XattrSize, |i| i.put32(xattr_set(i, 1) + 12, 1)),
    (Rule::LimitXattr, |i| i.put32(value(i, 0), 65_537)),
];

/// In the image of many names: tables of several blocks, and a directory with an index.
const WIDE: &[(Rule, Damage)] = &[
    (Rule::IndexEntry, |i| i.put64(i.table(88) + 8, i.u64(i.table(88) + 8) + 1)),
    (Rule::IndexEntry, |i| i.put64(i.table(88) + 8, u64::MAX)),
    (Rule::MetadataShort, |i| {
        let inodes = i.table(64);
        i.put16(inodes, 0x8000 | 4096);
        i.put16(inodes + 2 + 4096, 0x8000 | (8192 - 4096 - 2));
    }),
    (Rule::DirectoryIndex, |i| i.put32(i.root() + 40, i.u32(i.root() + 40) + 1)),
    (Rule::DirectoryIndex, |i| i.put32(i.root() + 40, u32::MAX)),
    (Rule::DirectoryIndex, |i| i.put32(i.root() + 44, i.u32(i.root() + 44) + 1)),
    (Rule::DirectoryIndex, |i| i.put(i.root() + 40 + 12 + 12, 1, 0xff)),
    (Rule::LimitName, |i| i.put32(i.root() + 48, 255)),
];

/// Only a look at the data finds these.
const DEEP: &[(Rule, Damage)] = &[
    (Rule::DataUnpack, |i| {
        let at = i.u32(i.inode("comp") + 16) as usize;
        i.0[at..at + 8].fill(0xff);
    }),
    (Rule::DataSize, |i| {
        // A block of another file's, which unpacks to one byte more.
        let (comp, whole) = (i.inode("comp"), i.inode("whole"));
        i.put32(whole + 16, i.u32(comp + 16));
        i.put32(whole + 32, i.u32(comp + 32));
        i.put32(whole + 28, 4095);
    }),
];

fn first_block(image: &Plain, field: usize) -> usize {
    image.u64(image.table(field)) as usize
}

fn xattr_set(image: &Plain, n: usize) -> usize {
    image.u64(image.table(56) + 16) as usize + 2 + n * 16
}

/// The first attribute of a set.
fn xattr(image: &Plain, n: usize) -> usize {
    image.at(image.u64(image.table(56)) as usize, image.u64(xattr_set(image, n)))
}

/// The length of the value of the first attribute of a set.
fn value(image: &Plain, n: usize) -> usize {
    let first = xattr(image, n);
    first + 4 + usize::from(image.u16(first + 2))
}

fn two_attributes(image: &Plain) -> (usize, usize) {
    let n = (0..2).find(|n| image.u32(xattr_set(image, *n) + 8) == 2).expect("two attributes");
    let length = value(image, n);
    (xattr(image, n), length + 4 + image.u32(length) as usize)
}

fn broken(image: &Plain, limits: &Limits, depth: Depth) -> Result<Rule, String> {
    match validate_to(&image.0[..], limits, depth) {
        Err(Invalid::Broken(broken)) => {
            let text = broken.to_string();
            assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
            Ok(broken.rule)
        }
        Err(Invalid::Read(error)) => Err(error.to_string()),
        Ok(_) => Err("it is valid".into()),
    }
}

fn run(
    base: Vec<u8>,
    cases: &[(Rule, Damage)],
    depth: Depth,
    seen: &mut BTreeSet<Rule>,
    wrong: &mut Vec<String>,
) {
    let base = Plain(base);
    assert_eq!(broken(&base, &Limits::default(), Depth::Data), Err("it is valid".into()));
    for (n, (rule, damage)) in cases.iter().enumerate() {
        let mut image = base.clone();
        damage(&mut image);
        assert!(image.0 != base.0, "case {n} for {rule:?} damages nothing");
        seen.insert(*rule);
        let found = broken(&image, &Limits::default(), depth);
        if found != Ok(*rule) {
            wrong.push(format!("case {n} for {rule:?}: {found:?}"));
        }
    }
}

/// Ceilings, each lower than what the base image needs.
fn limits() -> Vec<(Rule, Limits)> {
    let least = Limits::default;
    vec![
        (Rule::LimitEntries, Limits { entries: 5, ..least() }),
        (Rule::LimitTotal, Limits { total_size: 20_000, ..least() }),
        (Rule::LimitFile, Limits { file_size: 10_000, ..least() }),
        (Rule::LimitMetadata, Limits { metadata_size: 500, ..least() }),
        (Rule::LimitName, Limits { name_length: 5, ..least() }),
        (Rule::LimitTarget, Limits { path_length: 0, ..least() }),
        (Rule::LimitDepth, Limits { path_depth: 2, ..least() }),
        (Rule::LimitXattr, Limits { xattr_value: 7, ..least() }),
    ]
}

#[test]
fn every_rule_is_broken_by_its_own_image() {
    let (mut seen, mut wrong) = (BTreeSet::new(), vec![]);
    let base = plain();
    for cases in [SUPERBLOCK, TABLES, INODES, LISTINGS, ATTRIBUTES] {
        run(base.clone(), cases, Depth::Structure, &mut seen, &mut wrong);
    }
    run(wide(), WIDE, Depth::Structure, &mut seen, &mut wrong);
    run(base.clone(), DEEP, Depth::Data, &mut seen, &mut wrong);
    for (rule, limits) in limits() {
        seen.insert(rule);
        let found = broken(&Plain(base.clone()), &limits, Depth::Structure);
        if found != Ok(rule) {
            wrong.push(format!("the limit {rule:?}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What tests of their own break.
    seen.insert(Rule::LimitRatio);
    let unbroken: Vec<_> = Rule::ALL.iter().filter(|rule| !seen.contains(rule)).collect();
    assert!(unbroken.is_empty(), "no image breaks {unbroken:?}");
}

/// An image of an empty directory alone, whose inode is this.
fn of_root(inode: impl Fn(&[u8]) -> Vec<u8>) -> Plain {
    let empty = tempfile::tempdir().expect("temporary directory");
    let mut image = Plain(squashed(empty.path(), &["-noI", "-noId", "-no-exports", "-no-xattrs"]));
    let root = image.root();
    let new = inode(&image.0[root..root + 32]);
    let more = new.len() - 32;
    image.0.splice(root..root + 32, new);
    image.put16(root - 2, image.u16(root - 2) + more as u16);
    // The image's length, and where tables are.
    for place in [40, 48, 56, 72, 80, 88] {
        if image.u64(place) != u64::MAX {
            image.put64(place, image.u64(place) + more as u64);
        }
    }
    let ids = image.table(48);
    image.put64(ids, image.u64(ids) + more as u64);
    image.0.resize(image.table(40).next_multiple_of(4096), 0);
    image
}

/// The kernel would follow it out of the table, at the first look for a name.
#[test]
fn an_empty_directory_has_no_index() {
    // A basic inode as an extended one.
    let extended = |old: &[u8], indexes: u8| {
        let (head, block, links) = (&old[2..16], &old[16..20], &old[20..24]);
        let (size, offset, parent) = (&old[24..26], &old[26..28], &old[28..32]);
        [&[8, 0], head, links, size, &[0, 0], block, parent, &[indexes, 0], offset, &[0xff; 4]].concat()
    };
    let valid = of_root(|old| extended(old, 0));
    assert_eq!(broken(&valid, &Limits::default(), Depth::Structure), Err("it is valid".into()));
    let entry = [&0xffff_ff00_u32.to_le_bytes()[..], &[0; 8], b"a"].concat();
    let hostile = of_root(|old| [extended(old, 1), entry.clone()].concat());
    assert_eq!(broken(&hostile, &Limits::default(), Depth::Structure), Ok(Rule::DirectoryIndex));
}

#[test]
fn the_structure_of_damaged_data_is_valid() {
    let base = Plain(plain());
    for (_, damage) in DEEP {
        let mut image = base.clone();
        damage(&mut image);
        assert_eq!(broken(&image, &Limits::default(), Depth::Structure), Err("it is valid".into()));
    }
}

#[test]
fn names_of_rules_are_told_apart() {
    let ids: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
    let texts: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.to_string()).collect();
    assert_eq!((ids.len(), texts.len()), (Rule::ALL.len(), Rule::ALL.len()));
}

/// A layer of one file of so many bytes, all the same and none of them zero: a hole would not be stored.
struct Bomb(u64);

impl LayerSource for Bomb {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let mut header = [0; 512];
        header[..4].copy_from_slice(b"bomb");
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", self.0).as_bytes());
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let content = io::repeat(b'x').take(self.0);
        Ok(Box::new(
            io::Cursor::new(fixture::tar::sealed(header)).chain(content).chain(io::repeat(0).take(1024)),
        ))
    }

    fn name(&self) -> String {
        "bomb".into()
    }
}

#[test]
fn an_image_that_unpacks_out_of_all_proportion_breaks_a_limit() {
    let out = tempfile::tempfile().expect("temporary file");
    let options =
        Options { compression: Compression::Zstd { level: 1 }, block_size: 1 << 20, ..Options::default() };
    convert(&[Bomb(1100 << 20)], &out, &options, &()).expect("conversion");
    let valid = validate_to(&out, &Limits::default(), Depth::Structure);
    let ratio = out.metadata().expect("metadata").len();
    assert!((1100 << 20) / ratio > 2000, "{ratio}");
    match valid {
        Err(Invalid::Broken(broken)) => assert_eq!(broken.rule, Rule::LimitRatio, "{broken}"),
        other => panic!("{other:?}"),
    }
    let most = Limits { ratio: 1 << 20, ..Limits::default() };
    assert_eq!(validate_to(&out, &most, Depth::Structure).expect("valid").file_bytes, 1100 << 20);
}
