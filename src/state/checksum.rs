//! Checksums of what is kept on disk: SHA-256, so that any flipped bit shows.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// SHA-256 as 64 hex digits.
pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes through and sums what went by.
#[derive(Debug)]
pub(super) struct Summing<W> {
    inner: W,
    sum: Sha256,
}

impl<W> Summing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, sum: Sha256::new() }
    }

    /// What was wrapped, and the sum as hex digits.
    pub(super) fn finish(self) -> (W, String) {
        (self.inner, hex(self.sum.finalize().as_slice()))
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The sum of everything that a reader gives.
pub(super) fn hex_digest_of(mut reader: impl Read) -> io::Result<String> {
    let mut summing = Summing::new(io::sink());
    io::copy(&mut reader, &mut summing)?;
    Ok(summing.finish().1)
}
