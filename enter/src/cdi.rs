//! The files of the node's devices (CDI), read: those that root alone can have written. Others are told, not used, for
//! what they say is carried out on a step's behalf.

use std::fs;
use std::path::{Path, PathBuf};

use grus_core::cdi::{Registry, Source, MAX_SPEC};
use grus_core::path::AbsPath;
use grus_core::plan::wants_devices;
use rustix::fs::OFlags;

use crate::builder::Inputs;
use crate::call::open;
use crate::failure::reason;
use crate::read::{contents, Small};
use crate::trust::why_not_roots;

/// Most files in a directory.
const MAX_FILES: usize = 256;

/// The node's devices, where the launch must know them.
pub(crate) fn wanted(inputs: &Inputs) -> Option<Registry> {
    let wanted = wants_devices(&inputs.request, &inputs.site, &inputs.job.environment);
    wanted.then(|| load(&inputs.site.cdi.dirs()))
}

/// Reads all files of these directories, the later ones with precedence. A missing directory has none.
pub fn load(dirs: &[AbsPath]) -> Registry {
    Registry::of(dirs.iter().map(directory).collect())
}

fn directory(dir: &AbsPath) -> Vec<Source> {
    let entries = fs::read_dir(dir.as_path()).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| describes(path)).collect();
    files.sort();
    files.truncate(MAX_FILES);
    let source = |file: PathBuf| {
        let path = AbsPath::parse(file.to_str()?).ok()?;
        Some(Source { path, content: trusted(&file) })
    };
    files.into_iter().filter_map(source).collect()
}

/// By its name (SPEC.md: .json and .yaml).
fn describes(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().is_some_and(|e| e == "json" || e == "yaml")
}

fn trusted(file: &Path) -> Result<Vec<u8>, String> {
    let fd = open(file, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|b| reason(b.errno))?;
    if let Some(why) = why_not_roots(&fd, file).map_err(|b| reason(b.errno))? {
        return Err(why);
    }
    match contents(fd, file, MAX_SPEC).map_err(|b| reason(b.errno))? {
        Small::Bytes(bytes) => Ok(bytes),
        Small::TooLong => Err(format!("it is larger than {MAX_SPEC} bytes")),
        Small::Missing | Small::NotAFile => Err("it is no regular file".into()),
    }
}
