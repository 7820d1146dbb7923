//! Layers taken from earlier images, whole or interrupted ones: the same bytes as from their source, and a
//! damaged index or image never gives a wrong image.

mod fixture;

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use fixture::tar::*;
use fixture::torture::{self, noise};
use fixture::{image, sources};
use grus_squash::{
    convert_reusing, Compression, Error, KeptImage, LayerId, LayerSource, Options, Reuse, Summary,
};
use proptest::prelude::*;

/// A layer that counts how often it is fetched, and ends with an error where told so.
struct Remote {
    blob: Vec<u8>,
    fetched: AtomicUsize,
    fails: bool,
}

struct Failing(Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 => Err(io::Error::other("the line is dead")),
            n => Ok(n),
        }
    }
}

impl LayerSource for Remote {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let bytes = Cursor::new(self.blob.clone());
        Ok(if self.fails { Box::new(Failing(bytes)) } else { Box::new(bytes) })
    }
    fn name(&self) -> String {
        "remote".into()
    }
}

fn remotes(layers: &[Vec<u8>]) -> Vec<Remote> {
    let remote = |blob: &Vec<u8>| Remote { blob: blob.clone(), fetched: AtomicUsize::new(0), fails: false };
    layers.iter().map(remote).collect()
}

fn fetched(remotes: &[Remote]) -> Vec<usize> {
    remotes.iter().map(|remote| remote.fetched.load(Ordering::SeqCst)).collect()
}

fn id(layer: &[u8]) -> LayerId {
    *blake3::hash(layer).as_bytes()
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().expect("metadata").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(bytes, 0).expect("write");
    file
}

/// An image and its index, as bytes; whatever there is of them after an error.
struct Made {
    result: Result<Summary, Error>,
    image: Vec<u8>,
    index: Vec<u8>,
}

impl Made {
    fn open(&self) -> io::Result<KeptImage> {
        KeptImage::open(file_of(&self.image), file_of(&self.index))
    }
}

/// Converts `remotes` of `layers`, taking what `from` has.
fn make(layers: &[Vec<u8>], remotes: &[Remote], from: &[&KeptImage], options: &Options) -> Made {
    let (out, index) = (file_of(b""), file_of(b""));
    let ids: Vec<LayerId> = layers.iter().map(|layer| id(layer)).collect();
    let kept = ids.iter().map(|id| from.iter().flat_map(|image| image.layers(id)).collect()).collect();
    let reuse = Reuse { index: Some(&index), ids, kept };
    let result = convert_reusing(remotes, &reuse, &out, options, &());
    Made { result, image: bytes_of(&out), index: bytes_of(&index) }
}

fn plain(layers: &[Vec<u8>], options: &Options) -> Vec<u8> {
    image(&sources(layers), options).expect("conversion").0
}

#[test]
fn the_torture_image_is_made_again_without_its_layers() {
    let mut layers = torture::layers();
    layers.push(layer((0..300).map(|i| file(&format!("many/{i}"), "text ".repeat(40 + i * 37 % 9000)))));
    let options = Options::default();
    let first = make(&layers, &remotes(&layers), &[], &options);
    assert!(first.image == plain(&layers, &options), "an index changes nothing");
    assert!(first.index.len() * 8 < first.image.len(), "{} bytes of index", first.index.len());
    let kept = first.open().expect("an index");
    let others = [
        options.clone(),
        Options { compression: Compression::Lz4, ..options.clone() },
        Options { compression: Compression::Gzip { level: 1 }, block_size: 4096, ..options.clone() },
        Options { block_size: 1 << 20, ..options },
    ];
    for options in others {
        let far = remotes(&layers);
        let again = make(&layers, &far, &[&kept], &options);
        let summary = again.result.as_ref().expect("conversion");
        assert!(again.image == plain(&layers, &options), "other bytes with {options:?}");
        // And from that one in turn: holes, tails and blocks of every size have been through both ways.
        let next = again.open().expect("an index");
        let third = make(&layers, &remotes(&layers), &[&next], &Options::default());
        assert!(third.image == first.image, "other bytes out of {options:?}");
        assert_eq!(fetched(&far), vec![0; layers.len()], "nothing is fetched");
        assert_eq!(summary.reused, layers.len() as u64 + summary.second_passes);
        assert_eq!(summary.unpacked, 0);
    }
}

#[test]
fn a_parent_whose_files_the_child_hid_is_fetched_and_nothing_else() {
    let base = layer([file("a", noise(200_000)), file("b", "kept")]);
    let middle = layer([file("c", noise(300_000))]);
    let top = layer([file("a", "new")]);
    let options = Options::default();
    let child = [base.clone(), middle.clone(), top];
    let kept = make(&child, &remotes(&child), &[], &options).open().expect("an index");
    let parent = [base, middle];
    let far = remotes(&parent);
    let made = make(&parent, &far, &[&kept], &options);
    assert_eq!(made.result.as_ref().expect("conversion").reused, 1);
    assert_eq!(fetched(&far), [1, 0]);
    assert!(made.image == plain(&parent, &options));
    // With both images at hand the fuller one is taken.
    let parent_kept = made.open().expect("an index");
    let far = remotes(&parent);
    let again = make(&parent, &far, &[&kept, &parent_kept], &options);
    assert_eq!(fetched(&far), [0, 0]);
    assert!(again.image == made.image);
}

#[test]
fn every_damage_is_noticed() {
    let layers = [
        layer([
            file("big", noise(400_000)),
            file("small", "text"),
            symlink("s", "small").xattr("user.x", "y"),
        ]),
        layer([file("more", noise(70_000)), file("zeros", vec![0; 300_000]), dir("d")]),
    ];
    let options = Options { workers: 2, ..Options::default() };
    let first = make(&layers, &remotes(&layers), &[], &options);
    let (mut wrong, mut fine, mut fetched_again) = (0, 0, 0);
    let image_end = first.image.len() as u64;
    let data_end = u64::from_le_bytes(first.image[64..72].try_into().expect("8 bytes")).min(image_end);
    let mut places: Vec<(bool, usize)> = (0..first.index.len()).map(|at| (true, at)).collect();
    places.extend((0..data_end as usize).step_by(997).map(|at| (false, at)));
    for (in_index, at) in places {
        let mut bad = Made { result: Err(Error::Cancelled), ..first_copy(&first) };
        let bytes = if in_index { &mut bad.index } else { &mut bad.image };
        bytes[at] ^= 0x40;
        let Ok(kept) = bad.open() else {
            wrong += 1;
            continue;
        };
        let far = remotes(&layers);
        let made = make(&layers, &far, &[&kept], &options);
        match made.result {
            Ok(_) => {
                assert!(made.image == first.image, "a wrong image after damage at {at} ({in_index})");
                fine += 1;
                fetched_again += usize::from(fetched(&far) != [0, 0]);
            }
            Err(Error::Kept { .. }) => wrong += 1,
            Err(other) => panic!("{other:?} after damage at {at} ({in_index})"),
        }
    }
    assert!(wrong > 100 && fine > 100 && fetched_again > 100, "{wrong} {fine} {fetched_again}");
}

fn first_copy(made: &Made) -> Made {
    Made { result: Err(Error::Cancelled), image: made.image.clone(), index: made.index.clone() }
}

#[test]
fn an_index_beside_another_image_gives_an_error_and_one_cut_short_less() {
    let layers = [layer([file("x", noise(150_000))]), layer([file("y", "tiny")])];
    let options = Options::default();
    let first = make(&layers, &remotes(&layers), &[], &options);
    let other = make(&layers[1..], &remotes(&layers[1..]), &[], &options);
    let mixed = KeptImage::open(file_of(&other.image), file_of(&first.index)).expect("an index");
    let made = make(&layers, &remotes(&layers), &[&mixed], &options);
    assert!(matches!(made.result, Err(Error::Kept { .. })), "{:?}", made.result);
    for cut in 0..first.index.len() {
        let Ok(kept) = KeptImage::open(file_of(&first.image), file_of(&first.index[..cut])) else {
            assert!(cut < 16);
            continue;
        };
        assert!(kept.layers(&id(&layers[0])).is_empty(), "the lower layer's record is the last");
    }
    let mut newer = first.index.clone();
    newer[7] += 1;
    assert!(KeptImage::open(file_of(&first.image), file_of(&newer)).is_err(), "a newer format");
}

/// The records of an index: where each begins, and its two streams, unpacked.
fn records(index: &[u8]) -> Vec<(usize, Vec<u8>, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(index[at..at + 4].try_into().expect("4 bytes")) as usize;
    let unpack = |bytes: &[u8]| zstd::decode_all(bytes).expect("a stream");
    let (mut all, mut at) = (vec![], 16);
    while at < index.len() {
        let (entries, places) = (word(at + 4), word(at + 8));
        let middle = at + 64 + entries;
        all.push((at, unpack(&index[at + 64..middle]), unpack(&index[middle..middle + places])));
        at = middle + places;
    }
    all
}

/// An index whose hashes are right whatever the streams say.
fn sealed(index: &[u8], records: &[(usize, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = index[..16].to_vec();
    for (at, entries, places) in records {
        let pack = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("a stream");
        let (entries, places) = (pack(entries), pack(places));
        let mut head = index[*at..at + 48].to_vec();
        head[4..8].copy_from_slice(&(entries.len() as u32).to_le_bytes());
        head[8..12].copy_from_slice(&(places.len() as u32).to_le_bytes());
        let hash = blake3::Hasher::new().update(&head).update(&entries).update(&places).finalize();
        out.extend(head);
        out.extend(&hash.as_bytes()[..16]);
        out.extend(entries);
        out.extend(places);
    }
    out
}

/// Somebody who writes a record with a right hash may make an image of their own, but no crash, and no file
/// whose content is not what its own hash says.
#[test]
fn a_forged_record_is_read_with_care() {
    let layers = [layer([
        file("big", noise(40_000)),
        file("holes", [noise(5000), vec![0; 20_000], noise(300)].concat()),
        file("small", "text").xattr("user.x", "y"),
        special("dev", b'3', 1, 3),
        symlink("s", "small"),
    ])];
    let options = Options { workers: 1, block_size: 4096, ..Options::default() };
    let first = make(&layers, &remotes(&layers), &[], &options);
    let original = records(&first.index);
    assert!(sealed(&first.index, &original) == first.index, "the test knows the format");
    let (mut refused, mut taken) = (0, 0);
    for part in 0..2 {
        let length = if part == 0 { original[0].1.len() } else { original[0].2.len() };
        for (at, value) in (0..length).flat_map(|at| [0x00, 0x01, 0x7f, 0x80, 0xff].map(|value| (at, value)))
        {
            let mut forged = original.clone();
            let stream = if part == 0 { &mut forged[0].1 } else { &mut forged[0].2 };
            stream[at] = value;
            let index = sealed(&first.index, &forged);
            let kept = KeptImage::open(file_of(&first.image), file_of(&index)).expect("a right header");
            match make(&layers, &remotes(&layers), &[&kept], &options).result {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 300 && taken > 300, "{refused} {taken}");
}

/// A small layer of many shapes, by seed.
fn random_layer(ops: &[(u8, u8, u8)]) -> Vec<u8> {
    let name = |n: u8| ["a", "b", "a/x", "b/x", "b/y", "c/d/e"][usize::from(n % 6)];
    let content = |n: u8| match n % 6 {
        0 => vec![],
        1 => b"small".to_vec(),
        2 => noise(4096),
        3 => noise(9000 + usize::from(n)),
        4 => [noise(5000), vec![0; 20_000], noise(300)].concat(),
        _ => vec![0; 12_288],
    };
    layer(ops.iter().map(|&(kind, path, extra)| match kind % 10 {
        0..=4 => file(name(path), content(extra)).mtime(u64::from(extra)),
        5 => dir(name(path)).mode(0o700 | u32::from(extra % 8)),
        6 => hard(name(path), name(extra)),
        7 => symlink(name(path), name(extra)).xattr("user.n", [extra]),
        8 => {
            let name = name(path);
            let (parent, last) = name.rsplit_once('/').unwrap_or((".", name));
            whiteout(&format!("{parent}/.wh.{last}"))
        }
        _ => whiteout(&format!("{}/.wh..wh..opq", name(path))),
    }))
}

fn stack() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let op = (any::<u8>(), any::<u8>(), any::<u8>());
    let layer = prop::collection::vec(op, 1..8).prop_map(|ops| random_layer(&ops));
    prop::collection::vec(layer, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A sibling that shares the lower layers, and the same image after an interruption at any layer.
    #[test]
    fn random_stacks_come_out_the_same(
        mut first in stack(), top in stack(), share in any::<usize>(), dies in any::<usize>()
    ) {
        let options = Options { block_size: 4096, workers: 2, ..Options::default() };
        let mut sibling = first[..share % (first.len() + 1)].to_vec();
        sibling.extend(top);
        let kept = make(&first, &remotes(&first), &[], &options).open().expect("an index");
        compare(&sibling, &[&kept], &options)?;

        first.reverse(); // some stacks contradict themselves only this way round
        let mut far = remotes(&first);
        far[dies % first.len()].fails = true;
        let interrupted = make(&first, &far, &[], &options);
        prop_assert!(interrupted.result.is_err());
        let kept = interrupted.open().expect("an index");
        compare(&first, &[&kept], &options)?;
    }
}

/// Made with `from`, and made anew: the same, failures included.
fn compare(layers: &[Vec<u8>], from: &[&KeptImage], options: &Options) -> Result<(), TestCaseError> {
    let far = remotes(layers);
    let made = make(layers, &far, from, options);
    match image(&remotes(layers), options) {
        Ok((want, _)) => {
            prop_assert!(made.result.is_ok(), "{:?}", made.result);
            prop_assert!(made.image == want, "other bytes");
        }
        Err(want) => {
            let got = made.result.expect_err("the layers contradict each other");
            prop_assert_eq!(got.to_string(), want.to_string());
        }
    }
    Ok(())
}

#[test]
fn an_interrupted_conversion_is_taken_up_behind_its_finished_layers() {
    let layers: Vec<_> =
        (0u32..6).map(|n| layer([file(&format!("f{n}"), noise(100_000 + n as usize))])).collect();
    let options = Options::default();
    let want = plain(&layers, &options);
    for dies in 0..layers.len() {
        let mut far = remotes(&layers);
        far[dies].fails = true;
        let interrupted = make(&layers, &far, &[], &options);
        assert!(matches!(interrupted.result, Err(Error::Source { .. })));
        let kept = interrupted.open().expect("an index");
        assert_eq!(kept.count(), layers.len() - 1 - dies, "layers are read top first");
        let far = remotes(&layers);
        let made = make(&layers, &far, &[&kept], &options);
        assert_eq!(made.result.as_ref().expect("conversion").reused as usize, layers.len() - 1 - dies);
        let expected: Vec<usize> = (0..layers.len()).map(|layer| usize::from(layer <= dies)).collect();
        assert_eq!(fetched(&far), expected);
        assert!(made.image == want);
    }
}
