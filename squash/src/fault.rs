//! Owns the reasons a layer's stream stops, before they are given the layer's and the entry's name.

use std::io;

use crate::error::{Error, LimitKind, TarFault};

/// A failure while one layer is read; [`Fault::name`] makes the user's error of it.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(io::Error),
    Tar(TarFault),
    Limit(LimitKind),
    /// A kept layer, or the image it is in, is damaged.
    Kept(io::Error),
    /// The pipeline behind has stopped; its own error is the one to tell.
    Closed,
    Cancelled,
}

impl Fault {
    /// `source_failed`: the caller's reader gave the error, not the decompressor.
    pub(crate) fn name(self, layer: &str, path: &[u8], source_failed: bool) -> Error {
        let layer = layer.to_owned();
        let path = printable(path);
        match self {
            Fault::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<LimitKind>()) {
                Some(&limit) => Error::Limit { layer, path, limit },
                None if source_failed => Error::Source { layer, source: e },
                None => Error::Decompress { layer, source: e },
            },
            Fault::Tar(what) => Error::Tar { layer, path, what },
            Fault::Kept(source) => Error::Kept { layer, source },
            Fault::Limit(limit) => Error::Limit { layer, path, limit },
            Fault::Closed => Error::Write(io::Error::other("the writer stopped")),
            Fault::Cancelled => Error::Cancelled,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        Fault::Io(e)
    }
}

impl From<TarFault> for Fault {
    fn from(e: TarFault) -> Self {
        Fault::Tar(e)
    }
}

impl From<LimitKind> for Fault {
    fn from(e: LimitKind) -> Self {
        Fault::Limit(e)
    }
}

/// A path for a message: image names are bytes, and must not steer a terminal. At most 300 bytes of it.
pub(crate) fn printable(path: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&path[..path.len().min(300)]);
    let mut out: String = shown
        .chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() })
        .collect();
    if path.len() > 300 {
        out.push_str("...");
    }
    out
}
