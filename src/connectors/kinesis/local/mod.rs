//! Kinesis without AWS: streams are folders under `DIR/kinesis/`, with the semantics of the real ones.
//!
//! ```text
//! DIR/kinesis/<stream>/stream.json                  shards and their hash ranges
//! DIR/kinesis/<stream>/shardId-000000000000.log     the log of a shard (see `log`)
//! DIR/kinesis/<stream>/anything.jsonl               put there by hand: a shard, one record a line
//! ```
//!
//! What it is not: there is no retention, no resharding and no throttling.

mod log;
mod reader;
pub mod routing;
mod shard;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use stream::{
    DEFAULT_SHARDS, LocalStream, MAX_KEY_CHARACTERS, MAX_RECORD_BYTES, PutReceipt, PutRecord, PutRefusal, PutResult,
    ShardDescription, StreamDescription, stream_folder,
};

use crate::connectors::blocking::BlockingReader;
use crate::connectors::line_file::{AtEnd, LineFile, io_error, open_blocking, split_id};
use crate::contracts::{
    Boundedness, Clock, Error, Position, Result, Source, SourceProgress, Split, SplitReader, StartPosition,
};
use crate::formats::lines::Framing;

use reader::LogReader;

/// What a later run must know beside positions: they mean nothing in another stream, whose shards have the same names.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    stream: String,
}

/// A stream, open for reading. A stream that does not exist is made, with four shards, so that a job may start
/// before its first record.
#[derive(Debug)]
pub struct LocalKinesisSource {
    local: PathBuf,
    stream: String,
    clock: Arc<dyn Clock>,
    drains: bool,
    with_keys: bool,
}

impl LocalKinesisSource {
    /// Reads `stream` under `local`. With `drains`, the last line of a `*.jsonl` shard counts without line end.
    pub fn new(local: &Path, stream: &str, clock: Arc<dyn Clock>, drains: bool) -> Self {
        Self { local: local.to_owned(), stream: stream.to_owned(), clock, drains, with_keys: false }
    }

    /// Gives the partition key of each record too. Costs an allocation a record.
    #[must_use]
    pub fn with_partition_keys(mut self) -> Self {
        self.with_keys = true;
        self
    }

    fn folder(&self) -> PathBuf {
        stream_folder(&self.local, &self.stream)
    }
}

/// Names of the `*.jsonl` files of a stream, sorted.
fn line_files(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error(folder, "listed", e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| io_error(folder, "listed", e))?;
        if let Some(name) = entry.file_name().to_str()
            && name.ends_with(".jsonl")
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn split(name: &str, path: &Path) -> Split {
    let bytes = std::fs::metadata(path).ok().map(|m| m.len());
    Split { id: split_id(name), bytes, parents: Vec::new() }
}

#[async_trait]
impl Source for LocalKinesisSource {
    async fn begin(&self, _start: StartPosition, progress: Option<&SourceProgress>) -> Result<()> {
        let Some(state) = progress.and_then(|progress| progress.state.as_ref()) else { return Ok(()) };
        let Remembered { stream } = serde_json::from_str(state)
            .map_err(|e| Error::corrupt("the saved state of a stream under --local").caused_by(e))?;
        if stream == self.stream {
            return Ok(());
        }
        Err(Error::config(format!(
            "a table has read the stream '{stream}' so far, and names '{}' now: positions in one stream mean nothing in another",
            self.stream
        ))
        .hint("give the table another name, to read the other stream beside it or alone, or start with --fresh"))
    }

    fn snapshot(&self) -> Option<String> {
        serde_json::to_string(&Remembered { stream: self.stream.clone() }).ok()
    }

    async fn splits(&self) -> Result<Vec<Split>> {
        let folder = self.folder();
        let files = line_files(&folder)?;
        let description = match stream::describe(&folder)? {
            None if files.is_empty() => {
                Some(stream::describe_or_create(&self.local, &self.stream, None, self.clock.as_ref())?)
            }
            found => found,
        };
        let shards = description.into_iter().flat_map(|d| d.shards);
        let mut splits: Vec<Split> =
            shards.map(|shard| split(&shard.shard_id, &stream::log_path(&folder, &shard.shard_id))).collect();
        splits.extend(files.iter().map(|name| split(name, &folder.join(name))));
        Ok(splits)
    }

    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Box<dyn SplitReader>> {
        let folder = self.folder();
        let (id, resume, with_keys) = (split.id.clone(), resume.cloned(), self.with_keys);
        if id.0.ends_with(".jsonl") {
            let path = folder.join(&*id.0);
            let at_end = if self.drains { AtEnd::Drain } else { AtEnd::Wait };
            let open = move || LineFile::open(&path, id, Framing::Lines, at_end, resume.as_ref(), start);
            return Ok(Box::new(BlockingReader::new(open_blocking(open).await?, Arc::clone(&self.clock))));
        }
        let path = stream::log_path(&folder, &id.0);
        let open = move || LogReader::open(&path, id, resume.as_ref(), start, with_keys);
        Ok(Box::new(BlockingReader::new(open_blocking(open).await?, Arc::clone(&self.clock))))
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }
}
