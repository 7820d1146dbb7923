//! Owns the reading of policies, keys and containers-registries.d(5).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use grus_core::refusal::{printable, Refusal};
use grus_core::signature::{Key, Lookaside, Policy, MAX_POLICY};

use crate::failure::{reason, Failure};
use crate::registry::Paths;
use crate::repository::read_limited;

/// Largest key or keyring that is read, in bytes.
const MAX_KEYS: usize = 1 << 20;

/// Largest file of registries.d that is read, in bytes.
const MAX_PLACES: usize = 1 << 20;

/// The site's policy, which must be there if it is named, and the user's, with their files' names.
pub fn load(site: Option<&Path>, paths: &Paths) -> Result<Vec<(String, Policy)>, Failure> {
    let mut all = vec![];
    if let Some(path) = site {
        all.push(parse(path, &read(path).map_err(|e| unreadable(path, &e))?)?);
    }
    for path in &paths.policies {
        match read(path) {
            Ok(text) => {
                if site != Some(path) {
                    all.push(parse(path, &text)?);
                }
                break;
            }
            Err(e) if missing(&e) => {}
            Err(e) => return Err(unreadable(path, &e)),
        }
    }
    Ok(all)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_limited(path, MAX_POLICY)
}

fn parse(path: &Path, text: &[u8]) -> Result<(String, Policy), Failure> {
    let name = path.display().to_string();
    Ok((name.clone(), Policy::parse(text, &name)?))
}

fn missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot read the signature policy {}: {}", shown(path), reason(error));
    Refusal::site(what).hint("no image is taken before it can be read; see containers-policy.json(5)").into()
}

/// The keys of a requirement of the policy `file`.
pub fn keys(keys: &[Key], file: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let bad = |path: &str, why: &str| {
        Refusal::site(format!(
            "cannot read the key {path} of the signature policy {}: {why}",
            printable(file)
        ))
        .hint("whoever keeps the policy must mend it")
    };
    let read = |key: &Key| match key {
        Key::Data(bytes) => Ok(bytes.clone()),
        Key::File(path) => match read_limited(path.as_path(), MAX_KEYS) {
            Ok(bytes) if bytes.len() > MAX_KEYS => {
                Err(bad(path.as_str(), &format!("it is larger than {MAX_KEYS} bytes")).into())
            }
            Ok(bytes) => Ok(bytes),
            Err(e) => Err(bad(path.as_str(), &reason(&e)).into()),
        },
    };
    keys.iter().map(read).collect()
}

/// What the first directory of registries.d that is there says.
pub fn lookaside(paths: &Paths) -> Result<Lookaside, Failure> {
    let mut all = Lookaside::default();
    let Some(dir) = paths.registries_d.iter().find(|dir| dir.is_dir()) else { return Ok(all) };
    for file in files(dir).map_err(|e| Failure::io("read", dir, &e))? {
        let bad = |why: &str| {
            Refusal::site(format!("cannot use {}: {}", shown(&file), printable(why)))
                .hint("it says where signatures are; see containers-registries.d(5)")
        };
        let bytes = read_limited(&file, MAX_PLACES).map_err(|e| bad(&reason(&e)))?;
        if bytes.len() > MAX_PLACES {
            return Err(bad("it is too large").into());
        }
        let text = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let said: Lookaside = serde_saphyr::from_str(&text).map_err(|e| bad(&first_line(&e.to_string())))?;
        all.add(said).map_err(|why| bad(&why))?;
    }
    Ok(all)
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    all.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    all.sort();
    Ok(all)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}
