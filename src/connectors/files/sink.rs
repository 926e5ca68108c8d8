//! Writing tables of files: JSON lines, CSV or Parquet, in Hive partitions, rolled by size and age.
//!
//! A file stays open over many epochs and is hidden until it is committed (see [`part`](super::part)).
//! It is closed when it is as large as `sink.rolling-policy.file-size`, as old as
//! `sink.rolling-policy.rollover-interval` (by epoch time), when too many partitions are open, or at the end.
//! What a partition gets in an epoch lies in closed files or in its open one, never in both (see [`durable`](super::durable)).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::take_record_batch;
use async_trait::async_trait;
use indexmap::IndexMap;
use parquet::basic::Compression;

use crate::connectors::options::Options;
use crate::contracts::{ChangeKind, Changes, Committable, EpochNumber, Error, Result, Sink, TableSpec, WriteOutcome};
use crate::formats::csv::CsvOptions;
use crate::formats::datetime::TimestampStyle;
use crate::formats::write_json::JsonStyle;

use super::durable::{Durable, Noted};
use super::encode::{Rows, Writer};
use super::location::resolve;
use super::parquet_write::compression;
use super::part::{PartFile, PartNames, commit};
use super::partition::Partitioner;

const DEFAULT_FILE_BYTES: u64 = 64 << 20;
const DEFAULT_ROLLOVER: Duration = Duration::from_secs(300);
/// Each open Parquet file may hold a row group in memory, so there is a bound.
const DEFAULT_OPEN_PARTITIONS: i64 = 32;

/// How rows are written.
#[derive(Debug, Clone)]
pub(super) enum Encoding {
    Json(JsonStyle),
    Csv(CsvOptions),
    Parquet(Compression),
}

impl Encoding {
    fn of(spec: &TableSpec) -> Result<Self> {
        match spec.require("format")? {
            "json" => json_style(spec).map(Self::Json),
            "csv" => CsvOptions::of(spec).map(Self::Csv),
            "parquet" => compression(spec).map(Self::Parquet),
            other => Err(Error::config(format!("table '{}': files in format '{other}' cannot be written", spec.name))
                .hint("json, csv or parquet")),
        }
    }

    fn extension(&self) -> &'static str {
        match self {
            Self::Json(_) => "jsonl",
            Self::Csv(_) => "csv",
            Self::Parquet(_) => "parquet",
        }
    }
}

/// How a table's options want JSON written.
pub(super) fn json_style(spec: &TableSpec) -> Result<JsonStyle> {
    let iso = spec.option("json.timestamp-format.standard").is_some_and(|v| v.eq_ignore_ascii_case("ISO-8601"));
    Ok(JsonStyle {
        timestamps: if iso { TimestampStyle::Iso8601 } else { TimestampStyle::Sql },
        skip_nulls: Options(spec).bool("json.encode.ignore-null-fields", false)?,
    })
}

/// Writes files of one INSERT.
pub(super) struct FileSink {
    /// Away while a task in the blocking pool works with it.
    files: Option<Box<Files>>,
}

/// The blocking side.
struct Files {
    table: String,
    root: PathBuf,
    names: PartNames,
    encoding: Encoding,
    partitioner: Partitioner,
    primary_key: Vec<String>,
    file_bytes: u64,
    rollover_ms: i64,
    most_open: usize,
    open: IndexMap<String, OpenFile>,
    /// Closed since the last `prepare`, with their partition.
    finished: Vec<(String, Committable)>,
    durable: Durable,
    cleaned: bool,
}

struct OpenFile {
    part: PartFile,
    writer: Writer,
    /// Time of the epoch in which it was opened, known when that epoch ends.
    opened_ms: Option<i64>,
}

impl FileSink {
    pub(super) fn try_new(spec: &TableSpec, local: Option<&Path>, names: PartNames) -> Result<Self> {
        let options = Options(spec);
        let rollover = options.duration("sink.rolling-policy.rollover-interval", DEFAULT_ROLLOVER)?;
        let most_open = options.number("sink.max-open-partitions")?.unwrap_or(DEFAULT_OPEN_PARTITIONS);
        let files = Files {
            table: spec.name.clone(),
            root: resolve(spec.require("path")?, local)?,
            names,
            encoding: Encoding::of(spec)?,
            partitioner: Partitioner::try_new(spec)?,
            primary_key: spec.primary_key.clone(),
            file_bytes: options.size("sink.rolling-policy.file-size", DEFAULT_FILE_BYTES)?.max(1),
            rollover_ms: i64::try_from(rollover.as_millis()).unwrap_or(i64::MAX),
            most_open: usize::try_from(most_open).unwrap_or(1).max(1),
            open: IndexMap::new(),
            finished: Vec::new(),
            durable: Durable::default(),
            cleaned: false,
        };
        if files.root.is_file() {
            return Err(Error::config(format!("table '{}': '{}' is a file", spec.name, files.root.display()))
                .hint("a table that is written needs a folder as its path"));
        }
        Ok(Self { files: Some(Box::new(files)) })
    }

    /// Runs blocking work in the pool.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Files) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut files = self.files.take().ok_or_else(|| Error::internal("a file sink was used after it had failed"))?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&mut files);
            (files, result)
        });
        let (files, result) = task.await.map_err(|e| Error::internal("the task that wrote files died").caused_by(e))?;
        let table = files.table.clone();
        self.files = Some(files);
        result.map_err(|e| e.context(format!("table '{table}'")))
    }
}

impl Files {
    fn write(&mut self, epoch: EpochNumber, changes: &Changes) -> Result<u64> {
        let Changes { batch, kinds } = changes;
        if batch.num_rows() == 0 {
            return Ok(0);
        }
        if kinds.is_some() && (self.primary_key.is_empty() || !matches!(self.encoding, Encoding::Json(_))) {
            return Err(Error::config("an update stream needs the format 'json' and a PRIMARY KEY here")
                .hint("declare PRIMARY KEY (…) NOT ENFORCED, or write to a keyed table, e.g. of 'dynamodb'"));
        }
        if !self.cleaned {
            self.names.remove_leftovers(&self.root)?;
            self.cleaned = true;
        }
        let file_columns = self.partitioner.file_columns(batch.num_columns());
        for group in self.partitioner.cut(batch)? {
            if self.durable.has(&group.folder, epoch) {
                continue;
            }
            match group.rows {
                None => self.write_partition(group.folder, batch, kinds.as_deref(), &file_columns)?,
                Some(rows) => {
                    let kinds: Option<Vec<ChangeKind>> =
                        kinds.as_ref().map(|k| rows.values().iter().map(|r| k[*r as usize]).collect());
                    let part = take_record_batch(batch, &rows)?;
                    self.write_partition(group.folder, &part, kinds.as_deref(), &file_columns)?;
                }
            }
        }
        Ok(batch.num_rows() as u64)
    }

    fn write_partition(
        &mut self,
        folder: String,
        batch: &RecordBatch,
        kinds: Option<&[ChangeKind]>,
        file_columns: &[usize],
    ) -> Result<()> {
        let in_file = batch.project(file_columns)?;
        let keys = match kinds {
            Some(_) => {
                let key = |name: &String| batch.schema_ref().index_of(name);
                let columns = self.primary_key.iter().map(key).collect::<Result<Vec<_>, _>>()?;
                Some(batch.project(&columns)?)
            }
            None => None,
        };
        if !self.open.contains_key(&folder) {
            if self.open.len() >= self.most_open {
                // The longest open one: partitions of event time move forward.
                self.close(0)?;
            }
            let (part, file) = PartFile::create(&self.root.join(&folder), &self.names, self.encoding.extension())?;
            let writer = Writer::open(file, part.path(), &self.encoding, &in_file)?;
            self.open.insert(folder.clone(), OpenFile { part, writer, opened_ms: None });
        }
        let Some((index, _, open)) = self.open.get_full_mut(&folder) else { return Ok(()) };
        open.writer.write(open.part.path(), &Rows { batch: &in_file, kinds, keys: keys.as_ref() })?;
        // One that is somewhat too large closes at the end of the epoch, without a rest that needs a file of its own.
        if open.writer.bytes() >= self.file_bytes.saturating_mul(2) {
            self.close(index)?;
        }
        Ok(())
    }

    fn close(&mut self, index: usize) -> Result<()> {
        if let Some((folder, open)) = self.open.shift_remove_index(index) {
            let file = open.writer.close(open.part.path())?;
            self.finished.push((folder, open.part.finish(&file)?));
        }
        Ok(())
    }

    fn roll(&mut self, now_ms: i64) -> Result<()> {
        let (rollover_ms, file_bytes) = (self.rollover_ms, self.file_bytes);
        // What a partition got behind a file that was closed in this epoch goes with it.
        let split: BTreeSet<String> = self.finished.iter().map(|(folder, _)| folder.clone()).collect();
        let mut index = 0;
        while let Some((folder, open)) = self.open.get_index_mut(index) {
            let opened_ms = *open.opened_ms.get_or_insert(now_ms);
            let old = now_ms.saturating_sub(opened_ms) >= rollover_ms;
            if old || open.writer.bytes() >= file_bytes || split.contains(folder) {
                self.close(index)?;
            } else {
                index += 1;
            }
        }
        Ok(())
    }
}

impl Files {
    /// The closed files, which hold everything of their partitions up to `epoch`.
    fn staged(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        let finished = std::mem::take(&mut self.finished).into_iter();
        finished.map(|(folder, staged)| Noted::committable(folder, epoch, staged)).collect()
    }

    fn commit(&mut self, committables: &[Committable]) -> Result<()> {
        for committable in committables {
            let noted = Noted::of(committable)?;
            commit(&noted.staged())?;
            self.durable.note(&noted);
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn write(&mut self, epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let written = self.run(move |files| files.write(epoch, &changes)).await?;
        Ok(WriteOutcome { written, refused: Vec::new() })
    }

    async fn flush(&mut self, _epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        if self.files.as_ref().is_none_or(|f| !f.open.is_empty()) {
            self.run(move |files| files.roll(now_ms)).await?;
        }
        Ok(WriteOutcome::default())
    }

    async fn prepare(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.files.as_mut().map(|files| files.staged(epoch)).unwrap_or_else(|| Ok(Vec::new()))
    }

    async fn commit(&mut self, committables: Vec<Committable>) -> Result<()> {
        if committables.is_empty() {
            return Ok(());
        }
        self.run(move |files| files.commit(&committables)).await
    }

    async fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.run(move |files| {
            while !files.open.is_empty() {
                files.close(0)?;
            }
            files.staged(epoch)
        })
        .await
    }
}
