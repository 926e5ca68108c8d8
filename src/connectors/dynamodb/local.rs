//! DynamoDB without AWS: a SQLite file under `DIR`, one SQLite table for each table.
//!
//! A table has a column for each attribute, added when an INSERT first writes it. A write is DynamoDB's
//! UpdateItem: it changes the attributes of its own INSERT and leaves those of others. All writes of a
//! flush are one transaction, so a reader sees an epoch of a table wholly or not at all.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension};

use crate::connectors::options::Options;
use crate::contracts::{ChangeKind, Changes, EpochNumber, Error, RefusedRow, Result, Sink, TableSpec, WriteOutcome};

use super::cells::{Cell, CellColumn};
use super::rows::{Pending, TableKey};

/// How long to wait for another process that holds the file.
const BUSY: Duration = Duration::from_secs(10);

/// The SQLite file, shared by all sinks of a job. It is made when something is first written: a job that could not
/// start leaves no results behind.
#[derive(Clone, Debug)]
pub(crate) struct LocalTables {
    path: PathBuf,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl LocalTables {
    /// The tables of `DIR/dynamodb.sqlite`.
    pub(crate) fn new(local: &Path) -> Self {
        Self { path: local.join("dynamodb.sqlite"), connection: Arc::new(Mutex::new(None)) }
    }

    pub(super) fn exist(&self) -> bool {
        self.path.exists()
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // With a log, NORMAL would lose the last transactions in a power cut: a checkpoint that follows says that they are there.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }

    /// The columns of a table's key, in order; none where there is no such table.
    pub(super) fn key_of(&self, table: &str) -> Result<Vec<String>> {
        if !self.exist() {
            return Ok(Vec::new());
        }
        self.with(table, |connection| {
            let sql = "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk";
            connection.prepare_cached(sql)?.query_map([table], |row| row.get(0))?.collect()
        })
    }

    pub(super) fn with<T>(&self, table: &str, run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.is_none() {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|e| Error::config(format!("'{}' could not be made", folder.display())).caused_by(e))?;
            }
            *connection = Some(self.connect().map_err(|e| failed(&self.path.display().to_string(), e))?);
        }
        match &mut *connection {
            Some(connection) => run(connection).map_err(|e| failed(table, e)),
            None => Err(Error::internal("the connection to SQLite is missing")),
        }
    }
}

fn failed(table: &str, error: rusqlite::Error) -> Error {
    let message = format!("local DynamoDB table '{table}' could not be used");
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Error::unavailable(message)
            .hint("does another program hold dynamodb.sqlite open for writing?")
            .caused_by(error),
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            Error::corrupt(message).caused_by(error)
        }
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::PermissionDenied) => {
            Error::config(message).hint("may this user write dynamodb.sqlite, and in its folder?").caused_by(error)
        }
        // Of a file of this machine: nobody is out of reach.
        _ => Error::unavailable(message).of_this_machine().caused_by(error),
    }
}

/// A name in SQL quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes one INSERT's attributes into a table.
pub(super) struct LocalTableSink {
    tables: LocalTables,
    writer: Arc<TableWriter>,
    pending: Vec<Pending>,
    /// Whether the SQLite table has all columns of the INSERT.
    prepared: bool,
}

/// What a flush needs to know of the table.
struct TableWriter {
    table: String,
    key: TableKey,
    /// A NULL leaves the attribute as it is, instead of removing it.
    ignore_nulls: bool,
    upsert: String,
    delete: Delete,
}

/// The statements of a retraction.
enum Delete {
    /// The item goes.
    Item(String),
    /// The INSERT's own attributes go (there may be none), as with a tombstone on AWS; and what has none left, by the beginning of the statement: other
    /// INSERTs may add columns at any time.
    Own { clear: Option<String>, remove: String },
}

impl Delete {
    /// The statement that removes items of a table with these columns.
    fn remove(&self, columns: impl Iterator<Item = String>) -> String {
        match self {
            Self::Item(remove) => remove.clone(),
            Self::Own { remove, .. } => {
                columns.fold(remove.clone(), |sql, column| format!("{sql} AND {column} IS NULL"))
            }
        }
    }
}

/// Whether a retraction takes what other INSERTs have written, too. As on AWS: where it is asked for, and where items are written whole.
fn deletes_items(spec: &TableSpec) -> bool {
    let is = |option: &str, values: &[&str]| {
        Options(spec).text(&[option]).is_some_and(|found| values.iter().any(|value| found.eq_ignore_ascii_case(value)))
    };
    is("sink.delete", &["item"]) || is("sink.write-mode", &["put", "batch"])
}

/// Checks that the key that a table has is the one of the SQL.
pub(super) fn compare_keys(table: &str, found: &[String], wanted: &[String]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::config(format!(
        "local DynamoDB table '{table}' exists with the key ({}), the SQL has ({})",
        found.join(", "),
        wanted.join(", ")
    ))
    .hint("a table keeps its key: use another table-name, or drop the table in dynamodb.sqlite"))
}

impl LocalTableSink {
    /// Makes the SQLite table and its columns where they are missing; where there is no SQLite file yet, the first flush
    /// does so.
    pub(super) fn open(tables: LocalTables, table: &str, spec: &TableSpec, ignore_nulls: bool) -> Result<Self> {
        let writer = TableWriter::new(table, spec, ignore_nulls)?;
        let prepared = tables.exist();
        if prepared {
            writer.prepare(&tables)?;
        }
        Ok(Self { tables, writer: Arc::new(writer), pending: Vec::new(), prepared })
    }
}

impl TableWriter {
    fn new(table: &str, spec: &TableSpec, ignore_nulls: bool) -> Result<Self> {
        let key = TableKey::of(spec)?;
        let (names, keys) = (&key.names, &key.keys);
        let mut lower: Vec<String> = names.iter().map(|n| n.to_ascii_lowercase()).collect();
        lower.sort();
        if let Some(twice) = lower.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::config(format!(
                "table '{}': two attributes are named '{}' but for case",
                spec.name, twice[0]
            ))
            .hint("DynamoDB takes both, the SQLite file of --local does not: rename one"));
        }
        let columns: Vec<String> = names.iter().map(|n| quoted(n)).collect();
        let key_columns: Vec<&str> = keys.iter().map(|k| columns[*k].as_str()).collect();
        let others = columns.iter().enumerate().filter(|(i, _)| !keys.contains(i));
        let assignments: Vec<String> = others
            .map(|(_, c)| match ignore_nulls {
                true => format!("{c}=coalesce(excluded.{c},{c})"),
                false => format!("{c}=excluded.{c}"),
            })
            .collect();
        let action =
            if assignments.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", assignments.join(",")) };
        let upsert = format!(
            "INSERT INTO {}({}) VALUES({}) ON CONFLICT({}) DO {action}",
            quoted(table),
            columns.join(","),
            vec!["?"; columns.len()].join(","),
            key_columns.join(",")
        );
        let condition: Vec<String> = key_columns.iter().map(|k| format!("{k}=?")).collect();
        let condition = condition.join(" AND ");
        let remove = format!("DELETE FROM {} WHERE {condition}", quoted(table));
        let delete = match deletes_items(spec) {
            true => Delete::Item(remove),
            false => {
                let others = columns.iter().enumerate().filter(|(i, _)| !keys.contains(i));
                let nulls: Vec<String> = others.map(|(_, c)| format!("{c}=NULL")).collect();
                let clear = format!("UPDATE {} SET {} WHERE {condition}", quoted(table), nulls.join(","));
                Delete::Own { clear: (!nulls.is_empty()).then_some(clear), remove }
            }
        };
        Ok(Self { table: table.to_owned(), key, ignore_nulls, upsert, delete })
    }

    /// Columns have no type, so that SQLite stores what is bound as it is.
    fn prepare(&self, tables: &LocalTables) -> Result<()> {
        let keys: Vec<String> = self.key.primary_key.iter().map(|k| quoted(k)).collect();
        let keys = keys.join(",");
        let create =
            format!("CREATE TABLE IF NOT EXISTS {}({keys},PRIMARY KEY({keys})) WITHOUT ROWID", quoted(&self.table));
        let found_keys = tables.with(&self.table, |connection| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let alike =
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE AND name <> ?1";
            let other = transaction.query_row(alike, [&self.table], |row| row.get::<_, String>(0)).optional()?;
            if let Some(other) = other {
                return Ok(Err(other));
            }
            transaction.execute(&create, [])?;
            let mut found: Vec<(String, i64)> = Vec::new();
            {
                let mut statement = transaction.prepare("SELECT name, pk FROM pragma_table_info(?)")?;
                let mut rows = statement.query([&self.table])?;
                while let Some(row) = rows.next()? {
                    found.push((row.get(0)?, row.get(1)?));
                }
            }
            for name in &self.key.names {
                if !found.iter().any(|(column, _)| column.eq_ignore_ascii_case(name)) {
                    let sql = format!("ALTER TABLE {} ADD COLUMN {}", quoted(&self.table), quoted(name));
                    transaction.execute(&sql, [])?;
                }
            }
            transaction.commit()?;
            found.retain(|(_, pk)| *pk > 0);
            found.sort_by_key(|(_, pk)| *pk);
            Ok(Ok(found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()))
        })?;
        let found_keys = found_keys.map_err(|other| {
            let error = format!(
                "the tables '{}' and '{other}' differ in case only, which the local DynamoDB does not see",
                self.table
            );
            Error::config(error).hint("give one of them another 'table-name' (on AWS they may stay as they are)")
        })?;
        compare_keys(&self.table, &found_keys, &self.key.primary_key)
    }

    /// All columns that are no key, in quotes.
    fn others(&self, connection: &Connection) -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare_cached("SELECT name FROM pragma_table_info(?) WHERE pk = 0")?;
        let names = statement.query_map([&self.table], |row| row.get::<_, String>(0))?;
        names.map(|name| Ok(quoted(&name?))).collect()
    }

    fn columns(&self, batch: &RecordBatch) -> Result<Vec<CellColumn>> {
        let named = |(column, name): (&_, &String)| {
            CellColumn::try_new(column).map_err(|e| e.context(format!("attribute '{name}' of '{}'", self.table)))
        };
        batch.columns().iter().zip(&self.key.names).map(named).collect()
    }

    /// Why row `row` cannot be stored, if it cannot.
    fn check(&self, columns: &[CellColumn], row: usize, kind: ChangeKind) -> Option<RefusedRow> {
        if let Some(refused) = self.key.check(|column| &columns[column], row) {
            return Some(refused);
        }
        if kind == ChangeKind::Delete {
            return None;
        }
        let mut size = 0;
        for (index, column) in columns.iter().enumerate() {
            match column.cell(row) {
                Err((reason, detail)) => return Some(self.key.refuse(row, index, reason, detail)),
                Ok(Cell::Missing) => {}
                Ok(cell) => size += self.key.names[index].len() + cell.size(),
            }
        }
        TableKey::check_size(row, size)
    }

    fn flush(&self, tables: &LocalTables, pending: &[Pending]) -> Result<()> {
        let order = match self.ignore_nulls {
            true => TableKey::all_rows(pending),
            false => self.key.last_rows(pending)?,
        };
        let columns = pending.iter().map(|p| self.columns(&p.batch)).collect::<Result<Vec<_>>>()?;
        tables.with(&self.table, |connection| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut upsert = transaction.prepare_cached(&self.upsert)?;
                let mut clear = match &self.delete {
                    Delete::Own { clear: Some(clear), .. } => Some(transaction.prepare_cached(clear)?),
                    _ => None,
                };
                let mut delete = match pending.iter().any(|p| p.kinds.is_some()) {
                    true => {
                        Some(transaction.prepare_cached(&self.delete.remove(self.others(&transaction)?.into_iter()))?)
                    }
                    false => None,
                };
                for (batch, row) in order {
                    let cells = &columns[batch];
                    match pending[batch].kind(row) {
                        ChangeKind::Upsert => {
                            bind_all(&mut upsert, cells.iter(), row)?;
                            upsert.raw_execute()?;
                        }
                        ChangeKind::Delete => {
                            for statement in [&mut clear, &mut delete].into_iter().flatten() {
                                bind_all(statement, self.key.keys.iter().map(|k| &cells[*k]), row)?;
                                statement.raw_execute()?;
                            }
                        }
                    }
                }
            }
            transaction.commit()
        })
    }
}

/// Gives a statement the cells of a row as its parameters.
pub(super) fn bind_all<'a>(
    statement: &mut CachedStatement<'_>,
    cells: impl Iterator<Item = &'a CellColumn>,
    row: usize,
) -> rusqlite::Result<()> {
    for (index, column) in cells.enumerate() {
        // Values that cannot be stored were refused when they were written.
        let cell = column.cell(row).unwrap_or(Cell::Missing);
        let value = match &cell {
            Cell::Missing => ToSqlOutput::Owned(Value::Null),
            Cell::Integer(v) => ToSqlOutput::Owned(Value::Integer(*v)),
            Cell::Boolean(v) => ToSqlOutput::Owned(Value::Integer((*v).into())),
            Cell::Number(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cell::Binary(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        };
        statement.raw_bind_parameter(index + 1, value)?;
    }
    Ok(())
}

#[async_trait]
impl Sink for LocalTableSink {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let Changes { batch, kinds } = changes;
        let columns = self.writer.columns(&batch)?;
        let kind = |row: usize| kinds.as_ref().map_or(ChangeKind::Upsert, |k| k[row]);
        let refused: Vec<RefusedRow> =
            (0..batch.num_rows()).filter_map(|row| self.writer.check(&columns, row, kind(row))).collect();
        let written = (batch.num_rows() - refused.len()) as u64;
        if written > 0 {
            let refused = refused.iter().map(|r| r.row).collect();
            self.pending.push(Pending { batch, kinds, refused });
        }
        Ok(WriteOutcome { written, refused })
    }

    fn flushes_parts(&self) -> bool {
        true
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        if self.pending.is_empty() {
            return Ok(WriteOutcome::default());
        }
        let pending = std::mem::take(&mut self.pending);
        let (writer, tables, prepared) = (Arc::clone(&self.writer), self.tables.clone(), self.prepared);
        let task = tokio::task::spawn_blocking(move || {
            if !prepared {
                writer.prepare(&tables)?;
            }
            writer.flush(&tables, &pending)
        });
        task.await.map_err(|e| Error::internal("the task that wrote to SQLite died").caused_by(e))??;
        self.prepared = true;
        Ok(WriteOutcome::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint says that what was flushed is there, whatever becomes of the power.
    #[test]
    fn a_transaction_is_on_disk_when_it_is_committed() {
        const FULL: i64 = 2;
        let dir = tempfile::tempdir().unwrap();
        let pragma = |name: &str| {
            let sql = format!("SELECT {name} FROM pragma_{name}");
            LocalTables::new(dir.path()).with("m", |c| c.query_row(&sql, [], |row| row.get::<_, Value>(0))).unwrap()
        };
        assert_eq!(pragma("synchronous"), Value::Integer(FULL));
        assert_eq!(pragma("journal_mode"), Value::Text("wal".to_owned()));
    }
}
