//! Rows as records of a stream: one record a row, put when the epoch is flushed. At least once: a replayed epoch
//! puts its records again.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::contracts::{
    Changes, Clock, Committable, EpochNumber, Error, RefusedRow, Result, Sink, TableSpec, WriteOutcome,
};
use crate::formats::csv::CsvOptions;
use crate::formats::datetime::TimestampStyle;
use crate::formats::write_csv::CsvRows;
use crate::formats::write_json::{JsonColumn, JsonRows, JsonStyle};

use super::local::{LocalStream, MAX_KEY_CHARACTERS, MAX_RECORD_BYTES, PutRecord};
use super::produce::{BATCH_BYTES, BATCH_RECORDS};

enum Encoding {
    Json(JsonStyle),
    Csv(CsvOptions),
}

/// Puts rows into a stream of the embedded Kinesis.
pub(super) struct LocalStreamSink {
    stream: LocalStream,
    encoding: Encoding,
    /// Columns whose values make the partition key, joined by the delimiter; none: keys are spread evenly.
    key_columns: Vec<usize>,
    key_delimiter: String,
    counter: u64,
    pending: Vec<(Vec<u8>, String)>,
}

impl LocalStreamSink {
    pub(super) fn open(spec: &TableSpec, local: &Path, stream: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let iso = spec.option("json.timestamp-format.standard").is_some_and(|v| v.eq_ignore_ascii_case("ISO-8601"));
        let style = JsonStyle {
            timestamps: if iso { TimestampStyle::Iso8601 } else { TimestampStyle::Sql },
            skip_nulls: spec.option("json.encode.ignore-null-fields") == Some("true"),
        };
        let encoding = match spec.require("format")? {
            "json" => Encoding::Json(style),
            "csv" => Encoding::Csv(CsvOptions::of(spec)?),
            other => {
                return Err(Error::config(format!(
                    "table '{}': records in format '{other}' cannot be written",
                    spec.name
                )));
            }
        };
        let key = |name: &String| {
            spec.schema.index_of(name).map_err(|_| {
                Error::config(format!("the INSERT into '{}' does not write its partition column '{name}'", spec.name))
            })
        };
        Ok(Self {
            stream: LocalStream::open(local, stream, None, clock)?,
            encoding,
            key_columns: spec.partitioned_by.iter().map(key).collect::<Result<_>>()?,
            key_delimiter: spec.option("sink.partitioner-field-delimiter").unwrap_or("|").to_owned(),
            counter: 0,
            pending: Vec::new(),
        })
    }

    fn partition_key(&mut self, columns: &[JsonColumn], row: usize) -> String {
        if columns.is_empty() {
            self.counter += 1;
            return self.counter.to_string();
        }
        let text = columns.iter().map(|column| {
            let mut out = Vec::new();
            column.write_value(row, JsonStyle::MESSAGE, &mut out);
            String::from_utf8_lossy(&out).trim_matches('"').to_owned()
        });
        let key = text.collect::<Vec<_>>().join(&self.key_delimiter);
        if key.is_empty() { "-".to_owned() } else { key.chars().take(MAX_KEY_CHARACTERS).collect() }
    }

    fn put(&mut self) -> Result<()> {
        let mut rest = self.pending.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(data, key): &&(Vec<u8>, String)| {
                bytes += data.len() + key.len();
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take(BATCH_RECORDS).take_while(fits).count().max(1);
            let (batch, later) = rest.split_at(count);
            let records: Vec<_> = batch.iter().map(|(data, key)| PutRecord { data, partition_key: key }).collect();
            for result in self.stream.put_records(&records)? {
                result.map_err(|refusal| Error::data(format!("stream refused a record: {}", refusal.message)))?;
            }
            rest = later;
        }
        self.pending.clear();
        Ok(())
    }
}

#[async_trait]
impl Sink for LocalStreamSink {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let batch = &changes.batch;
        if changes.kinds.is_some() {
            return Err(Error::config("a stream takes append streams only").hint("write updates to a keyed table"));
        }
        let keys =
            self.key_columns.iter().map(|c| JsonColumn::try_new(batch.column(*c))).collect::<Result<Vec<_>>>()?;
        let mut write: Box<dyn FnMut(usize, &mut Vec<u8>) + Send> = match &self.encoding {
            Encoding::Json(style) => {
                let rows = JsonRows::try_new(batch, *style)?;
                Box::new(move |row, out| rows.write(row, out))
            }
            Encoding::Csv(options) => {
                let rows = CsvRows::try_new(batch, options)?;
                Box::new(move |row, out| rows.write(row, out))
            }
        };
        let mut outcome = WriteOutcome::default();
        for row in 0..batch.num_rows() {
            let mut data = Vec::new();
            write(row, &mut data);
            let key = self.partition_key(&keys, row);
            let bytes = data.len() + key.len();
            if bytes > MAX_RECORD_BYTES {
                let detail = format!("record of {bytes} bytes, at most {MAX_RECORD_BYTES}");
                outcome.refused.push(RefusedRow { row, reason: "record_too_large".to_owned(), column: None, detail });
            } else {
                self.pending.push((data, key));
                outcome.written += 1;
            }
        }
        Ok(outcome)
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        self.put()?;
        Ok(WriteOutcome::default())
    }

    async fn prepare(&mut self, _epoch: EpochNumber) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }

    async fn commit(&mut self, _committables: Vec<Committable>) -> Result<()> {
        Ok(())
    }

    async fn finish(&mut self, _epoch: EpochNumber) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }
}
