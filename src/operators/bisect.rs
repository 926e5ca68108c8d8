//! Rows that make a plan fail: found by halving what it was given, and left out.
//!
//! A batch that contains one such row must not fail as a whole, nor again and again. So when a stage fails because of its
//! data, it is run over halves of its rows, and halves of those that fail, until single rows are left; then over all the
//! others. What a failed or a trial run has reported (late rows, rows used) does not count. A failure that no single row
//! causes (an aggregate that fails over rows of which each alone is fine) stays one.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Int8Type, UInt64Type};

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
    /// It is withdrawn: it has failed already when it was given.
    pub(super) is_withdrawn: bool,
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
    let run = Trial { stage, large, compute, report };
    let (mut good, mut failed) = (Vec::new(), Vec::new());
    let mut open = halves(all);
    while let Some(parts) = open.pop() {
        let rows: usize = parts.iter().map(|part| part.stretch.len).sum();
        match run.over(&parts, &mut Output::nothing()).await {
            Ok(()) => good.extend(parts),
            Err(error) if error.kind() != ErrorKind::Data => return Err(error),
            Err(error) if rows == 1 => {
                let Some(part) = parts.into_iter().find(|part| part.stretch.len == 1) else { continue };
                failed.push(failed_row(&stage.inputs[part.input], &part.stretch, &error)?);
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
    /// How it is run where rows are on disk.
    large: Option<LargeRun>,
    compute: &'a Compute,
    report: &'a GateReport,
}

impl Trial<'_> {
    async fn over(&self, parts: &[Part], given: &mut Output) -> Result<()> {
        self.report.discard();
        for (number, input) in self.stage.inputs.iter().enumerate().filter(|(_, input)| input.is_streamed()) {
            let own = parts.iter().filter(|part| part.input == number);
            input.slot.fill_stretches(own.map(|part| part.stretch.clone()).collect());
        }
        match &self.large {
            Some(run) => run.run_into(given).await,
            None => run_into(&self.stage.plan, self.compute, given).await,
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

fn failed_row(input: &StageInput, stretch: &Stretch, error: &Error) -> Result<FailedRow> {
    let schema = input.slot.schema();
    let (mut origin, mut is_withdrawn, mut shown, mut columns) = (None, false, Vec::new(), Vec::new());
    for (index, field) in schema.fields().iter().enumerate() {
        let hidden = [ORIGIN_COLUMN, TIME_COLUMN, WATERMARK_COLUMN, WEIGHT_COLUMN].contains(&field.name().as_str());
        let partial_state = field.name().contains('[');
        if field.name() == WEIGHT_COLUMN {
            let weight = stretch.rows.column(&ColumnPath::column(index))?;
            is_withdrawn = weight.as_primitive_opt::<Int8Type>().is_some_and(|weight| weight.value(stretch.from) < 0);
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
    Ok(FailedRow { origin, row, detail: error.message().to_owned(), is_withdrawn })
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
