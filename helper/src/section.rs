//! Owns reading a part of a file by position, so that many readers of one file do not disturb each other.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A part of a file, read by position: many sections of one file are read at once.
#[derive(Debug)]
pub struct Section {
    file: File,
    at: u64,
    end: Option<u64>,
}

impl Section {
    /// From byte `at` up to `end`, or to wherever the file ends.
    pub fn new(file: File, at: u64, end: Option<u64>) -> Self {
        Self { file, at, end }
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.at));
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..want], self.at)?;
        if n == 0 && want > 0 && self.end.is_some() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is cut short"));
        }
        self.at += n as u64;
        Ok(n)
    }
}
