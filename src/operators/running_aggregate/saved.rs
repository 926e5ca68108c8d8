//! The state of a running aggregate in snapshots: its chunks as pieces, and back.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMillisecondArray, new_null_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::compute::{cast, is_not_null};
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
        (self.watermark, self.swept) = (watermark, Watermark::MIN);
        self.chunks.clear();
        self.index.clear();
        self.cold.clear();
        self.ids.restored(&mut pieces);
        let mut part = room.map(RestoreRoom::part);
        for StatePiece { id, rows, dead } in pieces {
            let most = part.as_ref().map_or(self.most_merged, |part| part.folder().file_bytes());
            let (is_divided, mut from) = (rows.has_groups(most), 0);
            for rows in rows.groups(most) {
                let (rows, is_changed) = self.laid_out(rows?)?;
                // It must be written as it is now.
                let id = if is_changed || is_divided { self.ids.take() } else { id };
                let rows_of_it = from..from + rows.num_rows();
                from = rows_of_it.end;
                let dead: Vec<bool> = match &dead {
                    Some(dead) => rows_of_it.map(|row| dead.value(row)).collect(),
                    None => vec![false; rows.num_rows()],
                };
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
        }
        Ok(())
    }

    /// Rows of a snapshot as they are kept here. With a time-to-live that is new, all keys have been seen just now; while there is no event
    /// time yet, that is when a later run knows one. Of one that has gone, the time goes too. Answers whether that is so.
    fn laid_out(&self, rows: RecordBatch) -> Result<(RecordBatch, bool)> {
        let schema = self.parts.state_schema();
        let (mut columns, own) = (rows.columns().to_vec(), schema.fields().len());
        match self.ttl {
            Some(_) if columns.len() + 1 == own => {
                let no_time = new_null_array(schema.field(own - 1).data_type(), rows.num_rows());
                columns.push(self.seen_by_now(no_time)?);
            }
            Some(_)
                if columns.len() == own && self.watermark != Watermark::MIN && columns[own - 1].null_count() > 0 =>
            {
                let seen = columns.remove(own - 1);
                columns.push(self.seen_by_now(seen)?);
            }
            None if columns.len() == own + 1 => drop(columns.pop()),
            _ => return Ok((rows, false)),
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok((RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?, true))
    }

    /// When keys were last seen, with now for those of which that is not known; as it is where now is not known either. (A time of its own
    /// in place of that would outlive all that comes.)
    fn seen_by_now(&self, seen: ArrayRef) -> Result<ArrayRef> {
        if self.watermark == Watermark::MIN {
            return Ok(seen);
        }
        let now: ArrayRef = Arc::new(TimestampMillisecondArray::from_value(self.watermark.0, seen.len()));
        let now = cast(&now, seen.data_type())?;
        Ok(zip(&is_not_null(&seen)?, &seen, &now)?)
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
