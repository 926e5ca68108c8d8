//! The leaf of every stage plan: "the rows of this epoch".
//!
//! A plan is made once. Before each run the rows are put into its slots; a run takes them out, so a
//! plan holds no rows between two epochs. The lock is taken once a partition and epoch.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::TaskContext;
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{EquivalenceProperties, ScalarFunctionExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
};

use super::shared_rows::{ColumnPath, EqualityTest, SharedRows};

/// Rows on their way into a plan, one list for each partition.
#[derive(Debug)]
pub struct Slot {
    schema: SchemaRef,
    partitions: Vec<Mutex<Vec<Stretch>>>,
    /// A reference table is small and read again whenever a plan is reset; a stream is neither.
    is_reference: bool,
    /// What the query demands of every row of this table, so that the others need not come in.
    test: Option<EqualityTest>,
    /// Runs of a plan over a reference table since it was made.
    runs: AtomicU32,
}

/// Runs after which a plan that keeps an index of a reference table is made anew: what DataFusion notes of each run is 5 KiB or so,
/// and the index of a table of a million rows costs some tenths of a second.
const RUNS_OF_AN_INDEX: u32 = 500;

/// Neighbouring rows.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    pub(super) rows: Arc<SharedRows>,
    pub(super) from: usize,
    pub(super) len: usize,
}

impl Slot {
    /// A slot for streamed rows.
    pub fn stream(schema: SchemaRef, partitions: usize) -> Arc<Self> {
        Self::tested(schema, partitions, None)
    }

    /// A slot for the rows of a source table that pass a test.
    pub fn tested(schema: SchemaRef, partitions: usize, test: Option<EqualityTest>) -> Arc<Self> {
        let partitions = (0..partitions.max(1)).map(|_| Mutex::default()).collect();
        Arc::new(Self { schema, partitions, is_reference: false, test, runs: AtomicU32::new(0) })
    }

    /// A slot for the rows of a reference table; they stay in it.
    pub fn reference(schema: SchemaRef) -> Arc<Self> {
        let partitions = vec![Mutex::default()];
        Arc::new(Self { schema, partitions, is_reference: true, test: None, runs: AtomicU32::new(0) })
    }

    /// Counts a run of the plan over this reference table; whether the plan must be made anew before it.
    pub fn is_worn(&self) -> bool {
        (self.runs.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(RUNS_OF_AN_INDEX)
    }

    /// Schema of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The test that rows have passed, or none.
    pub fn test(&self) -> Option<&EqualityTest> {
        self.test.as_ref()
    }

    /// Number of partitions.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Puts the rows of the next run in, in order; see [`Self::fill_shared`].
    pub fn fill(&self, batches: &[RecordBatch]) {
        let rows: Vec<_> = batches.iter().cloned().map(SharedRows::all).collect();
        self.fill_shared(&rows);
    }

    /// Puts the rows of the next run in, in order; neighbouring rows stay together, so that reading
    /// the partitions one after the other keeps the order.
    pub fn fill_shared(&self, all: &[Arc<SharedRows>]) {
        let parts = self.partitions.len();
        let total: usize = all.iter().map(|rows| rows.len()).sum();
        let mut lists: Vec<Vec<Stretch>> = vec![Vec::new(); parts];
        // Below this many rows a second task costs more than it saves.
        const SPLIT_ABOVE_ROWS: usize = 4096;
        let share = if parts == 1 || total <= SPLIT_ABOVE_ROWS { usize::MAX } else { total.div_ceil(parts) };
        let mut seen = 0;
        for rows in all {
            let mut from = 0;
            while from < rows.len() {
                let part = (seen / share).min(parts - 1);
                let until = if part + 1 == parts { usize::MAX } else { share.saturating_mul(part + 1) };
                let len = (rows.len() - from).min(until - seen);
                lists[part].push(Stretch { rows: Arc::clone(rows), from, len });
                from += len;
                seen += len;
            }
        }
        self.put(lists);
    }

    /// Puts given lists in, one for each partition; missing ones are empty.
    pub fn fill_lists(&self, lists: Vec<Vec<RecordBatch>>) {
        let stretch = |batch: RecordBatch| {
            let rows = SharedRows::all(batch);
            Stretch { from: 0, len: rows.len(), rows }
        };
        self.put(lists.into_iter().map(|list| list.into_iter().map(stretch).collect()).collect());
    }

    /// Puts rows in for one task.
    pub(super) fn fill_stretches(&self, rows: Vec<Stretch>) {
        self.put(vec![rows]);
    }

    fn put(&self, lists: Vec<Vec<Stretch>>) {
        debug_assert!(lists.len() <= self.partitions.len(), "a list without a partition would be lost");
        let lists = lists.into_iter().chain(std::iter::repeat_with(Vec::new));
        for (partition, list) in self.partitions.iter().zip(lists) {
            *partition.lock().unwrap_or_else(PoisonError::into_inner) = list;
        }
    }

    fn take(&self, partition: usize) -> Vec<Stretch> {
        let mut rows = self.partitions[partition].lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_reference { rows.clone() } else { std::mem::take(&mut *rows) }
    }

    fn estimate(&self, statistics: &mut Statistics) {
        // Tells the join planner which side to build its table from; never used for results.
        let rows = if self.is_reference { 10_000 } else { 1_000_000_000 };
        statistics.num_rows = Precision::Inexact(rows);
        statistics.total_byte_size = Precision::Inexact(rows * 100);
    }
}

/// Physical leaf that reads a [`Slot`]: columns, and single fields of nested ones, so that the rest of a wide ROW is
/// neither filtered nor sliced.
#[derive(Debug)]
pub struct SlotExec {
    slot: Arc<Slot>,
    columns: Arc<[ColumnPath]>,
    properties: Arc<PlanProperties>,
}

impl SlotExec {
    /// Reads all columns, or those of `projection`.
    pub fn try_new(slot: Arc<Slot>, projection: Option<&Vec<usize>>) -> Result<Self> {
        let schema = match projection {
            Some(columns) => Arc::new(slot.schema.project(columns)?),
            None => Arc::clone(&slot.schema),
        };
        let columns = match projection {
            Some(columns) => columns.iter().map(|column| ColumnPath::column(*column)).collect(),
            None => (0..slot.schema.fields().len()).map(ColumnPath::column).collect(),
        };
        Ok(Self::with_columns(slot, columns, schema))
    }

    fn with_columns(slot: Arc<Slot>, columns: Arc<[ColumnPath]>, schema: SchemaRef) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(slot.partitions()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { slot, columns, properties }
    }

    /// The path that an expression over this leaf's rows reads, if it does nothing else.
    fn path_of(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<ColumnPath> {
        if let Some(column) = expr.downcast_ref::<Column>() {
            return self.columns.get(column.index()).cloned();
        }
        let field = ScalarFunctionExpr::try_downcast_func::<GetFieldFunc>(expr.as_ref())?;
        let (base, names) = field.args().split_first()?;
        let mut path = self.path_of(base)?;
        for name in names {
            let name = name.downcast_ref::<Literal>()?.value().try_as_str()??.to_owned();
            let DataType::Struct(fields) = path.data_type(&self.slot.schema)? else { return None };
            let (index, _) = fields.find(&name)?;
            path.0.push(index);
        }
        Some(path)
    }
}

impl SlotExec {
    /// Whether it reads a table that stays from run to run.
    pub fn is_reference(&self) -> bool {
        self.slot.is_reference
    }

    /// The column of the rows that one of its own is, if it is a whole one.
    pub(super) fn column(&self, index: usize) -> Option<usize> {
        match self.columns.get(index)?.0.as_slice() {
            [column] => Some(*column),
            _ => None,
        }
    }

    /// What it gives of a batch.
    pub(super) fn view(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let stretch = Stretch { rows: SharedRows::all(batch.clone()), from: 0, len: batch.num_rows() };
        read(&self.schema(), &self.columns, &stretch)
    }
}

/// Columns of neighbouring rows; those on disk are read once for all columns, and go with what is made of them.
fn read(schema: &SchemaRef, columns: &[ColumnPath], stretch: &Stretch) -> Result<RecordBatch> {
    let outward = |e| DataFusionError::External(Box::new(e));
    let opened = stretch.rows.opened().map_err(outward)?;
    let rows = opened.as_ref().unwrap_or(&stretch.rows);
    let column = |path: &ColumnPath| -> Result<ArrayRef> {
        let column = rows.column(path).map_err(outward)?;
        let whole = stretch.len == column.len();
        Ok(if whole { column } else { column.slice(stretch.from, stretch.len) })
    };
    let columns = columns.iter().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(stretch.len));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
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
        let stretches = self.slot.take(partition);
        let (schema, columns) = (self.schema(), Arc::clone(&self.columns));
        let batch = {
            let schema = Arc::clone(&schema);
            move |stretch: Stretch| read(&schema, &columns, &stretch)
        };
        let stream = futures::stream::iter(stretches.into_iter().map(batch));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let columns: Option<Vec<_>> = projection.expr().iter().map(|e| self.path_of(&e.expr)).collect();
        Ok(columns.map(|columns| {
            Arc::new(Self::with_columns(Arc::clone(&self.slot), columns.into(), projection.schema())) as Arc<_>
        }))
    }

    fn statistics_from_inputs(&self, _inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        self.slot.estimate(&mut statistics);
        Ok(Arc::new(statistics))
    }
}
