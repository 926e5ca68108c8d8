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
use super::shared_bytes::SharedBytes;
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
    /// One whose end has come: it is given before what is ready, which came after it.
    ended: Option<EndedPartition>,
    ready: VecDeque<RecordBatch>,
}

/// A partition larger than a chunk.
struct OpenPartition {
    /// Its key: columns of one row.
    key: Vec<ArrayRef>,
    rows: Output,
    accumulators: Vec<Box<dyn Accumulator>>,
}

/// A partition larger than a chunk that is given.
struct EndedPartition {
    rows: std::vec::IntoIter<StoredRows>,
    /// Of each function.
    values: Vec<ScalarValue>,
    /// Of the rows that were read last.
    ready: VecDeque<RecordBatch>,
}

impl Computing {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(mut ended) = self.ended.take() {
                if let Some(batch) = ended.ready.pop_front() {
                    self.ended = Some(ended);
                    return Ok(Some((batch, self)));
                }
                if let Some(rows) = ended.rows.next() {
                    let rows = rows.load().map_err(outward)?;
                    let values = ended.values.iter().map(|value| value.to_array_of_size(rows.num_rows()));
                    ended.ready.extend(self.given(&rows, values.collect::<Result<_>>()?)?);
                    self.ended = Some(ended);
                }
                continue;
            }
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
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
        let rows = open.rows.finish().map_err(outward)?.into_iter();
        self.ended = Some(EndedPartition { rows, values, ready: VecDeque::new() });
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
        let given = self.given(rows, columns)?;
        self.ready.extend(given);
        Ok(())
    }

    /// Rows and what was computed of them, in batches.
    fn given(&self, rows: &RecordBatch, values: Vec<ArrayRef>) -> Result<impl Iterator<Item = RecordBatch> + use<>> {
        let columns = rows.columns().iter().cloned().chain(values).collect();
        let all = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let batches = (0..all.num_rows()).step_by(BATCH_ROWS);
        Ok(batches.map(move |from| all.slice(from, BATCH_ROWS.min(all.num_rows() - from))))
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
        // Such plans run one after the other, so this is within what is set aside for them, whatever operators have given.
        let limit = StateLimit { output_bytes: most, given: SharedBytes::default(), ..limit.clone() };
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

/// Whether a plan has functions that need all rows of a partition at once, however large it is.
pub(super) fn needs_partitions(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let own = plan.downcast_ref::<WindowAggExec>().is_some_and(|window| {
        window.window_expr().iter().any(|function| of_whole_partition(function.as_ref()).is_none())
    });
    own || plan.children().into_iter().any(needs_partitions)
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
#[path = "large_windows_tests.rs"]
mod tests;
