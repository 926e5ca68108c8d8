//! Reading one shard's log: a chunk is a piece of the file, with the bounds of the payloads in it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::connectors::blocking::{BufferPool, CHUNK_BYTES, ChunkReader};
use crate::connectors::line_file::io_error;
use crate::contracts::{
    Arrivals, Error, Fetch, Position, RECORD_PADDING, RawChunk, RecordRange, Result, SequenceNumbers, SplitId,
    StartPosition,
};

use super::log::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FrameHeader, check_file_header, holds_a_frame};
use super::shard::scan;

/// Looks at a damaged frame that has others behind it before it is called corrupt: a writer that cuts off a torn
/// frame and appends may be seen halfway.
const PATIENCE: u32 = 40;

/// Reads a shard's log from a place on.
pub(super) struct LogReader {
    path: PathBuf,
    split: SplitId,
    file: Option<File>,
    /// Start of the first frame that has not been given out.
    offset: u64,
    /// Records up to this number have been read.
    after_exclusive: u64,
    with_keys: bool,
    stalled_at: Option<u64>,
    damaged_looks: u32,
    pool: BufferPool,
}

impl LogReader {
    /// Opens a log after `resume`, or at `start`. A log that does not exist yet is an empty one. Blocks.
    pub(super) fn open(
        path: &Path,
        split: SplitId,
        resume: Option<&Position>,
        start: StartPosition,
        with_keys: bool,
    ) -> Result<Self> {
        let mut this = Self {
            path: path.to_owned(),
            split,
            file: None,
            offset: FILE_HEADER_BYTES,
            after_exclusive: 0,
            with_keys,
            stalled_at: None,
            damaged_looks: 0,
            pool: BufferPool::default(),
        };
        let exists = this.open_file()?;
        match (resume, start) {
            (Some(position), _) => {
                let after: u64 = position.0.parse().map_err(|_| {
                    Error::corrupt(format!("position '{position}' is no sequence number of '{}'", path.display()))
                })?;
                this.after_exclusive = after;
                let last = this.skip(|header| header.next_sequence() <= after + 1)?;
                if last <= after {
                    return Err(Error::corrupt(format!("'{}' ends before the saved position {after}", path.display()))
                        .hint("was the stream deleted? start with --fresh to read it from its beginning"));
                }
            }
            (None, _) if !exists => {}
            (None, StartPosition::TrimHorizon) => {}
            (None, StartPosition::Latest) => this.after_exclusive = this.skip(|_| true)? - 1,
            (None, StartPosition::AtTimestamp(ms)) => {
                this.after_exclusive = this.skip(|header| header.arrival_ms < ms)? - 1;
            }
        }
        Ok(this)
    }

    /// Opens the file once it exists.
    fn open_file(&mut self) -> Result<bool> {
        if self.file.is_some() {
            return Ok(true);
        }
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(io_error(&self.path, "opened", e)),
        };
        let mut header = Vec::new();
        let read = (&mut file).take(FILE_HEADER_BYTES).read_to_end(&mut header);
        read.map_err(|e| io_error(&self.path, "read", e))?;
        if header.len() < FILE_HEADER_BYTES as usize {
            return Ok(false);
        }
        check_file_header(&header).map_err(|e| e.context(self.path.display().to_string()))?;
        self.file = Some(file);
        Ok(true)
    }

    /// Passes frames while `pass`; returns the number of the record there.
    fn skip(&mut self, pass: impl Fn(&FrameHeader) -> bool) -> Result<u64> {
        let Some(file) = &self.file else { return Ok(1) };
        let mut last = 1;
        let mut partly = 0;
        let scanned = scan(file, &self.path, self.offset, |header, _| {
            let passed = pass(header);
            if !passed {
                partly = header.next_sequence();
            }
            passed
        })?;
        self.offset = scanned.offset;
        if let Some(next) = scanned.next_sequence {
            last = next;
        }
        // A frame that is to be read in part still proves that its records exist.
        Ok(if self.after_exclusive > 0 { last.max(partly) } else { last })
    }

    fn length(&self) -> Result<u64> {
        let Some(file) = &self.file else { return Ok(0) };
        Ok(file.metadata().map_err(|e| io_error(&self.path, "read", e))?.len())
    }

    fn fill(&mut self, want: usize) -> Result<Vec<u8>> {
        let mut buffer = self.pool.take(want + RECORD_PADDING);
        if let Some(mut file) = self.file.as_ref() {
            let read =
                file.seek(SeekFrom::Start(self.offset)).and_then(|_| file.take(want as u64).read_to_end(&mut buffer));
            read.map_err(|e| io_error(&self.path, "read", e))?;
        }
        Ok(buffer)
    }

    /// Nothing whole at `offset`: it has not come yet, or it is damaged.
    fn stalled(&mut self, damaged: bool) -> Result<Option<Fetch>> {
        self.damaged_looks = if damaged { self.damaged_looks + 1 } else { 0 };
        if self.damaged_looks > PATIENCE {
            return Err(Error::corrupt(format!(
                "shard log '{}' is damaged at byte {}",
                self.path.display(),
                self.offset
            ))
            .hint("restore the file, or delete the stream's folder and produce again"));
        }
        self.stalled_at = if damaged { None } else { Some(self.length()?) };
        Ok(None)
    }
}

/// The frames of a buffer, taken apart.
#[derive(Default)]
struct Gathered {
    records: Vec<RecordRange>,
    arrivals: Vec<(i64, usize)>,
    keys: Vec<Box<str>>,
    first: u64,
    end: usize,
    next_frame_bytes: usize,
    damaged: bool,
}

impl Gathered {
    fn take(buffer: &[u8], after_exclusive: u64, with_keys: bool) -> Self {
        let mut this = Self { records: Vec::with_capacity(buffer.len() / 192), ..Self::default() };
        while let Some(header) = FrameHeader::parse(&buffer[this.end..]) {
            let frame = &buffer[this.end..];
            if frame.len() < header.bytes {
                this.next_frame_bytes = header.bytes;
                break;
            }
            if !header.holds(frame) {
                break;
            }
            let skipped = (after_exclusive + 1).saturating_sub(header.first_sequence).min(header.count as u64) as usize;
            if this.records.is_empty() {
                this.first = header.first_sequence + skipped as u64;
            }
            let mut start = if skipped == 0 { header.payloads_at() } else { header.payload_end(frame, skipped - 1) };
            for index in skipped..header.count {
                let end = header.payload_end(frame, index);
                let range = RecordRange { start: (this.end + start) as u32, end: (this.end + end) as u32 };
                this.records.push(range);
                start = end;
                if with_keys {
                    this.keys.push(header.key(frame, index).into());
                }
            }
            this.arrivals.push((header.arrival_ms, header.count - skipped));
            this.end += header.bytes;
        }
        this.damaged = this.records.is_empty() && holds_a_frame(&buffer[(this.end + 1).min(buffer.len())..]);
        this
    }

    fn arrivals(&self) -> Arrivals {
        let first = self.arrivals.first().map_or(0, |a| a.0);
        if self.arrivals.iter().all(|a| a.0 == first) {
            return Arrivals::Same(first);
        }
        Arrivals::Each(self.arrivals.iter().flat_map(|(ms, count)| std::iter::repeat_n(*ms, *count)).collect())
    }
}

impl ChunkReader for LogReader {
    fn read(&mut self) -> Result<Option<Fetch>> {
        if !self.open_file()? {
            return self.stalled(false);
        }
        let mut want = CHUNK_BYTES;
        loop {
            let mut buffer = self.fill(want)?;
            let ended = buffer.len() < want;
            let gathered = Gathered::take(&buffer, self.after_exclusive, self.with_keys);
            self.offset += gathered.end as u64;
            if gathered.records.is_empty() {
                self.pool.give(buffer);
                if gathered.end > 0 {
                    continue;
                }
                if !ended && gathered.next_frame_bytes > want {
                    want = gathered.next_frame_bytes + FRAME_HEADER_BYTES;
                    continue;
                }
                // A torn frame is the last thing in the file.
                return self.stalled(gathered.damaged);
            }
            self.damaged_looks = 0;
            self.stalled_at = None;
            self.after_exclusive = gathered.first + gathered.records.len() as u64 - 1;
            buffer.truncate(gathered.end);
            buffer.resize(gathered.end + RECORD_PADDING, 0);
            let arrivals = gathered.arrivals();
            return Ok(Some(Fetch::Records(RawChunk {
                split: self.split.clone(),
                data: self.pool.give(buffer),
                records: gathered.records.into(),
                sequence: SequenceNumbers::Dense { first: gathered.first },
                arrivals,
                partition_keys: self.with_keys.then(|| gathered.keys.into()),
            })));
        }
    }

    fn unread(&mut self) -> Result<u64> {
        if !self.open_file()? {
            return Ok(0);
        }
        let length = self.length()?;
        if Some(length) == self.stalled_at { Ok(0) } else { Ok(length.saturating_sub(self.offset)) }
    }

    fn grows(&self) -> bool {
        true
    }

    fn position(&self) -> Option<Position> {
        Some(Position(self.after_exclusive.to_string().into()))
    }
}
