//! The state of a running aggregate in snapshots: its chunks as pieces, and back.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::Schema;

use super::super::operator_kind::alike;
use super::super::restore_room::RestoreRoom;
use super::{Chunk, RunningAggregate};
use crate::contracts::{Result, Watermark};
use crate::state::StatePiece;

impl RunningAggregate {
    /// All state, for a snapshot: chunks, and which of their rows are dead.
    pub fn snapshot(&self) -> (Watermark, Vec<StatePiece>) {
        let piece = |chunk: &Chunk| StatePiece {
            id: chunk.id,
            rows: chunk.batch.clone().into(),
            dead: (chunk.live < chunk.dead.len()).then(|| BooleanBuffer::from(chunk.dead.as_slice())),
        };
        (self.watermark, self.chunks.iter().map(piece).chain(self.cold.pieces()).collect())
    }

    /// Takes the state of a snapshot, in place of its own, and keeps in memory what there is `room` for.
    pub async fn restore(
        &mut self,
        watermark: Watermark,
        mut pieces: Vec<StatePiece>,
        room: Option<&RestoreRoom>,
    ) -> Result<()> {
        self.watermark = watermark;
        self.chunks.clear();
        self.index.clear();
        self.cold.clear();
        self.ids.restored(&mut pieces);
        let mut part = room.map(RestoreRoom::part);
        for StatePiece { id, rows, dead } in pieces {
            let (rows, is_changed) = self.laid_out(rows.load()?)?;
            // It must be written as it is now.
            let id = if is_changed { self.ids.take() } else { id };
            let dead: Vec<bool> = dead.map_or_else(|| vec![false; rows.num_rows()], |dead| dead.iter().collect());
            // Once, where putting them in would grow it several times.
            self.index.reserve(dead.iter().filter(|dead| !**dead).count(), |(hash, _)| *hash);
            self.put_chunk(id, rows, dead)?;
            if let Some(part) = &mut part
                && part.holds(self.memory().1).is_some()
            {
                // All of it, as always.
                self.spill(part.folder())?;
                part.holds(self.memory().1);
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Rows of a snapshot as they are kept here. With a time-to-live that is new, all keys have been seen just now; of one that has gone,
    /// the time goes too. Answers whether that is so.
    fn laid_out(&self, rows: RecordBatch) -> Result<(RecordBatch, bool)> {
        let schema = self.parts.state_schema();
        let (mut columns, own) = (rows.columns().to_vec(), schema.fields().len());
        match self.ttl {
            Some(_) if columns.len() + 1 == own => {
                // Without any time yet, they are kept until they are seen.
                let now = if self.watermark == Watermark::MIN { i64::MAX } else { self.watermark.0 };
                let seen: ArrayRef = Arc::new(Int64Array::from_value(now, rows.num_rows()));
                columns.push(cast(&seen, schema.field(own - 1).data_type())?);
            }
            None if columns.len() == own + 1 => drop(columns.pop()),
            _ => return Ok((rows, false)),
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok((RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?, true))
    }

    /// Whether rows of a snapshot have the columns that are kept here, but for the time of a time-to-live.
    pub(in crate::operators) fn takes(&self, saved: &Schema) -> bool {
        let (own, saved) = (self.parts.state_schema().fields(), saved.fields());
        match self.ttl {
            Some(_) if saved.len() + 1 == own.len() => alike(saved, &own[..saved.len()]),
            None if saved.len() == own.len() + 1 => alike(&saved[..own.len()], own),
            _ => alike(saved, own),
        }
    }
}
