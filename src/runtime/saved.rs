//! What a run leaves behind so that the next one goes on from it.

use std::collections::BTreeMap;

use datafusion::arrow::array::RecordBatch;

use crate::contracts::{Position, Watermark};

/// State of a job between two runs.
#[derive(Debug, Clone, Default)]
pub struct SavedJob {
    /// The last epoch.
    pub epoch: u64,
    /// By source table.
    pub tables: BTreeMap<String, SavedTable>,
    /// By query.
    pub queries: BTreeMap<String, SavedQuery>,
}

/// Positions and time of a source table.
#[derive(Debug, Clone, Default)]
pub struct SavedTable {
    /// Position after the last record that counted, the split's watermark, and whether it has ended.
    pub splits: BTreeMap<String, (Option<Position>, i64, bool)>,
    /// Windows up to here have fired whatever the splits say.
    pub floor: i64,
}

/// State of a query's operators.
#[derive(Debug, Clone, Default)]
pub struct SavedQuery {
    /// Fingerprint, watermark and state rows of each operator.
    pub operators: Vec<(String, Watermark, Vec<RecordBatch>)>,
}
