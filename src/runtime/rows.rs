//! From decoded records to the rows of an epoch: metadata columns and hidden columns are added.
//!
//! Invariant: whatever value a record has, it is that record which is refused, with its reason, and never those that came along.
//! What is refused here does not move the watermark, as what a decoder refuses does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray, StringViewBuilder,
    TimestampMillisecondArray, UInt32Array, UInt64Array, new_null_array,
};
use datafusion::arrow::buffer::ScalarBuffer;
use datafusion::arrow::compute::{cast, filter, take};
use datafusion::arrow::datatypes::{DataType, SchemaRef};

use super::computed_time::computed;
use crate::contracts::{
    Arrivals, Error, MetadataColumn, RawChunk, Reject, RejectReason, Result, SequenceNumbers, SkippedTime, SplitId,
};
use crate::operators::{Compute, ORIGIN_COLUMN, Stage, TIME_COLUMN, WATERMARK_COLUMN, millis};

/// How the watermark of a table follows from its rows.
#[derive(Debug, Clone)]
pub enum WatermarkRule {
    /// The time column (an index of the rows) minus a constant.
    Delay {
        /// Index of the time column.
        column: usize,
        /// Milliseconds.
        delay_ms: i64,
    },
    /// A plan over the rows that gives two columns: time and watermark. Readers take turns.
    Computed(Arc<tokio::sync::Mutex<Stage>>),
}

/// Where records came from.
#[derive(Debug, Clone)]
pub(crate) struct Provenance<'a> {
    pub(crate) split: &'a SplitId,
    pub(crate) sequence: &'a SequenceNumbers,
    pub(crate) arrivals: &'a Arrivals,
    pub(crate) partition_keys: Option<&'a Arc<[Box<str>]>>,
    pub(crate) raw: Option<&'a RawChunk>,
    /// Record of each row; `None` means row `i` is record `i`.
    pub(crate) rows: Option<&'a [u32]>,
}

impl Provenance<'_> {
    pub(super) fn record(&self, row: usize) -> usize {
        self.rows.map_or(row, |rows| rows[row] as usize)
    }
}

/// Makes rows for one table. One for each split, because it keeps the split's watermark.
#[derive(Debug)]
pub(crate) struct RowMaker {
    pub(crate) schema: SchemaRef,
    pub(crate) stream: Arc<str>,
    pub(crate) physical: usize,
    pub(crate) metadata: Vec<MetadataColumn>,
    /// What all rows of the split have in common: partitions in a file's path, and metadata by its key.
    pub(crate) constants: Vec<(String, ArrayRef)>,
    /// Metadata of the split by key, ahead of the rules here.
    pub(crate) split_metadata: Vec<(String, ArrayRef)>,
    pub(crate) rule: Option<WatermarkRule>,
    /// Largest watermark of the split so far, in milliseconds.
    pub(crate) watermark: i64,
    pub(crate) compute: Compute,
}

/// Why a decoded row cannot be one of the table's.
#[derive(Debug, Clone)]
pub(crate) struct Unfit {
    pub(crate) reason: RejectReason,
    pub(crate) column: Option<String>,
    pub(crate) detail: String,
}

/// Such rows, by their number in the decoded batch.
pub(crate) type UnfitRows = BTreeMap<usize, Unfit>;

/// Rows, and those that are refused.
pub(crate) struct Made {
    pub(crate) batch: RecordBatch,
    pub(crate) unfit: UnfitRows,
}

impl RowMaker {
    /// Adds columns to decoded rows, of which the source has refused `rejects` where the table has the column. `piece` is the number
    /// under which the epoch knows the chunk.
    pub(crate) async fn make(
        &mut self,
        decoded: RecordBatch,
        rejects: &[Reject],
        provenance: &Provenance<'_>,
        skipped: Option<&SkippedTime>,
        piece: u32,
    ) -> Result<Made> {
        let rows = decoded.num_rows();
        let mut columns: Vec<ArrayRef> = decoded.columns()[..self.physical].to_vec();
        for (name, value) in &self.constants {
            if let Some(at) = self.schema.fields()[..self.physical].iter().position(|f| f.name() == name) {
                columns[at] = cast(&repeated(value, rows)?, self.schema.field(at).data_type())?;
            }
        }
        let before = self.watermark;
        for metadata in &self.metadata {
            let field = self.schema.field(columns.len());
            let column = match metadata.key.as_str() {
                // Filled in below, once it is known.
                "watermark" => new_null_array(field.data_type(), rows),
                key => self.metadata_column(key, provenance, rows)?,
            };
            columns.push(cast(&column, field.data_type())?);
        }
        let mut unfit = self.unfit(rejects, &columns);
        let (times, marks) = self.times(rows, &columns, skipped, &mut unfit).await?;
        for (index, metadata) in self.metadata.iter().enumerate() {
            if metadata.key == "watermark" {
                let at = self.physical + index;
                let known = marks.iter().map(|ms| (*ms != i64::MIN).then_some(*ms));
                let known: TimestampMillisecondArray = known.collect();
                columns[at] = cast(&known.with_timezone("UTC"), self.schema.field(at).data_type())?;
            }
        }
        debug_assert!(self.watermark >= before, "a split's watermark never goes back");
        for field in &self.schema.fields()[columns.len()..] {
            columns.push(match field.name().as_str() {
                WATERMARK_COLUMN => Arc::new(Int64Array::new(marks.clone(), None)),
                TIME_COLUMN => Arc::new(Int64Array::new(times.clone(), None)),
                ORIGIN_COLUMN => {
                    let number = u64::from(piece) << 32;
                    let origins = (0..rows).map(|row| number | provenance.record(row) as u64);
                    Arc::new(UInt64Array::from_iter_values(origins))
                }
                other => return Err(Error::internal(format!("no rule makes the column '{other}'"))),
            });
        }
        if !unfit.is_empty() {
            let keep: BooleanArray = (0..rows).map(|row| Some(!unfit.contains_key(&row))).collect();
            for column in &mut columns {
                *column = filter(column, &keep)?;
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows - unfit.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Made { batch, unfit })
    }

    /// Rows that the source has refused, and those that are NULL in a NOT NULL column. (Planning refuses one of the watermark, which is
    /// not known yet.)
    fn unfit(&self, rejects: &[Reject], columns: &[ArrayRef]) -> UnfitRows {
        let has = |name: &String| self.schema.fields()[..self.physical].iter().any(|field| field.name() == name);
        let own = rejects.iter().filter(|reject| reject.column.as_ref().is_none_or(has));
        let mut unfit: UnfitRows = own
            .map(|reject| {
                let Reject { record, reason, column, detail } = reject.clone();
                (record as usize, Unfit { reason, column, detail })
            })
            .collect();
        for (field, column) in self.schema.fields().iter().zip(columns) {
            if field.is_nullable() || column.null_count() == 0 {
                continue;
            }
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                unfit.entry(row).or_insert_with(|| Unfit {
                    reason: RejectReason::MissingValue,
                    column: Some(field.name().clone()),
                    detail: "NULL in a column that is NOT NULL, or has the time".to_owned(),
                });
            }
        }
        unfit
    }

    /// Time of each row and the split's watermark before it. Rows that have none become unfit.
    async fn times(
        &mut self,
        rows: usize,
        columns: &[ArrayRef],
        skipped: Option<&SkippedTime>,
        unfit: &mut UnfitRows,
    ) -> Result<(ScalarBuffer<i64>, ScalarBuffer<i64>)> {
        let (times, rule_marks, delay) = match &self.rule {
            None => return Ok((vec![0; rows].into(), vec![i64::MIN; rows].into())),
            Some(WatermarkRule::Delay { column, delay_ms }) => (millis(&columns[*column])?, None, *delay_ms),
            Some(WatermarkRule::Computed(stage)) => {
                let stage = stage.lock().await;
                let (times, marks) = computed(&stage, columns, rows, unfit, &self.compute).await?;
                (times, Some(marks), 0)
            }
        };
        if times.null_count() > 0 {
            for row in (0..rows).filter(|row| times.is_null(*row)) {
                let detail = "the time column is NULL".to_owned();
                unfit.entry(row).or_insert(Unfit { reason: RejectReason::BadTimestamp, column: None, detail });
            }
        }
        let mut marks = Vec::with_capacity(rows);
        let mut current = self.watermark;
        if rule_marks.is_none() && skipped.is_none() && unfit.is_empty() {
            marks.extend(times.values().iter().map(|time| {
                let before = current;
                current = current.max(time.saturating_sub(delay));
                before
            }));
            self.watermark = current;
            return Ok((times.values().clone(), marks.into()));
        }
        for row in 0..rows {
            if let Some(skipped) = skipped
                && skipped.before_row[row] != i64::MIN
            {
                current = current.max(skipped.before_row[row].saturating_sub(delay));
            }
            marks.push(current);
            let own = match &rule_marks {
                _ if unfit.contains_key(&row) => continue,
                // A NULL keeps the previous watermark, as in Flink.
                Some(marks) if marks.is_null(row) => continue,
                Some(marks) => marks.value(row),
                None => times.value(row).saturating_sub(delay),
            };
            current = current.max(own);
        }
        if let Some(skipped) = skipped
            && skipped.max != i64::MIN
        {
            current = current.max(skipped.max.saturating_sub(delay));
        }
        self.watermark = current;
        Ok((times.values().clone(), marks.into()))
    }

    fn metadata_column(&self, key: &str, from: &Provenance<'_>, rows: usize) -> Result<ArrayRef> {
        if let Some((_, value)) = self.split_metadata.iter().find(|(name, _)| name == key) {
            return repeated(value, rows);
        }
        let texts = |text: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
            let mut builder = StringViewBuilder::with_capacity(rows);
            for row in 0..rows {
                builder.append_option(text(from.record(row)));
            }
            Arc::new(builder.finish())
        };
        let constant = |text: &str| repeated(&(Arc::new(StringViewArray::from(vec![text])) as ArrayRef), rows);
        Ok(match key {
            "timestamp" | "file.modification-time" => {
                let times = match from.arrivals {
                    Arrivals::Same(ms) => TimestampMillisecondArray::from_value(*ms, rows),
                    Arrivals::Each(each) => {
                        TimestampMillisecondArray::from_iter_values((0..rows).map(|row| each[from.record(row)]))
                    }
                };
                Arc::new(times.with_timezone("UTC"))
            }
            "shard-id" | "file.path" => constant(&from.split.0)?,
            "file.name" => constant(from.split.0.rsplit('/').next().unwrap_or_default())?,
            "stream" => constant(&self.stream)?,
            "sequence-number" => {
                let mut builder = StringViewBuilder::with_capacity(rows);
                let mut digits = [0; DIGITS];
                for row in 0..rows {
                    let record = from.record(row);
                    builder.append_value(match from.sequence {
                        SequenceNumbers::Dense { first } => decimal(first + record as u64, &mut digits),
                        SequenceNumbers::Numbers(numbers) => decimal(numbers[record], &mut digits),
                        SequenceNumbers::Text(texts) => &texts[record],
                    });
                }
                Arc::new(builder.finish())
            }
            "partition-key" => texts(&|record| from.partition_keys.map(|keys| keys[record].to_string())),
            "raw" => match from.raw {
                Some(raw) => texts(&|record| String::from_utf8(raw.record(record).to_vec()).ok()),
                None => new_null_array(&DataType::Utf8View, rows),
            },
            other => match self.constants.iter().find(|(name, _)| name == other) {
                Some((_, value)) => repeated(value, rows)?,
                None => return Err(Error::internal(format!("no rule makes the metadata column '{other}'"))),
            },
        })
    }
}

/// Digits of the largest `u64`.
const DIGITS: usize = 20;

/// `number` as text, written from the end of `digits`: a `String` for each record would cost more than its decoding.
fn decimal(mut number: u64, digits: &mut [u8; DIGITS]) -> &str {
    let mut at = DIGITS;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&digits[at..]).expect("digits are ASCII")
}

/// The one value of an array, for each row.
fn repeated(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    Ok(take(value, &UInt32Array::from_value(0, rows), None)?)
}
