//! Window functions over more rows than memory may have.
//!
//! DataFusion has two nodes for `f(…) OVER (PARTITION BY p ORDER BY o)`, both above a sort by (p, o), which spills.
//! `BoundedWindowAggExec` (rankings, LAG, sums up to the current row) gives rows as they come and holds a few. `WindowAggExec`, for
//! functions that need the end of their partition (`SUM(c) OVER (PARTITION BY window_start, window_end)`, NTILE), holds all rows of all
//! partitions, and asks no memory pool. So where the rows of a stage are on disk, that node is exchanged for one that does as much with less:
//!
//! ```text
//!   sorted rows   p1 p1 p2 p3 p3 p3 │ p3 p3 p4 p5 │ p6 p6 p6 p6 p6 p6 p6 p6 …
//!                 └─ whole partitions of a chunk ─┘   └ one that is larger than a chunk: its rows wait on disk,
//!                    are computed as they would be       aggregates take them as they come and know their value at the end
//! ```
//!
//! What needs the end of a partition that is larger than a chunk, and is no aggregate over the whole of it (NTILE, PERCENT_RANK, CUME_DIST),
//! ends with an error that says so.
//!
//! Invariant: rows and values are those of `WindowAggExec`, in its order; a sum of DOUBLE may differ in its last digit, since it is
//! made of parts.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::{concat, concat_batches, partition};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, ScalarValue, internal_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Accumulator, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, WindowExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use super::compute::{MORE_MEMORY, StateLimit};
use super::output::Output;
use super::stored_rows::StoredRows;
use crate::contracts::{Error, batch_bytes};

/// Of the rows that an operator may have in memory, a chunk is this part: there may be two, one that is computed and one that is
/// gathered, and what is computed of it.
const CHUNK_PART: usize = 8;
/// Rows of a batch that is given.
const BATCH_ROWS: usize = 8_192;

/// See the module's description.
#[derive(Debug)]
pub(super) struct LargeWindowExec {
    /// The node in whose place it is.
    window: Arc<dyn ExecutionPlan>,
    limit: StateLimit,
}

impl LargeWindowExec {
    /// In place of a `WindowAggExec`.
    pub(super) fn new(window: Arc<dyn ExecutionPlan>, limit: &StateLimit) -> Self {
        Self { window, limit: limit.clone() }
    }
}

impl DisplayAs for LargeWindowExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Large")?;
        self.window.fmt_as(t, f)
    }
}

impl ExecutionPlan for LargeWindowExec {
    fn name(&self) -> &'static str {
        "LargeWindowExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.window.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.window.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.window.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let window = Arc::clone(&self.window).replace_children(children, options)?;
        Ok(Arc::new(Self { window, limit: self.limit.clone() }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(window) = self.window.downcast_ref::<WindowAggExec>() else {
            return internal_err!("a large window in place of another node");
        };
        let computing = Computing {
            input: Some(window.input().execute(partition, context)?),
            functions: window.window_expr().to_vec(),
            partition_by: window.partition_by_sort_keys()?.into_iter().map(|key| key.expr).collect(),
            schema: self.window.schema(),
            chunk_bytes: self.limit.output_bytes / CHUNK_PART,
            limit: self.limit.clone(),
            gathered: Vec::new(),
            bytes: 0,
            open: None,
            ended: None,
            ready: VecDeque::new(),
        };
        let stream = futures::stream::try_unfold(computing, Computing::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.window.schema(), stream)))
    }
}

/// A task's run.
struct Computing {
    input: Option<SendableRecordBatchStream>,
    functions: Vec<Arc<dyn WindowExpr>>,
    partition_by: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    chunk_bytes: usize,
    limit: StateLimit,
    /// Rows that are not computed yet, from the beginning of a partition on.
    gathered: Vec<RecordBatch>,
    bytes: usize,
    /// A partition larger than a chunk, whose end has not come.
    open: Option<OpenPartition>,
    /// One whose end has come: its rows, and the value of each function.
    ended: Option<(std::vec::IntoIter<StoredRows>, Vec<ScalarValue>)>,
    ready: VecDeque<RecordBatch>,
}

/// A partition larger than a chunk.
struct OpenPartition {
    /// Its key: columns of one row.
    key: Vec<ArrayRef>,
    rows: Output,
    accumulators: Vec<Box<dyn Accumulator>>,
}

impl Computing {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            if let Some((rows, values)) = &mut self.ended {
                match rows.next() {
                    Some(rows) => {
                        let batch = rows.load().map_err(outward)?;
                        let values = values.iter().map(|value| value.to_array_of_size(batch.num_rows()));
                        let values = values.collect::<Result<Vec<_>>>()?;
                        self.give(&batch, values)?;
                    }
                    None => self.ended = None,
                }
                continue;
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            match input.next().await.transpose()? {
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => self.take(batch)?,
                None => {
                    self.input = None;
                    self.end_partition()?;
                    let rest = std::mem::take(&mut self.gathered);
                    if let Some(first) = rest.first() {
                        self.compute(&concat_batches(first.schema_ref(), &rest)?)?;
                    }
                }
            }
        }
    }

    fn take(&mut self, mut batch: RecordBatch) -> Result<()> {
        if let Some(open) = &mut self.open {
            let own = open.leading(&batch, &self.partition_by)?;
            if own > 0 {
                open.add(batch.slice(0, own), &self.functions)?;
            }
            if own == batch.num_rows() {
                return Ok(());
            }
            batch = batch.slice(own, batch.num_rows() - own);
            self.end_partition()?;
        }
        self.bytes += batch_bytes(&batch);
        self.gathered.push(batch);
        if self.bytes <= self.chunk_bytes {
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        let chunk = concat_batches(gathered[0].schema_ref(), &gathered)?;
        let last = ranges(&keys(&chunk, &self.partition_by)?, chunk.num_rows())?.pop().map_or(0, |last| last.start);
        if last > 0 {
            // The partition that may go on begins the next chunk.
            let rest = chunk.slice(last, chunk.num_rows() - last);
            self.bytes = batch_bytes(&rest);
            self.gathered.push(rest);
            return self.compute(&chunk.slice(0, last));
        }
        self.bytes = 0;
        let mut open =
            OpenPartition::begin(&chunk, &self.partition_by, &self.functions, &self.limit, self.chunk_bytes)?;
        open.add(chunk, &self.functions)?;
        self.open = Some(open);
        Ok(())
    }

    fn end_partition(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let values = open.accumulators.iter_mut().map(|accumulator| accumulator.evaluate()).collect::<Result<_>>()?;
        self.ended = Some((open.rows.finish().map_err(outward)?.into_iter(), values));
        Ok(())
    }

    /// Computes whole partitions, as `WindowAggExec` does.
    fn compute(&mut self, rows: &RecordBatch) -> Result<()> {
        let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); self.functions.len()];
        for range in ranges(&keys(rows, &self.partition_by)?, rows.num_rows())? {
            let rows = rows.slice(range.start, range.len());
            for (function, parts) in self.functions.iter().zip(&mut columns) {
                parts.push(function.evaluate(&rows)?);
            }
        }
        let whole = |parts: Vec<ArrayRef>| concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        let columns = columns.into_iter().map(whole).collect::<std::result::Result<_, _>>()?;
        self.give(rows, columns)
    }

    fn give(&mut self, rows: &RecordBatch, values: Vec<ArrayRef>) -> Result<()> {
        let columns = rows.columns().iter().cloned().chain(values).collect();
        let all = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let batches = (0..all.num_rows()).step_by(BATCH_ROWS);
        self.ready.extend(batches.map(|from| all.slice(from, BATCH_ROWS.min(all.num_rows() - from))));
        Ok(())
    }
}

impl OpenPartition {
    /// The partition of a row, before any of its rows.
    fn begin(
        rows: &RecordBatch,
        partition_by: &[Arc<dyn PhysicalExpr>],
        functions: &[Arc<dyn WindowExpr>],
        limit: &StateLimit,
        most: usize,
    ) -> Result<Self> {
        let accumulator = |function: &Arc<dyn WindowExpr>| match of_whole_partition(function.as_ref()) {
            Some(aggregate) => aggregate.get_aggregate_expr().create_accumulator(),
            None => {
                let name = function.name().split('(').next().unwrap_or_default().to_uppercase();
                let what = format!(
                    "{name} OVER has a partition of more than {} MiB, and needs all of its rows at once",
                    most >> 20
                );
                Err(outward(Error::unavailable(what).of_this_machine().hint(MORE_MEMORY)))
            }
        };
        let accumulators = functions.iter().map(accumulator).collect::<Result<_>>()?;
        let limit = StateLimit { output_bytes: most, ..limit.clone() };
        Ok(Self { key: keys(&rows.slice(0, 1), partition_by)?, rows: Output::within(Some(limit), None), accumulators })
    }

    /// How many of the rows, from the first one on, belong to it.
    fn leading(&self, rows: &RecordBatch, partition_by: &[Arc<dyn PhysicalExpr>]) -> Result<usize> {
        let theirs = keys(rows, partition_by)?;
        let both = self.key.iter().zip(&theirs).map(|(own, theirs)| concat(&[own.as_ref(), theirs.as_ref()]));
        let both: Vec<ArrayRef> = both.collect::<std::result::Result<_, _>>()?;
        Ok(ranges(&both, rows.num_rows() + 1)?.first().map_or(0, |first| first.end - 1))
    }

    fn add(&mut self, rows: RecordBatch, functions: &[Arc<dyn WindowExpr>]) -> Result<()> {
        for (function, accumulator) in functions.iter().zip(&mut self.accumulators) {
            accumulator.update_batch(&function.evaluate_args(&rows)?)?;
        }
        self.rows.add(rows).map_err(outward)
    }
}

/// The aggregate that a window function is, if its value is the same for all rows of a partition.
fn of_whole_partition(function: &dyn WindowExpr) -> Option<&PlainAggregateWindowExpr> {
    let aggregate = function.as_any().downcast_ref::<PlainAggregateWindowExpr>()?;
    // DataFusion 55 shows the condition of FILTER nowhere else.
    if !format!("{aggregate:?}").ends_with("filter: None }") {
        return None;
    }
    let frame = function.get_window_frame();
    let is_end = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => frame.units == WindowFrameUnits::Range && function.order_by().is_empty(),
        bound => bound.is_unbounded(),
    };
    (is_end(&frame.start_bound) && is_end(&frame.end_bound)).then_some(aggregate)
}

fn keys(rows: &RecordBatch, partition_by: &[Arc<dyn PhysicalExpr>]) -> Result<Vec<ArrayRef>> {
    partition_by.iter().map(|key| key.evaluate(rows)?.into_array(rows.num_rows())).collect()
}

/// Rows that have equal keys, of rows in the order of these.
fn ranges(keys: &[ArrayRef], rows: usize) -> Result<Vec<std::ops::Range<usize>>> {
    if keys.is_empty() { Ok(std::iter::once(0..rows).collect()) } else { Ok(partition(keys)?.ranges()) }
}

pub(super) fn outward(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringViewArray};
    use datafusion::datasource::MemTable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::super::compute::{Compute, run_partitions};
    use super::super::large_plans::adapted;
    use super::*;
    use crate::contracts::ErrorKind;
    use crate::state::SpillFolder;

    /// Partitions of very different sizes, one of them without a key.
    fn rows() -> Vec<RecordBatch> {
        let sizes =
            [(None, 700), (Some("a"), 1), (Some("b"), 30), (Some("c"), 5_000), (Some("d"), 2), (Some("e"), 900)];
        let keys = sizes.iter().flat_map(|(key, size)| std::iter::repeat_n(*key, *size));
        let all: Vec<(Option<&str>, i64)> = keys.zip(0..).map(|(key, n)| (key, n * 7_919 % 6_633)).collect();
        // In an order that is none.
        let mut all: Vec<_> = all.into_iter().enumerate().collect();
        all.sort_by_key(|(n, _)| n * 2_654_435_761 % 6_637);
        let batch = |rows: &[(usize, (Option<&str>, i64))]| {
            let keys: StringViewArray = rows.iter().map(|(_, (key, _))| *key).collect();
            let numbers: Int64Array = rows.iter().map(|(_, (_, n))| (n % 11 != 0).then_some(*n)).collect();
            let columns: [(&str, ArrayRef); 2] = [("k", Arc::new(keys)), ("n", Arc::new(numbers))];
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, c)| (name, c, true))).expect("a batch")
        };
        all.chunks(512).map(batch).collect()
    }

    async fn plan(functions: &str, condition: &str) -> Arc<dyn ExecutionPlan> {
        let config = SessionConfig::new().with_target_partitions(1).with_batch_size(512);
        let context = SessionContext::new_with_config(config);
        let rows = rows();
        let table = MemTable::try_new(rows[0].schema(), vec![rows]).expect("a table");
        context.register_table("t", Arc::new(table)).expect("registered");
        let query = context.sql(&format!("SELECT k, n, {functions} FROM t WHERE {condition}")).await.expect("it plans");
        query.create_physical_plan().await.expect("it plans")
    }

    fn limited(output_bytes: usize) -> (tempfile::TempDir, Compute) {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
        let limit = StateLimit { folder, bytes: 1 << 30, output_bytes, process_bytes: 1 << 30 };
        let config = SessionConfig::new().with_batch_size(64);
        let context = Arc::new(TaskContext::default().with_session_config(config));
        (parent, Compute { limit: Some(limit), context, ..Compute::new(1) })
    }

    /// Rows as text. Which of equal ones is first is left open.
    fn lines(rows: &[RecordBatch]) -> Vec<String> {
        let text = datafusion::arrow::util::pretty::pretty_format_batches(rows).expect("a table").to_string();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[tokio::test]
    async fn chunks_and_large_partitions_give_what_the_whole_gives() {
        let of_partition = "SUM(n) OVER (PARTITION BY k) AS s, COUNT(*) OVER (PARTITION BY k) AS c,
            MIN(n) OVER (PARTITION BY k) AS least, COUNT(DISTINCT n % 7) OVER (PARTITION BY k) AS d";
        let others = "NTILE(4) OVER (PARTITION BY k ORDER BY n) AS q, SUM(n) OVER (PARTITION BY k) AS s,
            PERCENT_RANK() OVER (PARTITION BY k ORDER BY n) AS p,
            LAST_VALUE(n) OVER (PARTITION BY k ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS l";
        let everything = "SUM(n) OVER () AS s, COUNT(*) OVER () AS c";
        let largest = 1 << 20;
        for (functions, condition, sizes) in [
            (of_partition, "true", vec![1, 20_000, 400_000, 8 * largest]),
            // Here no partition is larger than a chunk of 30,000 bytes.
            (others, "k <> 'c' OR k IS NULL", vec![240_000, 8 * largest]),
            (everything, "true", vec![1, 20_000, 8 * largest]),
        ] {
            let plan = plan(functions, condition).await;
            let expected = lines(&run_partitions(&plan, &Compute::new(1)).await.expect("it runs"));
            for size in sizes {
                let (_parent, compute) = limited(size);
                let large = adapted(&plan, compute.limit.as_ref().expect("a limit")).expect("adapted");
                let shown = datafusion::physical_plan::displayable(large.as_ref()).indent(false).to_string();
                assert!(shown.contains("LargeWindowAggExec"), "{shown}");
                for _ in 0..2 {
                    let found = run_partitions(&large, &compute).await.expect("it runs");
                    assert!(found.iter().all(|batch| batch.num_rows() <= BATCH_ROWS));
                    assert!(lines(&found) == expected, "{functions} in {size}");
                }
                let (written, left) = compute.limit.expect("a limit").folder.bytes();
                assert_eq!(
                    (written > 0, left),
                    (size < 8 * largest && condition == "true", 0),
                    "{functions} in {size}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_needs_all_rows_of_a_large_partition_is_told() {
        for (function, name) in [
            ("NTILE(4) OVER (PARTITION BY k ORDER BY n) AS q", "NTILE"),
            ("SUM(n) FILTER (WHERE n > 5) OVER (PARTITION BY k) AS q", "SUM"),
        ] {
            let plan = plan(function, "true").await;
            let (_parent, compute) = limited(20_000);
            let large = adapted(&plan, compute.limit.as_ref().expect("a limit")).expect("adapted");
            let error = run_partitions(&large, &compute).await.expect_err("too much");
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
            assert!(error.is_of_this_machine(), "{text}");
            assert!(text.contains(&format!("{name} OVER has a partition of more than 0 MiB")), "{text}");
            assert!(text.contains("--memory"), "{text}");
        }
    }
}
