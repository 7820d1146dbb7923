//! The validator on good images: what mksquashfs writes in all its ways, and what Grus writes; then what the kernel
//! says of the same.

mod fixture;

use std::fs;
use std::path::Path;

use fixture::foreign::{append, in_file, noise, plain, squashed, tree, wide};
use fixture::host::Mounted;
use fixture::{gzip, image, sources, torture};
use grus_squash::{validate, validate_to, Compression, Depth, Invalid, Limits, Options, Report, Rule};

fn good(bytes: &[u8], what: &str) -> Report {
    match validate_to(bytes, &Limits::default(), Depth::Data) {
        Ok(report) => report,
        Err(error) => panic!("{what}: {error}"),
    }
}

fn rule(bytes: &[u8], what: &str) -> Rule {
    match validate_to(bytes, &Limits::default(), Depth::Data) {
        Err(Invalid::Broken(broken)) => broken.rule,
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn every_compression_of_mksquashfs_is_read_or_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    tree(dir.path());
    for options in [
        &["gzip"][..],
        &["gzip", "-Xcompression-level", "1", "-Xwindow-size", "9"],
        &["xz"],
        &["xz", "-Xbcj", "x86"],
        &["xz", "-Xdict-size", "50%"],
        &["lz4"],
        &["lz4", "-Xhc"],
        &["zstd"],
        &["zstd", "-Xcompression-level", "19"],
    ] {
        let arguments = [&["-comp"], options].concat();
        let bytes = squashed(dir.path(), &arguments);
        let report = good(&bytes, options[0]);
        assert_eq!((report.compression, report.files, report.directories), (options[0], 9, 6), "{options:?}");
        assert_eq!(report.file_bytes, 12_305 + 100 + 13_000 + 4096 + 17 + 8 + 4 + 20_489);
        assert!(Mounted::image(in_file(&bytes).path()).is_some(), "the kernel knows {options:?}");
    }
    for unread in ["lzo", "lzma"] {
        let bytes = squashed(dir.path(), &["-comp", unread]);
        assert_eq!(rule(&bytes, unread), Rule::Unsupported);
    }
}

#[test]
fn every_way_of_mksquashfs_is_valid() {
    let dir = tempfile::tempdir().expect("temporary directory");
    tree(dir.path());
    for arguments in [
        &[][..],
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-no-exports"],
        &["-no-xattrs"],
        &["-no-duplicates"],
        &["-no-sparse"],
        &["-noI"],
        &["-noD"],
        &["-noF"],
        &["-noX"],
        &["-noId"],
        &["-b", "4096"],
        &["-b", "1M"],
        &["-no-tailends"],
        &["-all-root"],
        &["-p", "disk b 600 0 0 8 1", "-p", "null c 666 0 0 1 3"],
    ] {
        good(&squashed(dir.path(), arguments), &format!("{arguments:?}"));
    }
    assert_eq!(rule(&squashed(dir.path(), &["-nopad"]), "no padding"), Rule::Sector);
}

#[test]
fn images_that_were_added_to_and_odd_trees_are_valid() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (top, more, image) = (dir.path().join("top"), dir.path().join("more"), dir.path().join("image"));
    fs::create_dir_all(top.join("sub/sub")).expect("mkdir");
    fs::create_dir_all(&more).expect("mkdir");
    tree(&top);
    fs::write(more.join("later"), noise(200_000)).expect("write");
    append(&top, &image, &[]);
    append(&more, &image, &[]);
    good(&fs::read(&image).expect("read"), "appended");

    let empty = tempfile::tempdir().expect("temporary directory");
    good(&squashed(empty.path(), &[]), "an empty root");
    let report = good(&wide(), "1500 names");
    assert_eq!(report.inodes, 1501);
    good(&plain(), "the image that is damaged elsewhere");

    // A value that several inodes share is stored elsewhere, once it is large.
    let attributed = tempfile::tempdir().expect("temporary directory");
    for (n, first) in ["one", "two", "three"].into_iter().enumerate() {
        let path = attributed.path().join(first);
        fs::write(&path, first).expect("write");
        let set = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty()).expect("setxattr");
        };
        set("user.long", &noise(900));
        set("user.number", &[n as u8]);
        set("trusted.t", b"");
    }
    good(&squashed(attributed.path(), &[]), "shared attributes");
}

#[test]
fn what_grus_writes_is_valid() {
    let blobs: Vec<_> = torture::layers().iter().map(|tar| gzip(tar)).collect();
    for compression in [Compression::default(), Compression::Lz4, Compression::Gzip { level: 6 }] {
        for block_size in [4096, 128 << 10, 1 << 20] {
            let options = Options { compression, block_size, ..Options::default() };
            let (bytes, summary) = image(&sources(&blobs), &options).expect("conversion");
            let report = good(&bytes, &format!("{compression:?}, {block_size}"));
            assert_eq!(u64::from(report.inodes), summary.inodes);
        }
    }
}

#[test]
fn a_file_is_read_like_memory_and_a_message_names_the_path() {
    let bytes = plain();
    let file = in_file(&bytes);
    let opened = fs::File::open(file.path()).expect("open");
    let report = validate(&opened, &Limits::default()).expect("valid");
    assert_eq!(report, good(&bytes, "in memory"));

    let limits = Limits { path_depth: 2, ..Limits::default() };
    let error = validate(&opened, &limits).expect_err("too deep");
    let said = error.to_string();
    assert!(said.starts_with("/d/e/g: directories are nested deeper than is allowed (at most 2)"), "{said}");
    let nothing = fs::File::open(Path::new("/proc/self")).expect("open");
    assert!(matches!(validate(&nothing, &limits), Err(Invalid::Broken(_) | Invalid::Read(_))));
}
