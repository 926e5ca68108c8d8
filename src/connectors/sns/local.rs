//! SNS without AWS: a topic is `DIR/sns/<topic>.jsonl`, a line for each message.
//!
//! A line keeps the epoch that published it: when an epoch is replayed, each of its messages that the file has already
//! is left out, and nothing else is: two equal rows in one epoch are two messages, an equal row of a later epoch is
//! a new one, and so is another message of the same id.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::connectors::appended;
use crate::connectors::line_file::io_error;
use crate::contracts::{Changes, EpochNumber, Result, Sink, TableSpec, WriteOutcome};
use crate::formats::datetime::{TimestampStyle, write_timestamp};
use crate::formats::write_json::{JsonRows, JsonStyle, write_string};

use super::message::{Messages, project_without, topic_name};

/// Attributes leave NULLs out.
const ATTRIBUTES: JsonStyle = JsonStyle { timestamps: TimestampStyle::Rfc3339Millis, skip_nulls: true };

/// What a message is known again by: its epoch, and a hash of its id, subject, text and attributes.
type Mark = (u64, [u8; 16]);

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
    published: Option<HashMap<Mark, u32>>,
}

/// What is needed of a line to know it again.
#[derive(Deserialize)]
struct PublishedLine {
    message_id: String,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    attributes: Value,
    #[serde(default)]
    epoch: u64,
}

impl PublishedLine {
    fn mark(&self) -> Mark {
        let (subject, attributes) = (self.subject.as_deref().unwrap_or_default(), self.attributes.to_string());
        let mut hash = Sha256::new();
        for part in [&self.message_id, subject, &self.message, &attributes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        (self.epoch, first)
    }
}

impl LocalTopicSink {
    pub(super) fn open(spec: &TableSpec, local: &Path, topic: &str, job: &str) -> Result<Self> {
        let topic = topic_name(topic, &spec.name)?;
        let path = local.join("sns").join(format!("{topic}.jsonl"));
        let messages = Messages::try_new(spec, job)?;
        let length_before = appended::cut_torn_line(&path).map_err(|e| io_error(&path, "opened", e))?;
        Ok(Self { path, messages, pending: Vec::new(), length_before, published: None })
    }

    /// Counts the messages that this epoch, or a later one, has published before.
    fn read_published(&self, file: &mut File, epoch: EpochNumber) -> std::io::Result<HashMap<Mark, u32>> {
        file.seek(SeekFrom::Start(0))?;
        let mut lines = BufReader::new(file.take(self.length_before));
        let (mut published, mut line) = (HashMap::new(), Vec::new());
        // A topic may be larger than memory: line by line, and only what a replay can meet is kept.
        while lines.read_until(b'\n', &mut line)? > 0 {
            if let Ok(line) = serde_json::from_slice::<PublishedLine>(&line)
                && line.epoch >= epoch.0
            {
                *published.entry(line.mark()).or_insert(0) += 1;
            }
            line.clear();
        }
        Ok(published)
    }

    /// Whether a run before has published the message whose line this is; each such line counts once.
    fn was_published(&mut self, line: &[u8]) -> bool {
        let Some(published) = self.published.as_mut().filter(|published| !published.is_empty()) else { return false };
        let mark = serde_json::from_slice::<PublishedLine>(line).map(|line| line.mark());
        match mark.ok().and_then(|mark| published.get_mut(&mark)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    /// Appends what waits. Answers the file, which is to be synced.
    fn publish(&mut self, epoch: EpochNumber, now_ms: i64) -> std::io::Result<File> {
        let mut file = appended::open(&self.path)?;
        file.lock()?;
        if self.published.is_none() {
            self.published = Some(self.read_published(&mut file, epoch)?);
        }
        let mut out = Vec::new();
        for message in std::mem::take(&mut self.pending) {
            let start = out.len();
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
            if self.was_published(&out[start..]) {
                out.truncate(start);
            }
        }
        file.write_all(&out)?;
        Ok(file)
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
            let file = self.publish(epoch, now_ms).map_err(|e| io_error(&self.path, "written", e))?;
            appended::sync(&self.path, file).await?;
        }
        Ok(WriteOutcome::default())
    }
}
