//! Owns reading at a place of the image: a file's, or memory's. It refuses nothing but what is not there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The bytes of an image.
pub trait Bytes {
    /// How many there are.
    fn length(&self) -> io::Result<u64>;

    /// Fills `into` with what is at `at`.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;
}

impl Bytes for File {
    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|meta| meta.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(into, at)
    }
}

impl Bytes for [u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let part = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..into.len()));
        into.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A number at `at` of a buffer that is known to hold it.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A number of the image.
pub(super) fn read_u64<B: Bytes + ?Sized>(from: &B, at: u64) -> io::Result<u64> {
    let mut number = [0; 8];
    from.read_at(&mut number, at)?;
    Ok(u64::from_le_bytes(number))
}
