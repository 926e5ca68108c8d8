//! Rows that a sink holds in open files, where the query that gave them has state: it cannot give them again.
//!
//! They are kept beside the sink until their file has been committed, and saved with each checkpoint; a run that goes on
//! from it writes them again first. Queries without state are not kept so: their epochs are cut and computed again.

//!
//! Where they are more than memory is to have, the oldest go to disk, a file for each batch: a later one cannot be committed
//! before them, so they stay longest only where files stay open long, and are read only when a run goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int8Array, Int64Array, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int8Type, Int64Type, Schema, UInt64Type};

use crate::contracts::{ChangeKind, Changes, EpochNumber, Error, Result, batch_bytes};
use crate::operators::StateLimit;
use crate::state::{OperatorState, PieceIds, PieceRows, StatePiece};

/// Columns behind the sink's own.
const EPOCH: &str = "__tm_epoch";
const NOW: &str = "__tm_now";
const KIND: &str = "__tm_kind";
/// Values of the last one.
const APPEND: i8 = 0;
const UPSERT: i8 = 1;
const DELETE: i8 = 2;

/// Of what the state of all queries may have in memory, what a query may keep here.
const SHARE_OF_STATE: usize = 8;
/// A smaller batch is not worth a file.
const LEAST_FILE_BYTES: usize = 64 << 10;

/// What an epoch has given to a sink.
#[derive(Debug)]
pub(super) struct UnwrittenEpoch {
    pub(super) epoch: EpochNumber,
    pub(super) now_ms: i64,
    pub(super) changes: Vec<Changes>,
}

/// The same with the names of its batches; these have the columns of [`with_columns`].
#[derive(Debug)]
struct Kept {
    epoch: EpochNumber,
    pieces: Vec<(u64, PieceRows)>,
}

/// Epochs whose rows are not all in committed files, by age.
#[derive(Debug)]
pub(super) struct Unwritten {
    epochs: VecDeque<Kept>,
    ids: PieceIds,
    limit: Option<StateLimit>,
    /// About how many bytes are in memory.
    held: usize,
}

/// About how many bytes of rows are in memory.
fn held_bytes(rows: &PieceRows) -> usize {
    match rows {
        PieceRows::Held(batch) => batch_bytes(batch),
        PieceRows::Spilled(_) => 0,
    }
}

impl Unwritten {
    /// Nothing yet; with a limit, what is more than its share goes to disk.
    pub(super) fn new(limit: Option<StateLimit>) -> Self {
        Self { epochs: VecDeque::new(), ids: PieceIds::default(), limit, held: 0 }
    }

    /// Takes rows of an epoch, which is the one of those before or a later one.
    pub(super) fn add(&mut self, epoch: EpochNumber, now_ms: i64, changes: &Changes) -> Result<()> {
        if changes.batch.num_rows() == 0 {
            return Ok(());
        }
        let rows: PieceRows = with_columns(epoch, now_ms, changes)?.into();
        self.held += held_bytes(&rows);
        let id = self.ids.take();
        self.push(epoch, (id, rows));
        self.spill()
    }

    fn push(&mut self, epoch: EpochNumber, piece: (u64, PieceRows)) {
        match self.epochs.back_mut() {
            Some(kept) if kept.epoch == epoch => kept.pieces.push(piece),
            _ => self.epochs.push_back(Kept { epoch, pieces: vec![piece] }),
        }
    }

    /// Puts the oldest rows on disk, until the others are within the limit.
    fn spill(&mut self) -> Result<()> {
        let Some(limit) = &self.limit else { return Ok(()) };
        let most = limit.bytes / SHARE_OF_STATE;
        if self.held <= most {
            return Ok(());
        }
        for (_, rows) in self.epochs.iter_mut().flat_map(|kept| &mut kept.pieces) {
            let PieceRows::Held(batch) = rows else { continue };
            let bytes = batch_bytes(batch);
            if bytes < LEAST_FILE_BYTES {
                continue;
            }
            let mut file = limit.folder.file(batch.schema_ref())?;
            file.write(batch)?;
            *rows = PieceRows::Spilled(file.finish()?);
            self.held -= bytes;
            // Some more, so that not each epoch has to look for what may go.
            if self.held <= most / 2 {
                break;
            }
        }
        Ok(())
    }

    /// Forgets what is in committed files: everything before `open_since`, or everything.
    pub(super) fn forget(&mut self, open_since: Option<EpochNumber>) {
        while self.epochs.front().is_some_and(|kept| open_since.is_none_or(|since| kept.epoch < since)) {
            let gone = self.epochs.pop_front().into_iter().flat_map(|kept| kept.pieces);
            self.held -= gone.map(|(_, rows)| held_bytes(&rows)).sum::<usize>();
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
            let (epoch, ..) = without_columns(&rows.load()?)?;
            self.held += held_bytes(&rows);
            self.push(epoch, (id, rows));
        }
        self.spill()
    }

    /// What is kept, epoch after epoch.
    pub(super) fn epochs(&self) -> impl Iterator<Item = Result<UnwrittenEpoch>> {
        self.epochs.iter().map(|kept| {
            let mut again = UnwrittenEpoch { epoch: kept.epoch, now_ms: 0, changes: Vec::new() };
            for (_, rows) in &kept.pieces {
                let (_, now_ms, changes) = without_columns(&rows.load()?)?;
                again.now_ms = now_ms;
                again.changes.push(changes);
            }
            Ok(again)
        })
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

fn without_columns(batch: &RecordBatch) -> Result<(EpochNumber, i64, Changes)> {
    let wrong = || Error::corrupt("rows of open files do not say of which epoch they are").hint("run with --fresh");
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

    fn told(held: &Unwritten) -> Vec<String> {
        held.epochs().map(|epoch| format!("{:?}", epoch.expect("readable"))).collect()
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
        let epochs: Vec<UnwrittenEpoch> = later.epochs().map(|epoch| epoch.expect("readable")).collect();
        assert_eq!(epochs.iter().map(|held| (held.epoch.0, held.now_ms)).collect::<Vec<_>>(), [(3, 30), (5, 50)]);
        assert_eq!(epochs[0].changes, [changes(0..4, None)]);
        assert_eq!(epochs[1].changes, [changes(4..6, Some(kinds)), changes(6..9, None)]);
        later.add(EpochNumber(6), 60, &changes(9..10, None)).expect("kept");
        later.forget(Some(EpochNumber(5)));
        assert_eq!(ids(&later), [2, 3, 4], "names are not given twice");
        later.forget(None);
        assert!(later.snapshot().is_none());
        assert_eq!(later.held, 0);
    }

    #[test]
    fn what_is_too_much_for_memory_is_on_disk_and_comes_back_the_same() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        let limit = StateLimit { folder: Arc::clone(&folder), bytes: 8 << 20, output_bytes: 0, process_bytes: 0 };
        let [mut plenty, mut little] = [None, Some(limit.clone())].map(Unwritten::new);
        for epoch in 1..=20 {
            // Every third is too small for a file.
            let rows = if epoch % 3 == 0 { 10 } else { 10_000 };
            for held in [&mut plenty, &mut little] {
                held.add(EpochNumber(epoch), 7, &changes(0..rows, None)).expect("kept");
            }
        }
        assert!(plenty.held > 3 << 20 && little.held <= 1 << 20, "{} and {}", plenty.held, little.held);
        assert!(folder.bytes().1 > 2 << 20, "{:?}", folder.bytes());
        assert_eq!(told(&plenty), told(&little));
        for held in [&mut plenty, &mut little] {
            held.forget(Some(EpochNumber(4)));
        }
        assert_eq!(told(&plenty), told(&little));
        let mut later = Unwritten::new(Some(limit));
        later.restore(plenty.snapshot().expect("rows")).expect("restored");
        assert_eq!((told(&later), ids(&later)), (told(&little), ids(&little)));
        assert!(later.held <= 1 << 20, "{}", later.held);
        little.forget(None);
        assert_eq!((little.held, little.snapshot().is_none()), (0, true));
    }
}
