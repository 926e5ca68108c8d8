//! Logical nodes that DataFusion does not have: a window table function, a gate, and the rows that an
//! operator gives.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, Result, TableReference};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::operators::{GateKind, GateReport, Slot, WindowSpec};

/// Field metadata: the column is a time attribute. The value is [`EVENT_TIME`] for all, so that it stays one in a UNION ALL.
pub(crate) const TIME_ATTRIBUTE: &str = "tidemill.time";
/// See [`TIME_ATTRIBUTE`].
pub(crate) const EVENT_TIME: &str = "event";
/// Field metadata: the column is a bound of window number `…` (`start:3`, `end:3`, `time:3`).
pub(crate) const WINDOW_BOUND: &str = "tidemill.window";

/// A window table function: its input plus `window_start`, `window_end`, `window_time`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WindowTvf {
    pub(crate) input: LogicalPlan,
    /// The time column.
    pub(crate) time: Expr,
    pub(crate) spec: WindowSpec,
    /// Tells the windows of a statement apart.
    pub(crate) number: usize,
    schema: DFSchemaRef,
}

impl WindowTvf {
    pub(crate) fn try_new(input: LogicalPlan, time: Expr, spec: WindowSpec, number: usize) -> Result<Self> {
        let (_, time_field) = datafusion::logical_expr::ExprSchemable::to_field(&time, input.schema())?;
        let mut fields: Vec<(Option<TableReference>, Arc<Field>)> =
            input.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        for field in bound_fields(number, time_field.data_type()) {
            fields.push((None, Arc::new(field)));
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(Self { input, time, spec, number, schema })
    }

    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

/// `window_start`, `window_end` and `window_time`, which is a time attribute of the type of the input's.
pub(crate) fn bound_fields(number: usize, time_type: &DataType) -> [Field; 3] {
    let zone = match time_type {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let plain = DataType::Timestamp(TimeUnit::Millisecond, None);
    let bound = |name: &str, kind: &str, data_type: DataType| {
        let metadata = [(WINDOW_BOUND.to_owned(), format!("{kind}:{number}"))];
        Field::new(name, data_type, true).with_metadata(metadata.into())
    };
    let time = bound("window_time", "time", DataType::Timestamp(TimeUnit::Millisecond, zone));
    let mut metadata = time.metadata().clone();
    metadata.insert(TIME_ATTRIBUTE.to_owned(), EVENT_TIME.to_owned());
    [bound("window_start", "start", plain.clone()), bound("window_end", "end", plain), time.with_metadata(metadata)]
}

/// The bound (`start`, `end`, `time`) and window number of a field, if it is one.
pub(crate) fn window_bound(field: &Field) -> Option<(&str, usize)> {
    let (kind, number) = field.metadata().get(WINDOW_BOUND)?.split_once(':')?;
    Some((kind, number.parse().ok()?))
}

/// The window table function of this number in a plan.
pub(crate) fn find_tvf(plan: &LogicalPlan, number: usize) -> Option<WindowTvf> {
    let mut found = None;
    let _ = plan.apply(|node| {
        if let LogicalPlan::Extension(extension) = node
            && let Some(tvf) = extension.node.as_any().downcast_ref::<WindowTvf>()
            && tvf.number == number
        {
            found = Some(tvf.clone());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Whether a plan has windows.
pub(crate) fn has_windows(plan: &LogicalPlan) -> bool {
    let is_windows = |node: &LogicalPlan| match node {
        LogicalPlan::Extension(extension) => Ok(extension.node.as_any().is::<WindowTvf>()),
        _ => Ok(false),
    };
    // It has no way to fail.
    plan.exists(is_windows).unwrap_or(false)
}

impl PartialOrd for WindowTvf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.number.partial_cmp(&other.number)
    }
}

impl UserDefinedLogicalNodeCore for WindowTvf {
    fn name(&self) -> &str {
        "WindowTvf"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![self.time.clone()]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window: {:?} on {}", self.spec.kind, self.time)?;
        match self.spec.offset_ms {
            0 => Ok(()),
            offset => write!(f, " from {offset} ms"),
        }
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Self::try_new(inputs.swap_remove(0), exprs.swap_remove(0), self.spec, self.number)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // The bounds come behind the columns of the input.
        let input = self.input.schema();
        let mut needed: Vec<usize> =
            output_columns.iter().copied().filter(|column| *column < input.fields().len()).collect();
        for column in self.time.column_refs() {
            needed.extend(input.maybe_index_of_column(column));
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// Lets rows pass for which the predicate is TRUE; the others are counted and reported.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Gate {
    pub(crate) input: LogicalPlan,
    pub(crate) predicate: Expr,
    pub(crate) kind: GateKind,
    /// Index of the gate in its query.
    pub(crate) number: usize,
    pub(crate) report: ReportHandle,
}

/// Where a gate reports to; says nothing about what the gate does, so it counts in no comparison.
#[derive(Debug, Clone)]
pub(crate) struct ReportHandle(pub(crate) Arc<GateReport>);

impl PartialEq for ReportHandle {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for ReportHandle {}

impl Hash for ReportHandle {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

impl Gate {
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialOrd for Gate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.number.partial_cmp(&other.number)
    }
}

impl UserDefinedLogicalNodeCore for Gate {
    fn name(&self) -> &str {
        "Gate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![self.predicate.clone()]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            GateKind::Late => write!(f, "DropLate: {}", self.predicate),
            GateKind::Require(reason) => write!(f, "Require: {} else '{reason}'", self.predicate),
        }
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (input, predicate) = (inputs.swap_remove(0), exprs.swap_remove(0));
        Ok(Self { input, predicate, ..self.clone() })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed = output_columns.to_vec();
        for column in self.predicate.column_refs() {
            needed.extend(self.input.schema().maybe_index_of_column(column));
        }
        // The origin of a refused row must reach the gate even when nothing above reads it.
        needed.extend(self.input.schema().index_of_column_by_name(None, crate::operators::ORIGIN_COLUMN));
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// The rows that an operator gives: a leaf of the stage above it, under the names of the plan node
/// that the operator stands for.
#[derive(Debug, Clone)]
pub(crate) struct OperatorRows {
    pub(crate) operator: usize,
    pub(crate) schema: DFSchemaRef,
    pub(crate) slot: Arc<Slot>,
}

impl OperatorRows {
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialEq for OperatorRows {
    fn eq(&self, other: &Self) -> bool {
        self.operator == other.operator
    }
}

impl Eq for OperatorRows {}

impl PartialOrd for OperatorRows {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.operator.partial_cmp(&other.operator)
    }
}

impl Hash for OperatorRows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.operator.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for OperatorRows {
    fn name(&self) -> &str {
        "OperatorRows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorRows: {}", self.operator)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(self.clone())
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![])
    }
}
