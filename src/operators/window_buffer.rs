//! Rows held until their window closes, for what needs all rows of a window at once and is no
//! aggregation: `ROW_NUMBER()` over a bare window table function.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;

use super::window_aggregate::millis;
use crate::contracts::{Result, Watermark};
use crate::state::{PieceIds, StatePiece};

/// Rows by the end of their window.
#[derive(Debug)]
pub struct WindowBuffer {
    /// Index of `window_end`.
    end_column: usize,
    /// Batches by age, each with its name in snapshots.
    windows: BTreeMap<i64, Vec<(u64, RecordBatch)>>,
    ids: PieceIds,
    watermark: Watermark,
    closed: Option<i64>,
}

impl WindowBuffer {
    /// An empty buffer over rows whose window's end is in `end_column`.
    pub fn new(end_column: usize) -> Self {
        Self { end_column, windows: BTreeMap::new(), ids: PieceIds::default(), watermark: Watermark::MIN, closed: None }
    }

    /// Number of windows and of rows.
    pub fn size(&self) -> (usize, usize) {
        (self.windows.len(), self.windows.values().flatten().map(|(_, batch)| batch.num_rows()).sum())
    }

    /// Takes the rows of an epoch.
    pub fn push(&mut self, rows: &[RecordBatch]) -> Result<()> {
        for batch in rows {
            self.push_batch(batch, None)?;
        }
        Ok(())
    }

    /// Takes a batch; of a snapshot, one that was saved under the name `saved`.
    fn push_batch(&mut self, batch: &RecordBatch, saved: Option<u64>) -> Result<()> {
        let ends = millis(batch.column(self.end_column))?;
        let mut by_end: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for row in (0..ends.len()).filter(|row| ends.is_valid(*row)) {
            by_end.entry(ends.value(row)).or_default().push(row as u32);
        }
        let whole = by_end.len() == 1;
        for (end, rows) in by_end {
            // The gate below refuses late rows; this guards against giving a window twice.
            if self.watermark.closes(end) {
                continue;
            }
            // Taking copies, so that a window does not keep whole input buffers alive.
            let rows = take_record_batch(batch, &UInt32Array::from(rows))?;
            let id = saved.filter(|_| whole).unwrap_or_else(|| self.ids.take());
            self.windows.entry(end).or_default().push((id, rows));
        }
        Ok(())
    }

    /// Rows of the windows that the watermark has passed, in order of their ends.
    pub fn advance(&mut self, watermark: Watermark) -> Vec<RecordBatch> {
        self.watermark = self.watermark.max(watermark);
        let mut closed = Vec::new();
        while let Some(window) = self.windows.first_entry() {
            if !watermark.closes(*window.key()) {
                break;
            }
            self.closed = self.closed.max(Some(window.key() - 1));
            closed.extend(window.remove().into_iter().map(|(_, batch)| batch));
        }
        closed
    }

    /// See [`super::QueryGraph::reopen`].
    pub fn reopen(&mut self) -> Option<i64> {
        if self.watermark == Watermark::MAX {
            self.watermark = self.closed.map_or(Watermark::MIN, Watermark);
        }
        self.closed
    }

    /// All rows, for a snapshot.
    pub fn snapshot(&self) -> (Watermark, Vec<StatePiece>) {
        let piece = |(id, batch): &(u64, RecordBatch)| StatePiece { id: *id, batch: batch.clone(), dead: None };
        (self.watermark, self.windows.values().flatten().map(piece).collect())
    }

    /// Takes the rows of a snapshot, in place of its own.
    pub fn restore(&mut self, watermark: Watermark, mut pieces: Vec<StatePiece>) -> Result<()> {
        self.windows.clear();
        self.watermark = Watermark::MIN;
        pieces.sort_by_key(|piece| piece.id);
        pieces.iter().for_each(|piece| self.ids.known(piece.id));
        for piece in pieces {
            self.push_batch(&piece.batch, Some(piece.id))?;
        }
        self.watermark = watermark;
        Ok(())
    }
}
