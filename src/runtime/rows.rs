//! From decoded records to the rows of an epoch: metadata columns and hidden columns are added.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray, StringViewBuilder,
    TimestampMillisecondArray, UInt32Array, UInt64Array, new_null_array,
};
use datafusion::arrow::buffer::ScalarBuffer;
use datafusion::arrow::compute::{cast, filter_record_batch, is_not_null, take};
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMillisecondType};

use crate::contracts::{Arrivals, Error, MetadataColumn, RawChunk, Result, SequenceNumbers, SkippedTime, SplitId};
use crate::operators::{Compute, ORIGIN_COLUMN, Stage, TIME_COLUMN, WATERMARK_COLUMN, run_partitions};

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

/// Rows and which of them had no readable time.
pub(crate) struct Made {
    pub(crate) batch: RecordBatch,
    /// Rows (of the decoded batch) whose computed time or watermark is NULL: they are rejected.
    pub(crate) timeless: Vec<usize>,
}

impl RowMaker {
    /// Adds columns to decoded rows. `piece` is the number under which the epoch knows the chunk.
    pub(crate) async fn make(
        &mut self,
        decoded: RecordBatch,
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
        let (times, marks, timeless) = self.times(&decoded, &columns, skipped).await?;
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
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let batch = if timeless.is_empty() { batch } else { self.without(&batch, &timeless)? };
        Ok(Made { batch, timeless })
    }

    fn without(&self, batch: &RecordBatch, rows: &[usize]) -> Result<RecordBatch> {
        let mut keep = vec![true; batch.num_rows()];
        for row in rows {
            keep[*row] = false;
        }
        Ok(filter_record_batch(batch, &keep.into())?)
    }

    /// Time of each row, the split's watermark before it, and the rows that have none.
    async fn times(
        &mut self,
        decoded: &RecordBatch,
        columns: &[ArrayRef],
        skipped: Option<&SkippedTime>,
    ) -> Result<(ScalarBuffer<i64>, ScalarBuffer<i64>, Vec<usize>)> {
        let rows = decoded.num_rows();
        let (times, rule_marks, delay) = match &self.rule {
            None => return Ok((vec![0; rows].into(), vec![i64::MIN; rows].into(), Vec::new())),
            Some(WatermarkRule::Delay { column, delay_ms }) => (Arc::clone(&columns[*column]), None, *delay_ms),
            Some(WatermarkRule::Computed(stage)) => {
                let stage = stage.lock().await;
                let slot_schema = stage.inputs.first().map(|i| Arc::clone(i.slot.schema()));
                if let (Some(input), Some(schema)) = (stage.inputs.first(), slot_schema) {
                    let width = schema.fields().len();
                    let options = RecordBatchOptions::new().with_row_count(Some(rows));
                    let own = RecordBatch::try_new_with_options(schema, columns[..width].to_vec(), &options)?;
                    input.slot.fill(&[own]);
                }
                let computed = run_partitions(&stage.plan, &self.compute).await?;
                let computed = datafusion::arrow::compute::concat_batches(&stage.plan.schema(), &computed)?;
                (Arc::clone(computed.column(0)), Some(Arc::clone(computed.column(1))), 0)
            }
        };
        let timeless = match is_not_null(&times)? {
            present if present.true_count() == rows => Vec::new(),
            present => (0..rows).filter(|row| !present.value(*row)).collect(),
        };
        let times = milliseconds(&times)?;
        let marks_of = match &rule_marks {
            None => None,
            Some(marks) => Some(milliseconds(marks)?),
        };
        let mut marks = Vec::with_capacity(rows);
        let mut current = self.watermark;
        if marks_of.is_none() && skipped.is_none() && timeless.is_empty() {
            marks.extend(times.values().iter().map(|time| {
                let before = current;
                current = current.max(time.saturating_sub(delay));
                before
            }));
            self.watermark = current;
            return Ok((times.values().clone(), marks.into(), timeless));
        }
        for row in 0..rows {
            if let Some(skipped) = skipped
                && skipped.before_row[row] != i64::MIN
            {
                current = current.max(skipped.before_row[row].saturating_sub(delay));
            }
            marks.push(current);
            let own = match &marks_of {
                // A NULL keeps the previous watermark, as in Flink.
                Some(marks) if datafusion::arrow::array::Array::is_null(marks, row) => continue,
                Some(marks) => marks.value(row),
                None if datafusion::arrow::array::Array::is_null(&times, row) => continue,
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
        Ok((times.values().clone(), marks.into(), timeless))
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

fn milliseconds(times: &ArrayRef) -> Result<TimestampMillisecondArray> {
    let times = cast(times, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    Ok(times.as_primitive::<TimestampMillisecondType>().clone())
}
