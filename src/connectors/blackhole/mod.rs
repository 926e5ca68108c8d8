//! The connector `blackhole`: takes everything and keeps nothing. For measuring.

use async_trait::async_trait;

use crate::contracts::{Changes, EpochNumber, Result, Sink, WriteOutcome};

/// Swallows rows.
pub(super) struct Blackhole;

#[async_trait]
impl Sink for Blackhole {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        Ok(WriteOutcome { written: changes.batch.num_rows() as u64, refused: Vec::new() })
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        Ok(WriteOutcome::default())
    }
}
