use super::*;

fn entry(name: &str, path: &str) -> Entry {
    Entry { name: name.into(), path: path.into(), flags: 0x303, osversion: 0, hwcaps: None, hwcap: 0 }
}

fn sample() -> Cache {
    let mut fast = entry("libz.so.1", "/usr/lib/glibc-hwcaps/x86-64-v3/libz.so.1");
    fast.hwcaps = Some("x86-64-v3".into());
    let mut slow = entry("libz.so.1", "/usr/lib/glibc-hwcaps/x86-64-v2/libz.so.1");
    slow.hwcaps = Some("x86-64-v2".into());
    Cache {
        entries: vec![
            entry("libz.so.1", "/usr/lib/libz.so.1"),
            entry("liba.so.9", "/usr/lib/liba.so.9"),
            fast,
            entry("liba.so.10", "/usr/lib/liba.so.10"),
            slow,
        ],
    }
}

#[test]
fn a_cache_comes_back_in_the_loaders_order() {
    let back = parse(&sample().write()).expect("own file");
    let paths: Vec<&str> = back.entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/usr/lib/glibc-hwcaps/x86-64-v2/libz.so.1",
            "/usr/lib/glibc-hwcaps/x86-64-v3/libz.so.1",
            "/usr/lib/libz.so.1",
            "/usr/lib/liba.so.10",
            "/usr/lib/liba.so.9",
        ]
    );
    assert_eq!(parse(&back.write()), Ok(back));
    assert_eq!(parse(&Cache::default().write()), Ok(Cache::default()));
}

#[test]
fn names_compare_as_the_loader_does() {
    for (a, b, order) in [
        ("libc.so.6", "libc.so.6", Ordering::Equal),
        ("libc.so.10", "libc.so.6", Ordering::Greater),
        ("lib1.so", "liba.so", Ordering::Greater),
        ("liba.so", "lib1.so", Ordering::Less),
        ("lib", "liba", Ordering::Less),
        ("libx.so.007", "libx.so.7", Ordering::Equal),
        ("libX.so", "libx.so", Ordering::Less),
        ("", "a", Ordering::Less),
    ] {
        assert_eq!(libcmp(a.as_bytes(), b.as_bytes()), order, "{a} {b}");
    }
}

#[test]
fn ours_take_the_place_of_every_entry_of_the_name() {
    let mut cache = sample();
    cache.replace(vec![entry("libz.so.1", "/run/grus/lib/libz.so.1")]);
    let found: Vec<&str> = cache.lookup("libz.so.1", 0x303).map(|e| e.path.as_str()).collect();
    assert_eq!(found, ["/run/grus/lib/libz.so.1"]);
    assert_eq!(cache.lookup("libz.so.1", 3).count(), 0);
    assert_eq!(cache.entries.len(), 3);
}

/// The older formats: its own table, alone and before the new one.
#[test]
fn older_formats_are_read() {
    let mut old = MAGIC_OLD.to_vec();
    old.push(0);
    for n in [1_u32, 3, 0, 5] {
        old.extend(n.to_ne_bytes());
    }
    let mut alone = old.clone();
    alone.extend(b"libx\0/libx\0");
    let read = parse(&alone).expect("old format");
    assert_eq!((read.entries[0].name.as_str(), read.entries[0].path.as_str()), ("libx", "/libx"));

    // Combined: strings are counted from the new header; hwcaps from the file's start, as the loader does.
    let plain = Cache { entries: vec![entry("liba.so.1", "/a/liba.so.1")] };
    old.resize(old.len().next_multiple_of(8), 0);
    old.extend(plain.write());
    assert_eq!(parse(&old).expect("combined"), plain);
}

#[test]
fn hostile_files_are_refused() {
    let good = sample().write();
    for cut in 0..good.len() {
        let _ = parse(&good[..cut]);
    }
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = parse(&bad);
        }
    }
    for bad in [&b""[..], b"x", MAGIC_NEW, MAGIC_OLD, &good[..HEADER - 1], &vec![0; MAX_CACHE + 1]] {
        assert!(parse(bad).is_err());
    }
    let mut many = good.clone();
    many[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(parse(&many).is_err());
    let mut foreign = good;
    foreign[28] = if cfg!(target_endian = "little") { 3 } else { 2 };
    assert_eq!(parse(&foreign), Err(Malformed("another byte order")));
}
