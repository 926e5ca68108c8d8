//! Writing one shard's log, and finding places in it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::connectors::line_file::io_error;
use crate::contracts::{Error, Result};

use super::log::{
    FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, check_file_header, file_header, holds_a_frame,
};

/// A torn frame is at most a put; so far behind it is looked for whole frames before anything is cut off.
const MAX_TORN_BYTES: u64 = 16 << 20;

/// Appends frames to a shard's log. Several writers, also in other processes, may work on one log: each
/// append holds the file's lock and first takes note of what others have appended.
pub(super) struct ShardWriter {
    path: PathBuf,
    file: File,
    /// End of the last whole frame that this writer knows of.
    end: u64,
    next_sequence: u64,
    out: Vec<u8>,
    /// Whether nothing has been appended since somebody was given the file to sync it.
    is_synced: bool,
}

impl ShardWriter {
    /// Opens a log, or makes an empty one.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |e| io_error(path, "opened for writing", e);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, end: 0, next_sequence: 1, out: Vec::new(), is_synced: true })
    }

    /// The file, if something has been appended since this was last asked: whoever asks syncs it.
    pub(super) fn take_unsynced(&mut self) -> Result<Option<(PathBuf, File)>> {
        if std::mem::replace(&mut self.is_synced, true) {
            return Ok(None);
        }
        let file = self.file.try_clone().map_err(|e| io_error(&self.path, "synced", e))?;
        Ok(Some((self.path.clone(), file)))
    }

    /// Appends what `builder` holds as one frame; returns the sequence number of its first record.
    pub(super) fn append(&mut self, builder: &mut FrameBuilder, arrival_ms: i64) -> Result<u64> {
        self.file.lock().map_err(|e| io_error(&self.path, "locked", e))?;
        let appended = self.append_locked(builder, arrival_ms);
        self.file.unlock().map_err(|e| io_error(&self.path, "unlocked", e))?;
        appended
    }

    fn append_locked(&mut self, builder: &mut FrameBuilder, arrival_ms: i64) -> Result<u64> {
        self.catch_up()?;
        let first = self.next_sequence;
        let count = builder.len() as u64;
        self.out.clear();
        builder.finish(first, arrival_ms, &mut self.out);
        let failed = |e| io_error(&self.path, "written", e);
        self.file.seek(SeekFrom::Start(self.end)).map_err(failed)?;
        self.is_synced = false;
        self.file.write_all(&self.out).map_err(failed)?;
        self.end += self.out.len() as u64;
        self.next_sequence += count;
        Ok(first)
    }

    /// Takes note of frames that others appended, and cuts off a torn one.
    fn catch_up(&mut self) -> Result<()> {
        let failed = |e| io_error(&self.path, "read", e);
        let length = self.file.metadata().map_err(failed)?.len();
        if self.end == 0 {
            if length < FILE_HEADER_BYTES {
                self.file.set_len(0).map_err(failed)?;
                self.file.write_all_at(&file_header(), 0).map_err(|e| io_error(&self.path, "written", e))?;
                self.end = FILE_HEADER_BYTES;
                return Ok(());
            }
            let mut header = [0; FILE_HEADER_BYTES as usize];
            self.file.read_exact_at(&mut header, 0).map_err(failed)?;
            check_file_header(&header).map_err(|e| e.context(self.path.display().to_string()))?;
            self.end = FILE_HEADER_BYTES;
        }
        if length != self.end {
            let found = scan(&self.file, &self.path, self.end, |_, _| true)?;
            self.end = found.offset;
            self.next_sequence = found.next_sequence.unwrap_or(self.next_sequence);
            if length > self.end {
                let mut rest = Vec::new();
                self.file.seek(SeekFrom::Start(self.end)).map_err(failed)?;
                (&self.file).take(MAX_TORN_BYTES).read_to_end(&mut rest).map_err(failed)?;
                if holds_a_frame(&rest) {
                    let message = format!("shard log '{}' is damaged at byte {}", self.path.display(), self.end);
                    return Err(Error::corrupt(message).hint("restore the file, or delete the stream's folder"));
                }
                self.file.set_len(self.end).map_err(|e| io_error(&self.path, "cut", e))?;
            }
        }
        Ok(())
    }
}

/// Where a scan of frames stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanned {
    /// Start of the frame at which it stopped, or the end of the last whole frame.
    pub(super) offset: u64,
    /// Number after the last frame passed, if one was.
    pub(super) next_sequence: Option<u64>,
}

/// Passes frames from `offset` on while `pass` says so. Only headers are read, but for the last frame of
/// the file, whose checksum is tested: any earlier one was whole before the next was appended.
pub(super) fn scan(
    file: &File,
    path: &Path,
    mut offset: u64,
    mut pass: impl FnMut(&FrameHeader, u64) -> bool,
) -> Result<Scanned> {
    let failed = |e| io_error(path, "read", e);
    let length = file.metadata().map_err(failed)?.len();
    let mut next_sequence = None;
    let mut window = Window { file, start: 0, bytes: Vec::new() };
    while let Some(header) = FrameHeader::parse(window.get(offset).map_err(failed)?) {
        let end = offset + header.bytes as u64;
        if end > length {
            break;
        }
        if end == length || FrameHeader::parse(window.get(end).map_err(failed)?).is_none() {
            let mut frame = vec![0; header.bytes];
            file.read_exact_at(&mut frame, offset).map_err(failed)?;
            if !header.holds(&frame) {
                break;
            }
        }
        if !pass(&header, offset) {
            break;
        }
        next_sequence = Some(header.next_sequence());
        offset = end;
    }
    Ok(Scanned { offset, next_sequence })
}

/// Reads headers through a window of the file, since frames may be small.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes of a frame header at `offset`; fewer at the end of the file.
    fn get(&mut self, offset: u64) -> std::io::Result<&[u8]> {
        let ends_in = |this: &Self| offset + FRAME_HEADER_BYTES as u64 <= this.start + this.bytes.len() as u64;
        if offset < self.start || !ends_in(self) {
            self.bytes.clear();
            self.start = offset;
            self.file.seek(SeekFrom::Start(offset))?;
            self.file.take(64 << 10).read_to_end(&mut self.bytes)?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..self.bytes.len().min(at + FRAME_HEADER_BYTES)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_to_be_synced_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::open(&dir.path().join("shard.log")).unwrap();
        assert!(writer.take_unsynced().unwrap().is_none());
        let mut frame = FrameBuilder::default();
        frame.push(b"one", "k");
        writer.append(&mut frame, 0).unwrap();
        assert!(writer.take_unsynced().unwrap().is_some());
        assert!(writer.take_unsynced().unwrap().is_none());
    }
}
