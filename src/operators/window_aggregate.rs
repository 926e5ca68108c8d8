//! Aggregation in event-time windows.
//!
//! ```text
//!            epoch 1      epoch 2       epoch 3        watermark passes w1
//!  pane A   [partials]   [partials]    [partials]  ──┐
//!  pane B                [partials]    [partials]  ──┼─ Final ──► rows of w1
//! ```
//!
//! Each epoch appends its partial states to the panes they belong to; a pane that has gathered many
//! small batches is compacted by `PartialReduce`; a window that the watermark has passed merges its
//! panes once with `Final`. A pane is known by two times. Without sharing they are the window's own
//! start and end. With sharing (HOP, CUMULATE) they are the pane's start and the end of the *first
//! window that was still open for the row*, so that a row which came late for one window still counts
//! in the next ones, exactly.
//!
//! When memory is short, panes go to disk as runs in the order of their keys' hashes, those that close last first. Such a
//! window is read out a range of hashes at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{ArrowTimestampType, DataType, SchemaRef, TimeUnit, TimestampMillisecondType};

use super::compute::Compute;
use super::hash_ranges::HashRanges;
use super::hash_run::{HashRun, RunWriter, due, replace_two};
use super::key_hashes::KeyHashes;
use super::panes::{
    Closing, ClosingWindows, Lists, MOST_ROWS_AT_ONCE, Pane, compact, first_of_small, fit_at_once, most_bytes_at_once,
    own_text, panes_of, rows_together, with_bounds,
};
use super::partials::AggregateParts;
use super::window_spec::WindowSpec;
use crate::contracts::{MOST_MERGED_BYTES, Result, Watermark, batch_bytes, merge_within};
use crate::state::{PieceIds, SpillFolder};

mod saved;

/// Where a state row says which window (or pane) it belongs to: indexes of its key columns.
#[derive(Debug, Clone)]
pub struct WindowColumns {
    /// `window_start`; the pane's start when panes are shared.
    pub start: Option<usize>,
    /// `window_end`; the first open end when panes are shared.
    pub end: Option<usize>,
    /// `window_time`, where the query groups by it too.
    pub time: Option<usize>,
    /// Length of a window, to know the end from the start when the query does not group by the end.
    pub size_ms: Option<i64>,
}

/// See the module's description.
#[derive(Debug)]
pub struct WindowAggregate {
    parts: Arc<AggregateParts>,
    columns: WindowColumns,
    /// Keys but for the times of their windows, grouped by those of them by which rows must come together.
    hashes: KeyHashes,
    /// Set when windows share panes.
    shared: Option<WindowSpec>,
    closing: Closing,
    /// By (end, start): the windows that close first come first. With sharing: (first open end, pane).
    panes: BTreeMap<(i64, i64), Pane>,
    ids: PieceIds,
    watermark: Watermark,
    /// End of the last window that was closed, minus 1 ms.
    closed: Option<i64>,
    /// Rows that were not taken, since nobody has asked.
    missed: u64,
    /// Rows from which a pane is compacted; follows what compactions have brought.
    compact_rows: usize,
    /// Small batches are put together up to so many bytes.
    pub(super) most_merged: usize,
}

/// A pane is compacted when it holds this many batches, at least [`FEWEST_ROWS_TO_COMPACT`] rows, and has doubled since
/// the last time.
const COMPACT_AFTER_BATCHES: usize = 8;
/// Fewer rows are as cheaply merged when the window closes.
const FEWEST_ROWS_TO_COMPACT: usize = 16 * 1024;
/// A compaction that leaves more than this share of the rows was not worth it: the next ones wait for eight times the rows.
const POOR_SHARE: f64 = 0.6;
/// … but not for more than this, so that the state of a long window stays within twice its groups and this.
const MOST_ROWS_WITHOUT_COMPACTION: usize = 1 << 20;
/// Where rows that must come together are so many times as many as are read out at a time, they are not: the plan above gets all, from disk.
const MOST_OF_A_GROUP: usize = 2;
/// So many batches are too many: small ones are put together without being merged.
const CONCAT_AFTER_BATCHES: usize = 64;

impl WindowAggregate {
    /// An operator without state.
    pub fn try_new(parts: Arc<AggregateParts>, columns: WindowColumns, shared: Option<WindowSpec>) -> Result<Self> {
        let times = [columns.start, columns.end, columns.time];
        let keys = (0..parts.key_columns()).filter(|key| !times.contains(&Some(*key))).collect();
        let hashes = KeyHashes::try_new(parts.state_schema(), keys)?;
        Ok(Self {
            parts,
            columns,
            hashes,
            shared,
            closing: Closing::default(),
            panes: BTreeMap::new(),
            ids: PieceIds::default(),
            watermark: Watermark::MIN,
            closed: None,
            missed: 0,
            compact_rows: FEWEST_ROWS_TO_COMPACT,
            most_merged: MOST_MERGED_BYTES,
        })
    }

    /// Lets rows lie together that are equal in `columns` of the final rows, so that a window can be read out part by part. Where no key is
    /// among them, nothing changes. Before there is any state.
    pub(super) fn keep_together(&mut self, columns: &[usize]) -> Result<()> {
        let all = self.hashes.columns();
        let keys: Vec<usize> = all.iter().copied().filter(|key| columns.contains(key)).collect();
        if self.parts.has_plain_groups() && !keys.is_empty() && keys.len() < all.len() {
            self.hashes = KeyHashes::grouped(self.parts.state_schema(), all.to_vec(), keys)?;
        }
        Ok(())
    }

    /// Reads what closes out so that rows come together which are equal in `columns` of the final rows. (Those of different windows need
    /// not: no plan aggregates over several.) Where they do not lie together, or there are too many of them for that, the answer is no.
    pub(super) fn close_by_groups(&mut self, columns: &[usize], compute: &Compute) -> Result<bool> {
        let keys = self.hashes.grouped_by().unwrap_or(self.hashes.columns());
        if !self.parts.has_plain_groups() || keys.is_empty() || keys.iter().any(|key| !columns.contains(key)) {
            return Ok(false);
        }
        self.closing.by_groups = true;
        let held = self.panes.values().map(|pane| pane.bytes).sum();
        if fit_at_once(held, compute) && self.panes.values().all(|pane| pane.runs.is_empty()) {
            // Each of them is read out in one range.
            return Ok(true);
        }
        let mut shared = self.closing.windows.clone();
        let mut own = self.panes.keys().copied().take_while(|(end, _)| self.watermark.closes(*end));
        let mut next = || match &self.shared {
            Some(spec) => shared.next(spec).map(|window| panes_of(&self.panes, spec, window)),
            None => own.next().map(|key| vec![key]),
        };
        while let Some(window) = next() {
            let panes: Vec<&Pane> = window.iter().filter_map(|key| self.panes.get(key)).collect();
            let (ranges, at_once) = self.ranges(&panes, compute)?;
            if ranges.largest() > MOST_OF_A_GROUP * at_once {
                self.closing.by_groups = false;
                break;
            }
        }
        Ok(self.closing.by_groups)
    }

    /// In which ranges a window is read out that has these panes, and how many rows at a time.
    fn ranges(&self, panes: &[&Pane], compute: &Compute) -> Result<(HashRanges, usize)> {
        let at_once = panes.iter().map(|pane| pane.rows_at_once(compute)).min().unwrap_or(usize::MAX);
        let held = panes.iter().map(|pane| pane.bytes).sum();
        let ranges = if panes.iter().all(|pane| pane.runs.is_empty()) && fit_at_once(held, compute) {
            HashRanges::whole()
        } else if self.hashes.grouped_by().is_none() {
            HashRanges::of(panes.iter().map(|pane| pane.all_rows()).sum(), at_once)
        } else {
            let places = panes.iter().map(|pane| pane.places(&self.hashes)).collect::<Result<Vec<_>>>()?;
            HashRanges::by(places.concat(), at_once, self.closing.by_groups)
        };
        Ok((ranges, at_once))
    }

    /// Columns of its state.
    pub(super) fn state_schema(&self) -> &SchemaRef {
        self.parts.state_schema()
    }

    /// Number of windows or panes, and of state rows.
    pub fn size(&self) -> (usize, usize) {
        (self.panes.len(), self.panes.values().map(Pane::all_rows).sum())
    }

    /// Bytes of state in memory, about, and how many of them [`Self::spill`] can put on disk.
    pub fn memory(&self) -> (usize, usize) {
        let held: usize = self.panes.values().map(|pane| pane.bytes).sum();
        let runs: usize = self.panes.values().flat_map(|pane| &pane.runs).map(HashRun::memory).sum();
        (held + runs, if self.hashes.are_empty() { 0 } else { held })
    }

    /// Puts panes on disk, those that close last first, until no more than `most` bytes are left in memory.
    pub async fn spill(&mut self, folder: &Arc<SpillFolder>, most: usize, compute: &Compute) -> Result<()> {
        if self.hashes.are_empty() {
            // A row for each window.
            return Ok(());
        }
        let mut held = self.memory().1;
        for pane in self.panes.values_mut().rev() {
            if held <= most {
                break;
            }
            if pane.rows == 0 {
                continue;
            }
            held -= pane.bytes;
            let batches: Vec<RecordBatch> = pane.batches.drain(..).map(|(_, batch)| batch).collect();
            let mut writer = RunWriter::new(folder, &mut self.ids, &self.hashes, None, pane.rows);
            writer.add(&batches)?;
            pane.runs.push(writer.finish()?);
            (pane.rows, pane.bytes, pane.rows_after_compaction) = (0, 0, 0);
            while let Some((before, last, count)) = due(&pane.runs) {
                let mut writer = RunWriter::new(folder, &mut self.ids, &self.hashes, None, count);
                for range in HashRanges::of_runs([before, last], folder.file_bytes()) {
                    let rows = [before.rows_in(&self.hashes, &range)?, last.rows_in(&self.hashes, &range)?].concat();
                    writer.add(&self.parts.reduce(&rows, compute).await?)?;
                }
                let merged = writer.finish()?;
                replace_two(&mut pane.runs, merged);
            }
        }
        Ok(())
    }

    /// Takes the partial states of an epoch.
    pub async fn push(&mut self, partials: Vec<RecordBatch>, compute: &Compute) -> Result<()> {
        let mut touched = Vec::new();
        for batch in partials {
            for (key, rows) in self.split(&batch)? {
                let last_end = self.shared.map_or(key.0, |spec| spec.last_end(key.1));
                if self.watermark.closes(last_end) {
                    // The gate below refuses such rows one by one; this guards against giving a
                    // window's result a second time.
                    self.missed += rows.num_rows() as u64;
                    continue;
                }
                self.panes.entry(key).or_default().add(self.ids.take(), own_text(rows)?);
                touched.push(key);
            }
        }
        for key in touched {
            let Some(pane) = self.panes.get_mut(&key) else { continue };
            if pane.batches.len() < COMPACT_AFTER_BATCHES {
                continue;
            }
            if pane.rows >= self.compact_rows.max(2 * pane.rows_after_compaction) {
                let before = pane.rows;
                compact(pane, &self.parts, &mut self.ids, compute).await?;
                self.compact_rows = match pane.rows as f64 / before as f64 {
                    share if share > POOR_SHARE => (self.compact_rows * 8).min(MOST_ROWS_WITHOUT_COMPACTION),
                    _ => FEWEST_ROWS_TO_COMPACT,
                };
            } else if pane.batches.len() >= CONCAT_AFTER_BATCHES {
                let from = first_of_small(&pane.batches, CONCAT_AFTER_BATCHES / 2);
                let small: Vec<RecordBatch> = pane.batches.drain(from..).map(|(_, batch)| batch).collect();
                pane.bytes -= small.iter().map(batch_bytes).sum::<usize>().min(pane.bytes);
                for all in merge_within(self.parts.state_schema(), &small, self.most_merged)? {
                    pane.bytes += batch_bytes(&all);
                    pane.batches.push((self.ids.take(), all));
                }
            }
        }
        Ok(())
    }

    /// Moves event time on. What closes by that is read out by [`Self::next_closed`], to its end.
    pub fn begin_close(&mut self, watermark: Watermark) {
        self.closing.by_groups = false;
        if watermark <= self.watermark {
            return;
        }
        let before = std::mem::replace(&mut self.watermark, watermark);
        let Some(spec) = self.shared else { return };
        let ends = self.panes.keys().filter_map(|(first_end, pane_start)| {
            // Before its first end a pane was late, as if that watermark had closed its windows.
            let closed = before.max(Watermark(first_end - 2));
            spec.closing_ends(*pane_start, closed, watermark)
        });
        self.closing.windows = ClosingWindows::new(&spec, ends.collect());
    }

    /// Final rows of windows that close, many at a time; `None` when there are no more.
    pub async fn next_closed(&mut self, compute: &Compute) -> Result<Option<Vec<RecordBatch>>> {
        let mut lists = Lists::new(self.parts.finish_partitions());
        let _read = match &compute.limit {
            Some(limit) => match self.next_bytes(most_bytes_at_once(limit)) {
                0 => None,
                bytes => Some(limit.read(bytes).await?),
            },
            None => None,
        };
        match self.shared {
            None => self.gather_own(&mut lists, compute)?,
            Some(spec) => self.gather_shared(&mut lists, spec, compute).await?,
        }
        if lists.rows > 0 {
            return Ok(Some(self.parts.finish_disjoint(lists.take(), compute).await?));
        }
        if let Some(spec) = self.shared {
            self.panes.retain(|(_, pane_start), _| !self.watermark.closes(spec.last_end(*pane_start)));
        }
        Ok(None)
    }

    /// About how many bytes of states are read out next, `most` at a time.
    fn next_bytes(&self, most: usize) -> usize {
        let (mut bytes, mut rows) = (0, 0);
        // Whether more are read.
        let mut add = |pane: &Pane| {
            bytes += pane.all_bytes();
            rows += pane.all_rows();
            bytes < most && rows < MOST_ROWS_AT_ONCE
        };
        let all_of = |keys: &[(i64, i64)], add: &mut dyn FnMut(&Pane) -> bool| {
            keys.iter().filter_map(|key| self.panes.get(key)).all(add)
        };
        let mut reads = add(&self.closing.pane);
        if reads && !self.closing.ranges.is_empty() {
            reads = all_of(&self.closing.panes, &mut add);
        }
        match &self.shared {
            Some(spec) => {
                let mut windows = self.closing.windows.clone();
                while reads && let Some(window) = windows.next(spec) {
                    reads = all_of(&panes_of(&self.panes, spec, window), &mut add);
                }
            }
            None => {
                let closing = self.panes.iter().take_while(|((end, _), _)| self.watermark.closes(*end));
                let _ = reads && closing.map(|(_, pane)| pane).all(add);
            }
        }
        bytes.min(most)
    }

    /// States of closing windows, until there are enough for one run of `Final`.
    fn gather_own(&mut self, lists: &mut Lists, compute: &Compute) -> Result<()> {
        loop {
            for range in self.closing.ranges.by_ref() {
                let rows = self.closing.pane.rows_in(&self.hashes, &range)?;
                lists.add_rows(rows);
                if lists.rows >= self.closing.at_once {
                    return Ok(());
                }
            }
            self.closing.pane = Pane::default();
            let Some(entry) = self.panes.first_entry() else { return Ok(()) };
            if !self.watermark.closes(entry.key().0) {
                return Ok(());
            }
            self.closed = self.closed.max(Some(entry.key().0 - 1));
            let pane = entry.remove();
            if pane.runs.is_empty() && fit_at_once(pane.bytes, compute) {
                let at_once = pane.rows_at_once(compute);
                lists.add(pane.batches.into_iter().map(|(_, batch)| batch).collect(), pane.rows);
                if lists.rows >= at_once {
                    return Ok(());
                }
            } else {
                (self.closing.ranges, self.closing.at_once) = self.ranges(&[&pane], compute)?;
                self.closing.pane = pane;
            }
        }
    }

    /// The same of windows that share panes.
    async fn gather_shared(&mut self, lists: &mut Lists, spec: WindowSpec, compute: &Compute) -> Result<()> {
        loop {
            while let Some(range) = self.closing.ranges.next() {
                let (start, end) = self.closing.window;
                let panes = self.closing.panes.iter().filter_map(|key| self.panes.get(key));
                let rows = rows_together(panes, &self.hashes, &range, self.parts.state_schema())?;
                let rows = rows.iter().map(|batch| with_bounds(&self.columns, batch, start, end));
                lists.add_rows(rows.collect::<Result<_>>()?);
                if lists.rows >= self.closing.at_once {
                    return Ok(());
                }
            }
            let Some(window) = self.closing.windows.next(&spec) else { return Ok(()) };
            self.closed = self.closed.max(Some(window.1 - 1));
            let panes = panes_of(&self.panes, &spec, window);
            for key in &panes {
                let Some(pane) = self.panes.get_mut(key) else { continue };
                if pane.batches.len() > 1 {
                    compact(pane, &self.parts, &mut self.ids, compute).await?;
                }
            }
            let own: Vec<&Pane> = panes.iter().filter_map(|key| self.panes.get(key)).collect();
            (self.closing.ranges, self.closing.at_once) = self.ranges(&own, compute)?;
            (self.closing.window, self.closing.panes) = (window, panes);
        }
    }

    /// State rows by the pane they belong to. Rows without a window (a NULL time) belong to none.
    fn split(&self, batch: &RecordBatch) -> Result<Vec<((i64, i64), RecordBatch)>> {
        let times = |column: Option<usize>| column.map(|c| millis(batch.column(c))).transpose();
        let (starts, ends) = (times(self.columns.start)?, times(self.columns.end)?);
        let size = self.columns.size_ms.unwrap_or(0);
        let key = |row: usize| -> Option<(i64, i64)> {
            let start = starts.as_ref().map(|s| s.is_valid(row).then(|| s.value(row)));
            let end = ends.as_ref().map(|e| e.is_valid(row).then(|| e.value(row)));
            match (start, end) {
                (Some(start), Some(end)) => Some((end?, start?)),
                (Some(start), None) => start.map(|s| (s + size, s)),
                (None, Some(end)) => end.map(|e| (e, e)),
                (None, None) => None,
            }
        };
        let mut rows: BTreeMap<(i64, i64), Vec<u32>> = BTreeMap::new();
        let mut last: Option<((i64, i64), Vec<u32>)> = None;
        for row in 0..batch.num_rows() {
            let Some(key) = key(row) else { continue };
            match &mut last {
                Some((k, list)) if *k == key => list.push(row as u32),
                _ => {
                    if let Some((k, list)) = last.take() {
                        rows.insert(k, list);
                    }
                    let mut list = rows.remove(&key).unwrap_or_default();
                    list.push(row as u32);
                    last = Some((key, list));
                }
            }
        }
        rows.extend(last);
        if rows.len() == 1 && rows.values().all(|r| r.len() == batch.num_rows()) {
            return Ok(rows.into_keys().map(|key| (key, batch.clone())).collect());
        }
        let take = |(key, rows): (_, Vec<u32>)| Ok((key, take_record_batch(batch, &UInt32Array::from(rows))?));
        rows.into_iter().map(take).collect()
    }

    /// Rows that came when their windows had closed, since that was last asked. Of those that make one state, it knows one.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Up to where windows have closed.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }
}

/// A time column as milliseconds; what is too far away for them is NULL.
pub(crate) fn millis(column: &ArrayRef) -> Result<PrimitiveArray<TimestampMillisecondType>> {
    let wanted = DataType::Timestamp(TimeUnit::Millisecond, None);
    debug_assert_eq!(TimestampMillisecondType::UNIT, TimeUnit::Millisecond);
    Ok(cast(column, &wanted)?.as_primitive::<TimestampMillisecondType>().clone())
}
