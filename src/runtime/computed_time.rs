//! Time and watermark of rows, where a plan computes them.
//!
//! A reader runs it before there is an epoch, so nothing that deals with rows which make a query fail sees what fails here. One record
//! must not end the job, nor take those with it that came along: where a run fails because of its data, halves of its rows are run, and
//! halves of those that fail, until single rows are left. These are refused; the others keep what their run gave, since the plan
//! computes row by row. A stream of which each time fails so costs two runs a record; there is no bound on such records, as on others that
//! cannot be decoded.

use std::future::Future;

use datafusion::arrow::array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMillisecondArray, UInt32Array,
};
use datafusion::arrow::compute::{concat_batches, take};

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
    let read = stage.inputs.first().map_or(0, |input| input.slot.schema().fields().len());
    computed_by(&columns[..read], rows, unfit, |columns, rows| run(stage, columns, rows, compute)).await
}

/// The same by `run`, which gets columns and how many rows they have.
async fn computed_by<F>(
    columns: &[ArrayRef],
    rows: usize,
    unfit: &mut UnfitRows,
    run: impl Fn(Vec<ArrayRef>, usize) -> F,
) -> Result<Computed>
where
    F: Future<Output = Result<Computed>>,
{
    // Those that are unfit are left out once, so that the others are one run, however they lie.
    let sound = (!unfit.is_empty()).then(|| {
        let sound = (0..rows).filter(|row| !unfit.contains_key(row));
        UInt32Array::from_iter_values(sound.map(|row| row as u32))
    });
    let (columns, count) = match &sound {
        None => (columns.to_vec(), rows),
        Some(sound) => {
            let taken = columns.iter().map(|column| Ok(take(column, sound, None)?));
            (taken.collect::<Result<Vec<_>>>()?, sound.len())
        }
    };
    let (mut times, mut marks) = (vec![None; rows], vec![None; rows]);
    let mut open = Vec::from_iter((count > 0 || rows == 0).then_some(0..count));
    while let Some(part) = open.pop() {
        let own = columns.iter().map(|column| column.slice(part.start, part.len())).collect();
        let row = |index: usize| sound.as_ref().map_or(index, |sound| sound.value(index) as usize);
        match run(own, part.len()).await {
            Ok(all) if part.len() == rows => return Ok(all),
            Ok((own_times, own_marks)) => {
                for (at, index) in part.enumerate() {
                    times[row(index)] = own_times.is_valid(at).then(|| own_times.value(at));
                    marks[row(index)] = own_marks.is_valid(at).then(|| own_marks.value(at));
                }
            }
            Err(error) if error.kind() != ErrorKind::Data || part.is_empty() => return Err(error),
            Err(error) if part.len() == 1 => {
                let detail = error.message().to_owned();
                unfit.insert(row(part.start), Unfit { reason: RejectReason::BadTimestamp, column: None, detail });
            }
            Err(_) => {
                let middle = part.start + part.len() / 2;
                open.extend([middle..part.end, part.start..middle]);
            }
        }
    }
    Ok((times.into(), marks.into()))
}

async fn run(stage: &Stage, columns: Vec<ArrayRef>, rows: usize, compute: &Compute) -> Result<Computed> {
    if let Some(input) = stage.inputs.first() {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        input.slot.fill(&[RecordBatch::try_new_with_options(input.slot.schema().clone(), columns, &options)?]);
    }
    let computed = concat_batches(&stage.plan.schema(), &run_partitions(&stage.plan, compute).await?)?;
    if computed.num_rows() != rows {
        return Err(Error::internal(format!("{} times were computed for {rows} rows", computed.num_rows())));
    }
    Ok((millis(computed.column(0))?, millis(computed.column(1))?))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    fn unfit(rows: impl IntoIterator<Item = usize>) -> UnfitRows {
        let of = |row| (row, Unfit { reason: RejectReason::MissingValue, column: None, detail: String::new() });
        rows.into_iter().map(of).collect()
    }

    /// What comes of these numbers: the time of each is the number itself, and there is none for those below 0. Also how many rows each
    /// run had, and which rows are unfit then.
    async fn of(numbers: &[i64], unfit: &mut UnfitRows) -> (Vec<Option<i64>>, Vec<usize>) {
        let columns: [ArrayRef; 1] = [Arc::new(Int64Array::from(numbers.to_vec()))];
        let runs = RefCell::new(Vec::new());
        let run = async |columns: Vec<ArrayRef>, rows: usize| {
            runs.borrow_mut().push(rows);
            let own = columns[0].as_primitive::<Int64Type>().values();
            assert_eq!(own.len(), rows);
            if own.iter().any(|number| *number < 0) {
                return Err(Error::data("before 1970"));
            }
            let times = TimestampMillisecondArray::from(own.to_vec());
            Ok((times.clone(), times))
        };
        let (times, marks) = computed_by(&columns, numbers.len(), unfit, &run).await.expect("computed");
        assert_eq!(times, marks);
        (times.iter().collect(), runs.into_inner())
    }

    #[tokio::test]
    async fn all_that_are_not_unfit_already_are_one_run() {
        let numbers: Vec<i64> = (0..1_000).collect();
        let (times, runs) = of(&numbers, &mut UnfitRows::new()).await;
        assert!(times.into_iter().eq(numbers.iter().copied().map(Some)));
        assert_eq!(runs, [1_000]);
        // Every second one, and one that would fail beside.
        let mut numbers = numbers;
        numbers[2] = -1;
        let mut odd = unfit([2].into_iter().chain((0..500).map(|n| 2 * n + 1)));
        let (times, runs) = of(&numbers, &mut odd).await;
        let expected = numbers.iter().map(|n| (n % 2 == 0).then_some(*n));
        assert!(times.into_iter().eq(expected), "each time is with its row");
        assert_eq!((runs, odd.len()), (vec![499], 501));
        assert_eq!(of(&[-1, -1], &mut unfit([0, 1])).await, (vec![None, None], vec![]));
        assert_eq!(of(&[], &mut UnfitRows::new()).await, (vec![], vec![0]));
    }

    #[tokio::test]
    async fn those_that_fail_are_found_by_halves() {
        let mut unfit = unfit([0]);
        let (times, runs) = of(&[-5, 1, -2, 3, 4], &mut unfit).await;
        assert_eq!(times, [None, Some(1), None, Some(3), Some(4)]);
        assert_eq!(runs, [4, 2, 1, 1, 2]);
        assert_eq!(unfit.keys().copied().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(unfit[&2].detail, "before 1970");
    }
}
