//! Tables that are asked for single rows while a job runs: `JOIN t FOR SYSTEM_TIME AS OF …`.

use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::error::Result;

/// A table that gives the rows of keys.
///
/// # Contract
/// - `open` is called once, before the first `get`: a missing table or right is found before the first row.
/// - `get` takes distinct keys without NULLs, a column for each column of the table's key, in the key's order and the columns'
///   types. It answers with the rows that there are, at most one a key, in any order; the columns are those of the
///   [`TableSpec`](super::TableSpec) that it was made from, the key among them.
/// - What passes by itself (throttling, lost connections) is repeated inside, for as long as it takes.
/// - A stored value that does not fit its column is an error: never NULL, never left out.
#[async_trait]
pub trait Lookup: Send + Sync + fmt::Debug {
    /// Reaches the table.
    async fn open(&self) -> Result<()>;

    /// The rows of these keys, as the table has them now.
    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch>;
}

/// What may be kept of answers, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupCache {
    /// Most keys, of those without a row too; the oldest go first.
    pub max_rows: usize,
    /// Age at which a key is asked for again.
    pub expire_after_write: Duration,
    /// Whether it is kept that a key has no row.
    pub cache_missing_key: bool,
}
