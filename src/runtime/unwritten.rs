//! Rows that a sink holds in open files, where the query that gave them has state: it cannot give them again.
//!
//! They are kept beside the sink until their file has been committed, and saved with each checkpoint; a run that goes on
//! from it writes them again first. Queries without state are not kept so: their epochs are cut and computed again.
//!
//! Where those of all queries are more than memory is to have, the oldest go to disk, each batch as a block of a file: a later one cannot be
//! committed before them, so they stay longest only where files stay open long, and are read only when a run goes on, one by one.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int8Array, Int64Array, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int8Type, Int64Type, Schema, UInt64Type};

use crate::contracts::{ChangeKind, Changes, EpochNumber, Error, Result, batch_bytes};
use crate::operators::{BytesPart, SharedBytes, StateLimit};
use crate::state::{OperatorState, PieceIds, PieceRows, SpillWriter, StatePiece};

/// Columns behind the sink's own.
const EPOCH: &str = "__tm_epoch";
const NOW: &str = "__tm_now";
const KIND: &str = "__tm_kind";
/// Values of the last one.
const APPEND: i8 = 0;
const UPSERT: i8 = 1;
const DELETE: i8 = 2;

/// Of what the state of all queries may have in memory, what they may keep here.
const SHARE_OF_STATE: usize = 8;
/// A query that has less is not the one to put them on disk: its files would be small, and many.
const LEAST_SPILLED_BYTES: usize = 64 << 10;

/// What an epoch has given to a sink, with the names of the batches; these have the columns of [`with_columns`].
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) epoch: EpochNumber,
    pieces: Vec<(u64, PieceRows)>,
}

impl Kept {
    /// Its changes, in order, and its time. One of them is in memory at a time, if it was not there before.
    pub(super) fn changes(&self) -> impl Iterator<Item = Result<(i64, Changes)>> + Send {
        let parts = self.pieces.iter().flat_map(|(_, rows)| rows.parts());
        parts.map(|batch| without_columns(&batch?).map(|(_, now_ms, changes)| (now_ms, changes)))
    }
}

/// Epochs whose rows are not all in committed files, by age.
#[derive(Debug)]
pub(super) struct Unwritten {
    epochs: VecDeque<Kept>,
    ids: PieceIds,
    limit: Option<StateLimit>,
    /// About how many bytes are in memory, beside those of other queries.
    held: BytesPart,
    /// So many epochs, the oldest, are known to have nothing there.
    on_disk: usize,
}

/// About how many bytes of rows are in memory.
fn held_bytes(rows: &PieceRows) -> usize {
    match rows {
        PieceRows::Held(batch) => batch_bytes(batch),
        PieceRows::Parts(batches) => batches.iter().map(batch_bytes).sum(),
        PieceRows::Spilled(_) | PieceRows::Block(..) => 0,
    }
}

impl Unwritten {
    /// Nothing yet; with a limit, what is more than its share goes to disk.
    pub(super) fn new(limit: Option<StateLimit>) -> Self {
        let held = limit.as_ref().map_or_else(SharedBytes::default, |limit| limit.open_rows.clone()).part();
        Self { epochs: VecDeque::new(), ids: PieceIds::default(), limit, held, on_disk: 0 }
    }

    /// Takes rows of an epoch, which is the one of those before or a later one.
    pub(super) fn add(&mut self, epoch: EpochNumber, now_ms: i64, changes: &Changes) -> Result<()> {
        if changes.batch.num_rows() == 0 {
            return Ok(());
        }
        let rows: PieceRows = with_columns(epoch, now_ms, changes)?.into();
        let id = self.ids.take();
        self.push(epoch, (id, rows))
    }

    fn push(&mut self, epoch: EpochNumber, piece: (u64, PieceRows)) -> Result<()> {
        let all = self.held.set(self.held.own() + held_bytes(&piece.1));
        match self.epochs.back_mut() {
            Some(kept) if kept.epoch == epoch => kept.pieces.push(piece),
            _ => self.epochs.push_back(Kept { epoch, pieces: vec![piece] }),
        }
        // The last one may have had all of its rows there before.
        self.on_disk = self.on_disk.min(self.epochs.len() - 1);
        match &self.limit {
            // All together have too much: it is the turn of whoever sees it.
            Some(limit) if all > limit.bytes / SHARE_OF_STATE && self.held.own() >= LEAST_SPILLED_BYTES => {
                self.spill(all - self.held.own())
            }
            _ => Ok(()),
        }
    }

    /// Puts the oldest rows on disk, where others have so many bytes. Half of them at least, so that not each epoch makes a file.
    fn spill(&mut self, others: usize) -> Result<()> {
        let Some(limit) = &self.limit else { return Ok(()) };
        let share = limit.bytes / SHARE_OF_STATE;
        let most = (self.held.own() / 2).min(share / 2).min(share.saturating_sub(others));
        while self.held.own() > most && self.on_disk < self.epochs.len() {
            let mut file: Option<SpillWriter> = None;
            let mut written: Vec<&mut PieceRows> = Vec::new();
            let (mut left, mut is_full) = (self.held.own(), false);
            for kept in self.epochs.range_mut(self.on_disk..) {
                for (_, rows) in &mut kept.pieces {
                    let PieceRows::Held(batch) = rows else { continue };
                    is_full |= left <= most || file.as_ref().is_some_and(|file| file.schema() != batch.schema_ref());
                    if is_full {
                        break;
                    }
                    let mut open = match file.take() {
                        Some(file) => file,
                        None => limit.folder.file(batch.schema_ref())?,
                    };
                    is_full = open.write(batch)?;
                    file = Some(open);
                    left -= batch_bytes(batch).min(left);
                    written.push(rows);
                }
                if is_full {
                    break;
                }
                self.on_disk += 1;
            }
            let Some(file) = file else { break };
            let file = file.finish()?;
            for (block, rows) in written.into_iter().enumerate() {
                *rows = PieceRows::Block(Arc::clone(&file), block);
            }
            self.held.set(left);
        }
        Ok(())
    }

    /// Forgets what is in committed files: everything before `open_since`, or everything.
    pub(super) fn forget(&mut self, open_since: Option<EpochNumber>) {
        while self.epochs.front().is_some_and(|kept| open_since.is_none_or(|since| kept.epoch < since)) {
            let gone = self.epochs.pop_front().into_iter().flat_map(|kept| kept.pieces);
            let gone: usize = gone.map(|(_, rows)| held_bytes(&rows)).sum();
            self.held.set(self.held.own().saturating_sub(gone));
            self.on_disk = self.on_disk.saturating_sub(1);
        }
    }

    /// For a checkpoint.
    pub(super) fn snapshot(&self) -> Option<OperatorState> {
        let pieces = self.epochs.iter().flat_map(|kept| &kept.pieces);
        let pieces = pieces.map(|(id, rows)| StatePiece { id: *id, rows: rows.clone(), dead: None }).collect();
        let state = OperatorState { fingerprint: "rows of open files".to_owned(), watermark: None, pieces };
        (!self.epochs.is_empty()).then_some(state)
    }

    /// Takes what a checkpoint has.
    pub(super) fn restore(&mut self, state: OperatorState) -> Result<()> {
        for StatePiece { id, rows, .. } in state.pieces {
            self.ids.known(id);
            // All of a piece are of one epoch.
            let first = rows.parts().next().ok_or_else(wrong)??;
            let (epoch, ..) = without_columns(&first)?;
            self.push(epoch, (id, rows))?;
        }
        Ok(())
    }

    /// What is kept, epoch after epoch.
    pub(super) fn epochs(&self) -> impl Iterator<Item = &Kept> {
        self.epochs.iter()
    }
}

/// The sink's own columns of rows that a checkpoint has of it; `None` where they are no such rows.
pub fn columns_of_open_rows(saved: &Schema) -> Option<&[FieldRef]> {
    saved.fields().len().checked_sub(3).map(|own| &saved.fields()[..own])
}

fn with_columns(epoch: EpochNumber, now_ms: i64, changes: &Changes) -> Result<RecordBatch> {
    let rows = changes.batch.num_rows();
    let kind = |kind: &ChangeKind| match kind {
        ChangeKind::Upsert => UPSERT,
        ChangeKind::Delete => DELETE,
    };
    let kinds: Int8Array = match &changes.kinds {
        None => Int8Array::from_value(APPEND, rows),
        Some(kinds) => kinds.iter().map(kind).map(Some).collect(),
    };
    let added: [(&str, ArrayRef); 3] = [
        (EPOCH, Arc::new(UInt64Array::from_value(epoch.0, rows))),
        (NOW, Arc::new(Int64Array::from_value(now_ms, rows))),
        (KIND, Arc::new(kinds)),
    ];
    let mut fields = changes.batch.schema_ref().fields().to_vec();
    let mut columns = changes.batch.columns().to_vec();
    for (name, column) in added {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), false)));
        columns.push(column);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn wrong() -> Error {
    Error::corrupt("rows of open files do not say of which epoch they are").hint("run with --fresh")
}

fn without_columns(batch: &RecordBatch) -> Result<(EpochNumber, i64, Changes)> {
    let own = batch.num_columns().checked_sub(3).ok_or_else(wrong)?;
    let [epoch, now, kinds] = &batch.columns()[own..] else { return Err(wrong()) };
    let types = [epoch, now, kinds].map(|column| column.data_type().clone());
    if batch.num_rows() == 0 || types != [DataType::UInt64, DataType::Int64, DataType::Int8] {
        return Err(wrong());
    }
    let (epoch, now) = (epoch.as_primitive::<UInt64Type>().value(0), now.as_primitive::<Int64Type>().value(0));
    let kinds = kinds.as_primitive::<Int8Type>();
    let kinds = (kinds.value(0) != APPEND).then(|| {
        kinds
            .values()
            .iter()
            .map(|kind| if *kind == DELETE { ChangeKind::Delete } else { ChangeKind::Upsert })
            .collect()
    });
    let rows = batch.project(&(0..own).collect::<Vec<_>>())?;
    Ok((EpochNumber(epoch), now, Changes { batch: rows, kinds }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SpillFolder;

    fn changes(rows: std::ops::Range<i64>, kinds: Option<Vec<ChangeKind>>) -> Changes {
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(rows)) as ArrayRef)]);
        Changes { batch: batch.expect("a batch"), kinds }
    }

    fn epochs(held: &Unwritten) -> Vec<(u64, i64, Vec<Changes>)> {
        let epoch = |kept: &Kept| {
            let (times, changes): (Vec<i64>, Vec<Changes>) =
                kept.changes().map(|changes| changes.expect("readable")).unzip();
            assert!(times.iter().all(|time| *time == times[0]));
            (kept.epoch.0, times[0], changes)
        };
        held.epochs().map(epoch).collect()
    }

    fn told(held: &Unwritten) -> Vec<String> {
        epochs(held).into_iter().map(|epoch| format!("{epoch:?}")).collect()
    }

    fn ids(held: &Unwritten) -> Vec<u64> {
        held.snapshot().expect("rows").pieces.iter().map(|piece| piece.id).collect()
    }

    #[test]
    fn what_is_not_committed_comes_back_by_epoch() {
        let mut held = Unwritten::new(None);
        held.add(EpochNumber(3), 30, &changes(0..4, None)).expect("kept");
        held.add(EpochNumber(4), 40, &changes(0..0, None)).expect("kept");
        let kinds = vec![ChangeKind::Upsert, ChangeKind::Delete];
        held.add(EpochNumber(5), 50, &changes(4..6, Some(kinds.clone()))).expect("kept");
        held.add(EpochNumber(5), 50, &changes(6..9, None)).expect("kept");
        held.forget(Some(EpochNumber(3)));
        let mut later = Unwritten::new(None);
        later.restore(held.snapshot().expect("rows")).expect("restored");
        let found = epochs(&later);
        assert_eq!(found.iter().map(|(epoch, now_ms, _)| (*epoch, *now_ms)).collect::<Vec<_>>(), [(3, 30), (5, 50)]);
        assert_eq!(found[0].2, [changes(0..4, None)]);
        assert_eq!(found[1].2, [changes(4..6, Some(kinds)), changes(6..9, None)]);
        later.add(EpochNumber(6), 60, &changes(9..10, None)).expect("kept");
        later.forget(Some(EpochNumber(5)));
        assert_eq!(ids(&later), [2, 3, 4], "names are not given twice");
        later.forget(None);
        assert!(later.snapshot().is_none());
        assert_eq!(later.held.own(), 0);
    }

    #[test]
    fn what_is_too_much_for_memory_is_on_disk_and_comes_back_the_same() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        let limit = StateLimit::new(Arc::clone(&folder), 8 << 20, 0, 0);
        let [mut plenty, mut little] = [None, Some(limit.clone())].map(Unwritten::new);
        for epoch in 1..=20 {
            // Every third is too small for a file.
            let rows = if epoch % 3 == 0 { 10 } else { 10_000 };
            for held in [&mut plenty, &mut little] {
                held.add(EpochNumber(epoch), 7, &changes(0..rows, None)).expect("kept");
            }
        }
        let held = [&plenty, &little].map(|held| held.held.own());
        assert!(held[0] > 3 << 20 && held[1] <= 1 << 20, "{held:?}");
        assert_eq!(limit.open_rows.sum(), held[1]);
        assert!(folder.bytes().1 > 2 << 20, "{:?}", folder.bytes());
        assert_eq!(told(&plenty), told(&little));
        for held in [&mut plenty, &mut little] {
            held.forget(Some(EpochNumber(4)));
        }
        assert_eq!(told(&plenty), told(&little));
        let mut later = Unwritten::new(Some(limit.clone()));
        later.restore(plenty.snapshot().expect("rows")).expect("restored");
        assert_eq!((told(&later), ids(&later)), (told(&little), ids(&little)));
        assert!(limit.open_rows.sum() <= 1 << 20, "of both: {}", limit.open_rows.sum());
        little.forget(None);
        assert_eq!((little.held.own(), little.snapshot().is_none()), (0, true));
        drop(later);
        assert_eq!((limit.open_rows.sum(), folder.bytes().1), (0, 0));
    }

    #[test]
    fn many_small_batches_are_blocks_of_a_few_files() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 256 << 10).expect("created");
        let limit = StateLimit::new(Arc::clone(&folder), 4 << 20, 0, 0);
        // Another query has some, too, which it keeps.
        let mut other = Unwritten::new(Some(limit.clone()));
        other.add(EpochNumber(1), 7, &changes(0..1_000, None)).expect("kept");
        let [mut plenty, mut little] = [None, Some(limit.clone())].map(Unwritten::new);
        // Each has some 14 KB, all together 6 MB.
        for epoch in 1..=400 {
            for held in [&mut plenty, &mut little] {
                let kinds = (epoch % 50 == 0).then(|| vec![ChangeKind::Delete; 600]);
                held.add(EpochNumber(epoch), 7, &changes(0..600, kinds)).expect("kept");
            }
            assert!(limit.open_rows.sum() <= 600 << 10, "{} in epoch {epoch}", limit.open_rows.sum());
        }
        let files = std::fs::read_dir(folder.path()).expect("read").count();
        assert!((10..60).contains(&files) && folder.bytes().1 > 5 << 20, "{files} files, {:?}", folder.bytes());
        assert_eq!((told(&plenty), ids(&plenty)), (told(&little), ids(&little)));
        for since in [120, 371] {
            for held in [&mut plenty, &mut little] {
                held.forget(Some(EpochNumber(since)));
                held.add(EpochNumber(400), 7, &changes(0..600, None)).expect("kept");
            }
            assert_eq!(told(&plenty), told(&little), "since {since}");
        }
        let left = std::fs::read_dir(folder.path()).expect("read").count();
        assert!(left < files / 4, "{left} files");
    }
}
