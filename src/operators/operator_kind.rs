//! What keeps state between epochs, of whichever kind: how it takes rows, and how it is put on disk.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};

use super::compute::Compute;
use super::hash_ranges::HashRanges;
use super::output::Output;
use super::running_aggregate::RunningAggregate;
use super::stored_rows::{StoredRows, relabelled, rows_in_range};
use super::window_aggregate::WindowAggregate;
use super::window_buffer::WindowBuffer;
use crate::contracts::Result;
use crate::state::SpillFolder;

/// State of one operator.
#[derive(Debug)]
pub enum OperatorKind {
    /// Aggregation in windows.
    Window(Box<WindowAggregate>),
    /// Aggregation without a window.
    Running(Box<RunningAggregate>),
    /// Rows held until their window closes.
    Buffer(Box<WindowBuffer>),
}

impl OperatorKind {
    /// How far behind the watermark its rows may be, in milliseconds, where it does not keep all keys.
    pub fn time_to_live(&self) -> Option<i64> {
        match self {
            Self::Running(running) => running.time_to_live(),
            Self::Window(_) | Self::Buffer(_) => None,
        }
    }

    /// Rows that it did not take, since their windows had closed: none where gates below are as they should be.
    pub(super) fn take_missed(&mut self) -> u64 {
        match self {
            Self::Window(window) => window.take_missed(),
            Self::Buffer(buffer) => buffer.take_missed(),
            Self::Running(_) => 0,
        }
    }

    /// Whether rows of a snapshot have the columns that it keeps; `output` are those that it gives.
    pub(super) fn takes(&self, saved: &Schema, output: &Schema) -> bool {
        match self {
            Self::Window(window) => alike(saved.fields(), window.state_schema().fields()),
            Self::Running(running) => running.takes(saved),
            Self::Buffer(_) => alike(saved.fields(), output.fields()),
        }
    }

    /// Bytes of state in memory, about, and how many of them [`Self::spill`] can put on disk.
    pub(super) fn memory(&self) -> (usize, usize) {
        match self {
            Self::Window(window) => window.memory(),
            Self::Running(running) => running.memory(),
            Self::Buffer(buffer) => buffer.memory(),
        }
    }

    /// Puts state on disk, until no more than `most` bytes of what can go there are left in memory.
    pub(super) async fn spill(&mut self, folder: &Arc<SpillFolder>, most: usize, compute: &Compute) -> Result<()> {
        match self {
            Self::Window(window) => window.spill(folder, most, compute).await,
            Self::Running(running) if running.memory().1 > most => running.spill(folder),
            Self::Running(_) => Ok(()),
            Self::Buffer(buffer) => buffer.spill(folder, most),
        }
    }

    /// Takes what the stage below makes of a part of an epoch's rows, where that can be kept before the others come: then it
    /// need not be in memory together with them. What it answers is still to be pushed, with the rest of the epoch.
    pub(super) async fn take(&mut self, rows: Vec<StoredRows>, compute: &Compute) -> Result<Vec<StoredRows>> {
        if let Self::Running(_) = self {
            // It gives each key's change once in an epoch.
            return Ok(rows);
        }
        let spilled = rows.iter().any(StoredRows::is_spilled);
        let parts = if spilled { rows.into_iter().map(|rows| vec![rows]).collect() } else { vec![rows] };
        for part in parts {
            self.push(part.into_iter().map(StoredRows::load).collect::<Result<_>>()?, compute).await?;
            if let Some(limit) = &compute.limit
                && let Some(most) = limit.relief(self.memory().1)
            {
                self.spill(&limit.folder, most, compute).await?;
            }
        }
        Ok(Vec::new())
    }

    /// Takes what the stage below makes of an epoch. Answers what is given at once: the others give rows when windows close.
    async fn push(&mut self, rows: Vec<RecordBatch>, compute: &Compute) -> Result<Vec<RecordBatch>> {
        match self {
            Self::Window(window) => window.push(rows, compute).await?,
            Self::Buffer(buffer) => buffer.push(&rows)?,
            Self::Running(running) => return running.push(rows, compute).await,
        }
        Ok(Vec::new())
    }

    /// The same, where rows may be on disk; what is given at once is added to `given`.
    pub(super) async fn push_stored(
        &mut self,
        rows: Vec<StoredRows>,
        compute: &Compute,
        given: &mut Output,
        schema: &SchemaRef,
    ) -> Result<()> {
        if rows.iter().any(StoredRows::is_spilled) || self.touches_much(&rows, compute) {
            return match self {
                Self::Running(running) => push_by_ranges(running, &rows, compute, given, schema).await,
                Self::Window(_) | Self::Buffer(_) => self.take(rows, compute).await.map(drop),
            };
        }
        let rows = rows.into_iter().map(StoredRows::load).collect::<Result<_>>()?;
        add(self.push(rows, compute).await?, given, schema)
    }

    /// Whether the states that rows are for may be so many bytes that they are not merged all at once.
    fn touches_much(&self, rows: &[StoredRows], compute: &Compute) -> bool {
        match (self, &compute.limit) {
            (Self::Running(running), Some(limit)) => states_of(rows, running) > limit.output_bytes / TOUCHED_PART,
            _ => false,
        }
    }
}

/// States that rows are for are merged all at once where they have no more than this part of what an operator may give …
const TOUCHED_PART: usize = 4;
/// … and are there several times while they are merged: as they were, in the hash table, as they become, and as they are given.
const COPIES_OF_A_STATE: usize = 4;

/// About how many bytes are stored of the keys that rows are for.
fn states_of(rows: &[StoredRows], running: &RunningAggregate) -> usize {
    running.bytes_of_keys(rows.iter().map(StoredRows::len).sum())
}

/// Pushes partial states that do not fit into memory together, or whose keys' states do not, a range of hashes at a time: what changes is
/// given once for each key, as if they had come together. Of those on disk all are read for each range; there are few ranges, since each has
/// half of what an operator may give.
async fn push_by_ranges(
    running: &mut RunningAggregate,
    rows: &[StoredRows],
    compute: &Compute,
    given: &mut Output,
    schema: &SchemaRef,
) -> Result<()> {
    let Some(limit) = &compute.limit else { return Ok(()) };
    let copies = if rows.iter().any(StoredRows::is_spilled) { 1 } else { COPIES_OF_A_STATE };
    let bytes = rows.iter().map(StoredRows::bytes).sum::<usize>().max(copies * states_of(rows, running));
    for range in HashRanges::of(bytes, limit.output_bytes / 2) {
        let part = rows_in_range(rows, running.hashes(), &range)?;
        if part.is_empty() {
            continue;
        }
        // Blocks hold what a partial aggregation that had given up has left as it was: a single one may have a key twice.
        let merged = running.merged(&part, compute).await?;
        add(running.push(vec![merged], compute).await?, given, schema)?;
        if limit.relief(running.memory().1).is_some() {
            running.spill(&limit.folder)?;
        }
    }
    Ok(())
}

fn add(rows: Vec<RecordBatch>, given: &mut Output, schema: &SchemaRef) -> Result<()> {
    rows.into_iter().try_for_each(|batch| given.add(relabelled(batch, schema)?))
}

/// Whether columns have the same types. Their names may be another version's.
pub(super) fn alike(one: &[FieldRef], other: &[FieldRef]) -> bool {
    let same = |(one, other): (&FieldRef, &FieldRef)| one.data_type().equals_datatype(other.data_type());
    one.len() == other.len() && one.iter().zip(other).all(same)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Field, Int8Type, Int64Type};
    use datafusion::datasource::MemTable;
    use datafusion::physical_plan::ExecutionPlan;
    use datafusion::physical_plan::aggregates::AggregateExec;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::super::WEIGHT_COLUMN;
    use super::super::compute::StateLimit;
    use super::super::gate::GateReport;
    use super::super::partials::AggregateParts;
    use super::super::running_aggregate::Emit;
    use super::super::window_aggregate::WindowColumns;
    use super::*;
    use crate::contracts::{Watermark, batch_bytes};
    use crate::state::StatePiece;

    fn numbers(names: [&str; 2], rows: &[(i64, i64)]) -> RecordBatch {
        let column =
            |value: fn(&(i64, i64)) -> i64| -> ArrayRef { Arc::new(rows.iter().map(value).collect::<Int64Array>()) };
        let columns = [(names[0], column(|row| row.0)), (names[1], column(|row| row.1))];
        RecordBatch::try_from_iter(columns).expect("a batch")
    }

    fn lowest(plan: &Arc<dyn ExecutionPlan>) -> Option<AggregateExec> {
        let below = plan.children().into_iter().find_map(lowest);
        below.or_else(|| plan.downcast_ref::<AggregateExec>().cloned())
    }

    async fn counts() -> Arc<AggregateParts> {
        aggregation("SELECT k, count(*) FROM t GROUP BY k").await
    }

    async fn aggregation(query: &str) -> Arc<AggregateParts> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let empty = numbers(["k", "v"], &[]);
        let table = MemTable::try_new(empty.schema(), vec![vec![empty]]).expect("a table");
        context.register_table("t", Arc::new(table)).expect("registered");
        let plan = context.sql(query).await.expect("SQL");
        let plan = plan.create_physical_plan().await.expect("a plan");
        let aggregate = lowest(&plan).expect("an aggregation");
        Arc::new(AggregateParts::try_new(&aggregate, 1).expect("its parts"))
    }

    fn state(parts: &AggregateParts, columns: &[Vec<i64>]) -> RecordBatch {
        let columns = columns.iter().map(|column| Arc::new(Int64Array::from(column.clone())) as ArrayRef);
        RecordBatch::try_new(Arc::clone(parts.state_schema()), columns.collect()).expect("states")
    }

    /// Arrow's offsets of BYTES end at 2 GiB; here they would at some kilobytes.
    #[tokio::test]
    async fn batches_of_state_are_merged_only_up_to_a_bound() {
        const MOST: usize = 6_000;
        let compute = Compute::new(1);
        let pieces = |pieces: &[StatePiece]| -> Vec<usize> {
            pieces.iter().map(|piece| batch_bytes(&piece.rows.load().expect("in memory"))).collect()
        };
        let parts = counts().await;
        let mut running = RunningAggregate::try_new(Arc::clone(&parts), Emit::Upserts, None).expect("an operator");
        running.most_merged = MOST;
        let mut seen = 0;
        for round in 0..3 {
            for n in 0..30 {
                let keys: Vec<i64> = (n * 100..(n + 1) * 100).collect();
                let changed = running.push(vec![state(&parts, &[keys, vec![1; 100]])], &compute).await.expect("taken");
                let counts = |batch: &RecordBatch| batch.column(1).as_primitive::<Int64Type>().values().to_vec();
                seen += changed.iter().flat_map(counts).filter(|count| *count == round + 1).count();
            }
            let sizes = pieces(&running.snapshot().1);
            assert!(sizes.iter().all(|bytes| *bytes <= MOST), "{sizes:?}");
            assert!((8..=40).contains(&sizes.len()), "they are merged up to it: {sizes:?}");
        }
        assert_eq!((seen, running.size().0), (9_000, 3_000));

        let parts = aggregation("SELECT k, v, count(*) FROM t GROUP BY k, v").await;
        let columns = WindowColumns { start: Some(0), end: None, time: None, size_ms: Some(10) };
        let mut window = WindowAggregate::try_new(Arc::clone(&parts), columns, None).expect("an operator");
        window.most_merged = MOST;
        for n in 0..150 {
            let states = state(&parts, &[vec![0; 20], (n * 20..(n + 1) * 20).collect(), vec![1; 20]]);
            window.push(vec![states], &compute).await.expect("taken");
        }
        let sizes = pieces(&window.snapshot().1);
        assert!(sizes.iter().all(|bytes| *bytes <= MOST), "{sizes:?}");
        assert!(sizes.len() < 100, "they are merged up to it: {sizes:?}");
        window.begin_close(Watermark(20));
        let mut closed = 0;
        while let Some(rows) = window.next_closed(&compute).await.expect("closed") {
            closed += rows.iter().map(RecordBatch::num_rows).sum::<usize>();
        }
        assert_eq!(closed, 3_000);
    }

    /// The gates below refuse such rows one by one. What came through all the same would be lost without a word.
    #[tokio::test]
    async fn rows_of_closed_windows_are_counted_as_late() {
        let compute = Compute::new(1);
        let parts = aggregation("SELECT k, v, count(*) FROM t GROUP BY k, v").await;
        let columns = WindowColumns { start: Some(0), end: None, time: None, size_ms: Some(10) };
        let window = WindowAggregate::try_new(Arc::clone(&parts), columns, None).expect("an operator");
        let states = state(&parts, &[vec![0, 0, 10, 20], vec![1, 2, 3, 4], vec![1; 4]]);
        let buffer =
            (OperatorKind::Buffer(Box::new(WindowBuffer::new(0))), numbers(["end", "v"], &[(10, 1), (20, 2), (30, 3)]));
        for (mut operator, rows) in [(OperatorKind::Window(Box::new(window)), states), buffer] {
            match &mut operator {
                OperatorKind::Window(window) => window.begin_close(Watermark(20)),
                OperatorKind::Buffer(buffer) => buffer.begin_close(Watermark(20)),
                OperatorKind::Running(_) => unreachable!("it was made otherwise"),
            }
            let missed = rows.num_rows() as u64 - 1;
            operator.push(vec![rows], &compute).await.expect("taken");
            assert_eq!((operator.take_missed(), operator.take_missed()), (missed, 0));
        }
        let report = GateReport::default();
        report.run().used(5);
        report.late_after_all(2);
        assert_eq!((report.take(), report.used()), ((2, 0, Vec::new()), 3), "each counts once");
    }

    /// A partial aggregation that has given up leaves rows as they are, so that one block may hold a key twice.
    #[tokio::test]
    async fn a_key_that_a_block_on_disk_has_twice_is_one_key() {
        let parts = counts().await;
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        for output_bytes in [1, 1 << 20] {
            let limit = StateLimit::new(Arc::clone(&folder), 1 << 30, output_bytes, 1 << 30);
            let compute = Compute { limit: Some(limit), ..Compute::new(1) };
            for emit in [Emit::Upserts, Emit::NewKeys] {
                let running = RunningAggregate::try_new(Arc::clone(&parts), emit, None).expect("an operator");
                let mut operator = OperatorKind::Running(Box::new(running));
                let mut all = Vec::new();
                for _ in 0..2 {
                    let states = numbers(["k", "c"], &[(1, 1), (1, 1), (2, 1), (1, 1)]);
                    let states = RecordBatch::try_new(Arc::clone(parts.state_schema()), states.columns().to_vec());
                    let mut block = Output::on_disk(&compute);
                    block.add(states.expect("states")).expect("written");
                    let rows = block.finish().expect("written");
                    assert!(rows.iter().all(StoredRows::is_spilled) && rows.len() == 1);
                    let mut given = Output::within(None, None);
                    operator.push_stored(rows, &compute, &mut given, &parts.output_schema()).await.expect("taken");
                    for rows in given.finish().expect("given") {
                        let batch = rows.load().expect("in memory");
                        let column = |index: usize| batch.column(index).as_primitive::<Int64Type>().values().to_vec();
                        all.extend(column(0).into_iter().zip(column(1)));
                    }
                }
                // With ranges, the order is that of the hashes.
                all.sort_unstable();
                let wanted = match emit {
                    Emit::NewKeys => vec![(1, 3), (2, 1)],
                    _ => vec![(1, 3), (1, 6), (2, 1), (2, 2)],
                };
                assert_eq!(all, wanted, "{emit:?}, ranges of {output_bytes} bytes");
                let OperatorKind::Running(running) = &operator else { unreachable!("it was made so") };
                assert_eq!(running.size().0, 2, "{emit:?}");
            }
        }
    }

    /// A few records may come for very many bytes of state: sets, or long texts.
    #[tokio::test]
    async fn states_that_are_many_bytes_are_merged_a_range_at_a_time() {
        const KEYS: i64 = 1_000;
        let parts = counts().await;
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        // A state has 16 bytes.
        for (output_bytes, is_divided) in [(8_000, true), (1 << 20, false)] {
            let limit = StateLimit::new(Arc::clone(&folder), 1 << 30, output_bytes, 1 << 30);
            let compute = Compute { limit: Some(limit), ..Compute::new(1) };
            for (emit, spills) in [(Emit::Upserts, false), (Emit::Upserts, true), (Emit::Deltas, true)] {
                let running = RunningAggregate::try_new(Arc::clone(&parts), emit, None).expect("an operator");
                let mut fields = parts.output_schema().fields().to_vec();
                if emit == Emit::Deltas {
                    fields.push(Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int8, false)));
                }
                let schema = Arc::new(Schema::new(fields));
                let mut operator = OperatorKind::Running(Box::new(running));
                for round in 1..=3 {
                    // Two tasks, which have some keys both.
                    let rows = [0..600, 400..KEYS].map(|keys| {
                        let counts = keys.clone().map(|_| round).collect();
                        StoredRows::held(state(&parts, &[keys.collect(), counts]))
                    });
                    let mut given = Output::within(None, None);
                    operator.push_stored(rows.into(), &compute, &mut given, &schema).await.expect("taken");
                    let given: Vec<RecordBatch> = given
                        .finish()
                        .expect("given")
                        .into_iter()
                        .map(|rows| rows.load().expect("in memory"))
                        .collect();
                    let most = given.iter().map(RecordBatch::num_rows).max().unwrap_or(0);
                    assert_eq!(most < 400, is_divided && round > 1, "{most} rows in round {round}");
                    let column = |batch: &RecordBatch, index: usize| {
                        batch.column(index).as_primitive::<Int64Type>().values().to_vec()
                    };
                    let mut sums = vec![0; KEYS as usize];
                    for batch in &given {
                        let weights = match emit {
                            Emit::Deltas => batch.column(2).as_primitive::<Int8Type>().values().to_vec(),
                            _ => vec![1; batch.num_rows()],
                        };
                        for ((key, count), weight) in column(batch, 0).into_iter().zip(column(batch, 1)).zip(weights) {
                            sums[key as usize] += count * i64::from(weight);
                        }
                    }
                    // Deltas have what was before withdrawn.
                    let sum: i64 = if emit == Emit::Deltas { round } else { (1..=round).sum() };
                    let twice = |key: usize| if (400..600).contains(&key) { 2 * sum } else { sum };
                    assert!(sums.iter().enumerate().all(|(key, count)| *count == twice(key)), "{emit:?}: {sums:?}");
                    if spills {
                        operator.spill(&folder, 0, &compute).await.expect("spilled");
                    }
                }
                let OperatorKind::Running(running) = &operator else { unreachable!("it was made so") };
                assert_eq!(running.size().0, KEYS as usize);
            }
        }
    }
}
