//! The connector `datagen`: made-up rows, the same for the same seed.
//!
//! Options are Flink's. Row `n` depends on the seed and on `n` alone, so a source that is resumed goes on
//! exactly where it was; only times of `random` timestamps follow the clock, as in Flink.

mod values;

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::contracts::{
    Arrivals, Boundedness, Clock, Error, Fetch, Position, Result, RowChunk, SequenceNumbers, Source, Split,
    SplitReader, StartPosition, TableSpec,
};

use super::line_file::split_id;
use super::options::Options;
use values::Generator;

/// Flink's default.
const ROWS_PER_SECOND: i64 = 10_000;
/// Rows of a chunk when there is no hurry to be even.
const CHUNK_ROWS: u64 = 8_192;
/// How evenly rows come: this often, what is due.
const STEP: std::time::Duration = std::time::Duration::from_millis(10);

/// Makes rows.
#[derive(Debug)]
struct DatagenSource {
    spec: TableSpec,
    seed: u64,
    rows_per_second: u64,
    rows: Option<u64>,
    clock: Arc<dyn Clock>,
}

/// A source of made-up rows.
pub(super) fn source(spec: &TableSpec, clock: Arc<dyn Clock>) -> Result<Arc<dyn Source>> {
    let options = Options(spec);
    let positive = |key: &str| -> Result<Option<u64>> {
        match options.number(key)? {
            None => Ok(None),
            Some(n) => u64::try_from(n)
                .map(Some)
                .map_err(|_| Error::config(format!("option '{key}' of table '{}' is negative", spec.name))),
        }
    };
    let rows_per_second = positive("rows-per-second")?.unwrap_or(ROWS_PER_SECOND as u64);
    if rows_per_second == 0 {
        return Err(Error::config(format!("option 'rows-per-second' of table '{}' is 0", spec.name)));
    }
    let generator = Generator::try_new(spec, 0)?;
    let rows = match (positive("number-of-rows")?, generator.sequence_rows()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let seed = options.number("seed")?.unwrap_or(0) as u64;
    Ok(Arc::new(DatagenSource { spec: spec.clone(), seed, rows_per_second, rows, clock }))
}

#[async_trait]
impl Source for DatagenSource {
    async fn splits(&self) -> Result<Vec<Split>> {
        Ok(vec![Split { id: split_id("datagen"), bytes: None, parents: Vec::new() }])
    }

    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        _start: StartPosition,
    ) -> Result<Box<dyn SplitReader>> {
        let next = match resume {
            None => 0,
            Some(position) => {
                position.0.parse::<u64>().map_err(|_| {
                    Error::corrupt(format!("position '{position}' is no row number of table '{}'", self.spec.name))
                })? + 1
            }
        };
        Ok(Box::new(DatagenReader {
            split: split.clone(),
            generator: Generator::try_new(&self.spec, self.seed)?,
            first: next,
            next,
            end: self.rows.unwrap_or(u64::MAX),
            rows_per_second: self.rows_per_second,
            started: self.clock.elapsed(),
            repeats: 0,
            told: false,
            clock: Arc::clone(&self.clock),
        }))
    }

    fn boundedness(&self) -> Boundedness {
        if self.rows.is_some() { Boundedness::Bounded } else { Boundedness::Unbounded }
    }
}

struct DatagenReader {
    split: Split,
    generator: Generator,
    first: u64,
    next: u64,
    end: u64,
    rows_per_second: u64,
    started: std::time::Duration,
    /// Rows that an earlier run was given: they are due at once.
    repeats: u64,
    /// Whether it has said that it has caught up with its pace.
    told: bool,
    clock: Arc<dyn Clock>,
}

impl DatagenReader {
    /// Rows that should exist by now: what is due at the end of the current step, so that the first come at once.
    fn due(&self) -> u64 {
        let elapsed = self.clock.elapsed().saturating_sub(self.started) + STEP;
        let due = elapsed.as_nanos() * u128::from(self.rows_per_second) / 1_000_000_000;
        self.first.saturating_add(u64::try_from(due).unwrap_or(u64::MAX).max(1)).min(self.end)
    }

    fn rows(&mut self, count: u64) -> Result<RowChunk> {
        let now_ms = self.clock.now_ms();
        let batch: RecordBatch = self.generator.rows(self.next, count as usize, now_ms)?;
        let first = self.next;
        self.next += count;
        Ok(RowChunk {
            split: self.split.id.clone(),
            batch,
            sequence: SequenceNumbers::Dense { first },
            arrivals: Arrivals::Same(now_ms),
            rejects: Vec::new(),
        })
    }
}

#[async_trait]
impl SplitReader for DatagenReader {
    async fn next(&mut self) -> Result<Fetch> {
        if self.next >= self.end {
            return Ok(Fetch::Finished);
        }
        let repeated = self.repeats.min(self.end - self.next).min(CHUNK_ROWS);
        if repeated > 0 {
            let chunk = self.rows(repeated)?;
            // What follows comes at its own pace.
            (self.first, self.started) = (self.next, self.clock.elapsed());
            return Ok(Fetch::Rows(chunk));
        }
        if self.due() <= self.next {
            // At many rates a row is due after each step: a run that reads what is there would never end.
            if !std::mem::replace(&mut self.told, true) {
                return Ok(Fetch::CaughtUp);
            }
            self.clock.sleep(STEP).await;
        }
        match (self.due() - self.next.min(self.due())).min(CHUNK_ROWS) {
            0 => Ok(Fetch::CaughtUp),
            count => Ok(Fetch::Rows(self.rows(count)?)),
        }
    }

    fn repeats(&mut self, records: u64) {
        self.repeats = records;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::contracts::ManualClock;

    #[tokio::test]
    async fn rows_that_were_given_before_come_at_once_and_others_at_their_pace() {
        let clock = Arc::new(ManualClock::new(0));
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
        let spec = TableSpec::new("made", Arc::new(schema)).with_option("rows-per-second", "1");
        let source = source(&spec, Arc::clone(&clock) as Arc<dyn Clock>).expect("a source");
        let split = source.splits().await.expect("splits").remove(0);
        let mut reader =
            source.open(&split, Some(&Position("6".into())), StartPosition::TrimHorizon).await.expect("a reader");
        reader.repeats(5);
        let rows = |fetch: Result<Fetch>| match fetch {
            Ok(Fetch::Rows(chunk)) => (chunk.sequence.get(0).into_owned(), chunk.batch.num_rows()),
            other => panic!("{other:?}"),
        };
        assert_eq!(rows(reader.next().await), ("7".to_owned(), 5));
        clock.advance(Duration::from_millis(900));
        reader.repeats(1);
        assert_eq!(rows(reader.next().await), ("12".to_owned(), 1));
        // The first row of its own comes at once, as in a run that begins here.
        reader.repeats(0);
        assert_eq!(rows(reader.next().await), ("13".to_owned(), 1));
        clock.advance(Duration::from_millis(1_900));
        assert!(matches!(reader.next().await, Ok(Fetch::CaughtUp)));
        clock.advance(Duration::from_millis(100));
        assert_eq!(rows(reader.next().await), ("14".to_owned(), 1));
    }
}
