//! Rows held until their window closes, for what needs all rows of a window at once and is no
//! aggregation: `ROW_NUMBER()` over a bare window table function.
//!
//! When memory is short, windows go to disk, those that close last first, in blocks. Those of one that closes are given as they
//! lie there (`stored_rows.rs`): they are in memory as the plan above reads them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::SchemaRef;

use super::output::blocks;
use super::restore_room::RestoreRoom;
use super::stored_rows::{SpilledRows, StoredRows, relabelled};
use super::window_aggregate::millis;
use crate::contracts::{MOST_MERGED_BYTES, Result, Watermark, batch_bytes};
use crate::state::{PieceIds, PieceRows, SpillFolder, SpilledFile, StatePiece};

/// Rows of a window by age, each batch with its name in snapshots.
#[derive(Debug, Default)]
struct Window {
    /// On disk, older than all others.
    spilled: Vec<(u64, Arc<SpilledFile>)>,
    held: Vec<(u64, RecordBatch)>,
    /// About how many bytes are held.
    bytes: usize,
}

/// Rows by the end of their window.
#[derive(Debug)]
pub struct WindowBuffer {
    /// Index of `window_end`.
    end_column: usize,
    windows: BTreeMap<i64, Window>,
    ids: PieceIds,
    watermark: Watermark,
    closed: Option<i64>,
    /// Rows that were not taken, since nobody has asked.
    missed: u64,
    /// What is being read out: between two epochs there is none.
    closing: VecDeque<StoredRows>,
}

impl WindowBuffer {
    /// An empty buffer over rows whose window's end is in `end_column`.
    pub fn new(end_column: usize) -> Self {
        Self {
            end_column,
            windows: BTreeMap::new(),
            ids: PieceIds::default(),
            watermark: Watermark::MIN,
            closed: None,
            missed: 0,
            closing: VecDeque::new(),
        }
    }

    /// Number of windows and of rows.
    pub fn size(&self) -> (usize, usize) {
        let rows = |window: &Window| {
            let held: usize = window.held.iter().map(|(_, batch)| batch.num_rows()).sum();
            held + window.spilled.iter().map(|(_, file)| file.num_rows()).sum::<usize>()
        };
        (self.windows.len(), self.windows.values().map(rows).sum())
    }

    /// Bytes of state in memory, about, all of which [`Self::spill`] can put on disk.
    pub fn memory(&self) -> (usize, usize) {
        let held = self.windows.values().map(|window| window.bytes).sum();
        (held, held)
    }

    /// Puts windows on disk, those that close last first, until no more than `most` bytes are left in memory.
    pub fn spill(&mut self, folder: &Arc<SpillFolder>, most: usize) -> Result<()> {
        let mut held = self.memory().0;
        for window in self.windows.values_mut().rev().filter(|window| !window.held.is_empty()) {
            if held <= most {
                break;
            }
            held -= std::mem::take(&mut window.bytes);
            let held = std::mem::take(&mut window.held);
            let mut rest = held.iter().flat_map(|(_, batch)| blocks(batch)).peekable();
            while let Some(first) = rest.peek() {
                let mut writer = folder.file(first.schema_ref())?;
                for block in rest.by_ref() {
                    if writer.write(&block)? {
                        break;
                    }
                }
                window.spilled.push((self.ids.take(), writer.finish()?));
            }
        }
        Ok(())
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
                self.missed += rows.len() as u64;
                continue;
            }
            // Taking copies, so that a window does not keep whole input buffers alive.
            let rows = take_record_batch(batch, &UInt32Array::from(rows))?;
            let id = saved.filter(|_| whole).unwrap_or_else(|| self.ids.take());
            let window = self.windows.entry(end).or_default();
            window.bytes += batch_bytes(&rows);
            window.held.push((id, rows));
        }
        Ok(())
    }

    /// Moves event time on. What closes by that is read out by [`Self::next_closed`], to its end.
    pub fn begin_close(&mut self, watermark: Watermark) {
        self.watermark = self.watermark.max(watermark);
    }

    /// Rows of the windows that the watermark has passed, in order of their ends, with the columns' names of `schema`; `None`
    /// when there are no more. What is on disk stays there: who reads the rows reads them block by block.
    pub fn next_closed(&mut self, schema: &SchemaRef) -> Result<Option<StoredRows>> {
        loop {
            if let Some(rows) = self.closing.pop_front() {
                return Ok(Some(rows));
            }
            let Some(window) = self.windows.first_entry() else { return Ok(None) };
            if !self.watermark.closes(*window.key()) {
                return Ok(None);
            }
            self.closed = self.closed.max(Some(window.key() - 1));
            let window = window.remove();
            for (_, file) in &window.spilled {
                self.closing.extend(SpilledRows::of(file, schema).map(StoredRows::Spilled));
            }
            for (_, batch) in window.held {
                self.closing.push_back(StoredRows::held(relabelled(batch, schema)?));
            }
        }
    }

    /// See [`super::QueryGraph::reopen`].
    pub fn reopen(&mut self) {
        if self.watermark == Watermark::MAX {
            self.watermark = self.closed.map_or(Watermark::MIN, Watermark);
        }
    }

    /// Rows that came when their window had closed, since that was last asked.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Up to where windows have closed.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// All rows, for a snapshot.
    pub fn snapshot(&self) -> (Watermark, Vec<StatePiece>) {
        let piece = |id: &u64, rows: PieceRows| StatePiece { id: *id, rows, dead: None };
        let windows = self.windows.values();
        let held = windows.clone().flat_map(|window| &window.held).map(|(id, batch)| piece(id, batch.clone().into()));
        let spilled = windows.flat_map(|window| &window.spilled);
        let spilled = spilled.map(|(id, file)| piece(id, PieceRows::Spilled(Arc::clone(file))));
        (self.watermark, held.chain(spilled).collect())
    }

    /// Takes the rows of a snapshot, in place of its own, and keeps in memory what there is `room` for.
    pub async fn restore(
        &mut self,
        watermark: Watermark,
        mut pieces: Vec<StatePiece>,
        room: Option<&RestoreRoom>,
    ) -> Result<()> {
        self.windows.clear();
        self.watermark = Watermark::MIN;
        self.ids.restored(&mut pieces);
        let mut part = room.map(RestoreRoom::part);
        let mut spilled = false;
        for StatePiece { id, rows, .. } in pieces {
            let most = part.as_ref().map_or(MOST_MERGED_BYTES, |part| part.folder().file_bytes());
            let is_divided = rows.has_groups(most);
            for rows in rows.groups(most) {
                // What was put on disk is named anew, so what is younger must be, too: rows of a window are given by age.
                self.push_batch(&rows?, Some(id).filter(|_| !spilled && !is_divided))?;
                if let Some(part) = &mut part
                    && let Some(most) = part.holds(self.memory().1)
                {
                    self.spill(part.folder(), most)?;
                    spilled = true;
                    part.holds(self.memory().1);
                }
                tokio::task::yield_now().await;
            }
            spilled |= is_divided;
        }
        self.watermark = watermark;
        // A run that closes no window leaves those closed that others have.
        self.closed = (watermark > Watermark::MIN).then_some(watermark.0);
        Ok(())
    }
}
