//! Rows of the embedded DynamoDB by their keys.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use rusqlite::types::{Value, ValueRef};

use crate::contracts::{Error, Lookup, Result, TableSpec};

use super::cells::CellColumn;
use super::local::{LocalTables, bind_all, compare_keys, quoted};
use super::lookup::{LookedUp, Objects, json_bytes, json_string};

/// A table of `dynamodb.sqlite`. One that nobody has made yet has no rows, as a table that `provision` has just made.
#[derive(Debug)]
pub(super) struct LocalLookup {
    looked_up: LookedUp,
    tables: LocalTables,
}

impl LocalLookup {
    pub(super) fn try_new(spec: &TableSpec, tables: LocalTables) -> Result<Self> {
        Ok(Self { looked_up: LookedUp::of(spec)?, tables })
    }
}

#[async_trait]
impl Lookup for LocalLookup {
    async fn open(&self) -> Result<()> {
        let (looked_up, tables) = (self.looked_up.clone(), self.tables.clone());
        let task = tokio::task::spawn_blocking(move || {
            let found = tables.key_of(&looked_up.table)?;
            // One that is made later is made by a sink with its key.
            if found.is_empty() { Ok(()) } else { compare_keys(&looked_up.table, &found, &looked_up.key.primary_key) }
        });
        task.await.map_err(|e| Error::internal("the task that read SQLite died").caused_by(e))?
    }

    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        let (looked_up, tables, keys) = (self.looked_up.clone(), self.tables.clone(), keys.clone());
        let task = tokio::task::spawn_blocking(move || select(&looked_up, &tables, &keys));
        task.await.map_err(|e| Error::internal("the task that read SQLite died").caused_by(e))?
    }
}

fn select(looked_up: &LookedUp, tables: &LocalTables, keys: &RecordBatch) -> Result<RecordBatch> {
    let mut objects = Objects::default();
    if !tables.exist() {
        return looked_up.rows(&objects);
    }
    let LookedUp { spec, table, key } = looked_up;
    let columns: Vec<CellColumn> = keys.columns().iter().map(CellColumn::try_new).collect::<Result<_>>()?;
    tables.with(table, |connection| {
        let mut names = connection.prepare_cached("SELECT name FROM pragma_table_info(?1)")?;
        let there: BTreeSet<String> = names.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        if there.is_empty() {
            return Ok(());
        }
        // An attribute that no item has yet is no column.
        let wanted: Vec<&String> = key.names.iter().filter(|name| there.contains(*name)).collect();
        let list = wanted.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let test: Vec<String> =
            key.primary_key.iter().enumerate().map(|(i, name)| format!("{} = ?{}", quoted(name), i + 1)).collect();
        let sql = format!("SELECT {list} FROM {} WHERE {}", quoted(table), test.join(" AND "));
        let mut select = connection.prepare_cached(&sql)?;
        for row in 0..keys.num_rows() {
            bind_all(&mut select, columns.iter(), row)?;
            let mut found = select.raw_query();
            if let Some(item) = found.next()? {
                let mut values: Vec<Value> = (0..wanted.len()).map(|i| item.get(i)).collect::<rusqlite::Result<_>>()?;
                objects.add(&key.names, |name, out| {
                    let Some(place) = wanted.iter().position(|wanted| *wanted == name) else { return };
                    let value = std::mem::replace(&mut values[place], Value::Null);
                    if let Ok(field) = spec.schema.field_with_name(name) {
                        write(ValueRef::from(&value), field.data_type(), out);
                    }
                });
            }
        }
        Ok(())
    })?;
    looked_up.rows(&objects)
}

/// A value of SQLite as JSON: SQLite has fewer types than DynamoDB, so the column says what it is.
fn write(value: ValueRef<'_>, data_type: &DataType, out: &mut Vec<u8>) {
    let nested = matches!(data_type, DataType::List(_) | DataType::Struct(_) | DataType::Map(_, _));
    match (value, data_type) {
        (ValueRef::Null, _) => {}
        (ValueRef::Integer(number), DataType::Boolean) => {
            out.extend_from_slice(if number == 0 { b"false" } else { b"true" });
        }
        (ValueRef::Integer(number), _) => out.extend_from_slice(number.to_string().as_bytes()),
        (ValueRef::Real(number), _) => out.extend_from_slice(number.to_string().as_bytes()),
        // Lists, maps and rows are kept as JSON, and numbers of more than 64 bits as digits.
        (ValueRef::Text(text), _) if nested => out.extend_from_slice(text),
        (ValueRef::Text(text), data_type) if data_type.is_numeric() && is_number(text) => out.extend_from_slice(text),
        (ValueRef::Text(text), _) => json_string(&String::from_utf8_lossy(text), out),
        (ValueRef::Blob(bytes), _) => json_bytes(bytes, out),
    }
}

/// Whether text may stand as a number in JSON; what it is exactly, the decoder sees.
fn is_number(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit) && text.iter().all(|c| c.is_ascii_digit() || b"+-.eE".contains(c))
}
