//! Converts an OCI layout on disk, for timing: `oci2squash [-c zstd:1|lz4|gzip:9] [-w WORKERS] LAYOUT OUT`.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use grus_squash::{convert, Compression, FileSource, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    let mut names = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-c" => options.compression = compression(&args.next().unwrap_or_default())?,
            "-w" => options.workers = args.next().unwrap_or_default().parse()?,
            _ => names.push(arg),
        }
    }
    let [layout, out] = names.as_slice() else {
        return Err("usage: oci2squash [-c COMPRESSION] [-w WORKERS] LAYOUT OUT".into());
    };
    let layers = layers(Path::new(layout))?;
    let out = File::options().read(true).write(true).create(true).truncate(true).open(out)?;
    let start = Instant::now();
    let summary = convert(&layers, &out, &options, &())?;
    println!("{summary:#?}\n{:.2} s", start.elapsed().as_secs_f64());
    Ok(())
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
