//! `pagein`: how fast an image's files are read by tasks: served by squashfuse, mounted by the kernel, and mounted by the
//! kernel from the node's cache. Cold: every page is read, inflated and copied; warm: they are in memory.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{anyhow, ensure, Result};
use grus_core::site::Site;
use grus_tests::{Account, Cluster};
use serde_json::json;

use super::setup::{build, explained, inputs};
use crate::figures::{print_load, rounded, Samples};
use crate::lab;

/// Rounds; each reads all files of each kind cold, and then warm.
const ROUNDS: usize = 7;

/// What the image holds: the host's programs, some hundred files of all sizes.
const FILES: &str = "/usr/bin";

/// How the image is mounted.
const KINDS: [&str; 3] = ["kernel", "squashfuse", "node cache"];

/// Milliseconds of each kind.
#[derive(Debug, Default)]
struct Times {
    launch: [Samples; 3],
    cold: [Samples; 3],
    warm: [Samples; 3],
}

/// Runs the bench and prints its figures.
pub fn run() -> Result<()> {
    print_load("before");
    let cluster = lab::up("pagein", 1)?;
    let (roots, users, cache) = prepare(&cluster)?;
    // The first launch makes the copy: once per node, so it is shown, and in no median.
    let site = format!(
        "node-cache.dir = '{}'\npull.command = '{}'\n",
        cache.display(),
        cluster.grus_program().display()
    );
    let kinds = [(&roots, ""), (&users, ""), (&users, site.as_str())];
    let first = once(cluster.account(), &users, &site)?;
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        for (kind, (image, site)) in kinds.iter().enumerate() {
            let [launch, cold, warm] = once(cluster.account(), image, site)?;
            times.launch[kind].0.push(launch);
            times.cold[kind].0.push(cold);
            times.warm[kind].0.push(warm);
        }
    }
    let size = std::fs::metadata(&roots)?.len();
    println!("an image of {:.0} MB, ms", size as f64 / 1e6);
    println!("  first launch, which makes the copy in the node's cache: {:.1}", first[0]);
    for (name, all) in [("launch", &times.launch), ("cold", &times.cold), ("warm", &times.warm)] {
        KINDS.iter().zip(all).for_each(|(kind, samples)| println!("  {name:6} {kind:10} {samples}"));
    }
    print_load("after");
    let over = |all: &[Samples; 3], kind: usize| rounded(all[kind].median() / all[0].median(), 3);
    let line = json!({
        "bench": "pagein",
        "image_bytes": size,
        "fuse_over_kernel_cold": over(&times.cold, 1),
        "fuse_over_kernel_warm": over(&times.warm, 1),
        "cache_over_kernel_cold": over(&times.cold, 2),
        "cache_first_launch_ms": rounded(first[0], 1),
        "cache_launch_ms": rounded(times.launch[2].median(), 2),
    });
    cluster.down()?;
    println!("{line}");
    Ok(())
}

/// An image of root's, the same of the user's, and an empty cache.
fn prepare(cluster: &Cluster) -> Result<(PathBuf, PathBuf, PathBuf)> {
    let (roots, users) = (cluster.dir().join("image.squashfs"), cluster.work_dir().join("image.squashfs"));
    let made = Command::new("mksquashfs")
        .arg(FILES)
        .arg(&roots)
        .args(["-quiet", "-no-progress", "-noappend", "-comp", "zstd", "-Xcompression-level", "1"])
        .args(["-keep-as-directory", "-no-xattrs", "-all-root"])
        .status()?;
    ensure!(made.success(), "mksquashfs cannot make the image");
    std::fs::copy(&roots, &users)?;
    cluster.give(&users);
    let cache = cluster.dir().join("node-cache");
    std::fs::create_dir(&cache)?;
    Ok((roots, users, cache))
}

/// Launch, cold and warm reading, in a process of its own, which is this program again.
fn once(account: &Account, image: &Path, site: &str) -> Result<[f64; 3]> {
    let ids = [account.uid.to_string(), account.gid.to_string()];
    let me = std::env::current_exe()?;
    let output = Command::new(&me).arg("read").arg(image).args(ids).arg(&account.home).arg(site).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let times = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    times.try_into().map_err(|_| anyhow!("not three times: {text}"))
}

/// `grus-bench read IMAGE UID GID HOME SITE`: builds, joins, reads all files twice, and prints the milliseconds.
pub fn read_once(words: &[&str]) -> Result<()> {
    let [image, uid, gid, home, site] = words[..] else { return Err(anyhow!("it takes five words")) };
    let account = Account { name: uid.into(), uid: uid.parse()?, gid: gid.parse()?, home: home.into() };
    let mut inputs = inputs(&account, Path::new(image))?;
    let site = Site::parse(&[("the bench's".into(), site.into())]).map_err(|e| anyhow!("{e}"))?;
    inputs.site = Arc::new(site);
    let (container, launch) = build(&inputs)?;
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    container.join().map_err(explained)?;
    let name = Path::new("/").join(Path::new(FILES).file_name().unwrap_or_default());
    let mut took = [launch / 1e3, 0.0, 0.0];
    for time in &mut took[1..] {
        let start = Instant::now();
        ensure!(all(&name)? > 0, "nothing was read");
        *time = start.elapsed().as_secs_f64() * 1e3;
    }
    println!("{} {} {}", took[0], took[1], took[2]);
    Ok(())
}

/// Reads all files of a directory; how many bytes.
fn all(dir: &Path) -> Result<u64> {
    let mut part = vec![0; 1 << 20];
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let mut file = std::fs::File::open(entry.path())?;
        loop {
            match file.read(&mut part)? {
                0 => break,
                more => bytes += more as u64,
            }
        }
    }
    Ok(bytes)
}
