//! A filter that remembers what it refused: rows that came too late, and rows for which
//! `REQUIRE(condition, 'reason')` did not hold.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{filter_record_batch, not, prep_null_mask_filter};
use datafusion::arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr, PlanProperties,
    SendableRecordBatchStream,
};
use futures::StreamExt;

use super::large_windows::outward;
use super::panes::own_text;

/// What a gate checks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub enum GateKind {
    /// The row's window was still open in the row's own split.
    Late,
    /// The condition of `REQUIRE` holds; the text is the reason.
    Require(String),
}

/// A refused row.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedRow {
    /// Which gate.
    pub gate: usize,
    /// What was refused.
    pub origin: RowOrigin,
}

/// Where a refused row came from, or the row itself when it has no single record.
#[derive(Debug, Clone, PartialEq)]
pub enum RowOrigin {
    /// `chunk << 32 | record` of the epoch.
    Record(u64),
    /// A result, with the columns that the query reads of it.
    Result(RecordBatch),
}

/// What became of a query's rows: refused by its gates since that was last asked, and used.
///
/// A run of a plan that fails may be repeated with other rows, so its report counts when it is kept, and not before.
#[derive(Debug, Default)]
pub struct GateReport {
    kept: Mutex<GateState>,
    run: Mutex<Arc<RunReport>>,
    only_counts: bool,
}

#[derive(Debug, Default)]
struct GateState {
    late: u64,
    rejected: u64,
    used: u64,
    rows: Vec<RejectedRow>,
}

/// The report of one run of a plan: what still reports after the run has failed reports to nobody.
#[derive(Debug, Default)]
pub(super) struct RunReport(Mutex<GateState>);

impl RunReport {
    /// Counts rows that reached the first operator or the sink.
    pub(super) fn used(&self, rows: usize) {
        lock(&self.0).used += rows as u64;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GateReport {
    /// One that keeps no rows: those of a batch have no bound.
    pub fn counting() -> Self {
        Self { only_counts: true, ..Self::default() }
    }

    /// Where the run that begins now reports to.
    pub(super) fn run(&self) -> Arc<RunReport> {
        Arc::clone(&lock(&self.run))
    }

    /// Forgets what the last run has reported.
    pub(super) fn discard(&self) {
        *lock(&self.run) = Arc::default();
    }

    /// Takes what the last run has reported.
    pub(super) fn keep(&self) {
        let run = std::mem::take(&mut *lock(&self.run));
        let mut run = lock(&run.0);
        let mut kept = lock(&self.kept);
        kept.late += run.late;
        kept.rejected += run.rejected;
        kept.used += run.used;
        kept.rows.append(&mut run.rows);
    }

    /// Rows that had been counted as used, and were late after all.
    pub(super) fn late_after_all(&self, rows: u64) {
        if rows > 0 {
            self.keep();
            let mut kept = lock(&self.kept);
            kept.late += rows;
            kept.used = kept.used.saturating_sub(rows);
        }
    }

    /// Takes `(late, rejected, rows)` and starts anew.
    pub fn take(&self) -> (u64, u64, Vec<RejectedRow>) {
        self.keep();
        let mut kept = lock(&self.kept);
        let used = kept.used;
        let state = std::mem::replace(&mut *kept, GateState { used, ..GateState::default() });
        (state.late, state.rejected, state.rows)
    }

    /// Rows of source tables that have reached an operator or the sink, since the beginning.
    pub fn used(&self) -> u64 {
        self.keep();
        lock(&self.kept).used
    }
}

/// Begins the names of columns that no query has given.
const OWN_COLUMNS: &str = "__tm_";

/// Lets rows pass for which the predicate is TRUE, and reports the others.
#[derive(Debug, Clone)]
pub struct GateExec {
    input: Arc<dyn ExecutionPlan>,
    predicate: Arc<dyn PhysicalExpr>,
    kind: GateKind,
    number: usize,
    /// Index of the origin column; `None` when rows have no single record.
    origin: Option<usize>,
    report: Arc<GateReport>,
    properties: Arc<PlanProperties>,
}

impl GateExec {
    /// A gate above `input`.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        predicate: Arc<dyn PhysicalExpr>,
        kind: GateKind,
        number: usize,
        origin: Option<usize>,
        report: Arc<GateReport>,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        ));
        Self { input, predicate, kind, number, origin, report, properties }
    }

    fn check(&self, batch: &RecordBatch, report: &RunReport) -> Result<RecordBatch> {
        let mask = self.predicate.evaluate(batch)?.into_array(batch.num_rows())?;
        let Some(mask) = mask.as_boolean_opt() else {
            return exec_err!("a gate's condition must be BOOLEAN, found {}", mask.data_type());
        };
        let mask: BooleanArray = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
        let refused = mask.len() - mask.true_count();
        if refused == 0 {
            return Ok(batch.clone());
        }
        let origins = self.refused(batch, &not(&mask)?)?;
        let mut state = lock(&report.0);
        match self.kind {
            GateKind::Late => state.late += refused as u64,
            GateKind::Require(_) => state.rejected += refused as u64,
        }
        state.rows.extend(origins.into_iter().map(|origin| RejectedRow { gate: self.number, origin }));
        drop(state);
        Ok(filter_record_batch(batch, &mask)?)
    }

    /// The rows of `batch` that are `outside`, as they are reported.
    fn refused(&self, batch: &RecordBatch, outside: &BooleanArray) -> Result<Vec<RowOrigin>> {
        if let Some(column) = self.origin {
            let refused = filter_record_batch(&batch.project(&[column])?, outside)?;
            let origins = refused.column(0).as_primitive::<UInt64Type>();
            return Ok(origins.values().iter().map(|origin| RowOrigin::Record(*origin)).collect());
        }
        if self.report.only_counts {
            return Ok(Vec::new());
        }
        let fields = batch.schema_ref().fields().iter().enumerate();
        let shown = fields.filter(|(_, field)| !field.name().starts_with(OWN_COLUMNS)).map(|(index, _)| index);
        let shown: Vec<usize> = shown.collect();
        let refused = own_text(filter_record_batch(&batch.project(&shown)?, outside)?).map_err(outward)?;
        Ok((0..refused.num_rows()).map(|row| RowOrigin::Result(refused.slice(row, 1))).collect())
    }
}

impl DisplayAs for GateExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate: {:?} {}", self.kind, self.predicate)
    }
}

impl ExecutionPlan for GateExec {
    fn name(&self) -> &'static str {
        "GateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        f(&self.predicate)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let gate = Self::new(
            children.swap_remove(0),
            Arc::clone(&self.predicate),
            self.kind.clone(),
            self.number,
            self.origin,
            Arc::clone(&self.report),
        );
        Ok(Arc::new(gate))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let report = self.report.run();
        let schema: SchemaRef = self.schema();
        let gate = self.clone();
        let stream = input.map(move |batch| gate.check(&batch?, &report));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}
