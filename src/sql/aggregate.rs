//! Cutting a plan at its aggregations and window functions.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, ExprSchema, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection, Window};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use super::arguments::{Arguments, check_accumulators, computable};
use super::compile::{Compiler, Kind, Mode, Piece, column, has_hidden, visible_columns};
use super::distinct::{fold_zeros, is_part_of_a_float_sum, two_levels};
use super::errors::PlanError;
use super::grouping_sets::check_bounds;
use super::joins::keep_references_left;
use super::lower::call;
use super::nodes::{OperatorRows, find_tvf, window_bound};
use super::normal::{normal_form, text_of};
use super::panes::{bounds_only_pass, bounds_would_pass};
use super::union::is_bound;
use crate::operators::{
    AggregateParts, CountExec, Emit, GateKind, NotLate, Operator, OperatorKind, RunningAggregate, Slot, SlotSource,
    Stage, StageInput, TIME_COLUMN, TimeToLive, WATERMARK_COLUMN, WEIGHT_COLUMN, WindowAggregate, WindowBuffer,
    WindowColumns, WindowKind, WindowSpec,
};

/// The window that an aggregation groups by.
#[derive(Debug, Clone)]
struct GroupWindow {
    number: usize,
    /// Its rows stand for panes, which its windows share.
    paned: bool,
    start: Option<String>,
    end: Option<String>,
    time: Option<String>,
}

impl GroupWindow {
    /// Whether its rows can stand for panes, as far as the keys are concerned.
    fn may_share(&self, spec: &WindowSpec) -> bool {
        spec.shares_panes() && self.start.is_some() && self.end.is_some()
    }
}

impl Compiler<'_> {
    pub(crate) async fn aggregate(&mut self, aggregate: &Aggregate, deltas: bool) -> Result<Piece> {
        let computable = computable(aggregate, Arc::clone(self.state.config_options()))?;
        let aggregate = computable.as_ref();
        let mut window = group_window(aggregate)?;
        self.warnings.extend(order_warnings(aggregate));
        // A running DISTINCT keeps DataFusion's sets: its inner level would be an update stream.
        if (window.is_some() || self.mode == Mode::Batch)
            && let Some(rewritten) = two_levels(aggregate)?
        {
            return Box::pin(self.compile(&rewritten, deltas)).await;
        }
        let tvf = window.as_ref().and_then(|w| find_tvf(&aggregate.input, w.number));
        if let (Some(window), Some(tvf), Mode::Stream) = (&mut window, &tvf, self.mode) {
            window.paned = window.may_share(&tvf.spec) && bounds_only_pass(aggregate, window.number);
        }
        let paned = window.as_ref().filter(|window| window.paned).map(|window| window.number);
        self.paned_before.extend(paned);
        let above = std::mem::replace(&mut self.paned, paned);
        let piece = Box::pin(self.compile(&aggregate.input, true)).await?;
        self.paned = above;
        let closed = match &piece.kind {
            // In a batch every value is final, also that of the lower of two levels.
            Kind::Update { .. } if self.mode == Mode::Batch => {
                return self.rebuilt(aggregate, piece, Kind::Update { deltas: false });
            }
            Kind::Update { .. } => {
                let what = "an aggregation over an update stream is not supported yet";
                return Err(PlanError::new(what)
                    .word("GROUP")
                    .hint("aggregate once, with all keys that you need")
                    .into());
            }
            Kind::Still => return self.rebuilt(aggregate, piece, Kind::Still),
            Kind::Append { closed } => closed.clone(),
        };
        if let Some(window) = &window {
            check_bounds(aggregate, window.number)?;
            check_closed(window, tvf.as_ref().map(|tvf| tvf.spec.kind), &closed)?;
        }
        match window {
            // All rows of these windows are here: an ordinary aggregation in the stage.
            Some(w) if closed.contains(&w.number) => {
                let kind = piece.kind.clone();
                self.rebuilt(aggregate, piece, kind)
            }
            Some(window) => self.windowed(aggregate, piece, &window, tvf.as_ref().map(|t| t.spec)).await,
            None => self.running(aggregate, piece, deltas).await,
        }
    }

    fn rebuilt(&mut self, aggregate: &Aggregate, piece: Piece, kind: Kind) -> Result<Piece> {
        let aggr_expr = fold_zeros(&aggregate.aggr_expr, piece.plan.schema())?;
        let rebuilt = Aggregate::try_new(Arc::new(piece.plan), aggregate.group_expr.clone(), aggr_expr)?;
        Ok(Piece { plan: LogicalPlan::Aggregate(rebuilt), inputs: piece.inputs, kind })
    }

    /// Rows whose window their own split had passed already do not count ("Decisions", 7).
    fn late_gate(&mut self, piece: Piece, window: &GroupWindow, spec: Option<WindowSpec>) -> Piece {
        if !has_hidden(&piece.plan, WATERMARK_COLUMN) {
            return piece;
        }
        let end = match (&window.end, &window.start, spec.map(|s| s.kind)) {
            (Some(end), _, _) if window.paned => {
                // The end is that of the first window still open, and NULL when there is none.
                let predicate = named(&piece.plan, end).is_not_null();
                return Piece { plan: self.gate(piece.plan, predicate, GateKind::Late), ..piece };
            }
            (Some(end), _, _) => named(&piece.plan, end),
            (None, Some(start), Some(WindowKind::Tumble { size_ms } | WindowKind::Hop { size_ms, .. })) => {
                let spec = WindowSpec { kind: WindowKind::Tumble { size_ms }, offset_ms: 0 };
                call(crate::operators::WindowBound::plus(spec, size_ms), vec![named(&piece.plan, start)])
            }
            _ => return piece,
        };
        let predicate = call(NotLate::window(), vec![end, column(&piece.plan, WATERMARK_COLUMN)]);
        Piece { plan: self.gate(piece.plan, predicate, GateKind::Late), ..piece }
    }

    async fn windowed(
        &mut self,
        aggregate: &Aggregate,
        piece: Piece,
        window: &GroupWindow,
        spec: Option<WindowSpec>,
    ) -> Result<Piece> {
        if window.end.is_none()
            && !matches!(spec.map(|s| s.kind), Some(WindowKind::Tumble { .. } | WindowKind::Hop { .. }))
        {
            let error = PlanError::new("a window must be grouped by window_start and window_end");
            return Err(error.word("GROUP").hint("GROUP BY window_start, window_end, …").into());
        }
        let piece = self.late_gate(piece, window, spec);
        let kind = Kind::Append { closed: BTreeSet::from([window.number]) };
        if self.mode == Mode::Batch {
            return self.rebuilt(aggregate, piece, kind);
        }
        let (parts, stage) = self.take_apart(aggregate, piece).await?;
        let index = |name: &Option<String>| match name {
            Some(name) => parts.state_schema().index_of(name).map(Some),
            None => Ok(None),
        };
        let columns = WindowColumns {
            start: index(&window.start)?,
            end: index(&window.end)?,
            time: index(&window.time)?,
            size_ms: match spec.map(|s| s.kind) {
                Some(WindowKind::Tumble { size_ms } | WindowKind::Hop { size_ms, .. }) => Some(size_ms),
                _ => None,
            },
        };
        let shared = spec.filter(|_| window.paned);
        let note = match spec {
            Some(spec) => format!("window aggregate, {}", describe(&spec, shared.is_some())),
            None => "window aggregate".to_owned(),
        };
        let normal = self.normal_aggregate(aggregate)?;
        let could_share = spec.is_some_and(|spec| window.may_share(&spec)) && bounds_would_pass(&normal, window.number);
        let print = format!("{}{}", self.fingerprint(aggregate, &normal), self.in_each_window(window, could_share));
        let window = WindowAggregate::try_new(Arc::new(parts), columns, shared).map_err(outward)?;
        let operator = OperatorKind::Window(Box::new(window));
        self.cut(aggregate.schema.as_ref().clone(), stage, operator, kind, note, &print)
    }

    async fn running(&mut self, aggregate: &Aggregate, piece: Piece, deltas: bool) -> Result<Piece> {
        let timed = has_hidden(&piece.plan, WATERMARK_COLUMN) && has_hidden(&piece.plan, TIME_COLUMN);
        let ttl_ms = self.ttl_ms.filter(|_| timed);
        if ttl_ms.is_none() && !aggregate.group_expr.is_empty() {
            let why = match self.ttl_ms {
                None => "no time-to-live is set: SET 'table.exec.state.ttl' = '3 d'",
                Some(_) if is_over_results(&aggregate.input) => {
                    "its rows are results of others, and 'table.exec.state.ttl' goes by the time of a table's own rows: group by a window"
                }
                Some(_) => "its table has no time for 'table.exec.state.ttl': declare a WATERMARK",
            };
            self.warnings.push(format!("a GROUP BY without a window keeps each key for ever, since {why}"));
        }
        let piece = match ttl_ms {
            Some(ttl_ms) => {
                let predicate = call(
                    NotLate::time_to_live(ttl_ms),
                    vec![column(&piece.plan, TIME_COLUMN), column(&piece.plan, WATERMARK_COLUMN)],
                );
                Piece { plan: self.gate(piece.plan, predicate, GateKind::Late), ..piece }
            }
            None => piece,
        };
        let is_distinct = aggregate.aggr_expr.is_empty();
        let kind = match is_distinct {
            true => Kind::Append { closed: BTreeSet::new() },
            false => Kind::Update { deltas },
        };
        if self.mode == Mode::Batch {
            self.needs_all = Some("it has a GROUP BY or DISTINCT without a window, which begins with the first row");
            // In a batch every value is final and nothing is ever withdrawn.
            return self.rebuilt(aggregate, piece, if is_distinct { kind } else { Kind::Update { deltas: false } });
        }
        let mut aggr_expr = aggregate.aggr_expr.clone();
        if ttl_ms.is_some() {
            aggr_expr.push(max(column(&piece.plan, TIME_COLUMN)).alias("__tm_last_seen"));
        }
        let timed = Aggregate::try_new(Arc::new(piece.plan.clone()), aggregate.group_expr.clone(), aggr_expr)?;
        let mut schema = timed.schema.as_ref().clone();
        let (parts, stage) = self.take_apart(&timed, piece).await?;
        let ttl = ttl_ms.map(|ttl_ms| TimeToLive { ttl_ms, last_seen: parts.state_schema().fields().len() - 1 });
        let emit = match (is_distinct, deltas) {
            (true, _) => Emit::NewKeys,
            (false, true) => Emit::Deltas,
            (false, false) => Emit::Upserts,
        };
        let keys = parts.key_columns();
        let running = RunningAggregate::try_new(Arc::new(parts), emit, ttl).map_err(outward)?;
        if emit == Emit::Deltas {
            let weight = datafusion::arrow::datatypes::Field::new(WEIGHT_COLUMN, DataType::Int8, false);
            schema = schema.join(&DFSchema::from_unqualified_fields(vec![weight].into(), Default::default())?)?;
        }
        let note = match (is_distinct, ttl) {
            (true, _) => "distinct rows".to_owned(),
            (false, Some(ttl)) => format!(
                "running aggregate, {keys} key column(s), kept for {} after its last row; rows are late after {}",
                duration(ttl.kept_ms()),
                duration(ttl.ttl_ms)
            ),
            (false, None) => format!("running aggregate, {keys} key column(s), kept for ever"),
        };
        let operator = OperatorKind::Running(Box::new(running));
        let print = self.fingerprint(aggregate, &self.normal_aggregate(aggregate)?);
        self.cut(schema, stage, operator, kind, note, &print)
    }

    /// `SELECT DISTINCT`: an aggregation without aggregates.
    pub(crate) async fn distinct(&mut self, input: &Arc<LogicalPlan>, deltas: bool) -> Result<Piece> {
        let groups = visible_columns(input);
        let aggregate = Aggregate::try_new(Arc::clone(input), groups, vec![])?;
        Box::pin(self.aggregate(&aggregate, deltas)).await
    }

    /// `ROW_NUMBER() OVER (PARTITION BY window_start, window_end …)` and its kin.
    pub(crate) async fn window(&mut self, window: &Window, plan: &LogicalPlan) -> Result<Piece> {
        let above = self.paned.take();
        let piece = Box::pin(self.compile(&window.input, true)).await?;
        self.paned = above;
        let refuse = |what: &str, hint: &str| Err(PlanError::new(what).word("OVER").hint(hint).into());
        let closed = match &piece.kind {
            Kind::Append { closed } => closed.clone(),
            Kind::Still => BTreeSet::new(),
            Kind::Update { .. } => {
                return refuse(
                    "a ranking of an update stream is not supported yet",
                    "rank the rows of closed windows: PARTITION BY window_start, window_end",
                );
            }
        };
        if window.window_expr.iter().any(|expr| partition_by(expr).is_none()) {
            return unsupported_window(plan);
        }
        let Some((number, end)) = closing_window(window) else {
            return refuse(
                "an OVER that is not partitioned by a window is not supported yet",
                "PARTITION BY window_start, window_end",
            );
        };
        let rebuild = |input: LogicalPlan| -> Result<LogicalPlan> {
            Ok(LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(input))?))
        };
        if closed.contains(&number) {
            return Ok(Piece { plan: rebuild(piece.plan)?, ..piece });
        }
        // Rows of open windows: they are held until the window closes.
        let group = GroupWindow { number, paned: false, start: None, end: Some(end.clone()), time: None };
        let piece = self.late_gate(piece, &group, None);
        let kind = Kind::Append { closed: BTreeSet::from([number]) };
        let plan = LogicalPlan::Projection(Projection::try_new(visible_columns(&piece.plan), Arc::new(piece.plan))?);
        let piece = Piece { plan, ..piece };
        if self.mode == Mode::Batch {
            return Ok(Piece { plan: rebuild(piece.plan)?, inputs: piece.inputs, kind });
        }
        let schema = piece.plan.schema().as_ref().clone();
        let end_column = schema.index_of_column_by_name(None, &end).unwrap_or_default();
        let stage = self.stage(&piece).await?;
        // Of what the query says: what it has become here has windows and conditions in other places, or in none that is shown.
        let own = self.in_each_window(&group, false);
        let print = format!("rows {} of\n{}{own}", piece.plan.schema(), self.normal(&window.input)?);
        let operator = OperatorKind::Buffer(Box::new(WindowBuffer::new(end_column)));
        let rows = self.cut(schema, stage, operator, kind, "rows held until their window closes".into(), &print)?;
        Ok(Piece { plan: rebuild(rows.plan)?, ..rows })
    }

    fn normal_aggregate(&self, aggregate: &Aggregate) -> Result<LogicalPlan> {
        normal_form(self.state, &LogicalPlan::Aggregate(aggregate.clone()))
    }

    /// What a snapshot must agree with: the aggregation, which has this normal form, and the types it works on, not what is above it.
    fn fingerprint(&self, aggregate: &Aggregate, normal: &LogicalPlan) -> String {
        let list = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
        let types = aggregate.schema.fields().iter().enumerate().map(|(index, field)| {
            let call = index.checked_sub(groups).map(|index| &aggregate.aggr_expr[index]);
            // They were FLOATs once, and their states are what they were.
            let is_part = call.is_some_and(|call| is_part_of_a_float_sum(call, aggregate.input.schema()));
            if is_part { DataType::Float32 } else { field.data_type().clone() }.to_string()
        });
        format!(
            "group by {} aggregate {} types {} over\n{}",
            list(&aggregate.group_expr),
            list(&aggregate.aggr_expr),
            types.collect::<Vec<_>>().join(", "),
            self.known_as(normal)
        )
    }

    /// Ends the fingerprint of an operator that has each row in each window, where the same text can be that of one with the rows of panes: its
    /// normal form could share them (what it has beside that keeps it from it, such as a column that nobody selects, is not in the text), or it
    /// stands behind one of the query that shares panes of that window, and earlier versions gave both the rows of these.
    fn in_each_window(&self, window: &GroupWindow, could_share: bool) -> &'static str {
        let may_be_taken_for_panes = could_share || self.paned_before.contains(&window.number);
        if !window.paned && may_be_taken_for_panes { "\nwith each row in each of its windows" } else { "" }
    }

    /// A plan in its normal form, as text. It has only what the query itself uses: other queries of the job, for which
    /// tables have more columns, must not show. Another zone than UTC stands below it: what functions of time answer depends on it.
    pub(crate) fn normal(&self, plan: &LogicalPlan) -> Result<String> {
        Ok(self.known_as(&normal_form(self.state, plan)?))
    }

    /// The text of a normal form.
    pub(crate) fn known_as(&self, normal: &LogicalPlan) -> String {
        self.in_zone(text_of(normal))
    }

    /// A text of what depends on the zone.
    pub(crate) fn in_zone(&self, text: String) -> String {
        if self.zone == chrono_tz::UTC { text } else { format!("{text}\nin the zone {}", self.zone) }
    }

    /// Puts an operator in place and returns the leaf of the stage above it.
    fn cut(
        &mut self,
        schema: DFSchema,
        input: Stage,
        kind: OperatorKind,
        piece_kind: Kind,
        note: String,
        fingerprint: &str,
    ) -> Result<Piece> {
        let operator = self.operators.len();
        let arrow = Arc::clone(schema.inner());
        let slot = Slot::stream(Arc::clone(&arrow), 1);
        self.operators.push(Operator {
            name: format!("{operator}"),
            fingerprint: fingerprint.to_owned(),
            input,
            kind,
            output_schema: arrow,
        });
        self.notes.push(note);
        let rows = OperatorRows { operator, schema: Arc::new(schema), slot: Arc::clone(&slot) };
        let inputs = vec![StageInput { slot, source: SlotSource::Operator(operator) }];
        Ok(Piece { plan: rows.into_plan(), inputs, kind: piece_kind })
    }

    /// The physical plan of a piece.
    pub(crate) async fn stage(&self, piece: &Piece) -> Result<Stage> {
        let plan = self.state.create_physical_plan(&piece.plan).await?;
        check_accumulators(&plan)?;
        // Everything at once needs no order of sides: each input is read once.
        let mut plan = if self.mode == Mode::Batch { plan } else { keep_references_left(plan)? };
        if piece.inputs.iter().any(|input| matches!(input.source, SlotSource::Table(_))) {
            plan = Arc::new(CountExec::new(plan, Arc::clone(&self.report)));
        }
        Ok(Stage { plan, inputs: piece.inputs.clone() })
    }

    /// Partial, merging and final plans of an aggregation, and the stage that makes partial states.
    async fn take_apart(&self, aggregate: &Aggregate, piece: Piece) -> Result<(AggregateParts, Stage)> {
        // Keys and arguments are computed in the stage, where the optimiser sees them and where only what
        // is read is kept; the aggregation itself works on plain columns.
        let mut stage = Arguments::default();
        let group_expr = stage.lift_all(&aggregate.group_expr)?;
        let aggr_expr = stage.lift_all(&fold_zeros(&aggregate.aggr_expr, piece.plan.schema())?)?;
        let columns = stage.into_columns(piece.plan.schema());
        let plan = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(piece.plan))?);
        let schema = Arc::clone(plan.schema());
        let stage = self.stage(&Piece { plan, inputs: piece.inputs, kind: Kind::Still }).await?;

        let slot = Slot::stream(Arc::clone(schema.inner()), 1);
        let leaf = OperatorRows { operator: usize::MAX, schema, slot }.into_plan();
        let bare = Aggregate::try_new(Arc::new(leaf), group_expr, aggr_expr)?;
        let planner: &Arc<dyn QueryPlanner + Send + Sync> = self.bare.query_planner();
        let planned = planner.create_physical_plan(&LogicalPlan::Aggregate(bare), self.bare).await?;
        let Some(partial) = find_partial(&planned) else {
            return Err(DataFusionError::Internal("an aggregation was not planned as one".into()));
        };
        check_accumulators(&planned)?;
        let parts = AggregateParts::try_new(&partial, self.partitions).map_err(outward)?;
        let plan = parts.partial(stage.plan).map_err(outward)?;
        Ok((parts, Stage { plan, inputs: stage.inputs }))
    }
}

/// Carries an error of ours through DataFusion's result type.
pub(crate) fn outward(error: crate::contracts::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn find_partial(plan: &Arc<dyn ExecutionPlan>) -> Option<AggregateExec> {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && matches!(aggregate.mode(), AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned)
    {
        return Some(aggregate.clone());
    }
    plan.children().into_iter().find_map(find_partial)
}

fn named(plan: &LogicalPlan, name: &str) -> Expr {
    let found = plan.schema().iter().find(|(_, f)| f.name() == name && window_bound(f).is_some());
    Expr::Column(Column::new(found.and_then(|(q, _)| q.cloned()), name))
}

/// Aggregates whose result depends on the order in which rows arrive ("Decisions", 13).
fn order_warnings(aggregate: &Aggregate) -> Vec<String> {
    const BY_ARRIVAL: [&str; 6] = ["first_value", "last_value", "nth_value", "array_agg", "string_agg", "listagg"];
    let mut found = Vec::new();
    for expr in &aggregate.aggr_expr {
        let _ = expr.apply(|e| {
            if let Expr::AggregateFunction(function) = e
                && BY_ARRIVAL.contains(&function.func.name())
                && function.params.order_by.is_empty()
            {
                let name = function.func.name().to_uppercase();
                found.push(format!("the result of {name} depends on the order of arrival: write {name}(… ORDER BY …)"));
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    found
}

/// Group expressions, those of grouping sets once each.
pub(super) fn flat_groups(aggregate: &Aggregate) -> Vec<&Expr> {
    match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(set)] => set.distinct_expr(),
        groups => groups.iter().collect(),
    }
}

fn group_window(aggregate: &Aggregate) -> Result<Option<GroupWindow>> {
    let schema = aggregate.input.schema();
    let mut window: Option<GroupWindow> = None;
    for expr in flat_groups(aggregate) {
        let Expr::Column(column) = expr else { continue };
        let field = schema.field_from_column(column)?;
        let Some((kind, number)) = window_bound(field) else { continue };
        // Rows of another input of a union have a time there that never closes anything, and would be late for it.
        if !is_bound(&aggregate.input, column, kind) {
            continue;
        }
        let found = window.get_or_insert(GroupWindow { number, paned: false, start: None, end: None, time: None });
        if found.number != number {
            continue;
        }
        let name = Some(column.name.clone());
        match kind {
            "start" => found.start = name,
            "end" => found.end = name,
            _ => found.time = name,
        }
    }
    // window_time alone is a key like any other.
    Ok(window.filter(|w| w.start.is_some() || w.end.is_some()))
}

/// The windows of CUMULATE that have one start close in different epochs, so closed ones must be told apart by their end: else each epoch
/// would give a row of what it has. (Those of TUMBLE and HOP have one end for each start.)
fn check_closed(window: &GroupWindow, kind: Option<WindowKind>, closed: &BTreeSet<usize>) -> Result<()> {
    let has_end = window.end.is_some() || window.time.is_some();
    if has_end || !matches!(kind, Some(WindowKind::Cumulate { .. })) || !closed.contains(&window.number) {
        return Ok(());
    }
    let error = PlanError::new("closed windows of CUMULATE must be grouped by their end: many windows have one start");
    let start = window.start.as_deref().unwrap_or("window_start");
    Err(error
        .word(start)
        .hint("GROUP BY window_start, window_end, …; or use TUMBLE, whose windows have one end for each start")
        .into())
}

/// The window, by number and end, of which window functions need all rows: what all of them are partitioned by.
pub(super) fn closing_window(window: &Window) -> Option<(usize, String)> {
    let schema = window.input.schema();
    let ends = |expr: &Expr| -> Vec<(usize, String)> {
        let columns = partition_by(expr).into_iter().flatten().filter_map(|e| match e {
            Expr::Column(column) if is_bound(&window.input, column, "end") => schema.field_from_column(column).ok(),
            _ => None,
        });
        columns
            .filter_map(|f| window_bound(f).filter(|(k, _)| *k == "end").map(|(_, n)| (n, f.name().clone())))
            .collect()
    };
    let (first, others) = window.window_expr.split_first()?;
    ends(first).into_iter().find(|end| others.iter().all(|expr| ends(expr).contains(end)))
}

/// Whether rows of a plan are made by an operator.
fn is_over_results(plan: &LogicalPlan) -> bool {
    let made = |node: &LogicalPlan| {
        Ok(matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) | LogicalPlan::Window(_)))
    };
    plan.exists(made).unwrap_or(false)
}

fn partition_by(expr: &Expr) -> Option<&Vec<Expr>> {
    match expr {
        Expr::Alias(alias) => partition_by(&alias.expr),
        Expr::WindowFunction(function) => Some(&function.params.partition_by),
        _ => None,
    }
}

fn unsupported_window<T>(plan: &LogicalPlan) -> Result<T> {
    Err(PlanError::new(format!("{} is not supported on a stream", plan.display())).word("OVER").into())
}

pub(super) fn describe(spec: &WindowSpec, shared: bool) -> String {
    let shape = match spec.kind {
        WindowKind::Tumble { size_ms } => format!("TUMBLE {}", duration(size_ms)),
        WindowKind::Hop { slide_ms, size_ms } => format!("HOP {} every {}", duration(size_ms), duration(slide_ms)),
        WindowKind::Cumulate { step_ms, max_ms } => {
            format!("CUMULATE up to {} by {}", duration(max_ms), duration(step_ms))
        }
    };
    if shared { format!("{shape}, panes of {}", duration(spec.pane_ms())) } else { shape }
}

/// A length of time for people.
pub(crate) fn duration(ms: i64) -> String {
    match ms {
        _ if ms % 86_400_000 == 0 => format!("{} d", ms / 86_400_000),
        _ if ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        _ if ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        _ if ms % 1000 == 0 => format!("{} s", ms / 1000),
        _ => format!("{ms} ms"),
    }
}
