//! Rows as records of a stream: payload and partition key of each.

use arrow::array::RecordBatch;

use crate::contracts::{Changes, Error, Result, TableSpec};
use crate::formats::csv::CsvOptions;
use crate::formats::datetime::TimestampStyle;
use crate::formats::write_csv::CsvRows;
use crate::formats::write_json::{JsonColumn, JsonRows, JsonStyle};

use super::local::MAX_KEY_CHARACTERS;

enum Encoding {
    Json(JsonStyle),
    Csv(CsvOptions),
}

/// Appends a row's payload.
type WriteRow<'a> = Box<dyn FnMut(usize, &mut Vec<u8>) + 'a>;

/// Where a row's partition key comes from.
enum Keys {
    /// From these columns (PARTITIONED BY), joined by the delimiter.
    Columns(Vec<usize>, String),
    /// Another one for each record, so that records are spread evenly (`random`, the default without columns).
    Spread(u64),
    /// One for all (`fixed`): everything goes to one shard, in order.
    Fixed(String),
}

/// Makes records of rows.
pub(super) struct RowEncoder {
    encoding: Encoding,
    keys: Keys,
}

impl RowEncoder {
    pub(super) fn new(spec: &TableSpec) -> Result<Self> {
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
        let column = |name: &String| {
            spec.schema.index_of(name).map_err(|_| {
                Error::config(format!("the INSERT into '{}' does not write its partition column '{name}'", spec.name))
            })
        };
        let delimiter = spec.option("sink.partitioner-field-delimiter").unwrap_or("|").to_owned();
        let partitioner = spec.option("sink.partitioner").unwrap_or("");
        let keys = if !spec.partitioned_by.is_empty() {
            if !partitioner.is_empty() {
                return Err(Error::config(format!(
                    "table '{}': 'sink.partitioner' and PARTITIONED BY contradict each other",
                    spec.name
                ))
                .hint("leave one of them out"));
            }
            Keys::Columns(spec.partitioned_by.iter().map(column).collect::<Result<_>>()?, delimiter)
        } else if partitioner.eq_ignore_ascii_case("fixed") {
            Keys::Fixed(spec.name.chars().take(MAX_KEY_CHARACTERS).collect())
        } else {
            Keys::Spread(0)
        };
        Ok(Self { encoding, keys })
    }

    /// Whether keys mean nothing but an even spread.
    pub(super) fn spreads(&self) -> bool {
        matches!(self.keys, Keys::Spread(_))
    }

    /// Calls `take` with row, payload and partition key of each row.
    pub(super) fn encode(&mut self, changes: &Changes, mut take: impl FnMut(usize, Vec<u8>, String)) -> Result<()> {
        let batch = &changes.batch;
        if changes.kinds.is_some() {
            return Err(Error::config("a stream takes append streams only").hint("write updates to a keyed table"));
        }
        let key_columns = self.key_columns(batch)?;
        let mut write: WriteRow<'_> = match &self.encoding {
            Encoding::Json(style) => {
                let rows = JsonRows::try_new(batch, *style)?;
                Box::new(move |row, out| rows.write(row, out))
            }
            Encoding::Csv(options) => {
                let rows = CsvRows::try_new(batch, options)?;
                Box::new(move |row, out| rows.write(row, out))
            }
        };
        for row in 0..batch.num_rows() {
            let mut data = Vec::new();
            write(row, &mut data);
            let key = match &mut self.keys {
                Keys::Fixed(key) => key.clone(),
                Keys::Spread(counter) => {
                    *counter += 1;
                    counter.to_string()
                }
                Keys::Columns(_, delimiter) => key_of(&key_columns, row, delimiter),
            };
            take(row, data, key);
        }
        Ok(())
    }

    fn key_columns(&self, batch: &RecordBatch) -> Result<Vec<JsonColumn>> {
        match &self.keys {
            Keys::Columns(columns, _) => columns.iter().map(|c| JsonColumn::try_new(batch.column(*c))).collect(),
            _ => Ok(Vec::new()),
        }
    }
}

fn key_of(columns: &[JsonColumn], row: usize, delimiter: &str) -> String {
    let text = columns.iter().map(|column| {
        let mut out = Vec::new();
        column.write_value(row, JsonStyle::MESSAGE, &mut out);
        String::from_utf8_lossy(&out).trim_matches('"').to_owned()
    });
    let key = text.collect::<Vec<_>>().join(delimiter);
    if key.is_empty() { "-".to_owned() } else { key.chars().take(MAX_KEY_CHARACTERS).collect() }
}
