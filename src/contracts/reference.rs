//! What the runtime asks of a reference table: all of its rows, and again when they have changed.

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::error::{Error, Result};

/// What has become of a reference table since it was asked last.
#[derive(Debug)]
pub enum Polled {
    /// It is as it was.
    Same,
    /// It has changed, or is asked for the first time: all of its rows.
    Changed(RecordBatch),
    /// Nothing is there at the moment, as while somebody replaces its files: where, and what can be done.
    Away(Error),
}

/// Loads a reference table.
///
/// # Contract
/// - What `poll` answers is the whole table, in the columns of its spec, or an error; never a part of it.
/// - Between two changes `poll` is cheap: it is called for each epoch.
#[async_trait]
pub trait ReferenceLoader: Send {
    /// What has changed since the last time that rows were answered.
    async fn poll(&mut self) -> Result<Polled>;

    /// The next `poll` answers as if it were the first: others have been in use meanwhile.
    fn forget(&mut self);
}
