//! SNS without AWS: a topic is `DIR/sns/<topic>.jsonl`, a line for each message.
//!
//! A line keeps the epoch that published it: when an epoch is replayed, each of its messages that the file has already
//! is left out, and nothing else is: two equal rows in one epoch are two messages, and an equal row of a later epoch is
//! a new one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Deserialize;

use crate::connectors::line_file::io_error;
use crate::contracts::{Changes, EpochNumber, Result, Sink, TableSpec, WriteOutcome};
use crate::formats::datetime::{TimestampStyle, write_timestamp};
use crate::formats::write_json::{JsonRows, JsonStyle, write_string};

use super::message::{MAX_MESSAGE_BYTES, Messages, project_without, topic_name};

/// Attributes leave NULLs out.
const ATTRIBUTES: JsonStyle = JsonStyle { timestamps: TimestampStyle::Rfc3339Millis, skip_nulls: true };

/// Removes a last line that a crash cut off: it never was a message. Returns the file's length.
fn cut_torn_line(path: &Path) -> std::io::Result<u64> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    file.lock()?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * MAX_MESSAGE_BYTES as u64);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut tail)?;
    let whole = from + memchr::memrchr(b'\n', &tail).map_or(0, |i| i as u64 + 1);
    if whole < length {
        file.set_len(whole)?;
    }
    Ok(whole)
}

struct Line {
    id: String,
    /// Everything but the time of publishing, as the inside of a JSON object.
    members: Vec<u8>,
}

/// Appends messages to a topic's file.
pub(super) struct LocalTopicSink {
    path: PathBuf,
    messages: Messages,
    pending: Vec<Line>,
    /// Length of the file when the run began: what other INSERTs of this run append is no replay.
    length_before: u64,
    /// How often each message of the run's first epoch or later ones was in the file before; read once.
    published: Option<HashMap<(String, u64), u32>>,
}

/// What is needed of a line to know it again.
#[derive(Deserialize)]
struct PublishedLine {
    message_id: String,
    #[serde(default)]
    epoch: u64,
}

impl LocalTopicSink {
    pub(super) fn open(spec: &TableSpec, local: &Path, topic: &str, job: &str) -> Result<Self> {
        let topic = topic_name(topic, &spec.name)?;
        let path = local.join("sns").join(format!("{topic}.jsonl"));
        let length_before = cut_torn_line(&path).map_err(|e| io_error(&path, "opened", e))?;
        let messages = Messages::new(spec, job);
        Ok(Self { path, messages, pending: Vec::new(), length_before, published: None })
    }

    /// Counts the messages that this epoch, or a later one, has published before.
    fn read_published(&self, file: &mut File, epoch: EpochNumber) -> std::io::Result<HashMap<(String, u64), u32>> {
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.take(self.length_before).read_to_end(&mut text)?;
        let mut published = HashMap::new();
        for line in text.split(|b| *b == b'\n') {
            if let Ok(line) = serde_json::from_slice::<PublishedLine>(line)
                && line.epoch >= epoch.0
            {
                *published.entry((line.message_id, line.epoch)).or_insert(0) += 1;
            }
        }
        Ok(published)
    }

    fn publish(&mut self, epoch: EpochNumber, now_ms: i64) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&self.path)?;
        file.lock()?;
        if self.published.is_none() {
            self.published = Some(self.read_published(&mut file, epoch)?);
        }
        let mut out = Vec::new();
        for message in self.pending.drain(..) {
            let earlier = self.published.as_mut().and_then(|p| p.get_mut(&(message.id.clone(), epoch.0)));
            if let Some(left) = earlier
                && *left > 0
            {
                *left -= 1;
                continue;
            }
            out.extend_from_slice(b"{\"message_id\":");
            write_string(&message.id, &mut out);
            out.extend_from_slice(&message.members);
            out.extend_from_slice(b",\"published_at\":\"");
            write_timestamp(
                now_ms,
                arrow::datatypes::TimeUnit::Millisecond,
                true,
                TimestampStyle::Rfc3339Millis,
                &mut out,
            );
            out.extend_from_slice(format!("\",\"epoch\":{}}}\n", epoch.0).as_bytes());
        }
        file.write_all(&out)
    }
}

impl LocalTopicSink {
    fn lines(&self, changes: &Changes) -> Result<(Vec<Line>, WriteOutcome)> {
        let (messages, refused) = self.messages.of(changes)?;
        let batch = &changes.batch;
        let has_bodies = batch.column_by_name("message").is_some();
        let attributes = JsonRows::try_new(&project_without(batch, &["subject", "message"])?, ATTRIBUTES)?;
        let outcome = WriteOutcome { written: messages.len() as u64, refused };
        let line = |message: super::message::Message| {
            let mut members = b",\"subject\":".to_vec();
            match &message.subject {
                Some(subject) => write_string(subject, &mut members),
                None => members.extend_from_slice(b"null"),
            }
            members.extend_from_slice(b",\"message\":");
            write_string(&message.body, &mut members);
            members.extend_from_slice(b",\"attributes\":");
            match has_bodies {
                true => attributes.write(message.row, &mut members),
                false => members.extend_from_slice(b"{}"),
            }
            Line { id: message.id, members }
        };
        Ok((messages.into_iter().map(line).collect(), outcome))
    }
}

#[async_trait]
impl Sink for LocalTopicSink {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let (lines, outcome) = self.lines(&changes)?;
        self.pending.extend(lines);
        Ok(outcome)
    }

    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        if !self.pending.is_empty() {
            let published = self.publish(epoch, now_ms);
            published.map_err(|e| io_error(&self.path, "written", e))?;
        }
        Ok(WriteOutcome::default())
    }
}
