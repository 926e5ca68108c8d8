//! SNS without AWS: a topic is `DIR/sns/<topic>.jsonl`, a line for each message.
//!
//! The message id is a hash of the job, the table and the row (of the column `alert_id` alone, where the table has
//! one), so a message has the same id whenever it is published. A line also keeps the epoch that published it: when an
//! epoch is replayed, each of its messages that the file has already is left out, and nothing else is: two equal rows
//! in one epoch are two messages, and an equal row of a later epoch is a new one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::connectors::line_file::io_error;
use crate::contracts::{
    ChangeKind, Changes, Committable, EpochNumber, Error, RefusedRow, Result, Sink, TableSpec, WriteOutcome,
};
use crate::formats::datetime::{TimestampStyle, write_timestamp};
use crate::formats::write_json::{JsonRows, JsonStyle, write_string};

/// SNS takes at most 256 KiB in a message and 100 characters in a subject.
const MAX_MESSAGE_BYTES: usize = 256 * 1_024;
const MAX_SUBJECT_CHARACTERS: usize = 100;

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

struct Message {
    id: String,
    /// Everything but the time of publishing, as the inside of a JSON object.
    members: Vec<u8>,
}

/// Appends messages to a topic's file.
pub(super) struct LocalTopicSink {
    path: PathBuf,
    job: String,
    table: String,
    pending: Vec<Message>,
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
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if topic.is_empty() || topic.len() > 256 || !topic.chars().all(allowed) || topic.starts_with('.') {
            return Err(Error::config(format!("'{topic}' is no name for an SNS topic (table '{}')", spec.name))
                .hint("letters, digits, '_' and '-', or an ARN"));
        }
        let path = local.join("sns").join(format!("{topic}.jsonl"));
        let length_before = cut_torn_line(&path).map_err(|e| io_error(&path, "opened", e))?;
        Ok(Self {
            path,
            job: job.to_owned(),
            table: spec.name.clone(),
            pending: Vec::new(),
            length_before,
            published: None,
        })
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

/// A text column of a batch.
fn text_column(batch: &RecordBatch, name: &str) -> Result<Option<ArrayRef>> {
    batch.column_by_name(name).map(|c| Ok(cast(c, &DataType::Utf8)?)).transpose()
}

fn text_at(column: Option<&ArrayRef>, row: usize) -> Option<&str> {
    column.filter(|c| c.is_valid(row)).map(|c| c.as_string::<i32>().value(row))
}

/// The columns of a batch whose names are not among `without`.
fn project_without(batch: &RecordBatch, without: &[&str]) -> Result<RecordBatch> {
    let schema = batch.schema();
    let keep: Vec<usize> =
        (0..batch.num_columns()).filter(|i| !without.contains(&schema.field(*i).name().as_str())).collect();
    Ok(batch.project(&keep)?)
}

impl LocalTopicSink {
    fn messages(&self, changes: &Changes) -> Result<(Vec<Message>, Vec<RefusedRow>)> {
        let batch = &changes.batch;
        let subjects = text_column(batch, "subject")?;
        let bodies = text_column(batch, "message")?;
        let alert_ids = text_column(batch, "alert_id")?;
        let attributes = JsonRows::try_new(&project_without(batch, &["subject", "message"])?, ATTRIBUTES)?;
        let rest = JsonRows::try_new(&project_without(batch, &["subject"])?, JsonStyle::MESSAGE)?;
        let whole = JsonRows::try_new(batch, JsonStyle::MESSAGE)?;
        let (mut messages, mut refused) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            if changes.kinds.as_ref().is_some_and(|k| k[row] == ChangeKind::Delete) {
                continue;
            }
            let mut refuse = |reason: &str, column: &str, detail: String| {
                refused.push(RefusedRow { row, reason: reason.to_owned(), column: Some(column.to_owned()), detail });
            };
            let subject = text_at(subjects.as_ref(), row);
            let mut json = Vec::new();
            let body = match &bodies {
                Some(_) => text_at(bodies.as_ref(), row).unwrap_or(""),
                None => {
                    rest.write(row, &mut json);
                    std::str::from_utf8(&json).map_err(|e| Error::internal("JSON is UTF-8").caused_by(e))?
                }
            };
            let characters = subject.map_or(0, |s| s.chars().count());
            if characters > MAX_SUBJECT_CHARACTERS {
                let detail = format!("subject of {characters} characters, at most {MAX_SUBJECT_CHARACTERS}");
                refuse("subject_too_long", "subject", detail);
            } else if body.is_empty() {
                refuse("empty_message", "message", "SNS takes no empty message".to_owned());
            } else if body.len() > MAX_MESSAGE_BYTES {
                let detail = format!("message of {} bytes, at most {MAX_MESSAGE_BYTES}", body.len());
                refuse("message_too_large", "message", detail);
            } else {
                let identity = match text_at(alert_ids.as_ref(), row) {
                    Some(id) => id.as_bytes().to_vec(),
                    None => {
                        let mut identity = Vec::new();
                        whole.write(row, &mut identity);
                        identity
                    }
                };
                let mut members = b",\"subject\":".to_vec();
                match subject {
                    Some(subject) => write_string(subject, &mut members),
                    None => members.extend_from_slice(b"null"),
                }
                members.extend_from_slice(b",\"message\":");
                write_string(body, &mut members);
                members.extend_from_slice(b",\"attributes\":");
                if bodies.is_some() {
                    attributes.write(row, &mut members)
                } else {
                    members.extend_from_slice(b"{}")
                }
                messages.push(Message { id: self.id(&identity), members });
            }
        }
        Ok((messages, refused))
    }

    /// 32 hex digits: the first half of SHA-256 over job, table and row, each with its length before it.
    fn id(&self, identity: &[u8]) -> String {
        let mut hash = Sha256::new();
        for part in [self.job.as_bytes(), self.table.as_bytes(), identity] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
    }
}

#[async_trait]
impl Sink for LocalTopicSink {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let (messages, refused) = self.messages(&changes)?;
        let written = messages.len() as u64;
        self.pending.extend(messages);
        Ok(WriteOutcome { written, refused })
    }

    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        if !self.pending.is_empty() {
            let published = self.publish(epoch, now_ms);
            published.map_err(|e| io_error(&self.path, "written", e))?;
        }
        Ok(WriteOutcome::default())
    }

    async fn prepare(&mut self, _epoch: EpochNumber) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }

    async fn commit(&mut self, _committables: Vec<Committable>) -> Result<()> {
        Ok(())
    }

    async fn finish(&mut self, _epoch: EpochNumber) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }
}
