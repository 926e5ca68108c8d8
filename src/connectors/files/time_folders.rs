//! Folders by time (`sink.partition.pattern`): `year={yyyy}/month={MM}/day={dd}/hour={HH}` of a column, in UTC.
//!
//! The column stays in the files: the folders are made of it, and are not columns of the table.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use chrono::{DateTime, Datelike, Timelike};

use crate::contracts::{Error, Result, TableSpec};

const MINUTE_MS: i64 = 60_000;

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
    Minute,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct TimeFolders {
    column: usize,
    pieces: Vec<Piece>,
    /// What a time that is NULL or out of range has for a folder.
    default: String,
}

impl TimeFolders {
    /// As the table's options say; `None` without `sink.partition.pattern`.
    pub(super) fn of(spec: &TableSpec, default: &str) -> Result<Option<Self>> {
        let Some(pattern) = spec.option("sink.partition.pattern") else { return Ok(None) };
        let wrong = |what: String| {
            Error::config(format!("table '{}': option 'sink.partition.pattern': {what}", spec.name))
                .hint("write 'year={yyyy}/month={MM}/day={dd}/hour={HH}' and name the time's column in 'sink.partition.time-column'")
        };
        let name = spec
            .option("sink.partition.time-column")
            .ok_or_else(|| wrong("'sink.partition.time-column' is missing".to_owned()))?;
        let column = spec.schema.index_of(name).map_err(|_| wrong(format!("the INSERT does not write '{name}'")))?;
        if !matches!(spec.schema.field(column).data_type(), DataType::Timestamp(..)) {
            return Err(wrong(format!("'{name}' is {}, and no timestamp", spec.schema.field(column).data_type())));
        }
        let legal = |folder: &str| !folder.is_empty() && !folder.starts_with(['.', '_']);
        if !pattern.trim_matches('/').split('/').all(legal) {
            return Err(wrong("a folder is empty, or begins with '.' or '_', so no reader would see it".to_owned()));
        }
        let mut pieces = Vec::new();
        let mut rest = pattern.trim_matches('/');
        while let Some((text, after)) = rest.split_once('{') {
            let (field, after) = after.split_once('}').ok_or_else(|| wrong("'{' without '}'".to_owned()))?;
            pieces.push(Piece::Text(text.to_owned()));
            pieces.push(match field {
                "yyyy" => Piece::Year,
                "MM" => Piece::Month,
                "dd" => Piece::Day,
                "HH" => Piece::Hour,
                "mm" => Piece::Minute,
                other => {
                    return Err(wrong(format!("'{{{other}}}' is none of {{yyyy}}, {{MM}}, {{dd}}, {{HH}}, {{mm}}")));
                }
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Some(Self { column, pieces, default: default_folder(pattern, default) }))
    }

    /// The folder of each row (see [`default_folder`] for a time that is NULL).
    pub(super) fn folders(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        let times = cast(batch.column(self.column), &millis)?;
        let times = times.as_primitive::<TimestampMillisecondType>();
        // Rows of one minute share their folder, whatever the pattern.
        let mut known: HashMap<Option<i64>, String> = HashMap::new();
        let mut folders = Vec::with_capacity(times.len());
        for time in times {
            let minute = time.map(|ms| ms.div_euclid(MINUTE_MS));
            folders.push(known.entry(minute).or_insert_with(|| self.folder(minute)).clone());
        }
        Ok(Arc::new(StringArray::from(folders)))
    }

    fn folder(&self, minute: Option<i64>) -> String {
        let time = minute.and_then(|minute| DateTime::from_timestamp_millis(minute.checked_mul(MINUTE_MS)?));
        let Some(time) = time else { return self.default.clone() };
        let mut text = String::new();
        for piece in &self.pieces {
            let written = match piece {
                Piece::Text(literal) => text.write_str(literal),
                Piece::Year => write!(text, "{:04}", time.year()),
                Piece::Month => write!(text, "{:02}", time.month()),
                Piece::Day => write!(text, "{:02}", time.day()),
                Piece::Hour => write!(text, "{:02}", time.hour()),
                Piece::Minute => write!(text, "{:02}", time.minute()),
            };
            written.expect("a String takes all text");
        }
        text
    }
}

/// `year={yyyy}/month={MM}` as `year=__DEFAULT_PARTITION__/month=__DEFAULT_PARTITION__`.
fn default_folder(pattern: &str, default: &str) -> String {
    let folder = |folder: &str| match folder.split_once('{') {
        // A name of its own must not begin with '_', else no reader would see it.
        Some(("", _)) => default.trim_matches('_').to_owned(),
        Some((before, _)) => format!("{before}{default}"),
        None => folder.to_owned(),
    };
    pattern.trim_matches('/').split('/').map(folder).collect::<Vec<_>>().join("/")
}
