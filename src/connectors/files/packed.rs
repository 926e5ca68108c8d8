//! Text files packed by gzip or zstd, read and written as streams.

use std::io::{self, Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::connectors::line_file::ReadAt;
use crate::contracts::{Error, Result, TableSpec};

/// Bytes that are unpacked at a time.
const STEP: usize = 256 << 10;

/// How a text file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// How files of a table are written: its option `compression`, by default not packed.
    pub(super) fn to_write(spec: &TableSpec) -> Result<Self> {
        match Self::named(spec)? {
            Some(Some(packing)) => Ok(packing),
            _ => Ok(Self::None),
        }
    }

    /// How a file of a table is to be read: as the option `compression` says, else as the file's name says.
    pub(super) fn to_read(spec: &TableSpec, name: &str) -> Result<Self> {
        Ok(match Self::named(spec)? {
            Some(Some(packing)) => packing,
            _ if name.ends_with(".gz") => Self::Gzip,
            _ if name.ends_with(".zst") || name.ends_with(".zstd") => Self::Zstd,
            _ => Self::None,
        })
    }

    fn named(spec: &TableSpec) -> Result<Option<Option<Self>>> {
        let Some(name) = spec.option("compression") else { return Ok(None) };
        Ok(Some(match name.to_ascii_lowercase().as_str() {
            "none" => Some(Self::None),
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            "auto" => None,
            other => {
                return Err(Error::config(format!("table '{}': compression '{other}' is not built in", spec.name))
                    .hint("none, gzip, zstd or (to read) auto"));
            }
        }))
    }

    /// What is added to a file's name.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// The bytes in `file`, unpacked.
    pub(super) fn unpack(self, file: Box<dyn ReadAt>, name: &str) -> Result<Box<dyn ReadAt>> {
        let modified_ms = file.modified_ms()?;
        let bytes = Straight { file, at: 0 };
        let reader: Box<dyn Read + Send> = match self {
            Self::None => return Ok(bytes.file),
            Self::Gzip => Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(STEP, bytes))),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).map_err(|e| broken(name, e))?),
        };
        Ok(Box::new(Unpacked { reader, window: Vec::new(), start: 0, modified_ms, name: name.to_owned() }))
    }

    /// What packs into `output`.
    pub(super) fn pack<W: Write>(self, output: W) -> Result<Packer<W>> {
        Ok(match self {
            Self::None => Packer::Plain(io::BufWriter::with_capacity(STEP, output)),
            Self::Gzip => Packer::Gzip(GzEncoder::new(output, flate2::Compression::default())),
            // 3 is zstd's own default.
            Self::Zstd => Packer::Zstd(
                zstd::stream::write::Encoder::new(output, 3).map_err(|e| Error::internal("zstd").caused_by(e))?,
            ),
        })
    }
}

fn broken(name: &str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::data(format!("'{name}' cannot be unpacked")).caused_by(error),
    }
}

/// Reads from the first byte to the last.
struct Straight {
    file: Box<dyn ReadAt>,
    at: u64,
}

impl Read for Straight {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = Vec::with_capacity(buffer.len());
        let read = self.file.read_at(self.at, buffer.len(), &mut bytes).map_err(io::Error::other)?;
        buffer[..read].copy_from_slice(&bytes);
        self.at += read as u64;
        Ok(read)
    }
}

/// An unpacked file: holds only what may be asked for again.
struct Unpacked {
    reader: Box<dyn Read + Send>,
    window: Vec<u8>,
    /// Where the window begins.
    start: u64,
    modified_ms: i64,
    name: String,
}

impl ReadAt for Unpacked {
    fn length(&self) -> Result<u64> {
        Ok(u64::MAX)
    }

    fn modified_ms(&self) -> Result<i64> {
        Ok(self.modified_ms)
    }

    fn read_at(&mut self, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        // "Behind everything", of a start at the newest record.
        if offset == u64::MAX {
            return Ok(0);
        }
        let wanted_end = offset + bytes as u64;
        let mut ended = false;
        while self.start + (self.window.len() as u64) < wanted_end && !ended {
            self.forget(offset);
            let before = self.window.len();
            self.window.resize(before + STEP, 0);
            let read = self.reader.read(&mut self.window[before..]).map_err(|e| broken(&self.name, e))?;
            self.window.truncate(before + read);
            ended = read == 0;
        }
        self.forget(offset);
        if offset < self.start {
            return Err(Error::internal(format!("'{}' was asked for bytes before those it gave", self.name)));
        }
        let available = if offset == self.start { self.window.len().min(bytes) } else { 0 };
        buffer.extend_from_slice(&self.window[..available]);
        Ok(available)
    }
}

impl Unpacked {
    /// Drops what lies before `offset`.
    fn forget(&mut self, offset: u64) {
        let before = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let drop = before.min(self.window.len());
        self.window.drain(..drop);
        self.start += drop as u64;
    }
}

/// Writes packed text.
pub(super) enum Packer<W: Write> {
    Plain(io::BufWriter<W>),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Packer<W> {
    /// Ends the packed stream and gives the output back.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(buffered) => buffered.into_inner().map_err(io::IntoInnerError::into_error),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }

    pub(super) fn get_ref(&self) -> &W {
        match self {
            Self::Plain(buffered) => buffered.get_ref(),
            Self::Gzip(encoder) => encoder.get_ref(),
            Self::Zstd(encoder) => encoder.get_ref(),
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(buffered) => buffered.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(buffered) => buffered.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
