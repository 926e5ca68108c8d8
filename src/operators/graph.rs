//! One query as a graph: stage plans, the operators between them, and how an epoch runs through.
//!
//! ```text
//!   tables ──► stage ──► operator ──► stage ──► operator ──► root stage ──► sink
//!              (plan)    (state)      (plan)                 (plan)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;

use super::bisect::{FailedRow, Poison};
use super::compute::{Compute, failure, run_partitions};
use super::count::{leaves, multiplies};
use super::epoch_run::{EpochRun, last_readers, reader_of};
use super::event_time::TableStanding;
use super::gate::GateReport;
use super::groups::{grouped_by, is_distributive};
use super::operator_kind::OperatorKind;
use super::output::Output;
use super::restore_room::RestoreRoom;
use super::shared_rows::{EqualityTest, SharedRows};
use super::slot::Slot;
use super::stored_rows::{StoredRows, relabelled};
use crate::contracts::{Error, Result, Watermark};
use crate::state::{OperatorState, SpillFolder, StatePiece};

/// Whether the rows of a query are final or replace earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeMode {
    /// Rows are final.
    Append,
    /// A row replaces the earlier one of its key.
    Upsert,
    /// Rows carry a weight in the last column: +1 inserted, -1 withdrawn.
    Delta,
}

/// Where a stage's slot gets its rows from.
#[derive(Debug, Clone)]
pub enum SlotSource {
    /// The epoch's rows of a source table.
    Table(usize),
    /// The output of an operator of the same query.
    Operator(usize),
    /// A reference table.
    Reference(usize),
}

/// A slot of a stage and its source.
#[derive(Debug, Clone)]
pub struct StageInput {
    /// The slot.
    pub slot: Arc<Slot>,
    /// What fills it.
    pub source: SlotSource,
}

impl StageInput {
    /// Whether its rows are those of an epoch.
    pub(super) fn is_streamed(&self) -> bool {
        !matches!(self.source, SlotSource::Reference(_))
    }
}

/// A plan without state.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Its leaves.
    pub inputs: Vec<StageInput>,
}

/// An operator and the stage below it.
#[derive(Debug)]
pub struct Operator {
    /// What it is called in explanations and snapshots.
    pub name: String,
    /// Fingerprint of the plan below, so that saved state is not given to another query.
    pub fingerprint: String,
    /// Makes the rows (or partial states) that the operator takes.
    pub input: Stage,
    /// The state.
    pub kind: OperatorKind,
    /// Schema of the rows it gives.
    pub output_schema: SchemaRef,
}

/// Rows of a source table in an epoch.
#[derive(Debug, Default, Clone)]
pub struct TableRows {
    /// How many there are.
    pub rows: usize,
    all: Vec<Arc<SharedRows>>,
    /// Those that pass a test, for the queries that demand it.
    tested: Vec<(EqualityTest, Vec<Arc<SharedRows>>)>,
}

impl TableRows {
    /// The rows of `batches`, which queries are going to read under `tests`.
    pub fn new(batches: &[RecordBatch], tests: &[EqualityTest]) -> Self {
        let tested = |test: &EqualityTest| {
            let rows = batches.iter().map(|batch| SharedRows::tested(batch.clone(), test.clone()));
            (test.clone(), rows.collect())
        };
        Self {
            rows: batches.iter().map(RecordBatch::num_rows).sum(),
            all: batches.iter().cloned().map(SharedRows::all).collect(),
            tested: tests.iter().map(tested).collect(),
        }
    }

    /// The rows for a slot. Its plan does not ask again for what the test asks, so other rows would be wrong.
    pub(super) fn under(&self, test: Option<&EqualityTest>) -> Result<&[Arc<SharedRows>]> {
        let Some(test) = test else { return Ok(&self.all) };
        let found = self.tested.iter().find(|(own, _)| own == test);
        found.map(|(_, rows)| rows.as_slice()).ok_or_else(|| Error::internal("rows were not made ready for a test"))
    }
}

/// Rows and progress of an epoch, by source table.
#[derive(Debug)]
pub struct EpochInputs {
    /// Rows of each source table.
    pub tables: Vec<TableRows>,
    /// Watermark of each source table after the epoch.
    pub watermarks: Vec<Watermark>,
    /// What each says to others beside it, where some table is quiet; else nothing.
    pub standings: Vec<TableStanding>,
    /// Whether it is the end of the input: whatever the watermarks, every window closes.
    pub closes: bool,
    /// Rows of each reference table, where it was loaded or has changed since the last epoch.
    pub references: Vec<Option<RecordBatch>>,
}

/// What a query gives in an epoch.
#[derive(Debug, Default)]
pub struct QueryOutput {
    /// Rows for the sink.
    pub rows: Vec<StoredRows>,
    /// Rows of source tables that made the query fail, and were left out.
    pub failed: Vec<FailedRow>,
    /// The same of rows that come from no single record.
    pub failed_results: Vec<FailedRow>,
}

/// See the module's description.
#[derive(Debug)]
pub struct QueryGraph {
    /// Operators, each after those that feed it.
    pub operators: Vec<Operator>,
    /// What is above the last operator.
    pub root: Stage,
    /// How the sink must take the rows.
    pub mode: ChangeMode,
    /// What the gates refused.
    pub gates: Arc<GateReport>,
    /// The query reads no stream (VALUES): it runs once.
    pub still: bool,
    /// Whether an epoch has run through.
    pub started: bool,
    /// What the epoch has given and nobody has taken yet.
    pub pending: QueryOutput,
    /// What is done about rows that make it fail.
    pub poison: Poison,
}

impl QueryGraph {
    /// Lets windows be read out as the plans above them need it. Before there is any state.
    pub fn align(mut self) -> Result<Self> {
        for number in 0..self.operators.len() {
            let (below, above) = self.operators.split_at_mut(number + 1);
            if let OperatorKind::Window(window) = &mut below[number].kind
                && let Some((_, reader)) = reader_of(number, above, &mut self.root)
                && let Some(columns) = grouped_by(reader.plan())
            {
                window.keep_together(&columns)?;
            }
        }
        Ok(self)
    }

    /// Runs an epoch through.
    pub async fn process(&mut self, epoch: &EpochInputs, compute: &Compute) -> Result<QueryOutput> {
        let count = self.operators.len();
        let last = last_readers(&self.operators, &self.root);
        let mut run = EpochRun {
            epoch,
            compute,
            report: &self.gates,
            poison: self.poison,
            outputs: Vec::with_capacity(count),
            ready: (0..=count).map(|_| None).collect(),
            output: QueryOutput::default(),
        };
        for number in 0..count {
            let (below, above) = self.operators.split_at_mut(number + 1);
            let operator = &mut below[number];
            let time = run.time_of(&operator.input);
            let watermark = time.watermark;
            let closing = if epoch.closes { Watermark::MAX } else { watermark };
            let rows = run.stage(number, &mut operator.input).await?;
            run.forget(number, &last);
            let schema = &operator.output_schema;
            let mut reader = reader_of(number, above, &mut self.root);
            let plan = reader.as_ref().map(|(_, reader)| Arc::clone(reader.plan()));
            let mut given = Output::new(compute, plan.as_ref());
            operator.kind.push_stored(rows, compute, &mut given, schema).await?;
            match &mut operator.kind {
                OperatorKind::Window(window) => {
                    window.begin_close(closing);
                    let mut by_parts = |plan: &Arc<dyn ExecutionPlan>| match grouped_by(plan) {
                        _ if is_distributive(plan) => Ok(true),
                        Some(columns) => window.close_by_groups(&columns, compute),
                        None => Ok(false),
                    };
                    if let Some((stage, reader)) = &mut reader
                        && by_parts(reader.plan())?
                    {
                        let mut ready = Output::new(compute, None);
                        while let Some(rows) = window.next_closed(compute).await? {
                            run.outputs.push((held(rows, schema)?, time));
                            let rows = run.stage(*stage, reader.stage()).await?;
                            run.outputs.pop();
                            for rows in reader.take(rows, compute).await? {
                                ready.add_stored(rows)?;
                            }
                        }
                        run.ready[*stage] = Some(ready.finish()?);
                    } else {
                        while let Some(rows) = window.next_closed(compute).await? {
                            held(rows, schema)?.into_iter().try_for_each(|rows| given.add_stored(rows))?;
                        }
                    }
                }
                // It keeps its keys, for as long as event time says, beyond the end of the input.
                OperatorKind::Running(running) => running.advance(watermark)?,
                OperatorKind::Buffer(buffer) => {
                    buffer.begin_close(closing);
                    while let Some(rows) = buffer.next_closed(schema)? {
                        given.add_stored(rows)?;
                    }
                }
            }
            self.gates.late_after_all(operator.kind.take_missed());
            run.outputs.push((given.finish()?, time));
        }
        let first = !std::mem::replace(&mut self.started, true);
        run.output.rows = match (self.still, first) {
            (true, true) => run.still(&mut self.root).await?,
            (true, false) => Vec::new(),
            (false, _) => run.stage(count, &mut self.root).await?,
        };
        Ok(run.output)
    }
}

impl QueryGraph {
    /// Takes the reference tables of an epoch whose rows this query has had in an earlier run.
    pub fn pass(&mut self, epoch: &EpochInputs) -> Result<()> {
        let stages = self.operators.iter_mut().map(|operator| &mut operator.input).chain([&mut self.root]);
        for stage in stages {
            for number in 0..stage.inputs.len() {
                fill_reference(stage, number, epoch)?;
            }
        }
        Ok(())
    }

    /// Runs a batch plan: one stage that reads its tables itself, but for reference tables.
    pub async fn run_batch(&mut self, references: &[RecordBatch], compute: &Compute) -> Result<Vec<RecordBatch>> {
        for input in &self.root.inputs {
            if let SlotSource::Reference(table) = input.source {
                input.slot.fill(std::slice::from_ref(&references[table]));
            }
        }
        run_partitions(&self.root.plan, compute).await
    }

    /// The tests under which it reads source tables.
    pub fn tests(&self) -> impl Iterator<Item = (usize, &EqualityTest)> {
        let stages = self.operators.iter().map(|operator| &operator.input).chain([&self.root]);
        stages.flat_map(|stage| &stage.inputs).filter_map(|input| match input.source {
            SlotSource::Table(table) => Some((table, input.slot.test()?)),
            _ => None,
        })
    }

    /// Whether more rows may count as used than were read: a row of a table may be used more than once, or results come together with such rows.
    pub fn multiplies(&self) -> bool {
        let stages = || self.operators.iter().map(|operator| &operator.input).chain([&self.root]);
        // `t UNION ALL t`: two leaves of one slot, or two slots.
        let mut tables: Vec<usize> = stages()
            .flat_map(|stage| &stage.inputs)
            .filter_map(|input| if let SlotSource::Table(table) = input.source { Some(table) } else { None })
            .collect();
        let slots = tables.len();
        tables.sort_unstable();
        tables.dedup();
        let is_mixed = |stage: &Stage| {
            let of_tables = stage.inputs.iter().filter(|input| matches!(input.source, SlotSource::Table(_))).count();
            of_tables > 0 && of_tables < stage.inputs.iter().filter(|input| input.is_streamed()).count()
        };
        slots > tables.len()
            || stages().any(is_mixed)
            || stages().any(|stage| leaves(&stage.plan) > stage.inputs.len() || multiplies(&stage.plan))
    }

    /// State of each operator. Cheap: batches are shared, not copied.
    pub fn snapshot(&self) -> Vec<OperatorState> {
        let state = |operator: &Operator| {
            let (watermark, pieces) = match &operator.kind {
                OperatorKind::Window(window) => window.snapshot(),
                OperatorKind::Running(running) => running.snapshot(),
                OperatorKind::Buffer(buffer) => buffer.snapshot(),
            };
            OperatorState { fingerprint: operator.fingerprint.clone(), watermark: Some(watermark), pieces }
        };
        self.operators.iter().map(state).collect()
    }

    /// Bytes of state in memory, about, and how many of them [`Self::spill`] can put on disk.
    pub fn memory(&self) -> (usize, usize) {
        let each = self.operators.iter().map(|operator| operator.kind.memory());
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Puts state on disk, until no more than `most` bytes of what can go there are left in memory.
    pub async fn spill(&mut self, folder: &Arc<SpillFolder>, most: usize, compute: &Compute) -> Result<()> {
        let most = most / self.operators.len().max(1);
        for operator in &mut self.operators {
            operator.kind.spill(folder, most, compute).await?;
        }
        Ok(())
    }

    /// Whether [`Self::restore`] can take this state.
    ///
    /// # Errors
    /// Another query's, or one with other columns.
    pub fn check(&self, saved: &[OperatorState]) -> Result<()> {
        let same = saved.len() == self.operators.len()
            && saved.iter().zip(&self.operators).all(|(state, operator)| state.fingerprint == operator.fingerprint);
        if !same {
            return Err(Error::config("the query has changed since its state was saved")
                .hint("run with --fresh to start anew, or give the changed query another file name"));
        }
        for (operator, state) in self.operators.iter().zip(saved) {
            let fits = |piece: &&StatePiece| operator.kind.takes(piece.rows.schema(), &operator.output_schema);
            if let Some(piece) = state.pieces.iter().find(|piece| !fits(piece)) {
                let has = piece.rows.schema().fields().iter().map(|field| field.data_type().to_string());
                let (name, has) = (&operator.name, has.collect::<Vec<_>>().join(", "));
                let error =
                    format!("the saved state of operator {name} has columns ({has}), which this query does not keep");
                return Err(Error::config(error).hint(
                    "go on with the SQL, or the version of the program, that has written it; or let the query begin without state with --reset",
                ));
            }
        }
        Ok(())
    }

    /// Takes the state of a snapshot of the same query, and keeps in memory what there is `room` for. It lets others run after each piece.
    pub async fn restore(
        &mut self,
        saved: Vec<OperatorState>,
        room: Option<&RestoreRoom>,
        compute: &Compute,
    ) -> Result<()> {
        self.check(&saved)?;
        self.started = true;
        for (operator, OperatorState { watermark, pieces, .. }) in self.operators.iter_mut().zip(saved) {
            let watermark = watermark.unwrap_or(Watermark::MIN);
            match &mut operator.kind {
                OperatorKind::Window(window) => window.restore(watermark, pieces, room, compute).await?,
                OperatorKind::Running(running) => running.restore(watermark, pieces, room).await?,
                OperatorKind::Buffer(buffer) => buffer.restore(watermark, pieces, room).await?,
            }
        }
        Ok(())
    }

    /// After the end of the input: sets event time back to the last window that was really closed, so
    /// that a later run can open new ones.
    pub fn reopen(&mut self) {
        for operator in &mut self.operators {
            match &mut operator.kind {
                OperatorKind::Window(window) => window.reopen(),
                OperatorKind::Running(_) => {}
                OperatorKind::Buffer(buffer) => buffer.reopen(),
            }
        }
    }

    /// Up to where rows of each source table are late: where windows over it have closed, and where keys have been forgotten by event time.
    /// Not between the end of the input and [`Self::reopen`].
    pub fn closed(&self) -> BTreeMap<usize, Watermark> {
        let mut closed = BTreeMap::new();
        // Of each operator, the tables below it.
        let mut tables: Vec<BTreeSet<usize>> = Vec::new();
        for operator in &self.operators {
            let below = operator.input.inputs.iter().flat_map(|input| match input.source {
                SlotSource::Table(table) => BTreeSet::from([table]),
                SlotSource::Operator(operator) => tables[operator].clone(),
                SlotSource::Reference(_) => BTreeSet::new(),
            });
            let below: BTreeSet<usize> = below.collect();
            let watermark = match &operator.kind {
                OperatorKind::Window(window) => Some(window.watermark()),
                OperatorKind::Buffer(buffer) => Some(buffer.watermark()),
                // Where it forgets keys, rows from before its time-to-live are late.
                OperatorKind::Running(running) => running.time_to_live().map(|_| running.watermark()),
            };
            if let Some(watermark) = watermark.filter(|watermark| *watermark > Watermark::MIN) {
                for table in &below {
                    let closed = closed.entry(*table).or_insert(watermark);
                    *closed = watermark.max(*closed);
                }
            }
            tables.push(below);
        }
        closed
    }
}

/// Rows in memory, under the names that the plan above expects.
fn held(rows: Vec<RecordBatch>, schema: &SchemaRef) -> Result<Vec<StoredRows>> {
    rows.into_iter().map(|batch| relabelled(batch, schema).map(StoredRows::held)).collect()
}

/// Gives a stage the rows of its reference table, where these are new.
pub(super) fn fill_reference(stage: &mut Stage, number: usize, epoch: &EpochInputs) -> Result<()> {
    let input = &stage.inputs[number];
    if let SlotSource::Reference(table) = input.source {
        let is_worn = input.slot.is_worn();
        match &epoch.references[table] {
            Some(rows) => input.slot.fill(std::slice::from_ref(rows)),
            None if is_worn => {}
            None => return Ok(()),
        }
        // The plan keeps an index of the table from run to run; a changed table needs a new one.
        stage.plan = reset_plan_states(Arc::clone(&stage.plan)).map_err(failure)?;
    }
    Ok(())
}
