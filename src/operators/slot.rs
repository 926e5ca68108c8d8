//! The leaf of every stage plan: "the rows of this epoch".
//!
//! A plan is made once. Before each run the rows are put into its slots; a run takes them out, so a
//! plan holds no rows between two epochs. The lock is taken once a partition and epoch.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
};

/// Rows on their way into a plan, one list for each partition.
#[derive(Debug)]
pub struct Slot {
    schema: SchemaRef,
    partitions: Vec<Mutex<Vec<RecordBatch>>>,
    /// A reference table is small and read again whenever a plan is reset; a stream is neither.
    is_reference: bool,
}

impl Slot {
    /// A slot for streamed rows.
    pub fn stream(schema: SchemaRef, partitions: usize) -> Arc<Self> {
        let partitions = (0..partitions.max(1)).map(|_| Mutex::default()).collect();
        Arc::new(Self { schema, partitions, is_reference: false })
    }

    /// A slot for the rows of a reference table; they stay in it.
    pub fn reference(schema: SchemaRef) -> Arc<Self> {
        Arc::new(Self { schema, partitions: vec![Mutex::default()], is_reference: true })
    }

    /// Schema of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Number of partitions.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Puts the rows of the next run in, in order; neighbouring rows stay together, so that reading
    /// the partitions one after the other keeps the order.
    pub fn fill(&self, batches: &[RecordBatch]) {
        let parts = self.partitions.len();
        let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let mut lists: Vec<Vec<RecordBatch>> = vec![Vec::new(); parts];
        // Below this many rows a second task costs more than it saves.
        const SPLIT_ABOVE_ROWS: usize = 4096;
        if parts == 1 || total <= SPLIT_ABOVE_ROWS {
            lists[0] = batches.iter().filter(|b| b.num_rows() > 0).cloned().collect();
        } else {
            let share = total.div_ceil(parts);
            let mut seen = 0;
            for batch in batches {
                let mut from = 0;
                while from < batch.num_rows() {
                    let part = (seen / share).min(parts - 1);
                    let until = if part + 1 == parts { usize::MAX } else { (part + 1) * share };
                    let take = (batch.num_rows() - from).min(until - seen);
                    lists[part].push(batch.slice(from, take));
                    from += take;
                    seen += take;
                }
            }
        }
        self.fill_lists(lists);
    }

    /// Puts given lists in, one for each partition; missing ones are empty.
    pub fn fill_lists(&self, lists: Vec<Vec<RecordBatch>>) {
        debug_assert!(lists.len() <= self.partitions.len(), "a list without a partition would be lost");
        let lists = lists.into_iter().chain(std::iter::repeat_with(Vec::new));
        for (partition, list) in self.partitions.iter().zip(lists) {
            *partition.lock().unwrap_or_else(PoisonError::into_inner) = list;
        }
    }

    fn take(&self, partition: usize) -> Vec<RecordBatch> {
        let mut rows = self.partitions[partition].lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_reference { rows.clone() } else { std::mem::take(&mut *rows) }
    }

    fn statistics(&self) -> Statistics {
        let mut statistics = Statistics::new_unknown(&self.schema);
        // Tells the join planner which side to build its table from; never used for results.
        let rows = if self.is_reference { 10_000 } else { 1_000_000_000 };
        statistics.num_rows = Precision::Inexact(rows);
        statistics.total_byte_size = Precision::Inexact(rows * 100);
        statistics
    }
}

/// Physical leaf that reads a [`Slot`].
#[derive(Debug)]
pub struct SlotExec {
    slot: Arc<Slot>,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl SlotExec {
    /// Reads all columns, or those of `projection`.
    pub fn try_new(slot: Arc<Slot>, projection: Option<&Vec<usize>>) -> Result<Self> {
        let schema = match projection {
            Some(columns) => Arc::new(slot.schema.project(columns)?),
            None => Arc::clone(&slot.schema),
        };
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(slot.partitions()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { slot, projection: projection.cloned(), properties })
    }
}

impl SlotExec {
    /// Whether it reads a table that stays from run to run.
    pub fn is_reference(&self) -> bool {
        self.slot.is_reference
    }
}

impl DisplayAs for SlotExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.schema().fields().iter().map(|field| field.name().clone()).collect();
        write!(f, "EpochScan: columns=[{}]", names.join(", "))
    }
}

impl ExecutionPlan for SlotExec {
    fn name(&self) -> &'static str {
        "SlotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = self.slot.take(partition);
        Ok(Box::pin(MemoryStream::try_new(batches, self.schema(), self.projection.clone())?))
    }

    fn statistics_from_inputs(&self, _inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(self.slot.statistics().project(self.projection.as_ref())))
    }
}
