//! The connector `dynamodb`: items kept up to date by primary key, and looked up by it.

mod aws;
mod cells;
pub(crate) mod local;
mod local_lookup;
mod lookup;
mod rows;

use std::sync::Arc;

use crate::contracts::{Clock, LeaseStore, Lookup, Result, Sink, TableSpec};

use super::aws::{AwsSession, AwsSessions, Calling};
use super::options::Options;
use aws::{AwsLookup, AwsTableSink};
use local::{LocalTableSink, LocalTables};
use local_lookup::LocalLookup;

/// A sink into the embedded DynamoDB.
pub(super) fn local_sink(spec: &TableSpec, tables: LocalTables) -> Result<Box<dyn Sink>> {
    let options = Options(spec);
    let table = options.require(&["table-name"])?;
    let ignore_nulls = options.bool("sink.ignore-nulls", false)?;
    Ok(Box::new(LocalTableSink::open(tables, table, spec, ignore_nulls)?))
}

/// A sink into DynamoDB on AWS. `job` names the job: several may write to one item.
pub(super) fn aws_sink(
    spec: &TableSpec,
    session: AwsSession,
    clock: Arc<dyn Clock>,
    job: &str,
) -> Result<Box<dyn Sink>> {
    Ok(Box::new(AwsTableSink::try_new(spec, session, clock, job)?))
}

/// What an INSERT into this table keeps in an item for itself, in the modes in which another INSERT of the same columns, which would take it
/// for its own, hinders it. Two INSERTs of a job that have one of these in common are not to write the same items.
pub(crate) fn own_attributes(spec: &TableSpec) -> Vec<String> {
    aws::own_attributes(spec)
}

/// Leases as items of a table, by the values of their keys, of a job whose checkpoints lie in `checkpoints`: while others have one for other
/// checkpoints, reading it is an error. Calls are made as `calling` says; without, with the credentials that the
/// environment gives.
///
/// # Errors
/// No such table, one whose key is not a single string, no rights.
pub async fn leases<const N: usize>(
    table: &str,
    items: [&str; N],
    checkpoints: Option<&str>,
    clock: Arc<dyn Clock>,
    calling: Option<Calling>,
) -> Result<[Arc<dyn LeaseStore>; N]> {
    let session = calling.map_or_else(AwsSessions::default, AwsSessions::given).default_session()?;
    let table = aws::lease::LeaseTable::open(session, table, clock).await?;
    Ok(items.map(|item| Arc::new(table.lease(item, checkpoints)) as Arc<dyn LeaseStore>))
}

/// Looks rows up in the embedded DynamoDB.
pub(super) fn local_lookup(spec: &TableSpec, tables: LocalTables) -> Result<Arc<dyn Lookup>> {
    Ok(Arc::new(LocalLookup::try_new(spec, tables)?))
}

/// Looks rows up in DynamoDB on AWS.
pub(super) fn aws_lookup(
    spec: &TableSpec,
    session: AwsSession,
    clock: Arc<dyn Clock>,
    job: &str,
) -> Result<Arc<dyn Lookup>> {
    Ok(Arc::new(AwsLookup::try_new(spec, session, clock, job)?))
}
