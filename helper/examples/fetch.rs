//! Downloads an image to nowhere and says how fast: the downloader alone, to be held against curl.
//!
//!     cargo run --release -p grus --example fetch -- 127.0.0.1:5000/app:1

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_helper::registry::{Client, NoProgress, Settings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: fetch REFERENCE")?;
    let start = Instant::now();
    let client = Client::new(Settings::default())?;
    let resolved = client.resolve(&Reference::parse(&name)?, &Platform::here())?;
    println!(
        "{} {} layers {} bytes, {:?}",
        resolved.digest,
        resolved.layers.len(),
        resolved.size(),
        start.elapsed()
    );
    let start = Instant::now();
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0u64;
    for source in client.download(&resolved, Arc::new(NoProgress))?.iter().rev() {
        let mut reader = source.open()?;
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                n => total += n as u64,
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{total} bytes in {seconds:.3} s: {:.0} MB/s", total as f64 / 1e6 / seconds);
    Ok(())
}
