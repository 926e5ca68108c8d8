//! Pieces of state that are being loaded: batch by batch, in memory as long as there is room, then on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;

use super::saved::PieceRows;
use super::spill::{SpillWriter, SpilledFile};
use super::spill_folder::SpillFolder;
use crate::contracts::{MOST_MERGED_BYTES, Result, batch_bytes, merge_within};

/// About how many bytes a block has on disk.
const BLOCK_BYTES: usize = 1 << 20;

/// A piece, as far as it has come.
enum Loaded {
    Held(Vec<RecordBatch>),
    Spilled(Arc<SpilledFile>),
}

/// See the module's description.
pub(super) struct LoadedPieces<'a> {
    /// Where rows go beyond so many bytes.
    spill: Option<&'a (Arc<SpillFolder>, usize)>,
    /// Bytes that are in memory, of all that loads.
    held: &'a AtomicUsize,
    pieces: BTreeMap<u64, Loaded>,
    /// Bytes up to which a piece is one batch.
    most_merged: usize,
    /// The one whose batches are on their way to disk: those of a piece come one after the other.
    open: Option<(u64, SpillWriter)>,
}

/// A batch of a state file, which a run with more memory may have written, in blocks that are read one by one.
fn write(writer: &mut SpillWriter, batch: &RecordBatch) -> Result<()> {
    let blocks = batch_bytes(batch).div_ceil(BLOCK_BYTES).max(1);
    let step = batch.num_rows().div_ceil(blocks).max(1);
    (0..batch.num_rows()).step_by(step).try_for_each(|from| {
        writer.write(&batch.slice(from, step.min(batch.num_rows() - from)))?;
        Ok(())
    })
}

impl<'a> LoadedPieces<'a> {
    /// None yet.
    pub(super) fn new(spill: Option<&'a (Arc<SpillFolder>, usize)>, held: &'a AtomicUsize) -> Self {
        Self { spill, held, pieces: BTreeMap::new(), most_merged: MOST_MERGED_BYTES, open: None }
    }

    /// Takes the next batch of a piece.
    pub(super) fn add(&mut self, id: u64, batch: RecordBatch) -> Result<()> {
        if let Some((_, writer)) = self.open.as_mut().filter(|(open, _)| *open == id) {
            return write(writer, &batch);
        }
        self.close()?;
        let held = matches!(self.pieces.get(&id), None | Some(Loaded::Held(_)));
        let Some(folder) =
            self.spill.filter(|(_, most)| !held || !self.has_room(&batch, *most)).map(|(folder, _)| folder)
        else {
            if let Loaded::Held(batches) = self.pieces.entry(id).or_insert_with(|| Loaded::Held(Vec::new())) {
                batches.push(batch);
            }
            return Ok(());
        };
        let mut writer = folder.file(batch.schema_ref())?;
        match self.pieces.remove(&id) {
            Some(Loaded::Held(batches)) => {
                for batch in batches {
                    self.held.fetch_sub(batch_bytes(&batch), Ordering::Relaxed);
                    write(&mut writer, &batch)?;
                }
            }
            // Its batches are in several files, and others lie between them.
            Some(Loaded::Spilled(file)) => {
                PieceRows::Spilled(file).for_each(&mut |batch| write(&mut writer, &batch))?;
            }
            None => {}
        }
        write(&mut writer, &batch)?;
        self.open = Some((id, writer));
        Ok(())
    }

    /// Whether a batch may stay in memory; then it is counted.
    fn has_room(&self, batch: &RecordBatch, most: usize) -> bool {
        let bytes = batch_bytes(batch);
        let fits = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes <= most;
        if !fits {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn close(&mut self) -> Result<()> {
        if let Some((id, writer)) = self.open.take() {
            self.pieces.insert(id, Loaded::Spilled(writer.finish()?));
        }
        Ok(())
    }

    /// The pieces, by age.
    pub(super) fn finish(mut self) -> Result<Vec<(u64, PieceRows)>> {
        self.close()?;
        let rows = |loaded| -> Result<PieceRows> {
            Ok(match loaded {
                Loaded::Spilled(file) => PieceRows::Spilled(file),
                Loaded::Held(mut batches) if batches.len() == 1 => batches.remove(0).into(),
                Loaded::Held(batches) => {
                    let mut merged = merge_within(batches[0].schema_ref(), &batches, self.most_merged)?;
                    if merged.len() == 1 { merged.remove(0).into() } else { PieceRows::Parts(merged.into()) }
                }
            })
        };
        self.pieces.into_iter().map(|(id, loaded)| Ok((id, rows(loaded)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::compute::concat_batches;

    use super::*;

    fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("n", column)]).expect("a batch")
    }

    #[test]
    fn what_has_no_room_is_on_disk_and_each_piece_is_whole() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        // Piece 3 comes in two stretches; piece 2 finds room only in the beginning.
        let parts =
            [(1, 0..100), (2, 100..200), (3, 200..300), (2, 300..400), (3, 400..500), (3, 500..600), (4, 600..601)];
        let whole = |id: u64| {
            let of_piece: Vec<_> =
                parts.iter().filter(|(n, _)| *n == id).map(|(_, range)| batch(range.clone())).collect();
            concat_batches(of_piece[0].schema_ref(), &of_piece).expect("one batch")
        };
        let bytes = batch_bytes(&batch(0..100));
        for (room, on_disk) in [(usize::MAX, 0), (bytes * 5 / 2, 2), (0, 4)] {
            let (held, spill) = (AtomicUsize::new(0), (Arc::clone(&folder), room));
            let mut loading = LoadedPieces::new(Some(&spill), &held);
            for (id, range) in parts.clone() {
                loading.add(id, batch(range)).expect("added");
            }
            let pieces = loading.finish().expect("finished");
            assert_eq!(pieces.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3, 4]);
            for (id, rows) in &pieces {
                assert_eq!(rows.load().expect("loaded"), whole(*id), "piece {id} with room for {room}");
                // Part by part, and in groups of some.
                let parts = rows.parts().map(|part| part.expect("read").num_rows()).collect::<Vec<_>>();
                let groups = rows.groups(bytes * 2).map(|group| group.expect("read")).collect::<Vec<_>>();
                assert_eq!(parts.iter().sum::<usize>(), rows.num_rows());
                assert_eq!(concat_batches(rows.schema(), &groups).expect("one batch"), whole(*id));
                let several = parts.len() > 2;
                assert_eq!((groups.len() > 1, rows.has_groups(bytes * 2)), (several, several), "{parts:?}");
            }
            let spilled = pieces.iter().filter(|(_, rows)| matches!(rows, PieceRows::Spilled(_))).count();
            assert_eq!(spilled, on_disk, "with room for {room}");
            assert!(held.into_inner() <= room);
        }
    }

    #[test]
    fn a_piece_that_is_too_large_for_one_batch_is_several() {
        let held = AtomicUsize::new(0);
        let bytes = batch_bytes(&batch(0..100));
        let mut loading = LoadedPieces { most_merged: bytes * 5 / 2, ..LoadedPieces::new(None, &held) };
        (0..7).for_each(|n| loading.add(1, batch(n * 100..(n + 1) * 100)).expect("added"));
        let (_, rows) = loading.finish().expect("finished").remove(0);
        let parts: Vec<_> = rows.parts().map(|part| part.expect("in memory").num_rows()).collect();
        assert_eq!((parts, rows.has_groups(1 << 20)), (vec![200, 200, 200, 100], true));
        assert_eq!((rows.num_rows(), rows.load().expect("loaded")), (700, batch(0..700)));
    }
}
