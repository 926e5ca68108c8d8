//! Files with a checksum for each stretch of bytes, which is kept in memory and not in the file: for what only the process that has
//! written it reads again.
//!
//! ```text
//!   file     │ 32 KiB │ 32 KiB │ 32 KiB │ rest │       read where you like; a stretch is checked as a whole before
//!   memory   │  xxh64 │  xxh64 │  xxh64 │ xxh64│ length                                 any byte of it is given
//! ```
//!
//! Invariant: a byte that is read is the byte that was written, or reading fails.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::contracts::xxh64;

/// Bytes under one checksum: so many are read for one byte of them, and 8 bytes of memory are kept for so many.
const STRETCH: usize = 32 << 10;

/// What is known of a file that was written.
#[derive(Debug, Clone, Default)]
pub(super) struct Checksums {
    length: u64,
    of_stretches: Arc<[u64]>,
}

impl Checksums {
    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// Writes a file from its beginning to its end.
#[derive(Debug)]
pub(super) struct CheckedWriter {
    file: File,
    stretch: Vec<u8>,
    length: u64,
    of_stretches: Vec<u64>,
}

impl CheckedWriter {
    pub(super) fn new(file: File) -> Self {
        Self { file, stretch: Vec::with_capacity(STRETCH), length: 0, of_stretches: Vec::new() }
    }

    fn put_stretch(&mut self) -> io::Result<()> {
        if !self.stretch.is_empty() {
            self.file.write_all(&self.stretch)?;
            self.of_stretches.push(xxh64(&self.stretch));
            self.length += self.stretch.len() as u64;
            self.stretch.clear();
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn end(mut self) -> io::Result<Checksums> {
        self.put_stretch()?;
        Ok(Checksums { length: self.length, of_stretches: self.of_stretches.into() })
    }
}

impl Write for CheckedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(STRETCH - self.stretch.len());
        self.stretch.extend_from_slice(&bytes[..take]);
        if self.stretch.len() == STRETCH {
            self.put_stretch()?;
        }
        Ok(take)
    }

    /// Nothing yet: a stretch is written whole, and the last one by [`Self::end`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads such a file. Damage and missing bytes are errors of the kinds `InvalidData` and `UnexpectedEof`.
#[derive(Debug)]
pub(super) struct CheckedReader {
    file: File,
    checksums: Checksums,
    at: u64,
    /// A stretch that was read and checked, and its number.
    held: Option<(usize, Vec<u8>)>,
}

impl CheckedReader {
    pub(super) fn new(file: File, checksums: Checksums) -> Self {
        Self { file, checksums, at: 0, held: None }
    }

    fn length_of(&self, number: usize) -> usize {
        let rest = self.checksums.length.saturating_sub(number as u64 * STRETCH as u64);
        usize::try_from(rest).unwrap_or(STRETCH).min(STRETCH)
    }

    /// Fills `into` with a stretch, whose length it has.
    fn read_stretch(&self, number: usize, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, number as u64 * STRETCH as u64)?;
        if self.checksums.of_stretches.get(number) != Some(&xxh64(into)) {
            let at = number * STRETCH;
            let text = format!("bytes {at} to {} are not what was written there", at + into.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}

impl Read for CheckedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.checksums.length || out.is_empty() {
            return Ok(0);
        }
        let (number, inside) = ((self.at / STRETCH as u64) as usize, (self.at % STRETCH as u64) as usize);
        let length = self.length_of(number);
        let given = if inside == 0 && out.len() >= length {
            self.read_stretch(number, &mut out[..length])?;
            length
        } else {
            let held = match self.held.take() {
                Some(held) if held.0 == number => held.1,
                other => {
                    let mut bytes = other.map(|(_, bytes)| bytes).unwrap_or_default();
                    bytes.resize(length, 0);
                    self.read_stretch(number, &mut bytes)?;
                    bytes
                }
            };
            let take = out.len().min(length - inside);
            out[..take].copy_from_slice(&held[inside..inside + take]);
            self.held = Some((number, held));
            take
        };
        self.at += given as u64;
        Ok(given)
    }
}

impl Seek for CheckedReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.checksums.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn written(path: &Path, bytes: &[u8], step: usize) -> Checksums {
        let mut writer = CheckedWriter::new(File::create(path).expect("a file"));
        bytes.chunks(step).for_each(|part| writer.write_all(part).expect("written"));
        writer.flush().expect("flushed");
        writer.end().expect("ended")
    }

    #[test]
    fn any_part_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        for length in [0, 1, STRETCH - 1, STRETCH, STRETCH + 1, 3 * STRETCH + 17] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + i / 251) as u8).collect();
            for step in [1_000, STRETCH, usize::MAX] {
                let checksums = written(&path, &bytes, step);
                assert_eq!(checksums.length(), length as u64);
                assert_eq!(std::fs::read(&path).expect("read"), bytes);
                let mut reader = CheckedReader::new(File::open(&path).expect("open"), checksums);
                let mut all = Vec::new();
                reader.read_to_end(&mut all).expect("read");
                assert_eq!(all, bytes);
                for (from, count) in [(0, 10), (STRETCH - 5, 10), (STRETCH, STRETCH), (5, 2 * STRETCH), (length, 0)] {
                    if from + count > length {
                        continue;
                    }
                    let mut part = vec![0; count];
                    reader.seek(SeekFrom::Start(from as u64)).expect("sought");
                    reader.read_exact(&mut part).expect("read");
                    assert_eq!(part, bytes[from..from + count]);
                }
                if length >= 10 {
                    let mut end = [0; 10];
                    reader.seek(SeekFrom::End(-10)).expect("sought");
                    reader.read_exact(&mut end).expect("read");
                    assert_eq!(end, bytes[length - 10..]);
                }
            }
        }
    }

    #[test]
    fn damage_fails_where_it_is_and_nowhere_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        let bytes = vec![7; 3 * STRETCH + 100];
        let checksums = written(&path, &bytes, usize::MAX);
        let read = |at: usize| {
            let mut reader = CheckedReader::new(File::open(&path).expect("open"), checksums.clone());
            reader.seek(SeekFrom::Start(at as u64)).expect("sought");
            reader.read_exact(&mut [0; 8]).map_err(|e| e.kind())
        };
        let mut damaged = bytes.clone();
        damaged[STRETCH + 5] ^= 1;
        std::fs::write(&path, &damaged).expect("written");
        assert_eq!(read(0), Ok(()));
        assert_eq!(read(STRETCH + 1_000), Err(io::ErrorKind::InvalidData));
        assert_eq!(read(2 * STRETCH), Ok(()));
        std::fs::write(&path, &bytes[..3 * STRETCH + 50]).expect("written");
        assert_eq!(read(2 * STRETCH), Ok(()));
        assert_eq!(read(3 * STRETCH), Err(io::ErrorKind::UnexpectedEof));
        // Bytes behind the end have nothing to do with it.
        std::fs::write(&path, [&bytes[..], b"more"].concat()).expect("written");
        assert_eq!(read(3 * STRETCH), Ok(()));
    }
}
