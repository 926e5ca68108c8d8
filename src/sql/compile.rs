//! From a logical plan to a [`QueryGraph`]: the plan is cut at every node that needs state.
//!
//! ```text
//!   Projection                    root stage ── leaf: rows of operator 0
//!     Aggregate (window)   ──►    operator 0: WindowAggregate
//!       Filter                      stage ── leaf: rows of table 0
//!         Window TVF
//!           TableScan
//! ```
//!
//! One pass, from the bottom: each node is rebuilt over what its inputs became. Hidden columns (the
//! row's watermark, time and origin) are threaded through every projection up to the next operator;
//! the optimiser removes those that nothing reads. For the batch plan the same pass leaves aggregates
//! where they are, so that both plans come out of the same rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    Distinct, Expr, Extension, Filter, Join, LogicalPlan, Projection, SubqueryAlias, TableScan, TableScanBuilder,
};

use super::aggregate::outward;
use super::errors::PlanError;
use super::lower::{WindowForm, lower, whole_windows};
use super::nodes::{Gate, ReportHandle, WindowTvf, has_windows, window_bound};
use super::plan::TimeRange;
use super::prefilter::{Demand, demands_below};
use super::require::is_require;
use super::tables::SlotTable;
use crate::operators::{
    ColumnPath, EqualityTest, GateKind, GateReport, LookupTable, ORIGIN_COLUMN, Operator, Slot, SlotSource, StageInput,
    TIME_COLUMN, WATERMARK_COLUMN, WEIGHT_COLUMN,
};

/// Columns that are never shown.
pub(crate) const HIDDEN: [&str; 4] = [WATERMARK_COLUMN, TIME_COLUMN, ORIGIN_COLUMN, WEIGHT_COLUMN];

/// Whether the plan is for epochs or for everything at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Stream,
    Batch,
}

/// What is known of the rows of a sub-plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The same rows whenever it is read: VALUES, or a reference table.
    Still,
    /// Rows that are final. Of the windows named, all rows come in one epoch: they are closed.
    Append { closed: BTreeSet<usize> },
    /// Rows that replace earlier ones.
    Update { deltas: bool },
}

/// A sub-plan without state, and what feeds it.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) plan: LogicalPlan,
    pub(crate) inputs: Vec<StageInput>,
    pub(crate) kind: Kind,
}

/// A table as the compiler needs it.
#[derive(Debug, Clone)]
pub(crate) struct TableInput {
    /// Name in plans.
    pub(crate) name: String,
    /// Number of declared columns; hidden ones follow in the schema.
    pub(crate) declared: usize,
    /// All columns that an epoch's rows have.
    pub(crate) schema: datafusion::arrow::datatypes::SchemaRef,
    /// Whether it may stand on the still side of a join.
    pub(crate) can_be_reference: bool,
    /// The table, if rows are looked up in it.
    pub(crate) lookup: Option<Arc<LookupTable>>,
}

/// Makes the table that a batch scans, by index among the tables.
pub(crate) type Provider<'a> = &'a (dyn Fn(usize) -> crate::contracts::Result<Arc<dyn TableProvider>> + Sync);

/// Compiles one query.
pub(crate) struct Compiler<'a> {
    pub(crate) mode: Mode,
    pub(crate) tables: &'a [TableInput],
    pub(crate) partitions: usize,
    pub(crate) state: &'a datafusion::execution::session_state::SessionState,
    pub(crate) bare: &'a datafusion::execution::session_state::SessionState,
    pub(crate) ttl_ms: Option<i64>,
    /// `table.local-time-zone`.
    pub(crate) zone: chrono_tz::Tz,
    pub(crate) report: Arc<GateReport>,
    pub(crate) gates: Vec<GateKind>,
    pub(crate) operators: Vec<Operator>,
    /// The window whose panes are shared by the aggregation above what is compiled. It is said for each use: a view, or a CTE, stands in
    /// a plan as often as it is named, under one number, and others may need each row in each window.
    pub(crate) paned: Option<usize>,
    /// Windows whose panes some aggregation of the query shares.
    pub(crate) paned_before: BTreeSet<usize>,
    /// Reference tables in use, by their index in `tables`.
    pub(crate) references: Vec<usize>,
    /// Tables that are looked up, by their index in `tables`: one entry for each join.
    pub(crate) lookups: Vec<usize>,
    /// What explanations say of each operator.
    pub(crate) notes: Vec<String>,
    /// What is likely to surprise: state that is kept for ever, results that depend on arrival.
    pub(crate) warnings: Vec<String>,
    /// Source tables that a batch scans.
    pub(crate) scanned: BTreeSet<usize>,
    /// For a batch: makes what is scanned in place of a source table.
    pub(crate) provider: Option<Provider<'a>>,
    /// What filters above ask of each row of the node that is compiled next.
    pub(crate) demands: Vec<Demand>,
    /// Number of the demand that the last scan has taken upon itself: its slot gives only rows that meet it.
    pub(crate) met: Option<usize>,
    /// Numbers of demands that have been given out.
    pub(crate) demanded: usize,
    /// The event time of a batch.
    pub(crate) range: TimeRange,
    /// Why a batch cannot be computed over a stretch of event time.
    pub(crate) needs_all: Option<&'static str>,
}

impl Compiler<'_> {
    /// Compiles `plan`. With `deltas`, an update stream must say what it withdraws, because something
    /// above may turn an update into a removal.
    pub(crate) async fn compile(&mut self, plan: &LogicalPlan, deltas: bool) -> Result<Piece> {
        refuse_subqueries(plan)?;
        self.demands = demands_below(plan, std::mem::take(&mut self.demands), &mut self.demanded);
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan, false),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                Ok(Piece { plan: plan.clone(), inputs: vec![], kind: Kind::Still })
            }
            LogicalPlan::Projection(projection) => {
                let piece = Box::pin(self.compile(&projection.input, deltas)).await?;
                let mut exprs = projection.expr.clone();
                exprs.extend(hidden_columns(&piece.plan));
                let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(piece.plan))?);
                Ok(Piece { plan, ..piece })
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let piece = Box::pin(self.compile(&alias.input, deltas)).await?;
                let plan = SubqueryAlias::try_new(Arc::new(piece.plan), alias.alias.clone())?;
                Ok(Piece { plan: LogicalPlan::SubqueryAlias(plan), ..piece })
            }
            LogicalPlan::Filter(filter) => {
                let own: Vec<usize> = self.demands.iter().filter(|d| d.conjunct.is_some()).map(|d| d.number).collect();
                let conjuncts: Vec<_> = self.demands.iter_mut().filter_map(|d| d.conjunct.take()).collect();
                self.met = None;
                let piece = Box::pin(self.compile(&filter.input, true)).await?;
                let met = self.met.and_then(|met| own.iter().position(|number| *number == met));
                self.filter(filter, piece, met.map(|at| &conjuncts[at]))
            }
            LogicalPlan::Extension(Extension { node }) if node.as_any().is::<WindowTvf>() => {
                let Some(tvf) = node.as_any().downcast_ref::<WindowTvf>() else { return unsupported(plan) };
                let piece = Box::pin(self.compile(&tvf.input, deltas)).await?;
                if let Kind::Update { .. } = piece.kind {
                    return Err(PlanError::new("a window cannot be made of an update stream")
                        .hint("window the rows first, then aggregate")
                        .into());
                }
                let is_paned = self.paned == Some(tvf.number);
                let form = if is_paned { WindowForm::Panes } else { WindowForm::Expanded };
                // One that reaches over the beginning is not there for those that are made of it.
                if self.range.start_ms.is_some() && has_windows(&tvf.input) {
                    self.needs_all = Some("its windows are made of others, which may begin before --start");
                }
                Ok(Piece { plan: whole_windows(lower(tvf, piece.plan, form)?, self.range)?, ..piece })
            }
            LogicalPlan::Unnest(unnest) => {
                let piece = Box::pin(self.compile(&unnest.input, true)).await?;
                let columns = unnest.exec_columns.clone();
                let plan = datafusion::logical_expr::LogicalPlanBuilder::new(piece.plan)
                    .unnest_columns_with_options(columns, unnest.options.clone())?
                    .build()?;
                Ok(Piece { plan, ..piece })
            }
            LogicalPlan::Union(union) => self.union(union, deltas).await,
            LogicalPlan::Join(join) => self.join(join, deltas).await,
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate, deltas).await,
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input, deltas).await,
            LogicalPlan::Window(window) => self.window(window, plan).await,
            LogicalPlan::Sort(_) => Err(PlanError::new("ORDER BY on a stream is not supported")
                .word("ORDER")
                .hint("a stream has no end to sort; for the first N of each window use ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY …)")
                .into()),
            LogicalPlan::Limit(_) => Err(PlanError::new("LIMIT on a stream is not supported")
                .word("LIMIT")
                .hint("for the first N of each window use ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY …)")
                .into()),
            other => unsupported(other),
        }
    }

    /// A leaf with a slot of its own, with all hidden columns that the table has.
    fn scan(&mut self, scan: &TableScan, as_reference: bool) -> Result<Piece> {
        let name = scan.table_name.table();
        let Some(index) = self.tables.iter().position(|t| t.name == name) else {
            return Err(PlanError::new(format!("table '{name}' not found")).word(name).into());
        };
        let table = &self.tables[index];
        if let Some(looked_up) = &table.lookup {
            return Err(super::lookup::only_looked_up(looked_up.name()).into());
        }
        let (slot, source, kind) = if as_reference {
            let place = self.references.iter().position(|r| *r == index).unwrap_or_else(|| {
                self.references.push(index);
                self.references.len() - 1
            });
            let own: Vec<usize> = (0..table.declared).collect();
            (Slot::reference(Arc::new(table.schema.project(&own)?)), SlotSource::Reference(place), Kind::Still)
        } else {
            let demands = std::mem::take(&mut self.demands).into_iter().filter(|_| self.mode == Mode::Stream);
            let mut tests = demands.filter_map(|demand| {
                let path = ColumnPath::find(&table.schema, &demand.path)?;
                Some((demand.number, EqualityTest::try_new(&table.schema, path, &demand.text)?))
            });
            let (met, test) = tests.next().unzip();
            self.met = met;
            let slot = Slot::tested(Arc::clone(&table.schema), self.partitions, test);
            (slot, SlotSource::Table(index), Kind::Append { closed: BTreeSet::new() })
        };
        let mut columns: Vec<usize> = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..table.declared).collect(),
        };
        if !as_reference {
            columns.extend(table.declared..table.schema.fields().len());
        }
        if let Some(make) = self.provider.filter(|_| !as_reference) {
            self.scanned.insert(index);
            let source = provider_as_source(make(index).map_err(outward)?);
            let plan = TableScanBuilder::new(scan.table_name.clone(), source).with_projection(Some(columns)).build()?;
            return Ok(Piece { plan: LogicalPlan::TableScan(plan), inputs: vec![], kind });
        }
        let provider = provider_as_source(Arc::new(SlotTable { slot: Arc::clone(&slot) }));
        let plan = TableScanBuilder::new(scan.table_name.clone(), provider).with_projection(Some(columns)).build()?;
        Ok(Piece { plan: LogicalPlan::TableScan(plan), inputs: vec![StageInput { slot, source }], kind })
    }

    /// `met` is the condition that all rows of the piece meet already.
    fn filter(&mut self, filter: &Filter, piece: Piece, met: Option<&Expr>) -> Result<Piece> {
        let (mut requires, mut rest) = (Vec::new(), Vec::new());
        for conjunct in split_conjunction_owned(filter.predicate.clone()) {
            match is_require(&conjunct)? {
                Some((condition, reason)) => requires.push((condition, reason)),
                None if met == Some(&conjunct) => {}
                None => rest.push(conjunct),
            }
        }
        let mut plan = piece.plan;
        if let Some(predicate) = datafusion::logical_expr::utils::conjunction(rest) {
            plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?);
        }
        for (condition, reason) in requires {
            if let Kind::Update { .. } = piece.kind {
                return Err(PlanError::new(
                    "REQUIRE must stand in the WHERE of a query over rows, not over an update stream",
                )
                .word("REQUIRE")
                .into());
            }
            plan = self.require(plan, condition, reason)?;
        }
        Ok(Piece { plan, ..piece })
    }

    pub(crate) fn gate(&mut self, input: LogicalPlan, predicate: Expr, kind: GateKind) -> LogicalPlan {
        let number = self.gates.len();
        self.gates.push(kind.clone());
        Gate { input, predicate, kind, number, report: ReportHandle(Arc::clone(&self.report)) }.into_plan()
    }

    async fn join(&mut self, join: &Join, _deltas: bool) -> Result<Piece> {
        if let Some(piece) = self.lookup_join(join).await? {
            return Ok(piece);
        }
        if matches!(join.join_type, JoinType::LeftAnti | JoinType::LeftSemi) {
            let word = if join.join_type == JoinType::LeftAnti { "EXCEPT" } else { "INTERSECT" };
            return Err(PlanError::new(format!("{word} is not supported on a stream yet")).word(word).into());
        }
        let (left_still, right_still) = (self.can_be_still(&join.left), self.can_be_still(&join.right));
        let (stream_is_left, still) = match (left_still, right_still) {
            (_, true) => (true, &join.right),
            (true, false) => (false, &join.left),
            (false, false) => {
                return Err(PlanError::new("a join of two streams is not supported yet")
                    .word("JOIN")
                    .hint("one side must be a reference table: 'filesystem' without a WATERMARK")
                    .into());
            }
        };
        let allowed = match join.join_type {
            JoinType::Inner => true,
            JoinType::Left => stream_is_left,
            JoinType::Right => !stream_is_left,
            _ => false,
        };
        if !allowed {
            return Err(PlanError::new(format!("a {} join with a reference table is not supported", join.join_type))
                .word("JOIN")
                .hint("INNER JOIN, or an outer join that keeps the rows of the stream")
                .into());
        }
        let still = self.still(still)?;
        let stream = if stream_is_left { &join.left } else { &join.right };
        let stream = Box::pin(self.compile(stream, true)).await?;
        if let Kind::Update { .. } = stream.kind {
            return Err(PlanError::new("a join of an update stream with a reference table is not supported yet")
                .word("JOIN")
                .hint("join first, then aggregate")
                .into());
        }
        let mut inputs = stream.inputs;
        inputs.extend(still.inputs);
        let (left, right) = if stream_is_left { (stream.plan, still.plan) } else { (still.plan, stream.plan) };
        let join = Join::try_new(
            Arc::new(left),
            Arc::new(right),
            join.on.clone(),
            join.filter.clone(),
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        Ok(Piece { plan: LogicalPlan::Join(join), inputs, kind: stream.kind })
    }

    fn can_be_still(&self, plan: &LogicalPlan) -> bool {
        let mut still = true;
        let _ = plan.apply(|node| {
            still &= match node {
                LogicalPlan::TableScan(scan) => {
                    let name = scan.table_name.table();
                    self.tables.iter().any(|t| t.name == name && t.can_be_reference)
                }
                LogicalPlan::Extension(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => false,
                _ => true,
            };
            Ok(TreeNodeRecursion::Continue)
        });
        still
    }

    /// The still side of a join: any plan over reference tables, as it is.
    fn still(&mut self, plan: &LogicalPlan) -> Result<Piece> {
        let mut inputs = Vec::new();
        let plan = plan.clone().transform_up(|node| {
            refuse_subqueries(&node)?;
            match &node {
                LogicalPlan::TableScan(scan) => {
                    let piece = self.scan(scan, true)?;
                    inputs.extend(piece.inputs);
                    Ok(Transformed::yes(piece.plan))
                }
                _ => Ok(Transformed::no(node)),
            }
        })?;
        Ok(Piece { plan: plan.data, inputs, kind: Kind::Still })
    }
}

/// Hidden columns of a plan's output, as expressions.
pub(crate) fn hidden_columns(plan: &LogicalPlan) -> Vec<Expr> {
    HIDDEN.iter().filter(|name| has_hidden(plan, name)).map(|name| column(plan, name)).collect()
}

pub(crate) fn has_hidden(plan: &LogicalPlan, name: &str) -> bool {
    plan.schema().index_of_column_by_name(None, name).is_some()
}

/// A hidden column with the qualifier that it has in the plan.
pub(crate) fn column(plan: &LogicalPlan, name: &str) -> Expr {
    let found = plan.schema().iter().find(|(_, field)| field.name() == name);
    let qualifier = found.and_then(|(qualifier, _)| qualifier.cloned());
    Expr::Column(Column::new(qualifier, name))
}

/// Columns that the query itself has.
pub(crate) fn visible_columns(plan: &LogicalPlan) -> Vec<Expr> {
    let visible = plan.schema().iter().filter(|(_, field)| !HIDDEN.contains(&field.name().as_str()));
    visible.map(|(qualifier, field)| Expr::Column(Column::new(qualifier.cloned(), field.name()))).collect()
}

/// Window bounds among columns: kind, window number and the column's index.
pub(crate) fn bounds_of(plan: &LogicalPlan) -> Vec<(String, usize, usize)> {
    let fields = plan.schema().fields().iter().enumerate();
    fields.filter_map(|(i, f)| window_bound(f).map(|(kind, number)| (kind.to_owned(), number, i))).collect()
}

fn refuse_subqueries(plan: &LogicalPlan) -> Result<()> {
    for expr in plan.expressions() {
        let mut found = None;
        let _ = expr.apply(|e| {
            found = match e {
                Expr::Exists(_) => Some("EXISTS"),
                Expr::InSubquery(_) => Some("IN"),
                // The outer query begins the same way: its condition is nearer.
                Expr::ScalarSubquery(_) => Some("WHERE"),
                _ => found,
            };
            Ok(TreeNodeRecursion::Continue)
        });
        if let Some(word) = found {
            return Err(PlanError::new("a subquery inside an expression is not supported yet")
                .word(word)
                .hint("join with a reference table instead")
                .into());
        }
    }
    Ok(())
}

fn unsupported<T>(plan: &LogicalPlan) -> Result<T> {
    let (what, word) = match plan {
        LogicalPlan::Distinct(_) => ("DISTINCT ON".to_owned(), "DISTINCT"),
        LogicalPlan::RecursiveQuery(_) => ("WITH RECURSIVE".to_owned(), "RECURSIVE"),
        LogicalPlan::Subquery(_) => ("a subquery in this place".to_owned(), "SELECT"),
        other => (format!("{}", other.display()), "SELECT"),
    };
    Err(PlanError::new(format!("{what} is not supported on a stream")).word(word).into())
}
