//! Converts an OCI layout on disk, for timing: `oci2squash [-c zstd:1|lz4|gzip:9] [-w WORKERS] [-i] [-r IMAGE]
//! LAYOUT OUT`. `-i` writes an index to OUT.layers, `-r` takes layers from an image that has one.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use grus_squash::{convert_reusing, Compression, FileSource, KeptImage, LayerId, Options, Reuse};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    let (mut names, mut index, mut from) = (Vec::new(), false, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-c" => options.compression = compression(&args.next().unwrap_or_default())?,
            "-w" => options.workers = args.next().unwrap_or_default().parse()?,
            "-i" => index = true,
            "-r" => from = args.next(),
            _ => names.push(arg),
        }
    }
    let [layout, out] = names.as_slice() else {
        return Err("usage: oci2squash [-c COMPRESSION] [-w WORKERS] LAYOUT OUT".into());
    };
    let layers = layers(Path::new(layout))?;
    let fresh = |path: &str| File::options().read(true).write(true).create(true).truncate(true).open(path);
    let index = if index { Some(fresh(&format!("{out}.layers"))?) } else { None };
    let out = fresh(out)?;
    let ids: Vec<LayerId> =
        layers.iter().map(|layer| id(&layer.path)).collect::<Option<_>>().unwrap_or_default();
    let open = |path| KeptImage::open(File::open(&path)?, File::open(format!("{path}.layers"))?);
    let from = from.map(open).transpose()?;
    let kept = ids.iter().map(|id| from.iter().flat_map(|image| image.layers(id)).collect()).collect();
    let reuse = Reuse { index: index.as_ref(), ids, kept };
    let start = Instant::now();
    let summary = convert_reusing(&layers, &reuse, &out, &options, &())?;
    println!("{summary:#?}\n{:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The digest a blob's file is named by.
fn id(blob: &Path) -> Option<LayerId> {
    let hex = blob.file_name()?.to_str()?;
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    bytes?.try_into().ok()
}

fn compression(text: &str) -> Result<Compression, Box<dyn Error>> {
    let (name, level) = text.split_once(':').unwrap_or((text, ""));
    let level = |default| if level.is_empty() { Ok(default) } else { level.parse::<i32>() };
    Ok(match name {
        "zstd" => Compression::Zstd { level: level(1)? },
        "gzip" => Compression::Gzip { level: level(6)? as u32 },
        "lz4" => Compression::Lz4,
        _ => return Err(format!("no compression {name}").into()),
    })
}

fn layers(layout: &Path) -> Result<Vec<FileSource>, Box<dyn Error>> {
    let blob = |digest: &serde_json::Value| {
        let digest = digest.as_str().unwrap_or_default();
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let json = |path: &Path| -> Result<serde_json::Value, Box<dyn Error>> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    };
    let index = json(&layout.join("index.json"))?;
    let manifest = json(&blob(&index["manifests"][0]["digest"]))?;
    let layers = manifest["layers"].as_array().ok_or("no layers in the manifest")?;
    Ok(layers.iter().map(|layer| FileSource { path: blob(&layer["digest"]) }).collect())
}
