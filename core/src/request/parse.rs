//! The values of options, as users write them.

use super::{Image, PullPolicy, Unshare};
use crate::csv;
use crate::environment::is_name;
use crate::path::AbsPath;
use crate::reference::Reference;
use crate::refusal::{printable, Refusal};

pub(super) fn image(value: &str, cwd: &AbsPath) -> Result<Image, Refusal> {
    match value {
        "none" => Ok(Image::None),
        _ if value.starts_with('/') => Ok(Image::File(AbsPath::parse(value)?)),
        _ if value.starts_with("./") => Ok(Image::File(AbsPath::parse(&format!("{cwd}/{value}"))?)),
        _ if value.starts_with("../") => above(value, cwd).map(Image::File),
        _ if value.starts_with("dockerd://") || value.starts_with("podman://") => {
            let (engine, name) = value.split_once("://").unwrap_or_default();
            let engine = if engine == "dockerd" { "docker" } else { engine };
            let name = printable(name);
            Err(Refusal::user(format!(
                "--container-image={}: images of a running engine are imported",
                printable(value)
            ))
            .hint(format!(
                "run '{engine} save {name} | grus import - {name}', then use --container-image={name}"
            )))
        }
        _ => Reference::parse(&without_hash(value)).map(Image::Reference).map_err(|refusal| {
            match value.ends_with(".squashfs") || value.ends_with(".sqsh") || value.ends_with(".sqfs") {
                true => refusal.hint(format!("for a file, write './{}'", printable(value))),
                false => refusal,
            }
        }),
    }
}

/// `../x` from the submitting directory, resolved by text as the shell's `pwd` shows it.
fn above(value: &str, cwd: &AbsPath) -> Result<AbsPath, Refusal> {
    let mut dir = cwd.clone();
    let mut rest = value;
    while let Some(after) = rest.strip_prefix("../") {
        dir = dir.parent().unwrap_or_else(AbsPath::root);
        rest = after.trim_start_matches('/');
    }
    AbsPath::parse(&format!("{dir}/{rest}"))
}

pub(super) fn volatile_dirs(value: &str) -> Result<Vec<AbsPath>, Refusal> {
    value
        .split(',')
        .map(|dir| {
            let refuse = |why: &str| {
                Refusal::user(format!("--writable-volatile={}: {why}", printable(value))).hint(
                    "name directories of the image, for example --writable-volatile=/usr/local,/opt/app",
                )
            };
            let dir = AbsPath::parse(dir).map_err(|e| refuse(&e.what))?;
            match dir == AbsPath::root() {
                true => Err(refuse("'/' as a whole cannot be made writable")),
                false => Ok(dir),
            }
        })
        .collect()
}

pub(super) fn pull(value: &str) -> Result<PullPolicy, Refusal> {
    match value {
        "missing" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        "always" => Ok(PullPolicy::Always),
        other => Err(Refusal::user(format!("--container-pull={} is not known", printable(other)))
            .hint("use missing, never or always")),
    }
}

/// `[USER@]REGISTRY#IMAGE` as Enroot writes it. The user is left out: Grus finds credentials by registry.
fn without_hash(value: &str) -> String {
    let bare = value.strip_prefix("docker://").unwrap_or(value);
    match bare.split_once('#') {
        Some((registry, image)) => {
            let registry = registry.rsplit_once('@').map_or(registry, |(_, registry)| registry);
            format!("{registry}/{image}")
        }
        None => bare.to_owned(),
    }
}

/// An absolute directory of the container.
pub(super) fn workdir(value: &str) -> Result<AbsPath, Refusal> {
    AbsPath::parse(value).map_err(|e| {
        Refusal::user(format!("--container-workdir={}: {}", printable(value), e.what))
            .hint("give an absolute path of the container")
    })
}

/// A file to write on the host; relative to the submitting directory.
pub(super) fn file(value: &str, cwd: &AbsPath) -> Result<AbsPath, Refusal> {
    let refuse = |why: &str| {
        Refusal::user(format!("--container-save={}: {why}", printable(value)))
            .hint("give the name of a file, for example ./app.squashfs")
    };
    if value.is_empty() || value.ends_with('/') || value.ends_with("/.") || value == "." || value == ".." {
        return Err(refuse("it names no file"));
    }
    let path = match value {
        _ if value.starts_with('/') => AbsPath::parse(value),
        _ if value.starts_with("../") => above(value, cwd),
        _ => AbsPath::parse(&format!("{cwd}/{value}")),
    };
    path.map_err(|e| refuse(&e.what))
}

/// Fields `NAME` or `NAME=VALUE`.
pub(super) fn variables(value: &str) -> Result<Vec<(String, Option<String>)>, Refusal> {
    let refuse = |why: String| {
        Refusal::user(format!("--container-env={}: {why}", printable(value))).hint(
            "write NAME or NAME=VALUE with commas between; put a field with a comma in it in double quotes",
        )
    };
    let fields = csv::fields(value).map_err(|why| refuse(why.into()))?;
    let split = |field: String| {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (field.as_str(), None),
        };
        match is_name(name) {
            true => Ok((name.to_owned(), value)),
            false => Err(refuse(format!("'{}' is no name of a variable", printable(name)))),
        }
    };
    fields.into_iter().map(split).collect()
}

/// `net,ipc,uts`.
pub(super) fn namespaces(value: &str) -> Result<Unshare, Refusal> {
    let mut namespaces = Unshare::default();
    for word in value.split(',') {
        *match word {
            "net" => &mut namespaces.net,
            "ipc" => &mut namespaces.ipc,
            "uts" => &mut namespaces.uts,
            other => {
                return Err(Refusal::user(format!("--container-unshare={} is not known", printable(other)))
                    .hint("use net, ipc and uts, with commas between"))
            }
        } = true;
    }
    Ok(namespaces)
}
