//! The error output: what was refused, as JSON lines in a folder.
//!
//! A file is visible while it grows: each flush makes its lines durable, and nothing waits for a commit. An object of
//! S3 cannot grow: it is put again, with what has been added (see [`error_objects`](super::error_objects)).
//! The bytes of one record are written once: when several queries refuse it, only the first line carries
//! a large record, the others name the same stream, split and sequence number.

use std::collections::{HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use arrow::datatypes::TimeUnit;
use async_trait::async_trait;
use base64::Engine;

use crate::connectors::line_file::io_error;
use crate::contracts::{ErrorOutput, RejectedRecord, Result};
use crate::formats::datetime::{TimestampStyle, write_timestamp};
use crate::formats::write_json::write_string;

use super::error_objects::ObjectLines;
use super::folders;
use super::location::Place;
use super::part::PartNames;

/// A file is followed by a new one at this size.
const FILE_BYTES: u64 = 64 << 20;
/// Records larger than this are written once only.
const LARGE_RECORD: usize = 4 << 10;
/// So many large records are remembered.
const REMEMBERED: usize = 4_096;

/// Writes refused records below a folder.
pub(crate) struct FileErrorOutput {
    sink: Lines,
    seen: HashSet<String>,
    order: VecDeque<String>,
}

/// Where lines go.
enum Lines {
    Folder(FolderLines),
    Objects(ObjectLines),
}

struct FolderLines {
    folder: PathBuf,
    names: PartNames,
    file: Option<(PathBuf, File)>,
    bytes: u64,
    dirty: bool,
}

impl FileErrorOutput {
    pub(super) fn open(place: Place, names: PartNames) -> Self {
        let sink = match place {
            Place::Local(folder) => Lines::Folder(FolderLines { folder, names, file: None, bytes: 0, dirty: false }),
            Place::S3(prefix) => Lines::Objects(ObjectLines::new(prefix, names)),
        };
        Self { sink, seen: HashSet::new(), order: VecDeque::new() }
    }

    /// Whether the bytes of this record are in an earlier line.
    fn is_known(&mut self, record: &RejectedRecord) -> bool {
        if record.record.len() <= LARGE_RECORD || record.sequence_number.is_empty() {
            return false;
        }
        let key = format!("{}\u{0}{}\u{0}{}", record.stream, record.split, record.sequence_number);
        if !self.seen.insert(key.clone()) {
            return true;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        false
    }

    async fn append(&mut self, text: &[u8]) -> Result<()> {
        match &mut self.sink {
            Lines::Folder(folder) => folder.append(text),
            Lines::Objects(objects) => objects.append(text).await,
        }
    }
}

impl FolderLines {
    fn append(&mut self, text: &[u8]) -> Result<()> {
        if self.file.is_some() && self.bytes >= FILE_BYTES {
            self.sync()?;
            self.file = None;
        }
        if self.file.is_none() {
            folders::make(&self.folder)?;
            let path = self.folder.join(format!("errors-{}.jsonl", self.names.next()));
            let file = OpenOptions::new().append(true).create(true).open(&path);
            let file = file.map_err(|e| io_error(&path, "made", e))?;
            folders::sync_name(&path)?;
            self.file = Some((path, file));
            self.bytes = 0;
        }
        if let Some((path, file)) = &mut self.file {
            file.write_all(text).map_err(|e| io_error(path, "written", e))?;
            self.bytes += text.len() as u64;
            self.dirty = true;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        if let Some((path, file)) = &self.file
            && self.dirty
        {
            file.sync_data().map_err(|e| io_error(path, "synced", e))?;
            self.dirty = false;
        }
        Ok(())
    }
}

fn write_line(record: &RejectedRecord, known: bool, out: &mut Vec<u8>) {
    let mut member = |name: &str, text: Option<&str>| {
        out.extend_from_slice(if out.last().is_none_or(|b| *b == b'\n') { b"{" } else { b"," });
        write_string(name, out);
        out.push(b':');
        match text {
            Some(text) => write_string(text, out),
            None => out.extend_from_slice(b"null"),
        }
    };
    let arrival = record.arrival_ms.map(|ms| {
        let mut text = Vec::new();
        write_timestamp(ms, TimeUnit::Millisecond, true, TimestampStyle::Rfc3339Millis, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    member("origin", Some(&record.origin));
    member("stream", Some(&record.stream));
    member("split", Some(&record.split));
    member("sequence_number", Some(&record.sequence_number));
    member("arrival", arrival.as_deref());
    member("reason", Some(&record.reason.to_string()));
    member("column", record.column.as_deref());
    member("detail", Some(&record.detail));
    match std::str::from_utf8(&record.record) {
        _ if known => member("record_in_earlier_line", Some(&format!("{} bytes", record.record.len()))),
        Ok(text) => member("record", Some(text)),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(&record.record);
            member("record_base64", Some(&text));
        }
    }
    out.extend_from_slice(b"}\n");
}

#[async_trait]
impl ErrorOutput for FileErrorOutput {
    async fn write(&mut self, records: &[RejectedRecord]) -> Result<()> {
        self.write_lines(records).await.map_err(|e| e.context("error output"))
    }

    async fn flush(&mut self) -> Result<()> {
        let flushed = match &mut self.sink {
            Lines::Folder(folder) => folder.sync(),
            Lines::Objects(objects) => objects.put().await,
        };
        flushed.map_err(|e| e.context("error output"))
    }
}

impl FileErrorOutput {
    async fn write_lines(&mut self, records: &[RejectedRecord]) -> Result<()> {
        let mut out = Vec::new();
        for record in records {
            let known = self.is_known(record);
            write_line(record, known, &mut out);
            if out.len() >= 1 << 20 {
                self.append(&out).await?;
                out.clear();
            }
        }
        if out.is_empty() { Ok(()) } else { self.append(&out).await }
    }
}
