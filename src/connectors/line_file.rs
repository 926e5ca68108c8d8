//! A file of JSON lines or CSV as a split: each line's byte offset is its sequence number.
//!
//! Shared by `filesystem` (finite files, objects of S3, packed ones too) and the embedded Kinesis (plain `*.jsonl`
//! shards, which grow). The last line of a growing file is not read before its line end has come. In a packed file,
//! offsets count in what it holds.
//!
//! Invariant: offsets that are asked of a [`ReadAt`] never go back, but for a growing file's last line; so a packed file
//! is unpacked once.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use memchr::memchr;

use crate::contracts::{
    Arrivals, Error, Fetch, Position, RECORD_PADDING, RawChunk, Result, SequenceNumbers, SplitId, StartPosition,
};
use crate::formats::lines::Framing;

use super::blocking::{BufferPool, CHUNK_BYTES, ChunkReader};

/// Longest record that is read; the arithmetic of a chunk is in 32 bits.
const MAX_RECORD_BYTES: usize = 256 << 20;

/// What happens at the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// The file is complete: the split ends, and a last line without line end is a record.
    Finish,
    /// More lines may come; a last line without line end waits.
    Wait,
    /// More lines may come, but the input is being drained: a last line without line end is a record.
    Drain,
}

/// Bytes that can be read at any place (of a packed file: at growing places).
pub(crate) trait ReadAt: Send + 'static {
    /// Length now; `u64::MAX` where only reading to the end tells.
    fn length(&self) -> Result<u64>;

    /// Milliseconds since 1970.
    fn modified_ms(&self) -> Result<i64>;

    /// Puts up to `bytes` from `offset` on behind what `buffer` holds and says how many; fewer only at the end. Blocks.
    fn read_at(&mut self, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<usize>;
}

/// A file of this machine.
pub(crate) struct DiskFile {
    path: PathBuf,
    file: File,
}

impl DiskFile {
    /// Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| io_error(path, "opened", e))?;
        Ok(Self { path: path.to_owned(), file })
    }
}

impl ReadAt for DiskFile {
    fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| io_error(&self.path, "read", e))?.len())
    }

    fn modified_ms(&self) -> Result<i64> {
        Ok(modified_ms(&self.file.metadata().map_err(|e| io_error(&self.path, "read", e))?))
    }

    fn read_at(&mut self, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|e| io_error(&self.path, "read", e))?;
        (&self.file).take(bytes as u64).read_to_end(buffer).map_err(|e| io_error(&self.path, "read", e))
    }
}

/// Reads one file.
pub(crate) struct LineFile {
    path: PathBuf,
    split: SplitId,
    file: Box<dyn ReadAt>,
    framing: Framing,
    at_end: AtEnd,
    /// Where the first record that has not been given out starts.
    offset: u64,
    /// First record of a CSV file with header, with its line end: put before the records of each chunk.
    header: Vec<u8>,
    /// Length of the file when the last read found nothing.
    stalled_at: Option<u64>,
    pool: BufferPool,
}

impl LineFile {
    /// Opens `path` after `resume`, or at `start`. Blocks.
    pub(crate) fn open(
        path: &Path,
        split: SplitId,
        framing: Framing,
        at_end: AtEnd,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Self> {
        Self::over(Box::new(DiskFile::open(path)?), path, split, framing, at_end, resume, start)
    }

    /// The same over any bytes; `path` is their name in errors. Blocks.
    pub(crate) fn over(
        file: Box<dyn ReadAt>,
        path: &Path,
        split: SplitId,
        framing: Framing,
        at_end: AtEnd,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Self> {
        let mut this = Self {
            path: path.to_owned(),
            split,
            file,
            framing,
            at_end,
            offset: 0,
            header: Vec::new(),
            stalled_at: None,
            pool: BufferPool::default(),
        };
        this.skip_byte_order_mark()?;
        this.read_header()?;
        match (resume, start) {
            (Some(position), _) => this.skip_past(position)?,
            (None, StartPosition::TrimHorizon) => {}
            (None, StartPosition::Latest) => this.skip_to_last_line()?,
            (None, StartPosition::AtTimestamp(ms)) if this.modified_ms()? < ms => this.skip_to_last_line()?,
            (None, StartPosition::AtTimestamp(_)) => {}
        }
        Ok(this)
    }

    fn length(&self) -> Result<u64> {
        self.file.length()
    }

    fn modified_ms(&self) -> Result<i64> {
        self.file.modified_ms()
    }

    /// Reads up to `bytes` at `offset` behind what `buffer` holds.
    fn read_at(&mut self, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        self.file.read_at(offset, bytes, buffer)
    }

    fn skip_byte_order_mark(&mut self) -> Result<()> {
        let mut first = Vec::new();
        self.read_at(0, 3, &mut first)?;
        if first == [0xEF, 0xBB, 0xBF] {
            self.offset = 3;
        }
        Ok(())
    }

    fn read_header(&mut self) -> Result<()> {
        if !matches!(&self.framing, Framing::Csv(csv) if csv.header) {
            return Ok(());
        }
        let mut buffer = Vec::new();
        self.read_at(self.offset, CHUNK_BYTES, &mut buffer)?;
        let complete = buffer.len() < CHUNK_BYTES;
        let mut records = Vec::new();
        let rest = self.framing.split(&buffer, 0, complete, &mut records);
        match records.first() {
            Some(first) => {
                self.header = buffer[first.as_range()].to_vec();
                self.header.push(b'\n');
                let after = memchr(b'\n', &buffer[first.end as usize..]).map_or(rest, |i| first.end as usize + i + 1);
                self.offset += after as u64;
                Ok(())
            }
            None if complete => Ok(()),
            None => Err(Error::config(format!("file '{}' has no header line in its first MiB", self.path.display()))
                .hint("set 'csv.header' = 'false' if its first record is data")),
        }
    }

    /// Whether nothing can follow what was read, where the file has `ended` behind it.
    fn is_last(&self, ended: bool) -> bool {
        ended && self.at_end != AtEnd::Wait
    }

    fn skip_past(&mut self, position: &Position) -> Result<()> {
        let mut at: u64 = position.0.parse().map_err(|_| {
            Error::corrupt(format!("position '{position}' is no byte offset of file '{}'", self.path.display()))
        })?;
        if at > self.length()? {
            return Err(shrunk(&self.path));
        }
        let mut want = CHUNK_BYTES;
        loop {
            let mut buffer = Vec::new();
            let read = self.read_at(at, want, &mut buffer)?;
            let mut records = Vec::new();
            // Cut as it was when it was read: a quote that stays open at the end of the file takes one line.
            let rest = self.framing.split(&buffer, 0, self.is_last(read < want), &mut records);
            if let Some(first) = records.first() {
                let after = memchr(b'\n', &buffer[first.end as usize..]).map_or(rest, |i| first.end as usize + i + 1);
                at += after as u64;
                break;
            }
            if read < want {
                at += read as u64;
                break;
            }
            want = grown(want, &self.path)?;
        }
        self.offset = at.max(self.offset);
        Ok(())
    }

    /// Moves behind the last record: the last line end, where a line without one is still to come.
    fn skip_to_last_line(&mut self) -> Result<()> {
        let length = self.length()?;
        if self.at_end != AtEnd::Wait {
            self.offset = length.max(self.offset);
            return Ok(());
        }
        let mut end = length;
        while end > self.offset {
            let from = end.saturating_sub(CHUNK_BYTES as u64).max(self.offset);
            let mut buffer = Vec::new();
            self.read_at(from, (end - from) as usize, &mut buffer)?;
            if let Some(newline) = memchr::memrchr(b'\n', &buffer) {
                self.offset = from + newline as u64 + 1;
                return Ok(());
            }
            end = from;
        }
        Ok(())
    }
}

impl ChunkReader for LineFile {
    fn read(&mut self) -> Result<Option<Fetch>> {
        let mut want = CHUNK_BYTES;
        loop {
            let length = self.length()?;
            if length < self.offset {
                return Err(shrunk(&self.path));
            }
            let from = self.header.len();
            let mut buffer = self.pool.take(from + want + RECORD_PADDING);
            buffer.extend_from_slice(&self.header);
            let read = self.read_at(self.offset, want, &mut buffer)?;
            let ended = read < want;
            let mut records = Vec::with_capacity(read / 128);
            let rest = self.framing.split(&buffer, from, self.is_last(ended), &mut records);
            let after = |at: usize| self.offset + (at - from) as u64;
            if records.is_empty() {
                let (next, end) = (after(rest), after(buffer.len()));
                if rest == from && !ended {
                    want = grown(want, &self.path)?;
                }
                self.offset = next;
                if ended {
                    self.stalled_at = Some(length.max(end));
                    self.pool.give(buffer);
                    return Ok(None);
                }
                continue;
            }
            let numbers = records.iter().map(|r| after(r.start as usize)).collect();
            let next = after(rest);
            self.stalled_at = None;
            self.offset = next;
            buffer.truncate(rest);
            buffer.resize(rest + RECORD_PADDING, 0);
            return Ok(Some(Fetch::Records(RawChunk {
                split: self.split.clone(),
                data: self.pool.give(buffer),
                records: records.into(),
                sequence: SequenceNumbers::Numbers(numbers),
                arrivals: Arrivals::Same(self.modified_ms()?),
                partition_keys: None,
            })));
        }
    }

    fn unread(&mut self) -> Result<u64> {
        let length = self.length()?;
        if Some(length) == self.stalled_at { Ok(0) } else { Ok(length.saturating_sub(self.offset)) }
    }

    fn grows(&self) -> bool {
        self.at_end != AtEnd::Finish
    }
}

/// Modification time in milliseconds since 1970.
pub(crate) fn modified_ms(metadata: &std::fs::Metadata) -> i64 {
    let since = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

/// The error of a file that could not be `done`.
pub(crate) fn io_error(path: &Path, done: &str, error: std::io::Error) -> Error {
    let message = format!("'{}' could not be {done}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::config(message).caused_by(error).hint("does the path exist?"),
        std::io::ErrorKind::PermissionDenied => Error::config(message).caused_by(error),
        _ => Error::unavailable(message).caused_by(error),
    }
}

fn shrunk(path: &Path) -> Error {
    Error::corrupt(format!("file '{}' is shorter than what was read of it before", path.display()))
        .hint("files may only grow; start with --fresh to read it from its beginning")
}

fn grown(want: usize, path: &Path) -> Result<usize> {
    if want >= MAX_RECORD_BYTES {
        let mib = MAX_RECORD_BYTES >> 20;
        return Err(Error::data(format!("file '{}' has a record of more than {mib} MiB", path.display()))
            .hint("is it a text file with one record a line?"));
    }
    Ok(want * 4)
}

/// Opens a line file in the blocking pool.
pub(crate) async fn open_blocking<R: Send + 'static>(open: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(open).await.map_err(|e| Error::internal("an opening task died").caused_by(e))?
}

/// Name of a split: the path as text.
pub(crate) fn split_id(path: &str) -> SplitId {
    SplitId(Arc::from(path))
}
