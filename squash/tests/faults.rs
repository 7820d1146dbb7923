//! Bad input: every way a stream or an archive can be wrong ends in its own error, never in an image.

mod fixture;

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fixture::tar::*;
use fixture::{gzip, image, sources, torture};
use grus_squash::{
    convert, Compression, Error, LayerSource, LimitKind, Limits, MergeFault, Observer, Options, TarFault,
};

fn fails(blob: Vec<u8>, options: &Options) -> Error {
    image(&sources(&[blob]), options).map(|(_, summary)| summary).expect_err("must fail")
}

#[test]
fn a_cut_stream_never_passes() {
    let tar = layer([file("a", vec![7; 3000]), file("b", torture::noise(200_000))]);
    let whole = tar.len() - 1024;
    for cut in (1..whole).step_by(997).chain([511, 513, 512 + 1500, whole - 1]) {
        let boundary = cut == 512 + 3072; // between entries an archive may end
        if !boundary {
            let error = fails(tar[..cut].to_vec(), &Options::default());
            assert!(matches!(error, Error::Tar { what: TarFault::Truncated, .. }), "{cut}: {error}");
        }
    }
    let error = fails(vec![], &Options::default());
    assert!(matches!(error, Error::Tar { what: TarFault::Empty, .. }), "{error}");
    for blob in [gzip(&tar), zstd::encode_all(&tar[..], 1).expect("zstd")] {
        for cut in (10..blob.len()).step_by(blob.len() / 50).chain([blob.len() - 1]) {
            let error = fails(blob[..cut].to_vec(), &Options::default());
            assert!(matches!(error, Error::Decompress { .. }), "{cut}: {error}");
        }
    }
}

#[test]
fn damage_is_found_also_behind_the_end_marker() {
    let tar = layer([file("a", torture::noise(50_000))]);
    let good = gzip(&tar);
    for at in (0..good.len()).step_by(good.len() / 60) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        if (4..10).contains(&at) {
            continue; // time and system of the gzip header mean nothing
        }
        let result = image(&sources(&[bad]), &Options::default());
        assert!(result.is_err(), "flipped byte {at} of {}", good.len());
    }
    // A second gzip member after the archive's end, with a bad checksum.
    let mut member = gzip(&[0; 4096]);
    let crc = member.len() - 8;
    member[crc] ^= 1;
    let error = fails([good, member].concat(), &Options::default());
    assert!(matches!(error, Error::Decompress { .. }), "{error}");
}

/// Fails at its very end, as a reader does that checks a digest.
struct BadDigest(Vec<u8>);

impl LayerSource for BadDigest {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        struct Fail;
        impl Read for Fail {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(io::ErrorKind::InvalidData, "digest does not match"))
            }
        }
        Ok(Box::new(Cursor::new(self.0.clone()).chain(Fail)))
    }
    fn name(&self) -> String {
        "sha256:abc".into()
    }
}

#[test]
fn the_sources_error_is_passed_on_with_the_layers_name() {
    let tar = layer([file("a", "1")]);
    for blob in [tar.clone(), gzip(&tar), zstd::encode_all(&tar[..], 1).expect("zstd")] {
        let error = image(&[BadDigest(blob)], &Options::default()).map(|_| ()).expect_err("must fail");
        let Error::Source { layer, source } = &error else { panic!("{error}") };
        assert_eq!((layer.as_str(), source.kind()), ("sha256:abc", io::ErrorKind::InvalidData));
        assert_eq!(error.to_string(), "cannot read layer sha256:abc: digest does not match");
    }
}

/// Another blob at each opening.
struct Fickle(Vec<Vec<u8>>, AtomicU64);

impl LayerSource for Fickle {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let n = self.1.fetch_add(1, Ordering::Relaxed) as usize;
        Ok(Box::new(Cursor::new(self.0[n].clone())))
    }
    fn name(&self) -> String {
        "fickle".into()
    }
}

#[test]
fn a_layer_that_changes_before_its_second_pass_is_refused() {
    let first = layer([file("a", "1"), hard("b", "a"), file("c", "3")]);
    let upper = || Fickle(vec![layer([whiteout(".wh.a")])], AtomicU64::new(0));
    let run = |second: Vec<u8>| {
        let lower = Fickle(vec![first.clone(), second], AtomicU64::new(0));
        let layers = [lower, upper()];
        let result = image(&layers, &Options::default()).map(|(_, summary)| summary.second_passes);
        assert_eq!(layers[1].1.load(Ordering::Relaxed), 1, "the top layer is opened once");
        result
    };
    assert_eq!(run(first.clone()).expect("unchanged"), 1);
    for second in [layer([file("a", "longer")]), layer([dir("a")]), layer([file("x", "1")]), layer([])] {
        let error = run(second).expect_err("changed");
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
}

#[test]
fn what_is_not_tar_is_refused() {
    let tar_fault = |blob: Vec<u8>| match fails(blob, &Options::default()) {
        Error::Tar { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(tar_fault(vec![b'x'; 2048]), TarFault::Checksum);
    let lone_zero_block = [vec![0; 512], layer([file("a", "")])].concat();
    assert_eq!(tar_fault(lone_zero_block), TarFault::Checksum);
    let one = |e: Entry| layer([e]);
    assert_eq!(tar_fault(one(Entry { kind: b'M', ..file("a", "") })), TarFault::Type('M'));
    assert_eq!(tar_fault(one(file("a", "").pax("size", "x"))), TarFault::Number("size"));
    assert_eq!(tar_fault(one(file("a", "").pax("uid", "-1"))), TarFault::Number("uid"));
    assert_eq!(tar_fault(one(file("a", "").owner(1 << 32, 0))), TarFault::Number("uid"));
    assert_eq!(tar_fault(one(special("a", b'3', 1 << 12, 0))), TarFault::Number("device"));
    assert!(matches!(tar_fault(one(symlink("a", ""))), TarFault::Name(_)));
    assert_eq!(tar_fault(Tar::default().extended(b'x', b"9 a=b\n").end()), TarFault::Pax);
    for map in ["0,4", "0,2,1,2", "2,2,0,2", "8,4", "0,5", "0", "18446744073709551615,4"] {
        let sparse = file("a", "1234").pax("GNU.sparse.size", "8").pax("GNU.sparse.map", map);
        if map != "0,4" {
            assert_eq!(tar_fault(one(sparse)), TarFault::Sparse, "{map}");
        } else {
            assert!(image(&sources(&[one(sparse)]), &Options::default()).is_ok());
        }
    }
}

#[test]
fn every_ceiling_has_its_error() {
    let limits = Limits {
        entries: 5,
        total_size: 100_000,
        file_size: 60_000,
        metadata_size: 20_000,
        name_length: 20,
        path_length: 60,
        path_depth: 4,
        xattr_value: 1000,
        extended_header: 8000,
        sparse_segments: 3,
        ratio: 50,
    };
    let options = Options { limits: limits.clone(), ..Options::default() };
    let limit = |entries: Vec<Entry>| match fails(layer(entries), &options) {
        Error::Limit { limit, .. } => limit,
        other => panic!("{other}"),
    };
    let many = |n: usize| (0..n).map(|i| file(&i.to_string(), "")).collect::<Vec<_>>();
    assert!(image(&sources(&[layer(many(5))]), &options).is_ok());
    assert_eq!(limit(many(6)), LimitKind::Entries(5));
    assert_eq!(
        limit(vec![file("a", vec![1; 50_000]), file("b", vec![2; 50_001])]),
        LimitKind::TotalSize(100_000)
    );
    assert_eq!(limit(vec![file("a", vec![1; 60_001])]), LimitKind::FileSize(60_000));
    let hole = file("a", "").pax("GNU.sparse.size", "60001").pax("GNU.sparse.map", "60001,0");
    assert_eq!(limit(vec![hole]), LimitKind::FileSize(60_000));
    assert_eq!(limit(vec![file(&"n".repeat(21), "")]), LimitKind::NameLength(20));
    assert_eq!(limit(vec![file(&"n/".repeat(5), "")]), LimitKind::PathDepth(4));
    assert_eq!(limit(vec![symlink("s", &"t".repeat(61))]), LimitKind::PathLength(60));
    assert_eq!(limit(vec![file("a", "").xattr("user.a", "v".repeat(1001))]), LimitKind::XattrValue(1000));
    assert_eq!(limit(vec![file("a", "").pax("comment", "v".repeat(8000))]), LimitKind::ExtendedHeader(8000));
    let segments = file("a", "1234").pax("GNU.sparse.size", "8").pax("GNU.sparse.map", "0,1,2,1,4,1,6,1");
    assert_eq!(limit(vec![segments]), LimitKind::SparseSegments(3));
    let mut attributes = file("a", "");
    for i in 0..7 {
        attributes = attributes.xattr(&format!("user.{i}"), "v".repeat(1000));
    }
    let attributes = |name: &str| Entry { path: name.into(), ..attributes.clone() };
    assert_eq!(
        limit(vec![attributes("a"), attributes("b"), attributes("c")]),
        LimitKind::MetadataSize(20_000)
    );
    let error = fails(layer(many(6)), &options);
    assert_eq!(error.to_string(), "layer L0, 5: more than 5 entries");
}

#[test]
fn headers_add_up_until_their_entry_comes() {
    let options =
        Options { limits: Limits { extended_header: 8000, ..Limits::default() }, ..Options::default() };
    let chain = |kinds: &[u8]| {
        kinds.iter().enumerate().fold(Tar::default(), |tar, (i, &kind)| match kind {
            b'x' | b'g' => {
                let name = format!("SCHILY.xattr.user.{i}");
                tar.extended(kind, &pax_record(name.as_bytes(), &[b'v'; 3000]))
            }
            b'L' | b'K' | b'V' => tar.extended(kind, &[b'n'; 3000]),
            _ => tar.add(file(&i.to_string(), "")),
        })
    };
    for kinds in [&b"xx0xx0"[..], b"g0g00", b"xx0gg0"] {
        assert!(image(&sources(&[chain(kinds).end()]), &options).is_ok(), "{kinds:?}");
    }
    for kinds in [&b"0xxx0"[..], b"LLL0", b"VVV0", b"xKL0", b"ggg", b"g0g0g0", b"xxgx0"] {
        match fails(chain(kinds).end(), &options) {
            Error::Limit { limit, .. } => assert_eq!(limit, LimitKind::ExtendedHeader(8000), "{kinds:?}"),
            other => panic!("{kinds:?}: {other}"),
        }
    }
}

/// Each of these paths has as many directories as a path can have, and no entry for any of them.
#[test]
fn directories_that_only_paths_name_are_limited() {
    let options = |entries| Options { limits: Limits { entries, ..Limits::default() }, ..Options::default() };
    let deep = |top: &str| format!("{top}/{}f", "a/".repeat(500));
    let blob = layer([file(&deep("1"), ""), file(&deep("2"), "")]);
    assert!(image(&sources(std::slice::from_ref(&blob)), &options(1004)).is_ok());
    let error = fails(blob, &options(1003));
    let Error::Merge { what, path, .. } = &error else { panic!("{error}") };
    assert_eq!((*what, path.as_str()), (MergeFault::TooManyParents(1003), printed(&deep("2")).as_str()));
    // What upper layers hide is only guessed at: nothing fails where there is too much of it.
    let upper = layer([whiteout(&format!("1/{}.wh.f", "a/".repeat(500))), whiteout(".wh.g")]);
    let (bytes, summary) =
        image(&sources(&[layer([file("f", "1"), file("g", "2")]), upper]), &options(100)).expect("fits");
    let tree = fixture::reader::Image::open(&bytes).tree();
    assert_eq!(tree.into_keys().collect::<Vec<_>>(), [&b""[..], b"f"]);
    assert_eq!((summary.hidden_bytes, summary.dead_bytes), (0, 1), "one file's hiding was not foreseen");
}

/// A path as messages have it.
fn printed(path: &str) -> String {
    format!("{}...", &path[..300])
}

/// A tar that never ends, in a zstd stream that costs nothing.
#[test]
fn a_bomb_is_stopped_by_its_ratio() {
    struct Bomb;
    impl LayerSource for Bomb {
        fn open(&self) -> io::Result<Box<dyn Read + Send>> {
            let huge = Entry { data: vec![], ..file("bomb", "") };
            let mut header = huge.header();
            header[124..136].copy_from_slice(b"777777777777"); // 64 GiB
            let tar = Cursor::new(sealed(header).to_vec()).chain(io::repeat(0)).take(2 << 30);
            Ok(Box::new(zstd::stream::read::Encoder::new(tar, 1)?))
        }
        fn name(&self) -> String {
            "bomb".into()
        }
    }
    let error = image(&[Bomb], &Options::default()).map(|_| ()).expect_err("must be stopped");
    assert!(matches!(error, Error::Limit { limit: LimitKind::Ratio(2000), .. }), "{error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    for options in [
        Options { block_size: 3000, ..Options::default() },
        Options { block_size: 2 << 20, ..Options::default() },
        Options { compression: Compression::Zstd { level: 0 }, ..Options::default() },
        Options { compression: Compression::Zstd { level: 23 }, ..Options::default() },
        Options { compression: Compression::Gzip { level: 10 }, ..Options::default() },
    ] {
        let error = fails(layer([file("a", "")]), &options);
        assert!(matches!(error, Error::Options(_)) && error.to_string().contains("hint: "), "{error}");
    }
}

#[test]
fn too_many_owners_are_refused() {
    let owners = |n: u64| layer((0..n).map(|i| file(&i.to_string(), "").owner(i + 1, 0)));
    assert!(image(&sources(&[owners(65534)]), &Options::default()).is_ok());
    let error = fails(owners(65535), &Options::default());
    assert!(matches!(error, Error::Format(_)), "{error}");
}

#[test]
fn a_full_disk_is_an_error_and_hangs_nothing() {
    // /dev/full takes no byte.
    let Ok(full) = File::options().read(true).write(true).open("/dev/full") else {
        eprintln!("SKIPPED full disk: no /dev/full");
        return;
    };
    let blob = layer([file("a", torture::noise(8 << 20))]);
    let error = convert(&sources(&[blob]), &full, &Options::default(), &()).expect_err("must fail");
    assert!(matches!(&error, Error::Write(e) if e.raw_os_error() == Some(28)), "{error}");
}

#[test]
fn an_observer_sees_progress_and_can_stop() {
    #[derive(Default)]
    struct Watch {
        unpacked: AtomicU64,
        finished: AtomicBool,
        stop: bool,
    }
    impl Observer for Watch {
        fn progress(&self, _: usize, unpacked: u64, _: u64) {
            self.unpacked.fetch_max(unpacked, Ordering::Relaxed);
        }
        fn layer_finished(&self, _: usize) {
            self.finished.store(true, Ordering::Relaxed);
        }
        fn cancelled(&self) -> bool {
            self.stop && self.unpacked.load(Ordering::Relaxed) > 0
        }
    }
    let blob = layer([file("a", "1"), file("b", torture::noise(4 << 20))]);
    let run = |watch: &Watch| {
        let out = tempfile::tempfile().expect("temporary file");
        convert(&sources(std::slice::from_ref(&blob)), &out, &Options::default(), watch)
    };
    let watch = Watch::default();
    run(&watch).expect("conversion");
    assert!(watch.finished.load(Ordering::Relaxed) && watch.unpacked.load(Ordering::Relaxed) > 4 << 20);
    let error = run(&Watch { stop: true, ..Watch::default() }).expect_err("stopped");
    assert!(matches!(error, Error::Cancelled));
}
