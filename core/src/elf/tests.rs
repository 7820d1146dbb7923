//! Hostile and hand-made ELF bytes. Real files are in core/tests/elf.rs.

use super::*;

/// A minimal 64-bit shared object: one PT_LOAD over everything, one PT_DYNAMIC.
fn tiny(dynamic: &[(u64, u64)], rest: &[u8]) -> Vec<u8> {
    let mut f = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    f.resize(16, 0);
    f.extend(3_u16.to_le_bytes());
    f.extend(62_u16.to_le_bytes());
    f.extend(1_u32.to_le_bytes());
    for word in [0_u64, 64, 0] {
        f.extend(word.to_le_bytes());
    }
    f.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 0, 0, 0] {
        f.extend(half.to_le_bytes());
    }
    let table = (dynamic.len() + 1) as u64 * 16;
    let total = 176 + table + rest.len() as u64;
    for (kind, offset, size) in [(1_u32, 0_u64, total), (2, 176, table)] {
        f.extend(kind.to_le_bytes());
        f.extend(4_u32.to_le_bytes());
        for word in [offset, offset, offset, size, size, 8] {
            f.extend(word.to_le_bytes());
        }
    }
    for (tag, value) in dynamic.iter().chain(&[(0, 0)]) {
        f.extend(tag.to_le_bytes());
        f.extend(value.to_le_bytes());
    }
    f.extend(rest);
    f
}

/// Strings at a fixed place after `n` dynamic entries.
fn strings_at(n: u64) -> u64 {
    176 + (n + 1) * 16
}

#[test]
fn names_and_paths_are_read_from_the_dynamic_section() {
    let at = strings_at(5);
    let text = b"\0libx.so.1\0libc.so.6\0$ORIGIN/../lib::/opt\0";
    let f = tiny(&[(5, at), (10, text.len() as u64), (14, 1), (1, 11), (29, 21)], text);
    let object = Object::read(&f).expect("good").expect("ELF");
    assert_eq!(object.soname.as_deref(), Some("libx.so.1"));
    assert_eq!(object.needed, ["libc.so.6"]);
    assert_eq!(object.runpath, ["$ORIGIN/../lib", "/opt"]);
    assert_eq!((object.machine.as_str(), object.kind), ("x86_64", Kind::Library));
}

/// As Spack makes programs, with a directory for each library, and C++ its templates.
#[test]
fn long_search_paths_and_names_hide_nothing() {
    let path: Vec<String> = (0..60).map(|n| format!("/opt/spack/{n:0100}/lib")).collect();
    let text =
        [b"\0MPI_Send\0", "x".repeat(5000).as_bytes(), b"\0", path.join(":").as_bytes(), b"\0"].concat();
    let at = strings_at(5);
    let (symbols, hash) = (at + text.len() as u64, at + text.len() as u64 + 3 * 24);
    // Undefined and global: nothing, the long name, the function.
    let symbol = |name: u32| [&name.to_le_bytes()[..], &[0x10], &[0; 19]].concat();
    let table =
        [symbol(0), symbol(10), symbol(1), [1_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat()].concat();
    let dynamic = [(5, at), (10, text.len() as u64), (29, 10 + 5001), (6, symbols), (4, hash)];
    let object = Object::read(&tiny(&dynamic, &[&text[..], &table].concat())).expect("good").expect("ELF");
    assert_eq!(object.runpath, path);
    assert_eq!(object.imports.iter().collect::<Vec<_>>(), ["MPI_Send"]);
}

#[test]
fn what_is_not_elf_is_none() {
    for not in [&b""[..], b"#!/bin/sh\n", b"\x7fEL", &[0; 100]] {
        assert_eq!(Object::read(&not.to_vec()), Ok(None));
    }
    assert!(Object::read(&b"\x7fELF\x09\x01\x01.........".to_vec()).is_err());
}

#[test]
fn lies_about_sizes_are_errors() {
    let at = strings_at(3);
    for dynamic in [
        [(5, at), (10, u64::MAX), (14, 0)],
        [(5, u64::MAX), (10, 4), (14, 0)],
        [(5, at), (10, 4), (14, 77)],
        [(5, at), (10, 4), (0x6fff_fffc, u64::MAX)],
        [(5, at), (4, at), (6, u64::MAX)],
    ] {
        assert!(Object::read(&tiny(&dynamic, b"abcd")).is_err(), "{dynamic:x?}");
    }
}

#[test]
fn endless_version_tables_end() {
    // vd_next and vn_next point at themselves or far away; counts are huge.
    let at = strings_at(6);
    let mut rest = vec![1, 0, 0, 0, 1, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    rest.resize(64, 0);
    for count in [4096, 4097, u64::MAX] {
        let d = [
            (5, at + 40),
            (10, 8),
            (0x6fff_fffc, at),
            (0x6fff_fffd, count),
            (0x6fff_fffe, at),
            (0x6fff_ffff, count),
        ];
        let _ = Object::read(&tiny(&d, &rest));
    }
}

#[test]
fn any_damage_is_survived() {
    let at = strings_at(6);
    let mut rest = b"\0libx.so.1\0MPI_Init\0".to_vec();
    rest.resize(48, 0);
    // A second symbol, global and defined: MPI_Init.
    rest.extend([11, 0, 0, 0, 0x12, 0, 1]);
    rest.resize(72, 0);
    rest.extend([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let mut f = tiny(&[(5, at), (10, 20), (14, 1), (4, at + 72), (6, at + 24), (1, 1)], &rest);
    let object = Object::read(&f).expect("good").expect("ELF");
    assert_eq!(object.exports.iter().collect::<Vec<_>>(), ["MPI_Init"]);
    for i in 0..f.len() {
        let kept = f[i];
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            f[i] = value;
            let _ = Object::read(&f);
        }
        f[i] = kept;
        let _ = Object::read(&f[..i].to_vec());
    }
}
