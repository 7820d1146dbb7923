//! The facts of one program or library of the host.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;

use grus_core::elf::{Object, ReadAt};

/// Of an open file; None for what no loader takes.
pub fn facts(file: File) -> Option<Object> {
    let size = file.metadata().ok().filter(|meta| meta.is_file())?.len();
    Object::read(&Pieces { file, size }).ok()?
}

/// The same without its symbols.
pub fn linkage(file: File) -> Option<Object> {
    let size = file.metadata().ok().filter(|meta| meta.is_file())?.len();
    Object::linkage(&Pieces { file, size }).ok()?
}

/// A file, read where it is asked for.
struct Pieces {
    file: File,
    size: u64,
}

impl ReadAt for Pieces {
    fn read_at(&self, offset: u64, len: usize) -> Option<Cow<'_, [u8]>> {
        if offset.checked_add(len as u64)? > self.size {
            return None;
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(Cow::Owned(bytes))
    }
}
