//! Owns the names in layers: made plain, checked, and told apart from whiteout markers.

use crate::error::{LimitKind, TarFault};
use crate::limits::Limits;
use crate::tar::Kind;

/// Where aufs kept the content of a file with several names in a layer. They are hard links to it, so it is taken;
/// the directory is no part of the image (moby: archive/diff.go, aufsHardlinks).
pub(crate) const LINK_TARGETS: &[u8] = b".wh..wh.plnk";

/// What an entry's name says it is (OCI image-spec, layer.md, "Whiteouts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// An ordinary entry.
    None,
    /// `.wh.NAME`: NAME of the lower layers is gone. The path is now NAME's.
    Whiteout,
    /// `.wh..wh..opq`: nothing of the lower layers is left in this directory. The path is the directory's.
    Opaque,
    /// aufs' own bookkeeping (`.wh..wh.*`) but for files in [`LINK_TARGETS`]: not part of the image.
    Bookkeeping,
}

/// Writes `raw` to `plain` as components joined by `/`, without `.`, empty parts and a leading slash; the
/// root is empty. `..` takes the component before it away, as Go's path.Clean does for Docker, and must
/// not climb above the root.
pub(crate) fn plain(raw: &[u8], limits: &Limits, plain: &mut Vec<u8>) -> Result<(), PathFault> {
    plain.clear();
    if raw.is_empty() {
        return Err(TarFault::Name("it is empty").into());
    }
    if raw.contains(&0) {
        return Err(TarFault::Name("it has a NUL byte").into());
    }
    let mut depth = 0;
    for part in raw.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if depth == 0 {
                    return Err(TarFault::Name("it leads out of the root").into());
                }
                depth -= 1;
                plain.truncate(plain.iter().rposition(|&b| b == b'/').unwrap_or(0));
            }
            name => {
                if name.len() > limits.name_length.min(255) {
                    return Err(LimitKind::NameLength(limits.name_length.min(255)).into());
                }
                if !plain.is_empty() {
                    plain.push(b'/');
                }
                plain.extend_from_slice(name);
                depth += 1;
            }
        }
    }
    if depth > limits.path_depth {
        return Err(LimitKind::PathDepth(limits.path_depth).into());
    }
    if plain.len() > limits.path_length.min(4095) {
        return Err(LimitKind::PathLength(limits.path_length.min(4095)).into());
    }
    Ok(())
}

/// Checks a symlink's target, which may otherwise be anything.
pub(crate) fn link(target: &[u8], limits: &Limits) -> Result<(), PathFault> {
    if target.is_empty() {
        return Err(TarFault::Name("the symbolic link leads to nothing").into());
    }
    if target.contains(&0) {
        return Err(TarFault::Name("the symbolic link has a NUL byte").into());
    }
    if target.len() > limits.path_length.min(4095) {
        return Err(LimitKind::PathLength(limits.path_length.min(4095)).into());
    }
    Ok(())
}

/// Recognises the marker that an entry of this `kind` may be, and rewrites `path` to what it speaks of.
pub(crate) fn marker(path: &mut Vec<u8>, kind: Kind) -> Result<Marker, TarFault> {
    let cut = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    if path[cut..] == *b".wh..wh..opq" {
        path.truncate(cut.saturating_sub(1));
        return Ok(Marker::Opaque);
    }
    if path.split(|&b| b == b'/').any(|part| part.starts_with(b".wh..wh.")) {
        let target =
            kind == Kind::File && path.strip_prefix(LINK_TARGETS).is_some_and(|p| p.starts_with(b"/"));
        return Ok(if target { Marker::None } else { Marker::Bookkeeping });
    }
    let Some(name) = path[cut..].strip_prefix(b".wh.") else { return Ok(Marker::None) };
    // Docker's own unpacker would take `.wh.` for the directory itself and delete it.
    if matches!(name, b"" | b"." | b"..") {
        return Err(TarFault::Name("it is a whiteout of nothing"));
    }
    path.drain(cut..cut + 4);
    Ok(Marker::Whiteout)
}

/// A name that cannot be, or one beyond a ceiling.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PathFault {
    Tar(TarFault),
    Limit(LimitKind),
}

impl From<TarFault> for PathFault {
    fn from(fault: TarFault) -> Self {
        PathFault::Tar(fault)
    }
}

impl From<LimitKind> for PathFault {
    fn from(limit: LimitKind) -> Self {
        PathFault::Limit(limit)
    }
}

impl From<PathFault> for crate::fault::Fault {
    fn from(fault: PathFault) -> Self {
        match fault {
            PathFault::Tar(fault) => fault.into(),
            PathFault::Limit(limit) => limit.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plained(raw: &str) -> Result<String, PathFault> {
        let mut out = Vec::new();
        plain(raw.as_bytes(), &Limits::default(), &mut out)?;
        Ok(String::from_utf8(out).expect("ASCII in, ASCII out"))
    }

    #[test]
    fn names_become_plain() {
        for (raw, want) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("./", ""),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            ("a/..", ""),
        ] {
            assert_eq!(plained(raw).as_deref(), Ok(want), "{raw}");
        }
    }

    #[test]
    fn impossible_names_are_refused() {
        for raw in ["", "..", "../x", "a/../../x", "a\0b"] {
            assert!(matches!(plained(raw), Err(PathFault::Tar(_))), "{raw:?}");
        }
        assert_eq!(plained(&"n".repeat(256)), Err(LimitKind::NameLength(255).into()));
        assert_eq!(plained(&"d/".repeat(513)), Err(LimitKind::PathDepth(512).into()));
        assert!(plained(&"n".repeat(255)).is_ok());
    }

    #[test]
    fn markers_are_told_apart() {
        for (path, want, left) in [
            ("a/b", Marker::None, "a/b"),
            ("a/.wh.b", Marker::Whiteout, "a/b"),
            (".wh.b", Marker::Whiteout, "b"),
            ("a/.wh..wh..opq", Marker::Opaque, "a"),
            (".wh..wh..opq", Marker::Opaque, ""),
            (".wh..wh.plnk/1.2", Marker::None, ".wh..wh.plnk/1.2"),
            (".wh..wh.plnk2/1.2", Marker::Bookkeeping, ".wh..wh.plnk2/1.2"),
            ("a/.wh..wh.plnk/1.2", Marker::Bookkeeping, "a/.wh..wh.plnk/1.2"),
            (".wh..wh.aufs", Marker::Bookkeeping, ".wh..wh.aufs"),
            ("a/.wh..hidden", Marker::Whiteout, "a/.hidden"),
        ] {
            let mut path = path.as_bytes().to_vec();
            assert_eq!(marker(&mut path, Kind::File), Ok(want));
            assert_eq!(path, left.as_bytes());
        }
        for bad in [".wh.", "a/.wh..", "a/.wh..."] {
            assert!(marker(&mut bad.as_bytes().to_vec(), Kind::File).is_err(), "{bad}");
        }
        let mut link = b".wh..wh.plnk/1.2".to_vec();
        assert_eq!(marker(&mut link, Kind::Symlink), Ok(Marker::Bookkeeping));
    }
}
