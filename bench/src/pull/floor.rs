//! What any one-pass pull must spend on the CPU: the cost of receiving, hashing, gunzipping and compressing the same
//! layers, each stage alone on one core, with the libraries that Grus uses. All else (tar, merging, tables,
//! copies, writing) is left out: the floor is a floor.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};
use flate2::bufread::MultiGzDecoder;
use rustix::time::{clock_gettime, ClockId};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// SquashFS data block, as Grus makes them.
const BLOCK: usize = 128 << 10;
/// Grus' default.
const LEVEL: i32 = 1;

/// CPU seconds by stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Floor {
    /// Reading the blobs from the registry by a bare socket.
    pub receive: f64,
    /// SHA-256 over the blobs.
    pub sha256: f64,
    /// Decoding the gzip layers.
    pub gunzip: f64,
    /// Compressing what files of the image hold, holes and repetitions left out.
    pub zstd: f64,
    /// Bytes that `zstd` was given.
    pub data: u64,
}

impl Floor {
    /// All stages.
    pub fn total(&self) -> f64 {
        self.receive + self.sha256 + self.gunzip + self.zstd
    }
}

/// Where the layers are.
#[derive(Debug)]
pub struct Source<'a> {
    /// Address of a registry without TLS or accounts.
    pub host: &'a str,
    /// The repository there.
    pub repository: &'a str,
    /// The same image as an OCI layout.
    pub layout: &'a Path,
}

/// Does all stages on the layers of `source`, top first. Of the files only those that `image`, the result of a pull,
/// still has: hidden ones need no compressing.
pub fn measure(source: &Source<'_>, image: &Path) -> Result<Floor> {
    let mut wanted = names(image)?;
    let mut floor = Floor::default();
    let mut sink = Sink::new()?;
    for layer in layers(source.layout)?.iter().rev() {
        let decoder = MultiGzDecoder::new(Blob::open(source, layer)?);
        let mut archive = tar::Archive::new(Gunzip { decoder, cost: 0.0 });
        // What this layer has, no lower layer's file of that name is in the image.
        let mut seen = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.components().collect::<PathBuf>();
            if wanted.contains(&path) {
                if entry.header().entry_type().is_file() {
                    sink.file(&mut entry)?;
                }
                seen.push(path);
            }
        }
        for path in seen {
            wanted.remove(&path);
        }
        let Gunzip { decoder, cost } = archive.into_inner();
        let mut blob = decoder.into_inner();
        floor.gunzip += cost - blob.cost();
        io::copy(&mut blob, &mut io::sink())?;
        floor.receive += blob.receive;
        floor.sha256 += blob.sha256;
        ensure!(format!("sha256:{:x}", blob.hash.finalize()) == *layer, "{layer} arrived with other bytes");
    }
    sink.flush()?;
    (floor.zstd, floor.data) = (sink.cost, sink.data);
    Ok(floor)
}

/// CPU seconds of this thread so far.
fn cpu() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Names of what the image holds, relative to its root.
fn names(image: &Path) -> Result<HashSet<PathBuf>> {
    let output = Command::new("unsquashfs").arg("-l").arg(image).output().context("unsquashfs")?;
    ensure!(output.status.success(), "unsquashfs -l: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let names: HashSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("squashfs-root/")).map(PathBuf::from).collect();
    ensure!(!names.is_empty(), "unsquashfs -l names nothing in {}", image.display());
    Ok(names)
}

/// What the registry sends for the image's layers, bytes.
pub fn size(layout: &Path) -> Result<u64> {
    let blob =
        |digest: &String| Ok(fs::metadata(layout.join("blobs").join(digest.replacen(':', "/", 1)))?.len());
    layers(layout)?.iter().map(blob).sum()
}

/// Digests of the layers, bottom first.
fn layers(layout: &Path) -> Result<Vec<String>> {
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let index = read(&layout.join("index.json"))?;
    let digest = index["manifests"][0]["digest"].as_str().context("an index with a manifest")?;
    let manifest = read(&layout.join("blobs").join(digest.replacen(':', "/", 1)))?;
    let layers = manifest["layers"].as_array().context("a manifest with layers")?.iter();
    let digest = |layer: &Value| {
        let gzip = layer["mediaType"].as_str().is_some_and(|kind| kind.ends_with("gzip"));
        ensure!(gzip, "the floor is that of gzip layers, not of {}", layer["mediaType"]);
        layer["digest"].as_str().map(str::to_owned).context("a layer with a digest")
    };
    layers.map(digest).collect()
}

/// A blob as it comes from the registry, hashed.
struct Blob {
    stream: TcpStream,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    hash: Sha256,
    receive: f64,
    sha256: f64,
}

impl Blob {
    fn open(source: &Source<'_>, digest: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(source.host).with_context(|| source.host.to_owned())?;
        // HTTP/1.0: the body ends where the connection does, and comes in one piece.
        let path = format!("/v2/{}/blobs/{digest}", source.repository);
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", source.host)?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).context("the registry's answer")?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        ensure!(head.split(' ').nth(1) == Some("200"), "{path}: the registry answered {head}");
        let (buffer, hash) = (vec![0; BLOCK], Sha256::new());
        Ok(Self { stream, buffer, begin: 0, end: 0, hash, receive: 0.0, sha256: 0.0 })
    }

    fn cost(&self) -> f64 {
        self.receive + self.sha256
    }
}

impl BufRead for Blob {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.begin == self.end {
            let start = cpu();
            (self.begin, self.end) = (0, self.stream.read(&mut self.buffer)?);
            let received = cpu();
            self.hash.update(&self.buffer[..self.end]);
            self.receive += received - start;
            self.sha256 += cpu() - received;
        }
        Ok(&self.buffer[self.begin..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.begin += amount;
    }
}

impl Read for Blob {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

/// The decoder, and the CPU seconds it took together with the blob below it.
struct Gunzip {
    decoder: MultiGzDecoder<Blob>,
    cost: f64,
}

impl Read for Gunzip {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let start = cpu();
        let read = self.decoder.read(into);
        self.cost += cpu() - start;
        read
    }
}

/// Tells blocks apart.
fn hash(block: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(block);
    hasher.finish()
}

/// Compresses file data in blocks, the ends of files together, and forgets the result.
struct Sink {
    compressor: zstd::bulk::Compressor<'static>,
    block: Vec<u8>,
    tails: Vec<u8>,
    out: Vec<u8>,
    /// Blocks and ends of files by their hash.
    seen: HashSet<u64>,
    cost: f64,
    data: u64,
}

impl Sink {
    fn new() -> Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let out = vec![0; zstd::zstd_safe::compress_bound(BLOCK)];
        let (seen, tails) = (HashSet::new(), Vec::new());
        Ok(Self { compressor, block: vec![0; BLOCK], tails, out, seen, cost: 0.0, data: 0 })
    }

    fn file(&mut self, content: &mut impl Read) -> Result<()> {
        loop {
            let mut filled = 0;
            while filled < BLOCK {
                match content.read(&mut self.block[filled..])? {
                    0 => break,
                    read => filled += read,
                }
            }
            if !self.seen.insert(hash(&self.block[..filled])) {
                // Stored once: compressing it again is no part of the floor.
                if filled < BLOCK {
                    return Ok(());
                }
                continue;
            }
            if filled < BLOCK {
                if self.tails.len() + filled > BLOCK {
                    self.flush()?;
                }
                self.tails.extend_from_slice(&self.block[..filled]);
                return Ok(());
            }
            // A block of zeros is a hole and costs nothing.
            if self.block.iter().any(|byte| *byte != 0) {
                let block = std::mem::take(&mut self.block);
                self.compress(&block)?;
                self.block = block;
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        let mut tails = std::mem::take(&mut self.tails);
        self.compress(&tails)?;
        tails.clear();
        self.tails = tails;
        Ok(())
    }

    fn compress(&mut self, block: &[u8]) -> Result<()> {
        let start = cpu();
        self.compressor.compress_to_buffer(block, &mut self.out[..])?;
        self.cost += cpu() - start;
        self.data += block.len() as u64;
        Ok(())
    }
}
