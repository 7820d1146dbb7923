//! Images with a few bits turned anywhere: the validator may say anything, but never panics; and what it calls valid the
//! kernel mounts and reads to the last byte, and backhand lists with the same names.

mod fixture;

use std::collections::BTreeSet;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;

use fixture::foreign::{in_file, plain, squashed, tree, wide};
use fixture::host::{tree_at, Mounted};
use grus_squash::{validate_to, Depth, Limits};

/// Damaged copies of each image, and how many of the valid ones are mounted.
const COPIES: u64 = 4000;
const MOUNTED: usize = 60;

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % most
    }
}

/// A copy with some bits turned: in the superblock, in the tables, anywhere.
fn damaged(image: &[u8], random: &mut Random) -> Vec<u8> {
    let mut copy = image.to_vec();
    let tables = u64::from_le_bytes(image[64..72].try_into().expect("8 bytes")) as usize;
    let used = u64::from_le_bytes(image[40..48].try_into().expect("8 bytes")) as usize;
    for _ in 0..=random.below(3) {
        let at = match random.below(8) {
            0 => random.below(96),
            1 => random.below(image.len()),
            _ => tables + random.below(used - tables),
        };
        match random.below(4) {
            0 => copy[at] = [0, 1, 0x7f, 0xff][random.below(4)],
            _ => copy[at] ^= 1 << random.below(8),
        }
    }
    copy
}

/// Whether others read what the validator calls valid.
fn agreed(bytes: &[u8], xz: bool) {
    let file = in_file(bytes);
    let mounted = Mounted::image(file.path());
    let kernel = mounted.map(|mounted| tree_at(mounted.path()).into_keys().collect::<BTreeSet<_>>());
    // What backhand is known not to read: xz here, and names that are not UTF-8.
    let names =
        kernel.as_ref().is_some_and(|names| names.iter().all(|name| std::str::from_utf8(name).is_ok()));
    if xz || !names {
        return;
    }
    let reader = backhand::FilesystemReader::from_reader(Cursor::new(bytes.to_vec())).expect("backhand");
    let listed = reader.files().map(|node| node.fullpath.as_os_str().as_bytes()[1..].to_vec());
    assert_eq!(Some(listed.collect::<BTreeSet<_>>()), kernel);
}

fn run(bytes: &[u8], seed: u64, xz: bool) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut valid = BTreeSet::new();
    for _ in 0..COPIES {
        let copy = damaged(bytes, &mut random);
        if validate_to(&copy[..], &Limits::default(), Depth::Data).is_ok() && valid.len() < MOUNTED {
            valid.insert(copy);
        }
    }
    assert!(!valid.is_empty(), "some bits say nothing of the structure: times, contents");
    valid.iter().for_each(|copy| agreed(copy, xz));
}

#[test]
fn uncompressed_tables() {
    run(&plain(), 1, false);
}

#[test]
fn tables_of_many_blocks() {
    run(&wide(), 2, false);
}

#[test]
fn compressed_tables() {
    let dir = tempfile::tempdir().expect("temporary directory");
    tree(dir.path());
    for (seed, compression) in (3..).zip(["gzip", "lz4", "zstd", "xz"]) {
        let bytes = squashed(dir.path(), &["-comp", compression]);
        run(&bytes, seed, compression == "xz");
    }
}
