//! Time and watermark of rows, where a plan computes them.
//!
//! A reader runs it before there is an epoch, so nothing that deals with rows which make a query fail sees what fails here. One record
//! must not end the job, nor take those with it that came along: where a run fails because of its data, halves of its rows are run, and
//! halves of those that fail, until single rows are left. These are refused; the others keep what their run gave, since the plan
//! computes row by row.

use std::ops::Range;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMillisecondArray};
use datafusion::arrow::compute::concat_batches;

use super::rows::{Unfit, UnfitRows};
use crate::contracts::{Error, ErrorKind, RejectReason, Result};
use crate::operators::{Compute, Stage, millis, run_partitions};

/// Times and watermarks of rows, in their order.
type Computed = (TimestampMillisecondArray, TimestampMillisecondArray);

/// Times and watermarks of `rows` rows. Those that are `unfit` already, or become it here because they cannot be computed, have NULLs.
///
/// # Errors
/// What no row causes.
pub(super) async fn computed(
    stage: &Stage,
    columns: &[ArrayRef],
    rows: usize,
    unfit: &mut UnfitRows,
    compute: &Compute,
) -> Result<Computed> {
    if unfit.is_empty() {
        match run(stage, columns, 0..rows, compute).await {
            Err(error) if error.kind() == ErrorKind::Data => {}
            done => return done,
        }
    }
    let (mut times, mut marks) = (vec![None; rows], vec![None; rows]);
    let mut open = between(rows, unfit);
    while let Some(part) = open.pop() {
        match run(stage, columns, part.clone(), compute).await {
            Ok((own_times, own_marks)) => {
                for (index, row) in part.enumerate() {
                    times[row] = own_times.is_valid(index).then(|| own_times.value(index));
                    marks[row] = own_marks.is_valid(index).then(|| own_marks.value(index));
                }
            }
            Err(error) if error.kind() != ErrorKind::Data => return Err(error),
            Err(error) if part.len() == 1 => {
                let detail = error.message().to_owned();
                unfit.insert(part.start, Unfit { reason: RejectReason::BadTimestamp, column: None, detail });
            }
            Err(_) => {
                let middle = part.start + part.len() / 2;
                open.extend([middle..part.end, part.start..middle]);
            }
        }
    }
    Ok((times.into(), marks.into()))
}

/// The rows between those that are unfit, last ones first.
fn between(rows: usize, unfit: &UnfitRows) -> Vec<Range<usize>> {
    let mut from = 0;
    let mut parts = Vec::new();
    for row in unfit.keys().copied().chain([rows]) {
        if from < row {
            parts.push(from..row);
        }
        from = row + 1;
    }
    parts.reverse();
    parts
}

async fn run(stage: &Stage, columns: &[ArrayRef], rows: Range<usize>, compute: &Compute) -> Result<Computed> {
    if let Some(input) = stage.inputs.first() {
        let schema = input.slot.schema();
        let own = columns[..schema.fields().len()].iter().map(|column| column.slice(rows.start, rows.len()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let own = RecordBatch::try_new_with_options(schema.clone(), own.collect(), &options)?;
        input.slot.fill(&[own]);
    }
    let computed = concat_batches(&stage.plan.schema(), &run_partitions(&stage.plan, compute).await?)?;
    if computed.num_rows() != rows.len() {
        return Err(Error::internal(format!("{} times were computed for {} rows", computed.num_rows(), rows.len())));
    }
    Ok((millis(computed.column(0))?, millis(computed.column(1))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfit_already_is_left_out() {
        let unfit = |rows: &[usize]| {
            let unfit =
                |row: &usize| (*row, Unfit { reason: RejectReason::MissingValue, column: None, detail: String::new() });
            rows.iter().map(unfit).collect::<UnfitRows>()
        };
        assert_eq!(between(4, &unfit(&[2])), [3..4, 0..2]);
        assert_eq!(between(6, &unfit(&[0, 3])), [4..6, 1..3]);
        assert_eq!(between(5, &unfit(&[1, 2, 3])), [4..5, 0..1]);
        assert!(between(2, &unfit(&[0, 1])).is_empty() && between(0, &unfit(&[])).is_empty());
    }
}
