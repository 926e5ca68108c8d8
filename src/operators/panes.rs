//! Panes of windows: their state rows, in memory and on disk, and how they are read out.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch, TimestampMillisecondArray, UInt32Array};
use datafusion::arrow::compute::{cast, concat_batches, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;

use super::compute::{Compute, StateLimit};
use super::hash_ranges::HashRanges;
use super::hash_run::{HashRun, held_rows_in};
use super::key_hashes::KeyHashes;
use super::partials::AggregateParts;
use super::window_aggregate::WindowColumns;
use super::window_spec::WindowSpec;
use crate::contracts::{Result, batch_bytes};
use crate::state::PieceIds;

/// State rows that one run of `Final` may take; more are read out in several runs …
pub(super) const MOST_ROWS_AT_ONCE: usize = 512 * 1024;
/// … the same when some come from disk, because memory is short …
const MOST_SPILLED_ROWS_AT_ONCE: usize = 128 * 1024;
/// … where they are narrow: these have a fourth of what an operator may have in memory of what it gives, since the hash table over them
/// and the rows that become of them have as much again, each.
const AT_ONCE_PART: usize = 4;
/// Fewer are not worth a run of a plan …
const FEWEST_ROWS_AT_ONCE: usize = 1_024;
/// … but where they have so many bytes together.
const FEWEST_BYTES_AT_ONCE: usize = 1 << 20;

/// State rows of a window, or of a slice that windows share.
#[derive(Debug, Default)]
pub(super) struct Pane {
    /// Batches by age.
    pub(super) batches: Vec<Named>,
    pub(super) rows: usize,
    pub(super) rows_after_compaction: usize,
    /// About how many bytes the batches have.
    pub(super) bytes: usize,
    /// Rows on disk, by age, older than all batches.
    pub(super) runs: Vec<HashRun>,
}

impl Pane {
    pub(super) fn add(&mut self, id: u64, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += batch_bytes(&batch);
        self.batches.push((id, batch));
    }

    pub(super) fn all_rows(&self) -> usize {
        self.rows + self.runs.iter().map(HashRun::live_rows).sum::<usize>()
    }

    /// Bytes in memory and on disk.
    pub(super) fn all_bytes(&self) -> usize {
        self.bytes + self.runs.iter().map(|run| run.on_disk().0).sum::<usize>()
    }

    /// How many rows as wide as its own are read out at a time.
    pub(super) fn rows_at_once(&self, compute: &Compute) -> usize {
        let (bytes, rows) = self
            .runs
            .iter()
            .map(HashRun::on_disk)
            .fold((self.bytes, self.rows), |sum, run| (sum.0 + run.0, sum.1 + run.1));
        let most = if self.runs.is_empty() { MOST_ROWS_AT_ONCE } else { MOST_SPILLED_ROWS_AT_ONCE };
        match &compute.limit {
            Some(limit) if rows > 0 => {
                let wide = (bytes / rows).max(1);
                let fewest = (FEWEST_BYTES_AT_ONCE / wide).clamp(1, FEWEST_ROWS_AT_ONCE);
                (limit.output_bytes / AT_ONCE_PART / wide).clamp(fewest, most)
            }
            _ => most,
        }
    }

    /// Hashes, and about how many rows lie from there on.
    pub(super) fn places(&self, hashes: &KeyHashes) -> Result<Vec<(u64, usize)>> {
        let mut places: Vec<(u64, usize)> = self.runs.iter().flat_map(HashRun::places).collect();
        for (_, batch) in &self.batches {
            let rows = batch.num_rows();
            let some = UInt32Array::from_iter_values((0..rows as u32).step_by(SAMPLE));
            let (_, hashes) = hashes.hashed(&take_record_batch(batch, &some)?)?;
            places.extend(hashes.into_iter().enumerate().map(|(at, hash)| (hash, SAMPLE.min(rows - at * SAMPLE))));
        }
        Ok(places)
    }

    /// Rows in memory and on disk whose hashes are in a range, by age.
    pub(super) fn rows_in(&self, hashes: &KeyHashes, range: &RangeInclusive<u64>) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        for run in &self.runs {
            rows.extend(run.rows_in(hashes, range)?);
        }
        for (_, batch) in &self.batches {
            rows.extend(held_rows_in(std::slice::from_ref(batch), hashes, range)?);
        }
        Ok(rows)
    }
}

/// Of rows in memory, each so-manieth tells where they lie.
const SAMPLE: usize = 64;

/// About how many bytes of states one run reads out at most, where they have a limit.
pub(super) fn most_bytes_at_once(limit: &StateLimit) -> usize {
    (limit.output_bytes / AT_ONCE_PART).max(FEWEST_BYTES_AT_ONCE)
}

/// Whether states with so many bytes, all of them in memory, may be read out in one run.
pub(super) fn fit_at_once(bytes: usize, compute: &Compute) -> bool {
    compute.limit.as_ref().is_none_or(|limit| bytes <= limit.output_bytes / AT_ONCE_PART)
}

/// Two times in milliseconds by which a window or pane is known.
type Times = (i64, i64);

/// Windows that are being read out: between two epochs there are none.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// What is left of the one that is read, a range of hashes at a time.
    pub(super) ranges: HashRanges,
    /// Its rows, where it does not share them.
    pub(super) pane: Pane,
    /// Start and end of the one that is read, and its panes, where windows share panes.
    pub(super) window: Times,
    pub(super) panes: Vec<Times>,
    /// State rows of one run of `Final`.
    pub(super) at_once: usize,
    /// Whether no range divides a group of rows that must come together.
    pub(super) by_groups: bool,
    /// Those that come next.
    pub(super) windows: ClosingWindows,
}

/// Windows that share panes and close, by their ends: as stretches of the grid. There may be many more of them than of panes.
#[derive(Debug, Clone, Default)]
pub(super) struct ClosingWindows {
    /// First and last ends; none is in two.
    stretches: VecDeque<Times>,
}

impl ClosingWindows {
    /// Of stretches that may lie over each other.
    pub(super) fn new(spec: &WindowSpec, mut stretches: Vec<Times>) -> Self {
        stretches.sort_unstable();
        let mut merged: VecDeque<Times> = VecDeque::new();
        for (first, last) in stretches {
            match merged.back_mut() {
                Some(before) if first <= before.1 + spec.pane_ms() => before.1 = before.1.max(last),
                _ => merged.push_back((first, last)),
            }
        }
        Self { stretches: merged }
    }

    /// Start and end of the next one.
    pub(super) fn next(&mut self, spec: &WindowSpec) -> Option<Times> {
        let (first, last) = self.stretches.front_mut()?;
        let end = *first;
        *first += spec.pane_ms();
        if *first > *last {
            self.stretches.pop_front();
        }
        Some(spec.window_of_end(end))
    }
}

/// Panes of a window, of those that windows share: by the keys of their map.
pub(super) fn panes_of(panes: &BTreeMap<Times, Pane>, spec: &WindowSpec, (start, end): Times) -> Vec<Times> {
    // No window of a pane ends before the pane does.
    let ends = panes.range((start + spec.pane_ms(), i64::MIN)..=(end, i64::MAX));
    ends.map(|(key, _)| *key).filter(|(_, pane_start)| (start..end).contains(pane_start)).collect()
}

/// Batches of fewer rows are put together before a plan reads them: what each of them takes would be more than its rows.
const SMALL_BATCH_ROWS: usize = 64;

/// Rows of panes whose hashes are in a range, in the order of the panes and by age; small batches that follow each other are one.
pub(super) fn rows_together<'a>(
    panes: impl Iterator<Item = &'a Pane>,
    hashes: &KeyHashes,
    range: &RangeInclusive<u64>,
    schema: &SchemaRef,
) -> Result<Vec<RecordBatch>> {
    let mut rows = Vec::new();
    for pane in panes {
        rows.extend(pane.rows_in(hashes, range)?);
    }
    let parts = rows.chunk_by(|one, next| one.num_rows().max(next.num_rows()) < SMALL_BATCH_ROWS);
    let together = parts.map(|part| match part {
        [batch] => Ok(batch.clone()),
        small => Ok(concat_batches(schema, small)?),
    });
    together.collect()
}

/// A batch and its name in snapshots.
pub(super) type Named = (u64, RecordBatch);

/// State rows of a pane as those of one of its windows.
pub(super) fn with_bounds(bounds: &WindowColumns, batch: &RecordBatch, start: i64, end: i64) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    let rows = batch.num_rows();
    for (column, value) in [(bounds.start, start), (bounds.end, end), (bounds.time, end - 1)] {
        if let Some(column) = column {
            let times = TimestampMillisecondArray::from_value(value, rows);
            columns[column] = cast(&times, columns[column].data_type())?;
        }
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// Merges the states of a pane.
pub(super) async fn compact(
    pane: &mut Pane,
    parts: &AggregateParts,
    ids: &mut PieceIds,
    compute: &Compute,
) -> Result<()> {
    let batches: Vec<RecordBatch> = pane.batches.iter().map(|(_, batch)| batch.clone()).collect();
    let reduced = parts.reduce(&batches, compute).await?;
    pane.rows = reduced.iter().map(RecordBatch::num_rows).sum();
    pane.bytes = reduced.iter().map(batch_bytes).sum();
    pane.batches = reduced.into_iter().map(|batch| (ids.take(), batch)).collect();
    pane.rows_after_compaction = pane.rows;
    Ok(())
}

/// Where the small batches at the end begin, of which there are many: those that are small beside what follows them. So each row is copied, and
/// written into a checkpoint, a logarithmic number of times, and what is large and old stays as it is. At least `least` are among them.
pub(super) fn first_of_small(batches: &[Named], least: usize) -> usize {
    let (mut from, mut rows) = (batches.len(), 0);
    while let Some((_, before)) = from.checked_sub(1).map(|at| &batches[at])
        && (before.num_rows() <= 2 * rows || batches.len() - from < least)
    {
        from -= 1;
        rows += before.num_rows();
    }
    from
}

/// Windows dealt out to tasks, the shortest list first.
pub(super) struct Lists {
    lists: Vec<(usize, Vec<RecordBatch>)>,
    pub(super) rows: usize,
}

impl Lists {
    pub(super) fn new(partitions: usize) -> Self {
        Self { lists: vec![(0, Vec::new()); partitions.max(1)], rows: 0 }
    }

    pub(super) fn add(&mut self, batches: Vec<RecordBatch>, rows: usize) {
        self.rows += rows;
        if let Some(list) = self.lists.iter_mut().min_by_key(|list| list.0) {
            list.0 += rows;
            list.1.extend(batches);
        }
    }

    pub(super) fn add_rows(&mut self, batches: Vec<RecordBatch>) {
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        self.add(batches, rows);
    }

    pub(super) fn take(&mut self) -> Vec<Vec<RecordBatch>> {
        self.rows = 0;
        let empty = vec![(0, Vec::new()); self.lists.len()];
        std::mem::replace(&mut self.lists, empty).into_iter().map(|list| list.1).collect()
    }
}

/// Bytes of text that state rows may keep alive without using them: less is not worth a copy.
const UNUSED_TEXT_BYTES: usize = 64 << 10;

/// The rows with text of their own, if what they point into holds much else: state that was not aggregated points into
/// the records it came from, and would keep whole chunks of them until its window closes.
pub(super) fn own_text(rows: RecordBatch) -> Result<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    let mut copied = false;
    for column in &mut columns {
        let Some(texts) = column.as_string_view_opt() else { continue };
        let held: usize = texts.data_buffers().iter().map(|buffer| buffer.len()).sum();
        if held > UNUSED_TEXT_BYTES && held > 2 * texts.total_buffer_bytes_used() {
            *column = Arc::new(texts.gc());
            copied = true;
        }
    }
    if copied { Ok(RecordBatch::try_new(rows.schema(), columns)?) } else { Ok(rows) }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, StringViewArray};

    use super::*;
    use crate::state::SpillFolder;

    fn pane(rows: usize, length: usize) -> Pane {
        let texts = StringViewArray::from_iter_values(std::iter::repeat_n("x".repeat(length), rows));
        let mut pane = Pane::default();
        pane.add(1, RecordBatch::try_from_iter([("t", Arc::new(texts) as ArrayRef)]).expect("a batch"));
        pane
    }

    #[test]
    fn few_rows_are_read_out_at_a_time_where_they_are_wide() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        let (narrow, wide, very_wide) = (pane(5_000, 84), pane(100, 40_000), pane(2, 3 << 20));
        for (output_bytes, rows) in [(45 << 20, [117_964, 294, 3]), (1 << 20, [2_621, 26, 1]), (1, [1_024, 26, 1])] {
            let limit = StateLimit::new(Arc::clone(&folder), 1 << 30, output_bytes, 1 << 30);
            let most = most_bytes_at_once(&limit);
            let compute = Compute { limit: Some(limit), ..Compute::new(1) };
            for (pane, rows) in [&narrow, &wide, &very_wide].into_iter().zip(rows) {
                let at_once = pane.rows_at_once(&compute);
                assert_eq!(at_once, rows, "of {output_bytes} bytes");
                assert!(at_once == 1 || at_once * pane.bytes / pane.rows <= most, "what is read is what counts");
            }
        }
        assert_eq!(wide.rows_at_once(&Compute::new(1)), MOST_ROWS_AT_ONCE);
    }
}
