//! What the runtime asks of a reference table: all of its rows, and again when they have changed.

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::error::Result;

/// Loads a reference table.
///
/// # Contract
/// - What `poll` answers is the whole table, in the columns of its spec, or an error; never a part of it.
/// - Between two changes `poll` is cheap: it is called for each epoch.
#[async_trait]
pub trait ReferenceLoader: Send {
    /// The rows, when they are asked for the first time or have changed since the last time.
    async fn poll(&mut self) -> Result<Option<RecordBatch>>;

    /// The next `poll` answers the rows as if it were the first: others have been in use meanwhile.
    fn forget(&mut self);
}
