//! Owns what is remembered of a layer once its stream has passed: one small record for each entry, names
//! in one buffer. Data are elsewhere; a record holds their number.

/// A piece of [`LayerRecord::names`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

/// Number of no xattr set.
pub(crate) const NO_XATTRS: u32 = u32::MAX;

/// What every inode has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u32,
    /// Index into the image's xattr sets, or [`NO_XATTRS`].
    pub(crate) xattrs: u32,
}

/// What a record stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    Dir,
    /// Number of its data.
    File(u32),
    /// Plain path of the other name.
    HardLink(Span),
    Symlink(Span),
    /// Device number as the kernel encodes it.
    Char(u32),
    Block(u32),
    Fifo,
    /// The path is what lower layers lose.
    Whiteout,
    /// The path is the directory that lower layers add nothing to.
    Opaque,
}

impl Body {
    /// The number of a file's data.
    pub(crate) fn data(self) -> Option<u32> {
        match self {
            Body::File(data) => Some(data),
            _ => None,
        }
    }
}

/// One entry of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) path: Span,
    pub(crate) meta: Meta,
    pub(crate) body: Body,
}

/// One layer's entries, in the archive's order.
#[derive(Debug, Default)]
pub(crate) struct LayerRecord {
    pub(crate) names: Vec<u8>,
    pub(crate) entries: Vec<Record>,
}

impl LayerRecord {
    /// Keeps `name`. [`crate::Limits::metadata_size`] holds the buffer below 4 GiB.
    pub(crate) fn keep(&mut self, name: &[u8]) -> Span {
        let start = self.names.len() as u32;
        self.names.extend_from_slice(name);
        Span { start, len: name.len() as u32 }
    }

    pub(crate) fn name(&self, span: Span) -> &[u8] {
        &self.names[span.start as usize..(span.start + span.len) as usize]
    }
}
