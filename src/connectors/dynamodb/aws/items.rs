//! Rows as writes of items: one for each key and epoch.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use aws_sdk_dynamodb::types::AttributeValue;
use indexmap::IndexMap;

use crate::connectors::options::parse_timestamp_ms;
use crate::contracts::{ChangeKind, Changes, Error, RefusedRow, Result, TableSpec};

use super::super::cells::{CellColumn, Unstorable};
use super::super::rows::TableKey;
use super::attributes::{AttributeColumn, size};
use super::options::{SinkOptions, WriteMode};

/// What a write does to one attribute.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// It stays as it is.
    Keep,
    Remove,
    Set(AttributeValue),
}

/// When an item may be removed, by the option `sink.ttl.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expires {
    /// As it is stored.
    Keep,
    /// Not any more.
    Never,
    /// Milliseconds since 1970, `sink.ttl.after` included.
    At(i64),
    /// `sink.ttl.after` after the epoch's time.
    AfterEpoch,
}

/// What an epoch does to one item.
#[derive(Debug, Clone)]
pub(super) struct ItemWrite {
    pub(super) key: HashMap<String, AttributeValue>,
    /// The row is gone; every attribute is [`Change::Remove`].
    pub(super) deleted: bool,
    /// The attributes that are no key, by the places of their columns.
    pub(super) changes: Vec<(usize, Change)>,
    pub(super) expires: Expires,
}

/// An item's key as bytes: equal when DynamoDB's are.
pub(super) type KeyBytes = Vec<u8>;

/// Makes [`ItemWrite`]s and keeps them until the flush.
pub(super) struct Items {
    pub(super) key: TableKey,
    spec: TableSpec,
    /// Columns that are no key, by place.
    pub(super) others: Vec<usize>,
    pub(super) waiting: IndexMap<KeyBytes, ItemWrite>,
}

/// Columns of a batch that are ready to be read.
struct Columns {
    all: Vec<AttributeColumn>,
    expiry: Option<ArrayRef>,
}

impl Items {
    pub(super) fn new(spec: &TableSpec, key: TableKey) -> Self {
        let others = (0..key.names.len()).filter(|place| !key.keys.contains(place)).collect();
        Self { key, spec: spec.clone(), others, waiting: IndexMap::new() }
    }

    /// Takes rows: those of a key that waits already replace it or, where NULLs are ignored, complete it.
    pub(super) fn take(&mut self, changes: &Changes, options: &SinkOptions) -> Result<(u64, Vec<RefusedRow>)> {
        let columns = self.columns(&changes.batch, options)?;
        let (mut taken, mut refused) = (0, Vec::new());
        for row in 0..changes.batch.num_rows() {
            let kind = changes.kinds.as_ref().map_or(ChangeKind::Upsert, |k| k[row]);
            match self.item(&columns, row, kind, options) {
                Err(row) => refused.push(row),
                Ok((key, write)) => {
                    taken += 1;
                    self.put(key, write);
                }
            }
        }
        Ok((taken, refused))
    }

    fn put(&mut self, key: KeyBytes, write: ItemWrite) {
        match self.waiting.get_mut(&key) {
            Some(earlier) if !write.deleted => {
                for ((_, before), (_, after)) in earlier.changes.iter_mut().zip(write.changes) {
                    if after != Change::Keep {
                        *before = after;
                    }
                }
                earlier.expires = match write.expires {
                    // A tombstone's time was that of the row before.
                    Expires::Keep if earlier.deleted && earlier.expires != Expires::Keep => Expires::Never,
                    Expires::Keep => earlier.expires,
                    expires => expires,
                };
                earlier.deleted = false;
            }
            _ => drop(self.waiting.insert(key, write)),
        }
    }

    fn columns(&self, batch: &RecordBatch, options: &SinkOptions) -> Result<Columns> {
        let named = |(place, column): (usize, &ArrayRef)| {
            AttributeColumn::try_new(column, options.sets.contains(&place))
                .map_err(|e| e.context(format!("attribute '{}' of '{}'", self.key.names[place], options.table)))
        };
        let all = batch.columns().iter().enumerate().map(named).collect::<Result<Vec<_>>>()?;
        if let Some(key) = self.key.keys.iter().find(|key| all[**key].scalar().is_none()) {
            return Err(Error::config(format!(
                "column '{}' of '{}' cannot be a key",
                self.key.names[*key], self.spec.name
            ))
            .hint("a key in DynamoDB is a string, a number or binary"));
        }
        let expiry = options.expiry.as_ref().and_then(|e| e.column).map(|place| times(batch.column(place)));
        Ok(Columns { all, expiry: expiry.transpose()? })
    }

    /// What row `row` asks for, or why it cannot be stored.
    fn item(
        &self,
        columns: &Columns,
        row: usize,
        kind: ChangeKind,
        options: &SinkOptions,
    ) -> std::result::Result<(KeyBytes, ItemWrite), RefusedRow> {
        let refuse = |place: usize, (reason, detail): Unstorable| self.key.refuse(row, place, reason, detail);
        if let Some(refused) = self.key.check(|place| scalar(&columns.all[place]), row) {
            return Err(refused);
        }
        let (mut bytes, mut key, mut length) = (KeyBytes::new(), HashMap::new(), 0);
        for place in &self.key.keys {
            let value = columns.all[*place].value(row).map_err(|e| refuse(*place, e))?;
            // Checked above: a key is not NULL.
            let Some(value) = value else { continue };
            add_key_bytes(&value, &mut bytes);
            length += self.key.names[*place].len() + size(&value);
            key.insert(self.key.names[*place].clone(), value);
        }
        let deleted = kind == ChangeKind::Delete;
        let mut changes = Vec::with_capacity(self.others.len());
        for place in &self.others {
            let change = if deleted {
                Change::Remove
            } else {
                match columns.all[*place].value(row).map_err(|e| refuse(*place, e))? {
                    Some(value) => {
                        length += self.key.names[*place].len() + size(&value);
                        Change::Set(value)
                    }
                    None if options.ignore_nulls => Change::Keep,
                    None => Change::Remove,
                }
            };
            changes.push((*place, change));
        }
        let expires = match (&options.expiry, &columns.expiry) {
            (None, _) => Expires::Keep,
            (Some(_), None) => Expires::AfterEpoch,
            (Some(_), Some(_)) if deleted => Expires::AfterEpoch,
            (Some(expiry), Some(times)) => {
                let after = i64::try_from(expiry.after.as_millis()).unwrap_or(i64::MAX);
                match time_at(times, row).map_err(|e| refuse(expiry.column.unwrap_or_default(), e))? {
                    Some(time) => Expires::At(time.saturating_add(after)),
                    None if options.ignore_nulls => Expires::Keep,
                    None => Expires::Never,
                }
            }
        };
        length += self.hidden_bytes(options);
        match TableKey::check_size(row, length) {
            Some(refused) => Err(refused),
            None => Ok((bytes, ItemWrite { key, deleted, changes, expires })),
        }
    }

    /// Upper bound of what the attributes that the SQL does not name take: a number is 21 bytes at most.
    fn hidden_bytes(&self, options: &SinkOptions) -> usize {
        const NUMBER: usize = 21;
        let expiry = options.expiry.as_ref().map_or(0, |e| e.attribute.len() + NUMBER);
        let version = options.version.len() + NUMBER;
        let contribution = |place: &usize| options.contribution.len() + 1 + self.key.names[*place].len() + NUMBER;
        match options.mode {
            WriteMode::Batch => expiry,
            WriteMode::Update | WriteMode::Put => expiry + version,
            WriteMode::Add => expiry + version + self.others.iter().map(contribution).sum::<usize>(),
        }
    }
}

/// The scalars of a key column: [`Items::columns`] has made sure of them.
fn scalar(column: &AttributeColumn) -> &CellColumn {
    column.scalar().expect("a key column is scalar")
}

fn add_key_bytes(value: &AttributeValue, out: &mut KeyBytes) {
    let (tag, bytes) = match value {
        AttributeValue::S(text) => (b'S', text.as_bytes()),
        AttributeValue::N(number) => (b'N', number.as_bytes()),
        AttributeValue::B(blob) => (b'B', blob.as_ref()),
        _ => (b'?', &[][..]),
    };
    out.push(tag);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A column of times: timestamps become milliseconds, texts stay.
fn times(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => {
            cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?
        }
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => cast(column, &DataType::Utf8)?,
        other => {
            return Err(Error::config(format!("'sink.ttl.column' is of type {other}, which is no time"))
                .hint("name a TIMESTAMP, a DATE, or a STRING like '2026-02-12T10:00:00Z'"));
        }
    })
}

fn time_at(times: &ArrayRef, row: usize) -> std::result::Result<Option<i64>, Unstorable> {
    if times.is_null(row) {
        return Ok(None);
    }
    if let Some(milliseconds) = times.as_primitive_opt::<TimestampMillisecondType>() {
        return Ok(Some(milliseconds.value(row)));
    }
    let text = times.as_string::<i32>().value(row);
    parse_timestamp_ms(text).map(Some).map_err(|_| ("bad_timestamp", format!("'{text}' is no point in time")))
}
