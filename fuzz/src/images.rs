//! Layers and images. What Grus makes of any layers, the strict reader of the tests and the validator must both accept;
//! what the validator accepts of any image, another reader must list alike.

use std::io::Cursor;

use backhand::BackhandError;
use grus_squash::{validate_to, Compression, Depth, Invalid, Limits, Options};

use crate::fixture::tar::{dir, file, hard, layer, sealed, special, symlink, whiteout, Entry};
use crate::fixture::{image, reader, sources};

fn convert(layers: &[Vec<u8>]) {
    let limits =
        Limits { total_size: 1 << 22, file_size: 1 << 21, metadata_size: 1 << 20, ..Limits::default() };
    let compression = Compression::Lz4;
    let options = Options { limits, compression, block_size: 4096, workers: 1, ..Options::default() };
    if let Ok((bytes, _)) = image(&sources(layers), &options) {
        let tree = reader::Image::open(&bytes).tree();
        let report = validate_to(&bytes[..], &Limits::default(), Depth::Data).expect("Grus wrote it");
        assert!(report.inodes as usize <= tree.len());
    }
}

/// Bytes as a SquashFS file.
pub fn squashfs(data: &[u8]) {
    let limits = Limits { entries: 4096, metadata_size: 1 << 20, total_size: 1 << 24, ..Limits::default() };
    match validate_to(data, &limits, Depth::Data) {
        Err(Invalid::Broken(broken)) => super::printable(&broken.to_string()),
        Err(Invalid::Read(error)) => panic!("memory can be read: {error}"),
        // backhand does not read xz here, nor names that are not UTF-8.
        Ok(report) if report.compression == "xz" => {}
        Ok(report) => match backhand::FilesystemReader::from_reader(Cursor::new(data.to_vec())) {
            Ok(other) => assert!(other.files().count() >= report.inodes as usize),
            Err(BackhandError::Deku(_) | BackhandError::StringUtf8(_) | BackhandError::StrUtf8(_)) => {}
            Err(error) => panic!("backhand does not read it: {error:?}"),
        },
    }
}

/// Bytes as a layer: as they are, and with checksums put right, which no fuzzer would find.
pub fn tar(data: &[u8]) {
    convert(&[data.to_vec()]);
    let mut mended = data.to_vec();
    for block in mended.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let whole: [u8; 512] = (&*block).try_into().expect("512 bytes");
            block.copy_from_slice(&sealed(whole));
        }
    }
    convert(&[mended]);
}

/// Bytes as layers: a byte for each operation, two for each path.
pub fn merge(data: &[u8]) {
    let mut layers = vec![vec![]];
    for piece in data.chunks_exact(5) {
        let (path, target) = (path(piece[1], piece[2]), path(piece[3], piece[4]));
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", &path));
        let entry: Entry = match piece[0] % 10 {
            0 | 1 => file(&path, vec![piece[3]; usize::from(piece[4]) * 64]),
            2 | 3 => dir(&path),
            4 => symlink(&path, &target),
            5 => symlink(&path, &format!("../{target}/..")),
            6 => hard(&path, &target),
            7 => whiteout(&format!("{parent}/.wh.{name}")),
            8 => whiteout(&format!("{path}/.wh..wh..opq")),
            _ if piece[3] % 4 == 0 => special(&path, b'6', 0, 0),
            _ => {
                layers.push(vec![]);
                continue;
            }
        };
        layers.last_mut().expect("never empty").push(entry);
    }
    layers.truncate(16);
    convert(&layers.into_iter().map(layer).collect::<Vec<_>>());
}

/// Few names, so that paths meet.
fn path(high: u8, low: u8) -> String {
    let parts = [high >> 4, high & 15, low >> 4, low & 15];
    let depth = 1 + usize::from(low % 4);
    parts[..depth].iter().map(|part| char::from(b'a' + part % 4).to_string()).collect::<Vec<_>>().join("/")
}
