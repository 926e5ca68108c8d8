//! Rows that make a plan fail: found by halving what it was given, and left out.
//!
//! A batch that contains one such row must not fail as a whole, nor again and again. So when a stage fails because of its
//! data, it is run over halves of its rows, and halves of those that fail, until single rows are left; then over all the
//! others. What a failed or a trial run has reported (late rows, rows used) does not count.
//!
//! A trial runs only what rows come through by themselves (`by_themselves`): over a part of them, what depends on others
//! is another query. A failure that no single row causes (an aggregate that fails over rows of which each alone is fine, a
//! division above a window function, a reference table that cannot be read as the query says) stays one.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Int8Type, UInt64Type};
use datafusion::physical_plan::ExecutionPlan;

use super::by_themselves::{by_themselves, reference_sides};
use super::compute::{Compute, run_into};
use super::gate::GateReport;
use super::graph::{Stage, StageInput};
use super::large_plans::LargeRun;
use super::output::Output;
use super::shared_rows::{ColumnPath, SharedRows};
use super::slot::Stretch;
use super::stored_rows::StoredRows;
use super::{ORIGIN_COLUMN, TIME_COLUMN, WATERMARK_COLUMN, WEIGHT_COLUMN};
use crate::contracts::{Error, ErrorKind, Result};

/// What is done about rows that make a query fail.
#[derive(Debug, Clone, Copy)]
pub struct Poison {
    /// They are looked for.
    pub bisects: bool,
    /// More of them in one stage and epoch are the query's fault, and stop the job.
    pub most_rows: usize,
}

impl Default for Poison {
    fn default() -> Self {
        Self { bisects: true, most_rows: 1_000 }
    }
}

/// A row that made a plan fail.
#[derive(Debug, Clone)]
pub struct FailedRow {
    /// Which record it is, where it comes from one: `chunk << 32 | record` of the epoch.
    pub origin: Option<u64>,
    /// The row itself.
    pub row: RecordBatch,
    /// The failure.
    pub detail: String,
}

/// Rows of one of a stage's inputs.
#[derive(Debug, Clone)]
struct Part {
    input: usize,
    stretch: Stretch,
}

/// What a stage gives of the rows that do not make it fail.
#[derive(Debug)]
pub(super) struct Sound {
    pub(super) rows: Vec<StoredRows>,
    pub(super) failed: Vec<FailedRow>,
}

/// Runs a stage that has failed once over the rows `given` to its streamed inputs, by number of the input; those on disk
/// are in blocks of `block_rows`.
///
/// # Errors
/// The stage's own, when no single rows cause it; `data` when there are too many of them.
pub(super) async fn run_sound(
    stage: &Stage,
    given: Vec<(usize, Vec<Arc<SharedRows>>)>,
    block_rows: usize,
    compute: &Compute,
    report: &GateReport,
    poison: Poison,
) -> Result<Sound> {
    let whole = |input: usize| {
        move |rows: Arc<SharedRows>| {
            let stretch = Stretch { from: 0, len: rows.len(), rows };
            Part { input, stretch }
        }
    };
    let all: Vec<Part> = given.into_iter().flat_map(|(input, rows)| rows.into_iter().map(whole(input))).collect();
    let spilled = all.iter().any(|part| part.stretch.rows.is_spilled());
    let large = if spilled { Some(LargeRun::new(&stage.plan, compute, block_rows).await?) } else { None };
    let alone = by_themselves(&stage.plan);
    let alone = match &large {
        Some(run) => alone.iter().map(|part| run.part(part)).collect::<Result<_>>()?,
        None => alone,
    };
    let run = Trial { stage, alone, large, compute, report };
    // What fails there fails with each row, and is none's fault.
    for side in reference_sides(&stage.plan) {
        run.through(&side).await?;
    }
    let (mut good, mut failed) = (Vec::new(), Vec::new());
    let mut open = halves(all);
    while let Some(parts) = open.pop() {
        let rows: usize = parts.iter().map(|part| part.stretch.len).sum();
        match run.tried(&parts).await {
            Ok(()) => good.extend(parts),
            Err(error) if error.kind() != ErrorKind::Data => return Err(error),
            Err(error) if rows == 1 => {
                let Some(part) = parts.into_iter().find(|part| part.stretch.len == 1) else { continue };
                failed.extend(failed_row(&stage.inputs[part.input], &part.stretch, &error)?);
                if failed.len() > poison.most_rows {
                    return Err(too_many(&failed, poison, error));
                }
            }
            Err(_) => open.extend(halves(parts)),
        }
        report.discard();
    }
    let mut given = Output::new(compute, None);
    run.over(&good, &mut given).await?;
    Ok(Sound { rows: given.finish()?, failed })
}

struct Trial<'a> {
    stage: &'a Stage,
    /// The parts of its plan that rows come through by themselves.
    alone: Vec<Arc<dyn ExecutionPlan>>,
    /// How it is run where rows are on disk.
    large: Option<LargeRun>,
    compute: &'a Compute,
    report: &'a GateReport,
}

impl Trial<'_> {
    /// Runs these rows through what each comes through by itself.
    async fn tried(&self, parts: &[Part]) -> Result<()> {
        self.fill(parts);
        for plan in &self.alone {
            self.through(plan).await?;
        }
        Ok(())
    }

    /// Runs a plan, whose rows nobody needs.
    async fn through(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
        let compute = self.large.as_ref().map_or(self.compute, LargeRun::compute);
        run_into(plan, compute, &mut Output::nothing()).await
    }

    /// Runs the stage over these rows.
    async fn over(&self, parts: &[Part], given: &mut Output) -> Result<()> {
        self.fill(parts);
        match &self.large {
            Some(run) => run.run_into(given).await,
            None => run_into(&self.stage.plan, self.compute, given).await,
        }
    }

    /// Puts rows into the slots of the stage, for a new run.
    fn fill(&self, parts: &[Part]) {
        self.report.discard();
        for (number, input) in self.stage.inputs.iter().enumerate().filter(|(_, input)| input.is_streamed()) {
            let own = parts.iter().filter(|part| part.input == number);
            input.slot.fill_stretches(own.map(|part| part.stretch.clone()).collect());
        }
    }
}

/// Parts cut in two; the first half is the last of the list. A single row stays whole.
fn halves(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let rows: usize = parts.iter().map(|part| part.stretch.len).sum();
    if rows <= 1 {
        return vec![parts];
    }
    let (mut first, mut second, mut left) = (Vec::new(), Vec::new(), rows / 2);
    for mut part in parts {
        let here = part.stretch.len.min(left);
        left -= here;
        let rest = part.stretch.len - here;
        if rest > 0 {
            let mut later = part.clone();
            (later.stretch.from, later.stretch.len) = (part.stretch.from + here, rest);
            second.push(later);
        }
        if here > 0 {
            part.stretch.len = here;
            first.push(part);
        }
    }
    vec![second, first]
}

/// `None` for one that is withdrawn: it has failed already when it was given.
fn failed_row(input: &StageInput, stretch: &Stretch, error: &Error) -> Result<Option<FailedRow>> {
    let schema = input.slot.schema();
    let (mut origin, mut shown, mut columns) = (None, Vec::new(), Vec::new());
    for (index, field) in schema.fields().iter().enumerate() {
        let hidden = [ORIGIN_COLUMN, TIME_COLUMN, WATERMARK_COLUMN, WEIGHT_COLUMN].contains(&field.name().as_str());
        let partial_state = field.name().contains('[');
        if field.name() == WEIGHT_COLUMN {
            let weight = stretch.rows.column(&ColumnPath::column(index))?;
            let weights = weight.as_primitive_opt::<Int8Type>();
            if weights.is_some_and(|weights| weights.value(stretch.from) < 0) {
                return Ok(None);
            }
        }
        if hidden && field.name() != ORIGIN_COLUMN || partial_state || field.data_type() == &DataType::Null {
            continue;
        }
        let column = stretch.rows.column(&ColumnPath::column(index))?.slice(stretch.from, 1);
        if hidden {
            let origins = column.as_primitive_opt::<UInt64Type>();
            origin = origins.filter(|origins| origins.is_valid(0)).map(|origins| origins.value(0));
        } else {
            shown.push(Arc::clone(field));
            columns.push(column);
        }
    }
    let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(shown));
    let row = RecordBatch::try_new_with_options(schema, columns, &options)?;
    Ok(Some(FailedRow { origin, row, detail: error.message().to_owned() }))
}

/// What is to be done where more rows make a query fail than may.
pub(crate) const TOO_MANY_FAIL: &str = "mend the query (TRY_CAST and REQUIRE deal with bad values), or allow more with SET \
                                        'tidemill.maximum-failed-rows' = '…'";

fn too_many(failed: &[FailedRow], poison: Poison, last: Error) -> Error {
    let first = failed.first().map(|row| row.detail.as_str()).unwrap_or_default();
    Error::data(format!("more than {} rows of one epoch make it fail: {first}", poison.most_rows))
        .caused_by(last)
        .hint(TOO_MANY_FAIL)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::common::{JoinType, NullEquality};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, col, lit};
    use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
    use datafusion::physical_plan::filter::FilterExec;
    use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
    use datafusion::physical_plan::sorts::sort::SortExec;

    use super::super::compute::StateLimit;
    use super::super::graph::SlotSource;
    use super::super::slot::{Slot, SlotExec};
    use super::*;
    use crate::state::SpillFolder;

    type Plan = Arc<dyn ExecutionPlan>;

    fn batch(numbers: &[i64]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        RecordBatch::try_from_iter([("n", numbers)]).expect("a batch")
    }

    /// Lets all pass, but divides by zero for one of them.
    fn failing(plan: Plan, for_number: i64) -> Plan {
        let binary = |left: Arc<dyn PhysicalExpr>, operator, right| -> Arc<dyn PhysicalExpr> {
            Arc::new(BinaryExpr::new(left, operator, right))
        };
        let number = col("n", &plan.schema()).expect("a column");
        let divisor = binary(number, Operator::Minus, lit(for_number));
        let divided = binary(lit(100_i64), Operator::Divide, divisor);
        let test = binary(divided, Operator::NotEq, lit(1_000_i64));
        Arc::new(FilterExec::try_new(test, plan).expect("a filter"))
    }

    fn sorted(plan: Plan) -> Plan {
        let order = PhysicalSortExpr::new_default(col("n", &plan.schema()).expect("a column"));
        Arc::new(SortExec::new(LexOrdering::new([order]).expect("an order"), plan))
    }

    fn leaf(slot: &Arc<Slot>) -> Plan {
        Arc::new(SlotExec::try_new(Arc::clone(slot), None).expect("a leaf"))
    }

    fn numbers(rows: Vec<StoredRows>) -> Vec<i64> {
        let loaded = rows.into_iter().map(|rows| rows.load().expect("read"));
        loaded.flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    async fn sound(plan: Plan, slot: &Arc<Slot>, rows: Vec<StoredRows>, compute: &Compute) -> Result<Sound> {
        let inputs = vec![StageInput { slot: Arc::clone(slot), source: SlotSource::Operator(0) }];
        let rows = rows.into_iter().map(SharedRows::stored).collect();
        let stage = Stage { plan, inputs };
        run_sound(&stage, vec![(0, rows)], 2, compute, &GateReport::default(), Poison::default()).await
    }

    #[tokio::test]
    async fn rows_are_blamed_for_what_they_come_through_by_themselves_and_for_nothing_else() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
        let within = Compute { limit: Some(StateLimit::new(folder, 1 << 20, 8 << 20, 1 << 30)), ..Compute::new(1) };
        let rows = batch(&[5, 3, 4, 1, 2]);
        let mut on_disk = Output::on_disk(&within);
        on_disk.add(rows.clone()).expect("written");
        let on_disk = on_disk.finish().expect("written");
        assert!(on_disk.iter().all(StoredRows::is_spilled));
        let slot = Slot::stream(rows.schema(), 1);
        for (rows, compute) in [(vec![StoredRows::held(rows)], Compute::new(1)), (on_disk, within)] {
            // Above what puts rows together no single one is to blame, though one fails alone.
            let above = sound(failing(sorted(leaf(&slot)), 3), &slot, rows.clone(), &compute).await;
            let error = above.expect_err("it fails");
            assert!(error.kind() == ErrorKind::Data && error.to_string().to_lowercase().contains("zero"), "{error}");
            let both = failing(sorted(failing(leaf(&slot), 4)), 3);
            sound(both, &slot, rows.clone(), &compute).await.expect_err("nothing is left out where the rest fails");
            let below = sound(sorted(failing(leaf(&slot), 3)), &slot, rows.clone(), &compute).await.expect("it runs");
            assert_eq!(numbers(below.rows), [1, 2, 4, 5]);
            assert_eq!(below.failed.iter().map(|row| row.row.clone()).collect::<Vec<_>>(), [batch(&[3])]);
        }
    }

    #[tokio::test]
    async fn a_reference_side_is_no_row_s_fault() {
        let rows = batch(&[5, 3, 4, 1, 2]);
        let (reference, slot) = (Slot::reference(rows.schema()), Slot::stream(rows.schema(), 1));
        reference.fill(&[batch(&[1, 2, 3, 4, 5, 6])]);
        let joined = |left: Plan, right: Plan| -> Plan {
            let key = |side: &Plan| col("n", &side.schema()).expect("a column");
            let on = vec![(key(&left), key(&right))];
            let (kind, mode, nulls) = (JoinType::Inner, PartitionMode::CollectLeft, NullEquality::NullEqualsNothing);
            let join = HashJoinExec::try_new(left, right, on, None, &kind, None, mode, nulls, false);
            Arc::new(join.expect("a join"))
        };
        let compute = Compute::new(1);
        let given = || vec![StoredRows::held(rows.clone())];
        // No row of the stream has a 6.
        let of_table = joined(failing(leaf(&reference), 6), leaf(&slot));
        let error = sound(of_table, &slot, given(), &compute).await.expect_err("the table's rows fail");
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        // What puts a reference table together does not make rows of the stream depend on each other.
        let of_rows = joined(sorted(leaf(&reference)), failing(leaf(&slot), 3));
        let of_rows = sound(of_rows, &slot, given(), &compute).await.expect("it runs");
        let mut left = numbers(of_rows.rows);
        left.sort_unstable();
        assert_eq!((left, of_rows.failed.len()), (vec![1, 2, 4, 5], 1));
    }
}
