//! The keys of a running aggregate that are on disk: runs by age, as in a log-structured store.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::row::Rows;

use super::hash_ranges::HashRanges;
use super::hash_run::{Found, HashRun, Lookup, RunWriter, due, replace_two};
use super::key_hashes::KeyHashes;
use crate::contracts::Result;
use crate::state::{PieceIds, SpillFolder, StatePiece};

/// Hash and number of rows whose keys are not in memory.
pub(super) type Lost = Vec<(u64, u32)>;

/// See the module's description. A key is in one run at most, and not in memory at the same time.
#[derive(Debug)]
pub(super) struct ColdRows {
    runs: Vec<HashRun>,
    /// Column with the time at which a key was last seen.
    seen: Option<usize>,
}

impl ColdRows {
    /// No rows.
    pub(super) fn new(seen: Option<usize>) -> Self {
        Self { runs: Vec::new(), seen }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }

    /// Rows that are not dead.
    pub(super) fn live_rows(&self) -> usize {
        self.runs.iter().map(HashRun::live_rows).sum()
    }

    /// Bytes in memory.
    pub(super) fn memory(&self) -> usize {
        self.runs.iter().map(HashRun::memory).sum()
    }

    /// How wide rows are in the mean, file by file, and how many of them are not dead.
    pub(super) fn widths(&self) -> impl Iterator<Item = (usize, usize)> {
        self.runs.iter().flat_map(HashRun::widths)
    }

    /// The rows for a checkpoint.
    pub(super) fn pieces(&self) -> impl Iterator<Item = StatePiece> {
        self.runs.iter().flat_map(HashRun::pieces)
    }

    /// The rows of keys that are here, which leave `lost`. With `takes` they are here no longer. What was last seen before
    /// `limit` is gone.
    pub(super) fn find(
        &mut self,
        lost: &mut Lost,
        hashes: &KeyHashes,
        keys: &Rows,
        takes: bool,
        limit: Option<i64>,
    ) -> Result<Vec<RecordBatch>> {
        if self.runs.is_empty() || lost.is_empty() {
            return Ok(Vec::new());
        }
        lost.sort_unstable();
        let lookup = Lookup { hashes, keys, takes, expired: self.seen.zip(limit) };
        let mut found = Found::default();
        for run in self.runs.iter_mut().rev() {
            run.find(&lookup, lost, &mut found)?;
        }
        found.into_rows()
    }

    /// Takes rows whose keys are not here. A run that is at least half as large as the one before is merged with it.
    pub(super) fn add(
        &mut self,
        rows: &[RecordBatch],
        hashes: &KeyHashes,
        folder: &Arc<SpillFolder>,
        ids: &mut PieceIds,
    ) -> Result<()> {
        let count = rows.iter().map(RecordBatch::num_rows).sum();
        let mut writer = RunWriter::new(folder, ids, hashes, self.seen, count);
        writer.add(rows)?;
        self.runs.push(writer.finish()?);
        while let Some((before, last, count)) = due(&self.runs) {
            let mut writer = RunWriter::new(folder, ids, hashes, self.seen, count);
            for range in HashRanges::of_runs([before, last], folder.file_bytes()) {
                let rows = [before.rows_in(hashes, &range)?, last.rows_in(hashes, &range)?].concat();
                writer.add(&rows)?;
            }
            let merged = writer.finish()?;
            replace_two(&mut self.runs, merged);
        }
        self.runs.retain(|run| run.live_rows() > 0);
        Ok(())
    }

    /// Forgets keys that were last seen before `limit`, as far as that is known without reading.
    pub(super) fn expire(&mut self, limit: i64) {
        self.runs.iter_mut().for_each(|run| run.expire(limit));
        self.runs.retain(|run| run.live_rows() > 0);
    }
}
