//! Counting: every record that came in is accounted for.
//!
//! For each table, records = decoded + rejected + skipped; for each query, rows = used + filtered + rejected
//! + late. The worker asserts both at the end of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checkpoints::CheckpointCounts;
use crate::contracts::{Error, RejectedRecord, Result};

/// Counts of a source table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Name in SQL.
    pub name: String,
    /// The table whose reader it shares: its records are the same ones.
    pub read_with: Option<String>,
    /// Records read.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// Records that became rows.
    pub decoded: u64,
    /// Records that could not be decoded, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Records that the raw-byte test left out.
    pub skipped: u64,
}

impl TableCounts {
    /// Rows that had been decoded go to the error output after all.
    pub(super) fn refused_after_decoding(&mut self, refused: &[RejectedRecord]) {
        self.decoded -= refused.len() as u64;
        for record in refused {
            *self.rejected.entry(record.reason.to_string()).or_default() += 1;
        }
    }
}

/// Counts of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryCounts {
    /// `file:sink`.
    pub name: String,
    /// Rows of its source tables.
    pub rows_in: u64,
    /// Rows that reached its first operator or its sink.
    pub used: u64,
    /// Rows that a condition left out; `None` where one row may be used several times (joins, expanded
    /// windows), or rows are used together with results, so that the two cannot be compared.
    pub filtered: Option<u64>,
    /// Rows that came after their window had closed (or, without a window, after the time-to-live).
    pub late: u64,
    /// Rows for which REQUIRE did not hold, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Rows given to the sink.
    pub rows_out: u64,
    /// Results that were refused, by reason: by the sink, by REQUIRE above a window or an aggregation, or since they make the query fail.
    pub refused: BTreeMap<String, u64>,
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// By source table.
    pub tables: Vec<TableCounts>,
    /// By query.
    pub queries: Vec<QueryCounts>,
    /// Epochs run.
    pub epochs: u64,
    /// Wall time.
    pub elapsed: Duration,
    /// What checkpoints have cost; `None` when none are kept.
    pub checkpoints: Option<CheckpointCounts>,
    /// Bytes of state that were put on disk because memory was short.
    pub spilled_bytes: u64,
}

impl Summary {
    /// Records read; those that several tables see count once.
    pub fn records(&self) -> u64 {
        self.tables.iter().filter(|t| t.read_with.is_none()).map(|t| t.records).sum()
    }

    /// Checks that every record is accounted for.
    pub fn check(&self) -> Result<()> {
        for table in &self.tables {
            let rejected: u64 = table.rejected.values().sum();
            let sum = table.decoded + rejected + table.skipped;
            if sum != table.records {
                return Err(Error::internal(format!(
                    "table '{}' read {} records but accounts for {sum} ({} decoded, {rejected} rejected, {} skipped)",
                    table.name, table.records, table.decoded, table.skipped
                )));
            }
        }
        for query in &self.queries {
            let Some(filtered) = query.filtered else { continue };
            let rejected: u64 = query.rejected.values().sum();
            let sum = query.used + filtered + rejected + query.late;
            if sum != query.rows_in {
                return Err(Error::internal(format!(
                    "query '{}' read {} rows but accounts for {sum} ({} used, {filtered} filtered, {rejected} rejected, {} late)",
                    query.name, query.rows_in, query.used, query.late
                )));
            }
        }
        Ok(())
    }
}
