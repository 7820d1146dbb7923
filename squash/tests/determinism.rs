//! The same layers and options give the same bytes, whatever the workers and however the bytes trickle in.

mod fixture;

use std::io::{self, Cursor, Read};
use std::thread::sleep;
use std::time::Duration;

use fixture::tar::{file, layer};
use fixture::{gzip, image, torture};
use grus_squash::{Compression, LayerSource, Options};

/// Gives its bytes in odd pieces, now and then after a pause.
struct Jitter {
    blob: Vec<u8>,
    seed: u64,
}

struct JitterReader {
    bytes: Cursor<Vec<u8>>,
    state: u64,
}

impl LayerSource for Jitter {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(JitterReader { bytes: Cursor::new(self.blob.clone()), state: self.seed | 1 }))
    }
    fn name(&self) -> String {
        "jitter".into()
    }
}

impl Read for JitterReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let dice = self.state >> 33;
        if dice.is_multiple_of(16) {
            sleep(Duration::from_micros(dice % 700));
        }
        let n = buf.len().min(1 + (dice % 9000) as usize);
        self.bytes.read(&mut buf[..n])
    }
}

/// The torture layers, and one with content enough for many blocks, fragments and copies.
fn blobs() -> Vec<Vec<u8>> {
    let mut layers = torture::layers();
    let text = |i: usize| format!("line {i} of some text\n").repeat(40 + i * 37 % 9000);
    layers.push(layer((0..300).map(|i| file(&format!("many/{i}"), text(i % 211)))));
    layers.iter().map(|tar| gzip(tar)).collect()
}

#[test]
fn workers_and_timing_leave_no_trace() {
    let blobs = blobs();
    let levels = [1, 3, 4, 6, 12].map(|level| Compression::Zstd { level });
    for compression in levels.into_iter().chain([Compression::Lz4, Compression::Gzip { level: 6 }]) {
        let convert = |workers, seed| {
            let layers: Vec<_> = blobs.iter().map(|blob| Jitter { blob: blob.clone(), seed }).collect();
            image(&layers, &Options { compression, workers, ..Options::default() }).expect("conversion")
        };
        let (want, summary) = convert(1, 1);
        assert!(summary.duplicate_bytes > 0 && summary.second_passes == 1);
        for (workers, seed) in [(2, 2), (4, 3), (7, 4)] {
            let (bytes, again) = convert(workers, seed);
            assert!(bytes == want, "{compression:?} with {workers} workers gives other bytes");
            assert_eq!(again, summary);
        }
    }
}
