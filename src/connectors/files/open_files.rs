//! The open files of a sink: what comes into which, and when they are closed. It blocks, so it works off the runtime.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use indexmap::IndexMap;

use crate::connectors::options::Options;
use crate::contracts::{
    ChangeKind, Changes, Committable, EpochNumber, Error, RefusedRow, Result, TableSpec, WriteOutcome,
};

use super::commit_mark::Marks;
use super::durable::{Durable, Noted};
use super::encode::{Encoding, Rows, Writer};
use super::output::{Output, Staged, Target};
use super::partition::{FolderRoom, Layout, Partitioner};
use super::sorting::{Held, SORT_BYTES, SortOrder};

const DEFAULT_ROLLOVER: Duration = Duration::from_secs(300);
/// Each open Parquet file may hold a row group in memory, so there is a bound.
const DEFAULT_OPEN_PARTITIONS: i64 = 32;

/// See the module's description.
pub(super) struct OpenFiles {
    target: Arc<Target>,
    encoding: Encoding,
    extension: String,
    partitioner: Partitioner,
    room: FolderRoom,
    file_columns: Vec<usize>,
    primary_key: Vec<String>,
    order: Option<SortOrder>,
    /// Bytes that open files may have in memory: rows that wait to be sorted, or row groups.
    most_held: u64,
    file_rows: u64,
    rollover_ms: i64,
    most_open: usize,
    open: IndexMap<String, OpenFile>,
    /// Closed since the last `prepare`, with their partition.
    finished: Vec<(String, Committable)>,
    durable: Durable,
    marks: Option<Marks>,
    now_ms: Option<i64>,
    /// Rows of partitions that have none here are still to come, however long they have waited for their marks.
    catches_up: bool,
    /// The epoch of the rows that are being written.
    epoch: EpochNumber,
}

struct OpenFile {
    writer: Writer,
    held: Held,
    /// Bytes of its row group, when it was last written to.
    group_bytes: u64,
    rows: u64,
    /// Time of the epoch in which it was opened, known when that epoch ends.
    opened_ms: Option<i64>,
    opened_in: EpochNumber,
}

impl OpenFiles {
    pub(super) fn try_new(spec: &TableSpec, target: &Arc<Target>, memory: Option<u64>) -> Result<Self> {
        let options = Options(spec);
        let rollover = options.duration("sink.rolling-policy.rollover-interval", DEFAULT_ROLLOVER)?;
        let most_open = options.number("sink.max-open-partitions")?.unwrap_or(DEFAULT_OPEN_PARTITIONS);
        let file_rows = options.number("sink.rolling-policy.row-count")?.unwrap_or(i64::MAX);
        let partitioner = Partitioner::try_new(spec)?;
        let file_columns = partitioner.file_columns(spec.schema.fields().len());
        let order = SortOrder::of(spec, &file_columns)?;
        let mut encoding = Encoding::of(spec)?;
        if let (Encoding::Parquet(style), Some(order)) = (&mut encoding, &order) {
            *style = style.clone().sorted_by(&order.columns());
        }
        if let (Encoding::Parquet(style), Some(memory)) = (&mut encoding, memory) {
            *style = style.clone().within(memory);
        }
        let extension = encoding.extension();
        Ok(Self {
            target: Arc::clone(target),
            room: target.folder_room(&extension),
            extension,
            encoding,
            partitioner,
            file_columns,
            primary_key: spec.primary_key.clone(),
            order,
            most_held: memory.unwrap_or(u64::MAX),
            file_rows: u64::try_from(file_rows).unwrap_or(1).max(1),
            rollover_ms: i64::try_from(rollover.as_millis()).unwrap_or(i64::MAX),
            most_open: usize::try_from(most_open).unwrap_or(1).max(1),
            open: IndexMap::new(),
            finished: Vec::new(),
            durable: Durable::new(Layout::of(spec)),
            marks: Marks::of(spec)?,
            now_ms: None,
            catches_up: false,
            epoch: EpochNumber(0),
        })
    }

    /// Takes note of a file that has been committed, by this run.
    pub(super) fn note(&mut self, file: &Noted) {
        self.durable.note(file);
    }

    /// The same of a run before. Its rows are not going to be written again, wherever the file is by now; so this is also the time to remember
    /// its partition.
    pub(super) fn note_of_before(&mut self, file: &Noted) {
        self.durable.note(file);
        if let Some(marks) = &mut self.marks {
            marks.note(file);
        }
    }

    /// See [`Durable::check_repeat`].
    pub(super) fn check_repeat(&self, first: EpochNumber) -> Result<()> {
        self.durable.check_repeat(first)
    }

    /// Partitions that wait for their marks, for a later run.
    pub(super) fn snapshot(&self) -> Option<String> {
        self.marks.as_ref()?.snapshot()
    }

    pub(super) fn restore(&mut self, snapshot: &str) -> Result<()> {
        self.marks.as_mut().map_or(Ok(()), |marks| marks.restore(snapshot))
    }

    /// The first epoch of which rows lie in open files.
    pub(super) fn open_since(&self) -> Option<EpochNumber> {
        self.open.values().map(|open| open.opened_in).min()
    }

    pub(super) fn catches_up(&mut self, catches_up: bool) {
        self.catches_up = catches_up;
    }

    /// Whether the end of an epoch changes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.marks.is_none()
    }

    pub(super) fn write(&mut self, epoch: EpochNumber, changes: &Changes) -> Result<WriteOutcome> {
        let Changes { batch, kinds } = changes;
        if self.epoch != epoch {
            self.durable.forget_before(epoch);
        }
        self.epoch = epoch;
        if kinds.is_some() && (self.primary_key.is_empty() || !matches!(self.encoding, Encoding::Json(..))) {
            return Err(Error::config("an update stream needs the format 'json' and a PRIMARY KEY here")
                .hint("declare PRIMARY KEY (…) NOT ENFORCED, or write to a keyed table, e.g. of 'dynamodb'"));
        }
        if kinds.is_some() && self.order.is_some() {
            return Err(Error::config("an update stream cannot be sorted: its order is part of it")
                .hint("leave 'sink.sort-by' out"));
        }
        let mut refused = Vec::new();
        for group in self.partitioner.cut(batch)? {
            // By what is in the row alone: when the epoch is repeated, the same ones are refused.
            if let Some((column, detail)) = self.partitioner.refusal(&group.folder, self.room) {
                let rows = group.rows.unwrap_or_else(|| UInt32Array::from_iter_values(0..batch.num_rows() as u32));
                let reason = "partition_too_long";
                refused.extend(rows.values().iter().map(|row| RefusedRow {
                    row: *row as usize,
                    reason: reason.to_owned(),
                    column: column.clone(),
                    detail: detail.clone(),
                    record: None,
                }));
                continue;
            }
            if self.durable.has(&group.folder, epoch) {
                continue;
            }
            match group.rows {
                None => self.write_partition(&group.folder, batch, kinds.as_deref())?,
                Some(rows) => {
                    let kinds: Option<Vec<ChangeKind>> =
                        kinds.as_ref().map(|k| rows.values().iter().map(|r| k[*r as usize]).collect());
                    let part = take_record_batch(batch, &rows)?;
                    self.write_partition(&group.folder, &part, kinds.as_deref())?;
                }
            }
        }
        refused.sort_by_key(|refused| refused.row);
        Ok(WriteOutcome { written: (batch.num_rows() - refused.len()) as u64, refused })
    }

    fn write_partition(&mut self, folder: &str, batch: &RecordBatch, kinds: Option<&[ChangeKind]>) -> Result<()> {
        if let Some(marks) = &mut self.marks {
            marks.touch(folder);
        }
        let mut from = 0;
        while from < batch.num_rows() {
            let room = self.open.get(folder).map_or(self.file_rows, |open| self.file_rows - open.rows);
            let rows = usize::try_from(room).unwrap_or(usize::MAX).min(batch.num_rows() - from);
            let kinds = kinds.map(|k| &k[from..from + rows]);
            self.write_rows(folder, &batch.slice(from, rows), kinds)?;
            from += rows;
        }
        Ok(())
    }

    /// Writes rows that fit into the open file.
    fn write_rows(&mut self, folder: &str, batch: &RecordBatch, kinds: Option<&[ChangeKind]>) -> Result<()> {
        let in_file = batch.project(&self.file_columns)?;
        let keys = match kinds {
            Some(_) => {
                let key = |name: &String| batch.schema_ref().index_of(name);
                let columns = self.primary_key.iter().map(key).collect::<Result<Vec<_>, _>>()?;
                Some(batch.project(&columns)?)
            }
            None => None,
        };
        if !self.open.contains_key(folder) {
            if self.open.len() >= self.most_open {
                // The longest open one: partitions of event time move forward.
                self.close(0)?;
            }
            let output = self.target.create(folder, self.epoch, &self.extension)?;
            self.open_into(folder, output, &in_file)?;
        }
        let Some((index, _, open)) = self.open.get_full_mut(folder) else { return Ok(()) };
        open.rows += in_file.num_rows() as u64;
        let bytes = if self.order.is_some() {
            open.held.add(in_file)?;
            open.held.bytes()
        } else {
            open.writer.write(&Rows { batch: &in_file, kinds, keys: keys.as_ref() })?;
            open.group_bytes = open.writer.group_bytes();
            open.writer.bytes()
        };
        // One that is somewhat too large closes at the end of the epoch, without a rest that needs a file of its own.
        if bytes >= self.target.file_bytes.saturating_mul(2) || open.rows >= self.file_rows {
            self.close(index)?;
        }
        self.bound_held()
    }

    pub(super) fn open_into(&mut self, folder: &str, output: Output, sample: &RecordBatch) -> Result<()> {
        let writer = Writer::open(output, &self.encoding, sample)?;
        let (held, opened_in) = (Held::default(), self.epoch);
        let open = OpenFile { writer, held, group_bytes: 0, rows: 0, opened_ms: None, opened_in };
        self.open.insert(folder.to_owned(), open);
        Ok(())
    }

    /// Closes the files that hold most back, until all hold little enough; of files that are not sorted, their row groups.
    fn bound_held(&mut self) -> Result<()> {
        while self.open.values().map(|open| open.held.bytes()).sum::<u64>() > SORT_BYTES.min(self.most_held) {
            let largest = (0..self.open.len()).max_by_key(|i| self.open[*i].held.bytes());
            self.close(largest.unwrap_or(0))?;
        }
        while self.open.values().map(|open| open.group_bytes).sum::<u64>() > self.most_held {
            let Some(largest) = self.open.values_mut().max_by_key(|open| open.group_bytes) else { break };
            largest.writer.end_group()?;
            largest.group_bytes = 0;
        }
        Ok(())
    }

    fn close(&mut self, index: usize) -> Result<()> {
        let Some((folder, mut open)) = self.open.shift_remove_index(index) else { return Ok(()) };
        if let Some(order) = &self.order
            && let Some(sorted) = open.held.sorted(order)?
        {
            open.writer.write(&Rows { batch: &sorted, kinds: None, keys: None })?;
        }
        self.finished.push((folder, open.writer.close()?.committable()?));
        Ok(())
    }

    /// Ends an epoch: closes what is old or large enough.
    pub(super) fn roll(&mut self, now_ms: i64) -> Result<()> {
        let (rollover_ms, file_bytes) = (self.rollover_ms, self.target.file_bytes);
        // What a partition got behind a file that was closed in this epoch goes with it.
        let split: BTreeSet<String> = self.finished.iter().map(|(folder, _)| folder.clone()).collect();
        let mut index = 0;
        while let Some((folder, open)) = self.open.get_index_mut(index) {
            // A clock that has been put back must not keep it open for as long as that.
            let opened_ms = open.opened_ms.map_or(now_ms, |opened_ms| opened_ms.min(now_ms));
            open.opened_ms = Some(opened_ms);
            let old = now_ms.saturating_sub(opened_ms) >= rollover_ms;
            open.writer.settle()?;
            open.group_bytes = open.writer.group_bytes();
            let bytes = open.writer.bytes().max(open.held.bytes());
            if old || bytes >= file_bytes || split.contains(folder) {
                self.close(index)?;
            } else {
                index += 1;
            }
            self.bound_held()?;
        }
        self.now_ms = Some(now_ms);
        if let Some(marks) = &mut self.marks {
            marks.tick(now_ms);
        }
        Ok(())
    }

    /// When the oldest open file, or a partition that waits for its mark, is old enough.
    pub(super) fn next_due(&self) -> Option<i64> {
        let opened = self.open.values().filter_map(|open| open.opened_ms).min();
        let file = opened.map(|opened_ms| opened_ms.saturating_add(self.rollover_ms));
        // A partition with an open file is marked after that.
        let marks = self.marks.as_ref().filter(|_| self.open.is_empty() && !self.catches_up);
        let mark = marks.and_then(Marks::next_due);
        file.into_iter().chain(mark).min()
    }

    /// What has been closed, at the end of `epoch`.
    pub(super) fn prepare(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.staged(epoch, Some(self.now_ms.unwrap_or(i64::MIN)))
    }

    /// Closes all, at the end of the input.
    pub(super) fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        while !self.open.is_empty() {
            self.close(0)?;
        }
        self.staged(epoch, None)
    }

    /// The closed files, which hold everything of their partitions up to `epoch`, and the marks of partitions that are
    /// complete; at the end of input (`now_ms` of `None`) all are.
    fn staged(&mut self, epoch: EpochNumber, now_ms: Option<i64>) -> Result<Vec<Committable>> {
        let mut staged = Vec::new();
        for (folder, file) in std::mem::take(&mut self.finished) {
            let waits_since_ms = self.marks.as_ref().and_then(|marks| marks.since(&folder));
            staged.push(self.durable.noted(folder, epoch, waits_since_ms, file).committable()?);
        }
        if let Some(marks) = self.marks.as_mut().filter(|_| !self.catches_up) {
            for (folder, success) in marks.due(now_ms, |folder| self.open.contains_key(folder)) {
                let mark = Staged::Success { success }.committable()?;
                staged.push(self.durable.noted(folder, epoch, None, mark).committable()?);
            }
        }
        Ok(staged)
    }
}
