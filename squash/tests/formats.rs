//! The forms of tar that builders emit, and what becomes of every attribute.

mod fixture;

use fixture::tar::*;
use fixture::{gzip, image, reader, sources, tree_of, Item, Kind, Tree};
use grus_squash::{Error, Options};

fn get<'t>(tree: &'t Tree, path: &str) -> &'t Item {
    tree.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is missing"))
}

#[test]
fn every_type_and_attribute_arrives() {
    let tree = tree_of(&[layer([
        special("fifo", b'6', 0, 0).mode(0o600),
        special("null", b'3', 1, 3).mode(0o666),
        special("big", b'4', 4095, (1 << 20) - 1),
        file("suid", "").mode(0o4755),
        dir("sticky").mode(0o1777),
        file("owner", "").owner(2_000_000, 4_294_967_294),
        file("old", "").mtime(0),
        file("far", "").mtime(1 << 40),
        file("frac", "").pax("mtime", "1700000000.75"),
        file("past", "").pax("mtime", "-5"),
        symlink("sym", "/etc/passwd").mode(0o644),
        file("contiguous", "x"),
        Entry { kind: b'7', ..file("seven", "7") },
        Entry { kind: 0, magic: V7, ..file("v7", "old") },
        Entry { kind: 0, magic: V7, ..file("v7dir/", "") },
    ])]);
    assert_eq!((get(&tree, "fifo").kind, get(&tree, "fifo").mode), (Kind::Fifo, 0o600));
    assert_eq!(
        (get(&tree, "null").kind, &get(&tree, "null").data[..]),
        (Kind::Char, &0x103u32.to_le_bytes()[..])
    );
    assert_eq!(get(&tree, "big").data, u32::MAX.to_le_bytes());
    assert_eq!((get(&tree, "suid").mode, get(&tree, "sticky").mode), (0o4755, 0o1777));
    assert_eq!((get(&tree, "owner").uid, get(&tree, "owner").gid), (2_000_000, 4_294_967_294));
    let times = ["old", "far", "frac", "past"].map(|name| get(&tree, name).mtime);
    assert_eq!(times, [0, u32::MAX, 1_700_000_000, 0]);
    assert_eq!(get(&tree, "sym").mode, 0o777, "as on any Linux file system");
    assert_eq!(get(&tree, "seven").data, b"7");
    assert_eq!((get(&tree, "v7").kind, get(&tree, "v7dir").kind), (Kind::File, Kind::Dir));
}

#[test]
fn long_and_odd_names() {
    let long = format!("{}/{}", "d".repeat(150), "n".repeat(255));
    let target = "a/".repeat(900) + "z";
    let odd = "r\u{e9}s \u{2713}*?[x]\\\n";
    let mut latin = file("", "bytes");
    latin.path = vec![0xe9, 0xff];
    let mut prefixed = file("name", "p").header();
    prefixed[345..355].copy_from_slice(b"pre/fix/ed");
    let mut gnu = file("gnu-prefix", "g").magic(GNU).header();
    gnu[345..350].copy_from_slice(b"12345"); // atime there, not a prefix
    let tar = Tar::default()
        .add(file(&long, "l"))
        .add(symlink("sym", &target))
        .add(file(odd, "o"))
        .add(latin)
        .extended(b'L', format!("gnu/{}\0", "g".repeat(200)).as_bytes())
        .raw(file("cut", "").magic(GNU).header(), b"")
        .extended(b'K', format!("{}\0", "t".repeat(300)).as_bytes())
        .extended(b'L', format!("{}\0", "k".repeat(120)).as_bytes())
        .raw(symlink("cut", "cut").magic(GNU).header(), b"")
        .raw(sealed(prefixed), b"p")
        .raw(sealed(gnu), b"g")
        .end();
    let tree = tree_of(&[tar]);
    assert_eq!(get(&tree, &long).data, b"l");
    assert_eq!(get(&tree, "sym").data, target.as_bytes());
    assert_eq!(get(&tree, odd).data, b"o");
    assert_eq!(tree[&vec![0xe9, 0xff]].data, b"bytes");
    assert_eq!(get(&tree, &format!("gnu/{}", "g".repeat(200))).kind, Kind::File);
    assert_eq!(get(&tree, &"k".repeat(120)).data, "t".repeat(300).as_bytes());
    assert_eq!(get(&tree, "pre/fix/ed/name").data, b"p");
    assert_eq!(get(&tree, "gnu-prefix").data, b"g");
}

#[test]
fn pax_overrides_and_global_headers() {
    let records = |pairs: &[(&str, &str)]| -> Vec<u8> {
        pairs.iter().flat_map(|(k, v)| pax_record(k.as_bytes(), v.as_bytes())).collect()
    };
    let tar = Tar::default()
        .add(
            file("x", "")
                .pax("path", "renamed")
                .pax("uid", "70000")
                .pax("gid", "80000")
                .pax("unknown.key", "?"),
        )
        .extended(b'g', &records(&[("uid", "11"), ("mtime", "42"), ("comment", "git")]))
        .add(file("g1", ""))
        .add(file("g2", "").pax("uid", "12"))
        .extended(b'g', &records(&[("uid", "")]))
        .add(file("g3", "").owner(13, 0))
        .extended(b'x', &records(&[("gid", "5"), ("mtime", "6")]))
        .extended(b'g', &records(&[("mtime", "43")]))
        .add(file("g4", ""))
        .end();
    let tree = tree_of(&[tar]);
    assert_eq!((get(&tree, "renamed").uid, get(&tree, "renamed").gid), (70000, 80000));
    assert_eq!((get(&tree, "g1").uid, get(&tree, "g1").mtime), (11, 42));
    assert_eq!((get(&tree, "g2").uid, get(&tree, "g2").mtime), (12, 42));
    assert_eq!((get(&tree, "g3").uid, get(&tree, "g3").mtime), (13, 42));
    assert_eq!((get(&tree, "g4").gid, get(&tree, "g4").mtime), (5, 43));
}

#[test]
fn extended_attributes() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layers = [layer([
        file("caps", "").xattr("security.capability", capability),
        file("many", "").xattr("user.long", "v".repeat(5000)).xattr("trusted.z", "1").xattr("user.empty", ""),
        dir("dir").xattr("user.comment", "d"),
        symlink("sym", "x").xattr("trusted.s", "1"),
        special("fifo", b'6', 0, 0).xattr("security.f", "1"),
        special("dev", b'3', 1, 3).xattr("security.f", "1"),
        file("libarchive", "").pax("LIBARCHIVE.xattr.user.a%3Db", "aGVsbG8"),
        file("dropped", "")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("user.overlay.redirect", "/x")
            .xattr("system.posix_acl_access", "acl")
            .xattr("system.nfs4_acl", "nfs")
            .pax("SCHILY.acl.access", "user::rw-"),
    ])];
    let (bytes, summary) = image(&sources(&layers), &Options::default()).expect("conversion");
    assert_eq!((summary.dropped_acls, summary.dropped_xattrs), (2, 3));
    let tree = reader::Image::open(&bytes).tree();
    let xattr = |path: &str, name: &str| get(&tree, path).xattrs.get(name.as_bytes()).cloned();
    assert_eq!(xattr("caps", "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(xattr("many", "user.long"), Some("v".repeat(5000).into()));
    assert_eq!(xattr("many", "user.empty"), Some(vec![]));
    assert_eq!(xattr("dir", "user.comment").as_deref(), Some(&b"d"[..]));
    assert_eq!(xattr("sym", "trusted.s").as_deref(), Some(&b"1"[..]));
    assert_eq!(get(&tree, "fifo").xattrs, get(&tree, "dev").xattrs);
    assert_eq!(xattr("libarchive", "user.a=b").as_deref(), Some(&b"hello"[..]));
    assert!(get(&tree, "dropped").xattrs.is_empty());
    // An upper directory entry replaces all of the metadata, attributes included.
    let tree = tree_of(&[layers[0].clone(), layer([dir("dir")])]);
    assert!(get(&tree, "dir").xattrs.is_empty());
}

/// 300 KiB file with data at 100 KiB ("middle") and at its end ("end").
fn sparse_want() -> Vec<u8> {
    let mut want = vec![0; 300 << 10];
    want[100 << 10..(100 << 10) + 6].copy_from_slice(b"middle");
    let end = want.len() - 3;
    want[end..].copy_from_slice(b"end");
    want
}

#[test]
fn sparse_files_in_all_four_forms() {
    let (size, a, b) = (300u64 << 10, 100u64 << 10, (300u64 << 10) - 3);
    let realsize = size.to_string();
    let mut old = Entry { kind: b'S', ..file("old", "middleend") }.magic(GNU).header();
    for (at, number) in [(386, a), (398, 6), (410, b), (422, 3), (434, size), (446, 0), (483, size)] {
        old[at..at + 11].copy_from_slice(format!("{number:011o}").as_bytes());
    }
    // The same with one pair in the header and the others in an extension block.
    let mut extended = Entry { kind: b'S', ..file("extended", "middleend") }.magic(GNU).header();
    let mut extension = [0u8; 512];
    for (at, number) in
        [(386, 0), (398, 0), (410, 0), (422, 0), (434, 0), (446, 0), (458, a), (470, 6), (483, size)]
    {
        extended[at..at + 11].copy_from_slice(format!("{number:011o}").as_bytes());
    }
    extended[482] = 1;
    for (at, number) in [(0, b), (12, 3)] {
        extension[at..at + 11].copy_from_slice(format!("{number:011o}").as_bytes());
    }
    let map = format!("2\n{a}\n6\n{b}\n3\n");
    let mut stored = map.into_bytes();
    stored.resize(512, 0);
    stored.extend(b"middleend");
    let tar = Tar::default()
        .raw(sealed(old), b"middleend")
        .raw(sealed(extended), &[&extension[..], b"middleend"].concat())
        .add(
            file("pax00", "middleend")
                .pax("GNU.sparse.size", &realsize)
                .pax("GNU.sparse.numblocks", "2")
                .pax("GNU.sparse.offset", a.to_string())
                .pax("GNU.sparse.numbytes", "6")
                .pax("GNU.sparse.offset", b.to_string())
                .pax("GNU.sparse.numbytes", "3"),
        )
        .add(
            file("GNUSparseFile.0/pax01", "middleend")
                .pax("GNU.sparse.size", &realsize)
                .pax("GNU.sparse.name", "pax01")
                .pax("GNU.sparse.map", format!("{a},6,{b},3")),
        )
        .add(
            file("GNUSparseFile.0/pax10", stored)
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.name", "pax10")
                .pax("GNU.sparse.realsize", &realsize),
        )
        .add(file("after", "still in step"))
        .end();
    let (bytes, _) = image(&sources(&[tar]), &Options::default()).expect("conversion");
    let tree = reader::Image::open(&bytes).tree();
    for name in ["old", "extended", "pax00", "pax01", "pax10"] {
        assert!(get(&tree, name).data == sparse_want(), "{name}");
    }
    assert_eq!(get(&tree, "after").data, b"still in step");
    assert!(bytes.len() < 16 << 10, "holes and copies take no room");
}

#[test]
fn a_hole_of_a_gibibyte_costs_nothing() {
    let size = 1u64 << 30;
    let hole =
        file("hole", "").pax("GNU.sparse.size", size.to_string()).pax("GNU.sparse.map", format!("{size},0"));
    let (bytes, summary) = image(&sources(&[layer([hole])]), &Options::default()).expect("conversion");
    assert_eq!((summary.file_bytes, summary.unpacked), (size, 3 * 512 + 1024));
    assert!(bytes.len() <= 8 << 10);
}

#[test]
fn compressions_members_and_frames() {
    let tar = layer([file("f", "x".repeat(300_000))]);
    let (half, rest) = tar.split_at(100_000);
    let zstd = |data: &[u8]| zstd::encode_all(data, 1).expect("zstd");
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    for (name, blob) in [
        ("plain", tar.clone()),
        ("gzip", gzip(&tar)),
        ("gzip members", [gzip(half), gzip(rest)].concat()),
        ("zstd", zstd(&tar)),
        ("zstd frames", [zstd(half), zstd(rest)].concat()),
        ("zstd skippable", [&skippable[..], &zstd(&tar), &skippable].concat()),
    ] {
        assert_eq!(get(&tree_of(&[blob]), "f").data.len(), 300_000, "{name}");
    }
    for (magic, method) in [(&b"BZh91AY&SY"[..], "bzip2"), (b"\xfd7zXZ\0\0\0", "xz")] {
        let error =
            image(&sources(&[magic.to_vec()]), &Options::default()).map(|_| ()).expect_err("not readable");
        assert!(matches!(error, Error::Compression { method: m, .. } if m == method), "{error}");
    }
}

#[test]
fn an_archive_may_lack_its_end_marker() {
    let mut tar = layer([file("f", "1")]);
    tar.truncate(1024);
    assert_eq!(get(&tree_of(&[tar.clone()]), "f").data, b"1");
    tar.extend([0; 512]);
    assert_eq!(get(&tree_of(&[tar]), "f").data, b"1");
}
