//! Owns the check that bytes are what a digest says, while they stream: no byte is kept, and a reader that
//! gives other bytes than promised ends in an error instead of an end of file.

use std::io::{self, Read};

use grus_core::digest::Digest;
use sha2::{Digest as _, Sha256};

/// A reader that fails at the end of the stream unless the bytes had this digest (and size, where it is known).
///
/// A stream that grows past its size fails at once, so a hostile source costs no more than it announced.
pub struct Verified<R> {
    inner: R,
    digest: Digest,
    size: Option<u64>,
    hash: Sha256,
    seen: u64,
    done: bool,
}

impl<R> Verified<R> {
    /// Checks `inner` against `digest` and, if given, `size` in bytes.
    pub fn new(inner: R, digest: Digest, size: Option<u64>) -> Self {
        Self { inner, digest, size, hash: Sha256::new(), seen: 0, done: false }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.done = true;
        if let Some(size) = self.size.filter(|size| *size != self.seen) {
            return Err(damaged(format!("it is {} bytes long, {size} were announced", self.seen)));
        }
        let found = digest_of_hash(std::mem::take(&mut self.hash));
        match found == self.digest {
            true => Ok(()),
            false => Err(damaged(format!("its content is {found}, not {}", self.digest))),
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.done {
            return Ok(0);
        }
        let n = self.inner.read(buffer)?;
        if n == 0 {
            self.finish()?;
            return Ok(0);
        }
        self.seen += n as u64;
        if let Some(size) = self.size.filter(|size| self.seen > *size) {
            return Err(damaged(format!("it is longer than the {size} bytes that were announced")));
        }
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// The digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    digest_of_hash(Sha256::new_with_prefix(bytes))
}

/// The digest of a finished hash.
pub fn digest_of_hash(hash: Sha256) -> Digest {
    Digest::from_bytes(&hash.finalize().into())
}

fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], of: &[u8], size: Option<u64>) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        Verified::new(bytes, digest_of(of), size).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn right_bytes_pass_and_wrong_ones_fail_at_the_end() {
        assert_eq!(read(b"abc", b"abc", Some(3)).expect("right"), b"abc");
        assert_eq!(read(b"", b"", None).expect("empty"), b"");
        for (bytes, of, size) in
            [(&b"abd"[..], &b"abc"[..], None), (b"ab", b"abc", Some(3)), (b"abc", b"abc", Some(2))]
        {
            let e = read(bytes, of, size).expect_err("wrong bytes");
            assert_eq!(e.kind(), io::ErrorKind::InvalidData);
        }
    }
}
