//! The connector `dynamodb`: items kept up to date by primary key.

mod cells;
pub(crate) mod local;

use crate::contracts::{Result, Sink, TableSpec};

use super::options::Options;
use local::{LocalTableSink, LocalTables};

/// A sink into the embedded DynamoDB.
pub(super) fn local_sink(spec: &TableSpec, tables: LocalTables) -> Result<Box<dyn Sink>> {
    let options = Options(spec);
    let table = options.require(&["table-name"])?;
    let ignore_nulls = options.bool("sink.ignore-nulls", false)?;
    Ok(Box::new(LocalTableSink::open(tables, table, spec, ignore_nulls)?))
}
