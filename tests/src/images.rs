//! Small images made from Debian's packages: no outside registry is asked, and a rerun finds them made.
//!
//! Each recipe yields an OCI layout `<store>/<name>-<key>`, where the key is a hash of the recipe's own source:
//! who edits a recipe gets a new image. Time stamps are fixed, so the same packages give the same digests.

pub mod debian;
mod large;
pub mod layout;
pub mod mpi;
pub mod small;
pub mod torture;
mod tree;
pub mod wheels;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{bail, Result};
use sha2::{Digest, Sha256};

/// All time stamps in the images: 2023-11-14T22:13:20Z.
pub const EPOCH: u64 = 1_700_000_000;

/// Names of the tests' recipes, in the order that makes them fastest to build.
pub const NAMES: &[&str] = &[
    "busybox",
    "static",
    "musl",
    "no-passwd",
    "tmp-link",
    "entry",
    "other-arch",
    "torture",
    "debian",
    "mpich",
    "openmpi",
];

/// Names of all the tests' images: those above, and the MPIs of [`mpi::RECIPES`].
pub fn all_names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().copied().chain(mpi::RECIPES.iter().map(|r| r.name))
}

/// Names of the recipes for the benches: `hpc` is minutes of work and gigabytes, so no test asks for them.
pub const LARGE: &[&str] = &["slim", "many32", "hpc"];

/// A directory of made images.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

impl Default for ImageStore {
    /// `GRUS_IMAGES`, else `grus-images` in the workspace's target directory.
    fn default() -> Self {
        let dir = std::env::var_os("GRUS_IMAGES").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/grus-images"),
            PathBuf::from,
        );
        Self { dir }
    }
}

impl ImageStore {
    /// A store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The store's real path; one process at a time makes something in it.
    fn locked(&self) -> Result<(PathBuf, File)> {
        fs::create_dir_all(&self.dir)?;
        let store = self.dir.canonicalize()?;
        let lock = File::create(store.join("lock"))?;
        lock.lock()?;
        Ok((store, lock))
    }

    /// Unpacks what a Python wheel such as `mpich==5.0.2` installs into the new directory `prefix`.
    pub fn wheel_prefix(&self, wheel: &str, prefix: &Path) -> Result<()> {
        let (store, _lock) = self.locked()?;
        wheels::prefix(wheel, &mpi::wheels_dir(&store.join("work"))?, prefix)
    }

    /// The MPI and the program of an image of [`mpi`], as a tree on the host in the new directory `dir`.
    pub fn mpi_tree(&self, name: &str, dir: &Path) -> Result<()> {
        let (store, _lock) = self.locked()?;
        mpi::tree(name, &store.join("work"), dir).map(drop)
    }

    /// The OCI layout of image `name` (tag `latest`), made now if it is not there yet.
    pub fn layout(&self, name: &str) -> Result<PathBuf> {
        let key = key(name)?;
        let (store, _lock) = self.locked()?;
        let done = store.join(format!("{name}-{key}"));
        if !done.exists() {
            let work = store.join("work");
            fs::create_dir_all(&work)?;
            let new = work.join(format!("{name}.new"));
            if new.exists() {
                fs::remove_dir_all(&new)?;
            }
            match name {
                "torture" => torture::make(&new)?,
                "debian" | "mpich" | "openmpi" => debian::make(name, &work, &new)?,
                _ if name.starts_with("mpi-") => mpi::make(name, &work, &new)?,
                _ if LARGE.contains(&name) => large::make(name, &work, &new)?,
                _ => small::make(name, &new)?,
            }
            fs::rename(&new, &done)?;
        }
        Ok(done)
    }
}

/// Hash of all that decides what the recipe makes.
fn key(name: &str) -> Result<String> {
    let benches = mpi::BENCH.iter().map(|r| r.name).chain(LARGE.iter().copied());
    let known: Vec<&str> = all_names().chain(benches).collect();
    if !known.contains(&name) {
        bail!("there is no recipe for image {name}; there are {}", known.join(", "));
    }
    let recipe = match name {
        "torture" => include_str!("images/torture.rs").to_owned(),
        "debian" | "mpich" | "openmpi" => debian::sources(),
        _ if name.starts_with("mpi-") => mpi::sources(),
        _ if LARGE.contains(&name) => large::sources(),
        _ => include_str!("images/small.rs").to_owned(),
    };
    let all = [name, include_str!("images/layout.rs"), &recipe].concat();
    Ok(format!("{:x}", Sha256::digest(all))[..12].to_owned())
}
